//! Credentials of devices from files: the table, a group key, a folder of certificates.
//!
//! In this order: what the table says of a device; its certificate in the folder; a key derived from the group key.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};

use crate::hub::accounts::{Account, Certificate, NoAccount};
use crate::hub::connection_string::Auth;
use crate::hub::device_table::Proof;
use crate::hub::sas::Key;
use crate::secret::Secret;

/// What is known of devices.
#[derive(Debug, Default)]
pub struct Known {
    /// The devices table; paths are whole.
    pub table: HashMap<String, Proof>,
    /// The key that others are derived from.
    pub group_key: Option<Key>,
    /// The models that the table says devices follow.
    pub models: HashMap<String, String>,
    /// The model of all others.
    pub model_id: Option<String>,
    /// The folder of certificates.
    pub certificates: Option<PathBuf>,
    /// The certificates as they were when they were read, by device.
    pub seen: HashMap<String, Seen>,
}

/// A certificate as it was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// What tells it from the next: [`mark`] of chain and key.
    pub mark: u64,
    /// When it ends, in seconds since 1970.
    pub ends: Option<i64>,
}

/// What tells a certificate, or another text, from others.
pub fn mark(texts: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    hasher.finish()
}

/// What a device proves itself with.
#[derive(Debug, Clone)]
pub enum Found {
    /// Its connection string says all, but for the certificate.
    Account(Box<Account>),
    /// Its own key.
    Key(Key),
    /// A key derived from this one.
    Group(Key),
    /// A certificate.
    Certificate(Certificate),
}

impl Known {
    /// What a device proves itself with. Blocks for as long as the disk takes, where it [may be in files](Self::may_be_in_files).
    pub fn find(&self, device: &str) -> Result<Found, NoAccount> {
        match self.table.get(device) {
            Some(Proof::Connection(connection)) => {
                let certificate = match connection.auth {
                    Auth::X509 => self.in_folder(device)?,
                    _ => None,
                };
                return Ok(Found::Account(Box::new(Account {
                    connection: connection.clone(),
                    model_id: None,
                    certificate,
                })));
            }
            Some(Proof::Key(key)) => return Ok(Found::Key(key.clone())),
            Some(Proof::Certificate { certificate, key }) => {
                return read(Path::new(&certificate.0), Path::new(&key.0)).map(Found::Certificate);
            }
            Some(Proof::Elsewhere) | None => {}
        }
        if let Some(certificate) = self.in_folder(device)? {
            return Ok(Found::Certificate(certificate));
        }
        let Some(group) = &self.group_key else {
            return Err(NoAccount::new("nobody knows its credentials: it is not in the devices table"));
        };
        Ok(Found::Group(group.clone()))
    }

    /// [`Self::find`] looks at the disk.
    pub fn may_be_in_files(&self, device: &str) -> bool {
        self.is_by_certificate(device)
            && (self.certificates.is_some() || matches!(self.table.get(device), Some(Proof::Certificate { .. })))
    }

