//! The two facts a hub wants of a client certificate: its thumbprint and its common name.

use sha2::{Digest as _, Sha256};

/// SHA-256 of the certificate.
pub(super) fn thumbprint(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}

const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;

/// The common name of the subject, or `None`.
///
/// Certificate ::= SEQUENCE { tbs SEQUENCE { [0] version?, serial, algorithm, issuer, validity, subject, .. } .. }
pub(super) fn common_name(der: &[u8]) -> Option<&str> {
    let mut certificate = Der(der).enter(SEQUENCE)?;
    let mut tbs = certificate.enter(SEQUENCE)?;
    if tbs.0.first() == Some(&0xa0) {
        tbs.next()?;
    }
    for _ in ["serial", "algorithm", "issuer", "validity"] {
        tbs.next()?;
    }
    let mut subject = tbs.enter(SEQUENCE)?;
    while let Some((_, set)) = subject.next() {
        let mut set = Der(set);
        while let Some((_, attribute)) = set.next() {
            let mut attribute = Der(attribute);
            let (tag, oid) = attribute.next()?;
            let (_, value) = attribute.next()?;
            if tag == OID && oid == COMMON_NAME {
                return std::str::from_utf8(value).ok();
            }
        }
    }
    None
}

/// What is left of a run of DER elements.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Tag and content of the next element.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => rest.split_first().map(|(b, rest)| (usize::from(*b), rest))?,
            0x82 => rest.split_first_chunk().map(|(b, rest)| (usize::from(u16::from_be_bytes(*b)), rest))?,
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn enter(&mut self, want: u8) -> Option<Der<'a>> {
        self.next().filter(|(tag, _)| *tag == want).map(|(_, content)| Der(content))
    }
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
            assert_eq!(common_name(made.der()), Some(name));
            for cut in 0..made.der().len() {
                let _ = common_name(&made.der()[..cut]);
            }
        }
        assert_eq!(common_name(b""), None);
    }
}
