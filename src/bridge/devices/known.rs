//! Credentials of devices from files: the table, a group key, a folder of certificates.
//!
//! In this order: what the table says of a device; its certificate in the folder; a key derived from the group key.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::hub::accounts::{Account, Accounts, Answer, Certificate, NoAccount};
use crate::hub::connection_string::{Auth, ConnectionString};
use crate::hub::device_table::Proof;
use crate::hub::sas::Key;
use crate::secret::Secret;

/// What is known of devices.
#[derive(Debug)]
pub struct Known {
    /// The hub of devices whose connection string names no other.
    pub host: String,
    /// The devices table; paths are whole.
    pub table: HashMap<String, Proof>,
    /// The key that others are derived from.
    pub group_key: Option<Key>,
    /// The folder of certificates.
    pub certificates: Option<PathBuf>,
}

impl Accounts for Known {
    fn of<'a>(&'a self, device: &'a str) -> Answer<'a> {
        Box::pin(async move { self.find(device) })
    }
}

impl Known {
    fn find(&self, device: &str) -> Result<Account, NoAccount> {
        let account = |auth, certificate| {
            let (host, device) = (self.host.clone(), device.to_owned());
            let connection = ConnectionString { host, device, module: None, gateway: None, auth };
            Ok(Account { connection, certificate })
        };
        match self.table.get(device) {
            Some(Proof::Connection(connection)) => {
                let certificate = match connection.auth {
                    Auth::X509 => self.in_folder(device)?,
                    _ => None,
                };
                return Ok(Account { connection: connection.clone(), certificate });
            }
            Some(Proof::Key(key)) => return account(Auth::Key(key.clone()), None),
            Some(Proof::Certificate { certificate, key }) => {
                let read = read(Path::new(&certificate.0), Path::new(&key.0))?;
                return account(Auth::X509, Some(read));
            }
            Some(Proof::Elsewhere) | None => {}
        }
        if let Some(certificate) = self.in_folder(device)? {
            return account(Auth::X509, Some(certificate));
        }
        let Some(group) = &self.group_key else {
            return Err(NoAccount("nobody knows its credentials: it is not in the devices table".to_owned()));
        };
        match Key::parse(group.derive(device).expose()) {
            Ok(key) => account(Auth::Key(key), None),
            Err(error) => Err(NoAccount(format!("its derived key cannot be used: {error}"))),
        }
    }

    /// A device's certificate in the folder, where there is one.
    fn in_folder(&self, device: &str) -> Result<Option<Certificate>, NoAccount> {
        let Some(folder) = &self.certificates else { return Ok(None) };
        let file = |ending: &str| folder.join(format!("{device}.{ending}"));
        if !file("pem").is_file() {
            return Ok(None);
        }
        read(&file("pem"), &file("key")).map(Some)
    }
}

fn read(chain: &Path, key: &Path) -> Result<Certificate, NoAccount> {
    let cannot = |path: &Path, error: io::Error| NoAccount(format!("cannot read {}: {error}", path.display()));
    Ok(Certificate {
        chain: fs::read(chain).map_err(|error| cannot(chain, error))?,
        key: Secret::new(fs::read_to_string(key).map_err(|error| cannot(key, error))?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(known: &Known, device: &str) -> String {
        match known.find(device) {
            Err(error) => error.0,
            Ok(Account { connection, certificate }) => match (connection.auth, certificate) {
                (Auth::Key(key), None) => format!("{} key {}", connection.host, key.encode().expose()),
                (Auth::X509, Some(certificate)) => String::from_utf8(certificate.chain).unwrap(),
                other => format!("{other:?}"),
            },
        }
    }

    #[test]
    fn the_table_comes_before_the_folder_and_the_folder_before_the_group_key() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("b.pem", "chain of b"), ("b.key", "k"), ("a.pem", "chain of a"), ("lone.pem", "x")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let key = Key::parse("a2V5").unwrap();
        let other = ConnectionString::parse("HostName=other;DeviceId=c;SharedAccessKey=YWJj").unwrap();
        let table = [
            ("a".to_owned(), Proof::Key(key.clone())),
            ("c".into(), Proof::Connection(other)),
            ("d".into(), Proof::Elsewhere),
        ];
        let mut known = Known {
            host: "h".into(),
            table: table.into(),
            group_key: Some(key.clone()),
            certificates: Some(dir.path().to_owned()),
        };
        let derived = |device| format!("h key {}", key.derive(device).expose());
        for (device, expect) in [
            ("a", "h key a2V5".to_owned()),
            ("b", "chain of b".to_owned()),
            ("c", "other key YWJj".to_owned()),
            ("d", derived("d")),
            ("e", derived("e")),
        ] {
            assert_eq!(proof(&known, device), expect, "{device}");
        }
        assert!(proof(&known, "lone").contains("lone.key"), "a certificate without its key is told");
        known.group_key = None;
        assert!(proof(&known, "e").contains("nobody knows"));
    }
}
