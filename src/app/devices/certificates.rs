//! The certificates of devices, tried one by one: whether the key fits, and what else a hub would refuse.
//!
//! A pair that TLS cannot use is an error. What is doubtful besides is a warning, as with the bridge's own certificate: the
//! hub refuses that device alone. Of a thousand certificates that end together only the first are told one by one.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::amount::of;
use crate::app::credentials::{DAY, EXPIRES_SOON};
use crate::app::settings::Place;
use crate::app::settings::doubts::{self, Doubt};
use crate::bridge::devices::known::{Seen, mark};
use crate::config::Placed;
use crate::diag::{Diagnostic, Span};
use crate::hub::certificate;
use crate::message::Timestamp;
use crate::uplink::tls::{self, TlsError};

/// Findings of one folder or table that are told one by one.
const MOST_TOLD: usize = 20;
const BOTH: &str = "a folder with ID.pem and ID.key of each device";

/// The certificates that can be used, by device.
pub(super) type AllSeen = HashMap<String, Seen>;

/// What came of trying certificates.
pub(super) struct Tried {
    /// Which file the findings point into.
    file: usize,
    /// Devices register with the provisioning service.
    provisioned: bool,
    now: i64,
    seen: AllSeen,
    found: Vec<Diagnostic>,
}

impl Tried {
    pub(super) fn new(file: usize, provisioned: bool) -> Self {
        let now = Timestamp::now().as_secs();
        Self { file, provisioned, now, seen: AllSeen::new(), found: Vec::new() }
    }

    /// Tries the certificate and the key of a device, which are named at these places.
    pub(super) fn pair(&mut self, (chain, key): (&Path, &Path), device: &str, places: [&Span; 2]) {
        let [at_chain, at_key] = places;
        for (path, place) in [(chain, at_chain), (key, at_key)] {
            if !path.is_file() {
                let title = format!("there is no {}", path.display());
                return self.add(Diagnostic::error("no-such-file", title, self.file), None, place);
            }
        }
        let name = chain.display().to_string();
        let texts = (fs::read(chain).unwrap_or_default(), Zeroizing::new(fs::read(key).unwrap_or_default()));
        let read = tls::certificates(&texts.0);
        let order = read.as_ref().ok().and_then(|chain| doubts::order(chain, &name));
        match read.and_then(|chain| usable(&chain, &texts.1).map(|()| chain)) {
            Err(error) => {
                // That the key does not fit the first says less than why another is the first.
                let (code, title, help) = match order.filter(|_| matches!(error, TlsError::Pair(_))) {
                    Some(Doubt { code, title, help }) => (code, title, help),
                    None => ("tls", format!("{name} and its key: {error}"), None),
                };
                let found = Diagnostic::error(code, title, self.file);
                self.add(found, help, at_chain);
            }
            Ok(chain) => {
                let leaf = chain.first();
                let named = leaf.and_then(|leaf| doubts::name(leaf, &name, (device, self.provisioned)));
                for Doubt { code, title, help } in
                    order.into_iter().chain(doubts::time(&chain, &name, self.now)).chain(named)
                {
                    self.add(Diagnostic::warning(code, title, self.file), help, at_chain);
                }
                let ends = leaf.and_then(|leaf| certificate::expiry(leaf));
                self.seen.insert(device.to_owned(), Seen { mark: mark(&[&texts.0, &texts.1]), ends });
            }
        }
    }

    fn add(&mut self, found: Diagnostic, help: Option<&str>, place: &Span) {
        let found = if place.is_empty() { found } else { found.at(place.clone(), "") };
        self.found.push(match help {
            Some(help) => found.help(help),
            None => found,
        });
    }
}

/// Whether a certificate and a key can be used together.
fn usable(chain: &[CertificateDer<'static>], key: &[u8]) -> Result<(), TlsError> {
    let identity = (chain.to_vec(), tls::private_key(key)?);
    tls::client(RootCertStore::empty(), Some(identity)).map(drop)
}

/// What to say of certificates that have ended, or end within a month; `now` in seconds since 1970.
pub(in crate::app) fn ending<'k>(ends: impl Iterator<Item = (&'k str, i64)>, now: i64) -> Option<String> {
    const NAMED: usize = 10;
    let mut ending: Vec<_> = ends.filter(|(_, end)| end - now < EXPIRES_SOON).collect();
    ending.sort_unstable_by_key(|(device, end)| (*end, *device));
    let when = |(device, end): &(&str, i64)| match end - now {
        ..0 => format!("{device} (over)"),
        left => format!("{device} ({})", of((left / DAY).unsigned_abs(), "day", "days")),
    };
    let named: Vec<_> = ending.iter().take(NAMED).map(when).collect();
    let more = match ending.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!ending.is_empty()).then(|| format!("certificates of devices end within 30 days: {}{more}", named.join(", ")))
}

impl Place {
    /// Tries the certificates of a folder.
    pub(super) fn folder_of_certificates(
        &mut self,
        folder: &Path,
        named: &Placed<String>,
        provisioned: bool,
    ) -> AllSeen {
        let mut tried = Tried::new(self.file, provisioned);
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut chains: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|ending| ending == "pem")).collect();
        chains.sort_unstable();
        for chain in chains {
            let key = chain.with_extension("key");
            if !key.is_file() {
                let title = format!("there is no {}, the key of {}", key.display(), chain.display());
                tried.add(Diagnostic::error("no-such-file", title, self.file), Some(BOTH), &named.span);
                continue;
            }
            let device = chain.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            tried.pair((&chain, &key), &device, [&named.span, &named.span]);
        }
        self.tell(tried, &named.value).0
    }

    /// Tells what was found, of much only the first, errors before warnings; what can be used, and whether there was no
    /// error.
    pub(super) fn tell(&mut self, tried: Tried, where_from: &str) -> (AllSeen, bool) {
        let Tried { mut found, seen, file, .. } = tried;
        let sound = !found.iter().any(Diagnostic::is_error);
        found.sort_by_key(|found| !found.is_error());
        let more = found.len().saturating_sub(MOST_TOLD);
        found.truncate(MOST_TOLD);
        self.found.append(&mut found);
        if more > 0 {
            let title = format!("{where_from}: {more} more findings in certificates are not told");
            self.found.push(Diagnostic::warning("more-findings", title, file));
        }
        (seen, sound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_certificates_end() {
        let many: Vec<String> = (0..12).map(|n| format!("d{n:02}")).collect();
        let many: Vec<_> = many.iter().map(|id| (id.as_str(), 5 * DAY)).collect();
        for (ends, expect) in [
            (&[][..], None),
            (&[("a", 30 * DAY)], None),
            (&[("b", 29 * DAY), ("a", 40 * DAY), ("c", -1)], Some("30 days: c (over), b (29 days)")),
            (&many, Some("d09 (5 days) and 2 more")),
        ] {
            let told = ending(ends.iter().copied(), 0);
            assert_eq!(told.is_some(), expect.is_some(), "{told:?}");
            assert!(told.unwrap_or_default().ends_with(expect.unwrap_or_default()), "{expect:?}");
        }
    }
}
