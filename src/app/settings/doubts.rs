//! What is doubtful in a client certificate, the bridge's own and those of devices: its chain, its time, its name. Pure.

use rustls::pki_types::CertificateDer;

use crate::app::credentials::{DAY, EXPIRES_SOON};
use crate::hub::certificate;
use crate::message::Timestamp;

/// What is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::app) struct Doubt {
    /// What kind of finding it is.
    pub(in crate::app) code: &'static str,
    /// In a sentence, with the name of the file.
    pub(in crate::app) title: String,
    /// The mend.
    pub(in crate::app) help: Option<&'static str>,
}

/// A chain that no hub can follow.
pub(in crate::app) fn order(chain: &[CertificateDer<'_>], name: &str) -> Option<Doubt> {
    let error = certificate::check_chain(chain.iter().map(|der| &**der)).err()?;
    let help = "one file: the device's own certificate, then the one that signed it, and so on";
    Some(Doubt { code: "bad-chain", title: format!("{name}: {error}"), help: Some(help) })
}

/// A certificate whose time is over, has not come, or ends soon; `now` in seconds since 1970.
pub(in crate::app) fn time(chain: &[CertificateDer<'_>], name: &str, now: i64) -> Option<Doubt> {
    let (begin, end) = chain.first().and_then(|leaf| certificate::validity(leaf))?;
    let renew = "put a new one in its place: it is taken up without a restart";
    let (code, title, help) = if begin > now {
        let from = Timestamp(begin.saturating_mul(1_000));
        let title = format!(
            "{name}: the certificate is good from {from} on; until then the hub refuses it. Is the clock right?"
        );
        ("not-yet-valid", title, None)
    } else if end < now {
        ("expired", format!("{name}: the certificate has expired; the hub refuses it"), Some(renew))
    } else if end - now < EXPIRES_SOON {
        ("expires-soon", format!("{name}: the certificate expires in {} days", (end - now) / DAY), Some(renew))
    } else {
        return None;
    };
    Some(Doubt { code, title, help })
}

/// A certificate that is hardly this device's. The provisioning service knows nobody by a thumbprint alone, and no case.
pub(in crate::app) fn name(
    leaf: &CertificateDer<'_>,
    file: &str,
    (device, provisioned): (&str, bool),
) -> Option<Doubt> {
    let named = certificate::common_name(leaf);
    let (title, help) = if provisioned {
        let named = named.unwrap_or_default();
        if named.eq_ignore_ascii_case(device) {
            return None;
        }
        let title = format!(
            "{file}: the certificate is for {named:?}, and the device is {device:?}: the provisioning service refuses it"
        );
        (title, "its common name must be the device id; have it made anew, or give the file the name of its device")
    } else {
        let named = named.filter(|named| named != device)?;
        let title = format!(
            "{file}: the certificate is for {named:?}, and the device is {device:?}: right only where the hub knows it by its \
             thumbprint"
        );
        (title, "signed by a CA, its common name is the device id, upper and lower case included")
    };
    Some(Doubt { code: "another-name", title, help: Some(help) })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// A leaf for `name` that is good from and until so many days from now, and the CA that signed it.
    fn chain(name: &str, (from, until): (i64, i64)) -> Vec<CertificateDer<'static>> {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let named = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let mut ca = named("plant root");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key).unwrap();
        let mut leaf = named(name);
        let at = |days: i64| {
            (std::time::UNIX_EPOCH + std::time::Duration::from_secs((NOW + days * DAY).unsigned_abs())).into()
        };
        (leaf.not_before, leaf.not_after) = (at(from), at(until));
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        vec![leaf.der().clone(), root.der().clone()]
    }

    #[test]
    fn what_is_doubtful() {
        type Arrange = fn(&mut Vec<CertificateDer<'static>>);
        let as_it_is: Arrange = |_| {};
        for (case, common_name, days, arrange, provisioned, expect) in [
            ("nothing", "press-4", (-1, 400), as_it_is, false, vec![]),
            ("alone", "press-4", (-1, 400), (|chain| chain.truncate(1)) as Arrange, false, vec![]),
            ("turned round", "press-4", (-1, 400), |chain| chain.reverse(), false, vec!["bad-chain"]),
            ("over", "press-4", (-400, -1), as_it_is, false, vec!["expired"]),
            ("not yet", "press-4", (1, 400), as_it_is, false, vec!["not-yet-valid"]),
            ("soon over", "press-4", (-1, 29), as_it_is, false, vec!["expires-soon"]),
            ("a month", "press-4", (-1, 31), as_it_is, false, vec![]),
            ("another", "press-5", (-1, 400), as_it_is, false, vec!["another-name"]),
            ("another case", "PRESS-4", (-1, 400), as_it_is, false, vec!["another-name"]),
            ("another case, for the service", "PRESS-4", (-1, 400), as_it_is, true, vec![]),
            ("another, for the service", "press-5", (-1, 400), as_it_is, true, vec!["another-name"]),
            ("another, and over", "press-5", (-400, -1), as_it_is, true, vec!["expired", "another-name"]),
        ] {
            let mut chain = chain(common_name, days);
            arrange(&mut chain);
            let doubts = order(&chain, "f.pem").into_iter().chain(time(&chain, "f.pem", NOW));
            let leaf = chain.iter().find(|der| certificate::common_name(der).as_deref() == Some(common_name)).unwrap();
            let doubts: Vec<_> = doubts.chain(name(leaf, "f.pem", ("press-4", provisioned))).collect();
            assert_eq!(doubts.iter().map(|doubt| doubt.code).collect::<Vec<_>>(), expect, "{case}: {doubts:?}");
            assert!(doubts.iter().all(|doubt| doubt.title.starts_with("f.pem: ")), "{doubts:?}");
        }
    }
}