    /// What a device proves itself with in words, without reading any file.
    pub fn describe(&self, device: &str) -> &'static str {
        match self.table.get(device) {
            Some(Proof::Connection(_)) => "the connection string in the devices table",
            Some(Proof::Key(_)) => "its key in the devices table",
            Some(Proof::Certificate { .. }) => "its certificate in the devices table",
            Some(Proof::Elsewhere) | None => match (&self.certificates, &self.group_key) {
                (Some(folder), _) if folder.join(format!("{device}.pem")).is_file() => {
                    "its certificate in the folder of certificates"
                }
                (_, Some(_)) => "a key derived from the group key",
                (_, None) => "nothing: it has no key and no certificate",
            },
        }
    }

    /// The hub that its connection string names.
    pub fn hub_of(&self, device: &str) -> Option<&str> {
        match self.table.get(device) {
            Some(Proof::Connection(connection)) => Some(&connection.host),
            _ => None,
        }
    }

    /// The model that a device follows.
    pub fn model_of(&self, device: &str) -> Option<&str> {
        self.models.get(device).or(self.model_id.as_ref()).map(String::as_str)
    }

    /// What a device connects with is the same as before.
    pub fn is_same(&self, before: &Self, device: &str) -> bool {
        self.mark_of(device) == before.mark_of(device) && self.model_of(device) == before.model_of(device)
    }

    fn mark_of(&self, device: &str) -> u64 {
        let of_certificate = || self.seen.get(device).map(|seen| seen.mark);
        match self.table.get(device) {
            Some(Proof::Connection(connection)) => {
                let proof = match &connection.auth {
                    Auth::Key(key) => key.encode(),
                    Auth::Token(token) => token.clone(),
                    Auth::X509 => Secret::new(String::new()),
                };
                let gateway = connection.gateway.as_deref().unwrap_or_default();
                let texts = [connection.host.as_bytes(), gateway.as_bytes(), proof.expose().as_bytes()];
                mark(&texts) ^ of_certificate().unwrap_or_default()
            }
            Some(Proof::Key(key)) => mark(&[key.encode().expose().as_bytes()]),
            Some(Proof::Certificate { .. }) => of_certificate().unwrap_or_default(),
            Some(Proof::Elsewhere) | None => {
                let group = || self.group_key.as_ref().map(|key| mark(&[b"group", key.encode().expose().as_bytes()]));
                of_certificate().or_else(group).unwrap_or_default()
            }
        }
    }

    /// When the certificates that are in use end, by device.
    pub fn ends(&self) -> impl Iterator<Item = (&str, i64)> {
        let ends = self.seen.iter().filter_map(|(device, seen)| Some((device.as_str(), seen.ends?)));
        ends.filter(|(device, _)| self.is_by_certificate(device))
    }

    /// When the certificate of a device ends, where that is in use.
    pub fn end_of(&self, device: &str) -> Option<i64> {
        self.seen.get(device).and_then(|seen| seen.ends).filter(|_| self.is_by_certificate(device))
    }

    /// Where a device has a certificate, that is what it proves itself with.
    fn is_by_certificate(&self, device: &str) -> bool {
        match self.table.get(device) {
            Some(Proof::Key(_)) => false,
            Some(Proof::Connection(connection)) => matches!(connection.auth, Auth::X509),
            Some(Proof::Certificate { .. } | Proof::Elsewhere) | None => true,
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
    let cannot = |path: &Path, error: io::Error| NoAccount::new(format!("cannot read {}: {error}", path.display()));
    Ok(Certificate {
        chain: fs::read(chain).map_err(|error| cannot(chain, error))?,
        key: Secret::new(fs::read_to_string(key).map_err(|error| cannot(key, error))?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::connection_string::ConnectionString;

    fn proof(known: &Known, device: &str) -> String {
        match known.find(device) {
            Err(error) => error.text,
            Ok(Found::Account(account)) => format!("connection to {}", account.connection.host),
            Ok(Found::Key(key)) => format!("key {}", key.encode().expose()),
            Ok(Found::Group(key)) => format!("derived {}", key.derive(device).expose()),
            Ok(Found::Certificate(certificate)) => String::from_utf8(certificate.chain).unwrap(),
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
            table: table.into(),
            group_key: Some(key.clone()),
            certificates: Some(dir.path().to_owned()),
            ..Known::default()
        };
        let derived = |device| format!("derived {}", key.derive(device).expose());
        for (device, expect) in [
            ("a", "key a2V5".to_owned()),
            ("b", "chain of b".to_owned()),
            ("c", "connection to other".to_owned()),
            ("d", derived("d")),
            ("e", derived("e")),
        ] {
            assert_eq!(proof(&known, device), expect, "{device}");
            assert_eq!(known.may_be_in_files(device), ["b", "d", "e"].contains(&device), "{device}");
        }
        known.certificates = None;
        let file = |name| (dir.path().join(name).display().to_string(), 0..0);
        known.table.insert("f".into(), Proof::Certificate { certificate: file("b.pem"), key: file("b.key") });
        for (device, reads) in [("a", false), ("b", false), ("c", false), ("e", false), ("f", true)] {
            assert_eq!(known.may_be_in_files(device), reads, "without a folder: {device}");
        }
        known.certificates = Some(dir.path().to_owned());
        assert!(proof(&known, "lone").contains("lone.key"), "a certificate without its key is told");
        known.group_key = None;
        assert!(proof(&known, "e").contains("nobody knows"));
    }

    /// A certificate that lies there unused may end.
    #[test]
    fn whose_certificates_end() {
        let string = |text: &str| Proof::Connection(ConnectionString::parse(text).unwrap());
        let seen = |ends| Seen { mark: 1, ends };
        let table = [
            ("key", Proof::Key(Key::parse("a2V5").unwrap())),
            ("string", string("HostName=h;DeviceId=string;SharedAccessKey=a2V5")),
            ("x509", string("HostName=h;DeviceId=x509;x509=true")),
            ("listed", Proof::Elsewhere),
        ];
        let known = Known {
            table: table.map(|(id, proof)| (id.to_owned(), proof)).into(),
            seen: ["key", "string", "x509", "listed", "folder"].map(|id| (id.to_owned(), seen(Some(7)))).into(),
            ..Known::default()
        };
        let mut ends: Vec<_> = known.ends().collect();
        ends.sort_unstable();
        assert_eq!(ends, [("folder", 7), ("listed", 7), ("x509", 7)]);
        for device in ["key", "string", "x509", "listed", "folder", "nobody"] {
            let of_all = ends.iter().find(|(known, _)| *known == device).map(|(_, at)| *at);
            assert_eq!(known.end_of(device), of_all, "{device}");
        }
    }

    #[test]
    fn what_a_device_connects_with_is_told_from_before() {
        let key = |text: &str| Proof::Key(Key::parse(text).unwrap());
        let string = |text: &str| Proof::Connection(ConnectionString::parse(text).unwrap());
        let known = |proof: Option<Proof>, group: Option<&str>, certificate: Option<u64>| Known {
            models: HashMap::new(),
            model_id: None,
            table: proof.map(|proof| ("d".to_owned(), proof)).into_iter().collect(),
            group_key: group.map(|text| Key::parse(text).unwrap()),
            certificates: None,
            seen: certificate.map(|mark| ("d".to_owned(), Seen { mark, ends: None })).into_iter().collect(),
        };
        let (first, (a, b)) = ("HostName=h;DeviceId=d;SharedAccessKey=a2V5", ("a2V5", "YWJj"));
        let model = |of_table: Option<&str>, of_all: Option<&str>| Known {
            models: of_table.map(|model| ("d".to_owned(), model.to_owned())).into_iter().collect(),
            model_id: of_all.map(str::to_owned),
            ..Known::default()
        };
        for (name, before, after, same) in [
            ("a model", model(None, None), model(Some("m;1"), None), false),
            ("the model of all", model(None, Some("m;1")), model(None, Some("m;2")), false),
            (
                "another model of all, and its own",
                model(Some("m;1"), Some("a;1")),
                model(Some("m;1"), Some("b;1")),
                true,
            ),
            ("nothing", known(None, None, None), known(None, None, None), true),
            ("its key", known(Some(key(a)), None, None), known(Some(key(b)), None, None), false),
            ("not the group key", known(Some(key(a)), None, None), known(Some(key(a)), Some(a), None), true),
            ("the group key", known(None, Some(a), None), known(Some(Proof::Elsewhere), Some(b), None), false),
            ("listed now", known(None, Some(a), None), known(Some(Proof::Elsewhere), Some(a), None), true),
            ("a certificate", known(None, Some(a), None), known(None, Some(a), Some(1)), false),
            ("a renewed one", known(None, None, Some(2)), known(None, None, Some(1)), false),
            (
                "another hub",
                known(Some(string(first)), None, None),
                known(Some(string(&first.replace("=h", "=i"))), None, None),
                false,
            ),
            ("the same string", known(Some(string(first)), None, None), known(Some(string(first)), None, None), true),
        ] {
            assert_eq!(after.is_same(&before, "d"), same, "{name}");
        }
    }
}
