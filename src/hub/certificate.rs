//! What a certificate says, as far as a hub and a provisioning service look at it.

use sha2::{Digest as _, Sha256};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;

/// SHA-256 of the certificate.
pub fn thumbprint(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}

/// The common name of the subject, or `None`.
pub fn common_name(der: &[u8]) -> Option<String> {
    let certificate = Certificate::from_der(der).ok()?;
    let subject = certificate.tbs_certificate.subject;
    let name = subject.0.iter().flat_map(|set| set.0.iter()).find(|attribute| attribute.oid == COMMON_NAME)?;
    String::from_utf8(name.value.value().to_vec()).ok()
}

/// When it ends, in seconds since 1970; `None` where it cannot be read.
pub fn expiry(der: &[u8]) -> Option<i64> {
    let certificate = Certificate::from_der(der).ok()?;
    i64::try_from(certificate.tbs_certificate.validity.not_after.to_unix_duration().as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names() {
        for name in ["dev-01", "a-b.c%d_e*f!g(h)i,j:k=l@m$n'o", &"x".repeat(300)] {
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::OrganizationName, "plant");
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            assert_eq!(common_name(made.der()).as_deref(), Some(name));
            for cut in 0..made.der().len() {
                let _ = common_name(&made.der()[..cut]);
            }
        }
        assert_eq!(common_name(b""), None);
    }
}
