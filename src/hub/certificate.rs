//! What a certificate says, as far as a hub and a provisioning service look at it.

use std::fmt;

use sha2::{Digest as _, Sha256};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::der::oid::db::rfc5912::{ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1, SECP_521_R_1};
use x509_cert::der::oid::db::rfc8410::ID_ED_25519 as ED25519;
use x509_cert::der::{Decode as _, Reader as _, SliceReader};
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::time::Time;

/// The curve of another trade.
const SECP_256_K_1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.10");

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
    validity(der).map(|(_, end)| end)
}

/// When it begins and ends, in seconds since 1970.
pub fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let certificate = Certificate::from_der(der).ok()?;
    let seconds = |time: Time| i64::try_from(time.to_unix_duration().as_secs()).ok();
    let validity = certificate.tbs_certificate.validity;
    Some((seconds(validity.not_before)?, seconds(validity.not_after)?))
}

/// Its subject, for people.
pub fn subject(der: &[u8]) -> Option<String> {
    Certificate::from_der(der).ok().map(|certificate| certificate.tbs_certificate.subject.to_string())
}

/// True where it signs others, or only itself: what a root does. Also where it cannot be read.
pub fn may_sign(der: &[u8]) -> bool {
    Certificate::from_der(der).ok().is_none_or(|certificate| {
        is_ca(&certificate) || certificate.tbs_certificate.issuer == certificate.tbs_certificate.subject
    })
}

/// Why TLS cannot use a certificate of this form, with what helps.
pub fn unusable_form(der: &[u8]) -> Option<&'static str> {
    let certificate = Certificate::from_der(der).ok()?;
    (certificate.tbs_certificate.version == Version::V1).then_some(
        "the certificate is of X.509 version 1, which TLS does not take: have it made anew with extensions (openssl x509 \
         -req .. -extfile FILE), which makes it version 3",
    )
}

/// Why TLS cannot use the key of a certificate, with what helps.
pub fn unusable_key(der: &[u8]) -> Option<String> {
    let certificate = Certificate::from_der(der).ok()?;
    let info = certificate.tbs_certificate.subject_public_key_info;
    let kind = match info.algorithm.oid {
        RSA_ENCRYPTION => match rsa_bits(info.subject_public_key.raw_bytes())? {
            2_048..=4_096 => return None,
            bits => format!("an RSA key of {bits} bits"),
        },
        ID_EC_PUBLIC_KEY => match info.algorithm.parameters?.decode_as::<ObjectIdentifier>().ok()? {
            SECP_256_R_1 | SECP_384_R_1 => return None,
            SECP_521_R_1 => "a key on the curve P-521".to_owned(),
            SECP_256_K_1 => "a key on the curve secp256k1".to_owned(),
            curve => format!("a key on the curve {curve}"),
        },
        ED25519 => return None,
        other => format!("a key of the kind {other}"),
    };
    Some(format!("{kind} cannot be used here: take an EC key on P-256 or P-384, or RSA with 2048 to 4096 bits"))
}

fn rsa_bits(key: &[u8]) -> Option<u32> {
    let mut reader = SliceReader::new(key).ok()?;
    let modulus = reader.sequence(|inner| {
        let modulus = UintRef::decode(inner)?;
        UintRef::decode(inner)?;
        Ok(modulus)
    });
    let bytes = modulus.ok()?;
    let bytes = bytes.as_bytes();
    let bits = u32::try_from(bytes.len()).ok()?.checked_mul(8)?;
    Some(bits - bytes.first()?.leading_zeros())
}

/// What is wrong with the order of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainError {
    /// The certificate with this number, from 1, cannot be read.
    Unreadable(usize),
    /// The first is a CA while the one with this number is none: the device's own comes first.
    LeafAt(usize),
    /// The certificate with this number was not issued by the one behind it. Their names: its issuer, and that one.
    Gap(usize, String, String),
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(n) => write!(f, "certificate {n} of the chain cannot be read"),
            Self::LeafAt(n) => {
                write!(
                    f,
                    "the chain is in the wrong order: the device's own certificate is number {n} and must be first"
                )
            }
            Self::Gap(n, issuer, next) => write!(
                f,
                "the chain is in the wrong order, or has a gap: certificate {n} was issued by {issuer:?}, and the one \
                 behind it is {next:?}"
            ),
        }
    }
}

impl std::error::Error for ChainError {}

/// Checks that a chain begins with the device's own certificate, each issued by the one behind it.
pub fn check_chain<'c>(chain: impl IntoIterator<Item = &'c [u8]>) -> Result<(), ChainError> {
    let mut read = Vec::new();
    for (number, der) in (1..).zip(chain) {
        read.push(Certificate::from_der(der).map_err(|_| ChainError::Unreadable(number))?);
    }
    if let Some(leaf) = read.iter().position(|certificate| !is_ca(certificate)).filter(|at| *at > 0) {
        return Err(ChainError::LeafAt(leaf + 1));
    }
    for (number, pair) in (1..).zip(read.windows(2)) {
        let [this, next] = pair else { continue };
        let (issuer, subject) = (&this.tbs_certificate.issuer, &next.tbs_certificate.subject);
        if issuer != subject {
            return Err(ChainError::Gap(number, issuer.to_string(), subject.to_string()));
        }
    }
    Ok(())
}

fn is_ca(certificate: &Certificate) -> bool {
    certificate.tbs_certificate.get::<BasicConstraints>().ok().flatten().is_some_and(|(_, constraints)| constraints.ca)
}

/// The root under which Azure's hubs were until 2024; it ended on 2025-05-12. Older guides pin it.
pub fn is_baltimore(der: &[u8]) -> bool {
    common_name(der).as_deref() == Some("Baltimore CyberTrust Root")
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

    #[test]
    fn chains() {
        use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
        let params = |name: &str, ca: bool| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = if ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::NoCa };
            params
        };
        let keys = [(); 3].map(|()| KeyPair::generate().unwrap());
        let (root, middle) = (params("Baltimore CyberTrust Root", true), params("line 1", true));
        let root_der = root.self_signed(&keys[0]).unwrap().der().to_vec();
        let middle_der = middle.signed_by(&keys[1], &Issuer::new(root, &keys[0])).unwrap().der().to_vec();
        let leaf_der = params("dev", false).signed_by(&keys[2], &Issuer::new(middle, &keys[1])).unwrap().der().to_vec();
        let (root, middle, leaf) = (root_der.as_slice(), middle_der.as_slice(), leaf_der.as_slice());
        for (chain, expect) in [
            (vec![leaf], ""),
            (vec![leaf, middle], ""),
            (vec![leaf, middle, root], ""),
            (vec![root], ""),
            (vec![middle, leaf], "the device's own certificate is number 2"),
            (vec![root, middle, leaf], "the device's own certificate is number 3"),
            (vec![leaf, root], "certificate 1 was issued by \"CN=line 1\", and the one behind it is \"CN=Baltimore"),
            (vec![leaf, b"x"], "certificate 2 of the chain cannot be read"),
        ] {
            let got = check_chain(chain).map_or_else(|error| error.to_string(), |()| String::new());
            assert!(got.contains(expect) && got.is_empty() == expect.is_empty(), "{expect}: {got}");
        }
        assert!(is_baltimore(root) && !is_baltimore(leaf));
    }
}
