//! TLS settings from PEM texts: which roots to trust, which certificate to show.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rumqttc::tokio_rustls::rustls::crypto::ring;
use rumqttc::tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use rumqttc::tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rumqttc::tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::hub::certificate;

/// Why TLS cannot be set up.
#[derive(Debug)]
pub enum TlsError {
    /// A PEM text without a certificate, or a broken one.
    Certificate(Option<pem::Error>),
    /// A PEM text without a private key, or a broken one.
    Key(pem::Error),
    /// A private key that needs a password.
    EncryptedKey,
    /// Certificate and key do not belong together, or are of an unknown kind.
    Pair(rustls::Error),
    /// A certificate of a form or with a key that TLS does not take.
    Unusable(String),
    /// A root that is no usable certificate.
    Root(rustls::Error),
    /// The system trusts nobody; why, where that is known.
    NoSystemRoots(Option<String>),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(None) => f.write_str("there is no certificate in it (-----BEGIN CERTIFICATE-----)"),
            Self::Certificate(Some(error)) => write!(f, "the certificate in it cannot be read: {error}"),
            Self::Key(pem::Error::NoItemsFound) => {
                f.write_str("there is no private key in it (-----BEGIN PRIVATE KEY-----)")
            }
            Self::EncryptedKey => f.write_str(
                "the private key in it is encrypted; write it plainly, readable for the service only: \
                 `openssl pkey -in device.key -out plain.key`",
            ),
            Self::Key(error) => write!(f, "the private key in it cannot be read: {error}"),
            Self::Pair(rustls::Error::InconsistentKeys(_)) => {
                f.write_str("the key is not the one of the certificate (of the first one in its file)")
            }
            Self::Pair(error) => write!(f, "certificate and key cannot be used together: {error}"),
            Self::Unusable(why) => f.write_str(why),
            Self::Root(error) => write!(f, "a certificate in it cannot be trusted as a root: {error}"),
            Self::NoSystemRoots(why) => {
                f.write_str("this system has no trusted root certificates")?;
                if let Some(why) = why {
                    write!(f, " ({why})")?;
                }
                f.write_str(
                    ": install the package ca-certificates, let SSL_CERT_FILE name the system's bundle, or set `ca_file`",
                )
            }
        }
    }
}

impl std::error::Error for TlsError {}

/// The certificates of a PEM text, in their order.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsError::Certificate(None)),
        Ok(found) => Ok(found),
        Err(error) => Err(TlsError::Certificate(Some(error))),
    }
}

/// The private key of a PEM text: PKCS#8, PKCS#1 or SEC1.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| {
        let is_encrypted = [b"ENCRYPTED PRIVATE KEY".as_slice(), b"Proc-Type: 4,ENCRYPTED"];
        match is_encrypted.iter().any(|mark| memchr::memmem::find(text, mark).is_some()) {
            true => TlsError::EncryptedKey,
            false => TlsError::Key(error),
        }
    })
}

/// The roots of a PEM text.
pub fn roots(text: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    add_roots(&mut store, text)?;
    Ok(store)
}

/// Those of a PEM text are trusted, too.
pub fn add_roots(store: &mut RootCertStore, text: &[u8]) -> Result<(), TlsError> {
    for certificate in certificates(text)? {
        let form = certificate::unusable_form(&certificate);
        store.add(certificate).map_err(|error| match form {
            Some(why) => TlsError::Unusable(why.to_owned()),
            None => TlsError::Root(error),
        })?;
    }
    Ok(())
}

/// The roots that this system trusts: those of its package, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
pub fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        return Err(TlsError::NoSystemRoots(found.errors.first().map(ToString::to_string)));
    }
    Ok(store)
}

/// Whom many connections trust; another one may take its place while they run. Asking takes no lock.
#[derive(Debug)]
pub struct Trust(ArcSwap<Trusted>);

#[derive(Debug)]
struct Trusted {
    roots: Arc<RootCertStore>,
    /// Of those that show no certificate.
    client: Arc<ClientConfig>,
}

impl Trusted {
    fn new(roots: Arc<RootCertStore>) -> Result<Arc<Self>, TlsError> {
        let client = client(Arc::clone(&roots), None)?;
        Ok(Arc::new(Self { roots, client }))
    }
}

impl Trust {
    /// Trusts these roots.
    pub fn new(roots: impl Into<Arc<RootCertStore>>) -> Result<Self, TlsError> {
        Trusted::new(roots.into()).map(|trusted| Self(ArcSwap::new(trusted)))
    }

    /// From now on these are trusted, and no others.
    pub fn replace(&self, roots: Arc<RootCertStore>) -> Result<(), TlsError> {
        self.0.store(Trusted::new(roots)?);
        Ok(())
    }

    /// The roots as they are now.
    pub fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.0.load().roots)
    }

    /// The settings of a client without a certificate, as they are now.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0.load().client)
    }
}

/// The settings of a TLS client; `identity` is its own certificate chain and key.
pub fn client(
    roots: impl Into<Arc<RootCertStore>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?
        .with_root_certificates(roots.into());
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let leaf = chain.first().cloned();
            let why = |leaf: &CertificateDer<'_>| {
                certificate::unusable_form(leaf).map(str::to_owned).or_else(|| certificate::unusable_key(leaf))
            };
            builder.with_client_auth_cert(chain, key).map_err(|error| match (&error, leaf.as_ref().and_then(why)) {
                (rustls::Error::InconsistentKeys(_), _) | (_, None) => TlsError::Pair(error),
                (_, Some(why)) => TlsError::Unusable(why),
            })?
        }
    };
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::CertificateError;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;
    use crate::hub::refused::tls_hint;

    #[test]
    fn what_rustls_says_is_understood() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expected = ServerName::try_from("hub.example").unwrap();
        for (error, expect) in [
            (CertificateError::UnknownIssuer, "signed by nobody"),
            (CertificateError::BadSignature, "signed by nobody"),
            (CertificateError::Expired, "clock of this machine"),
            (CertificateError::ExpiredContext { time: at(2), not_after: at(1) }, "clock of this machine"),
            (CertificateError::NotValidYet, "clock of this machine"),
            (CertificateError::NotValidYetContext { time: at(1), not_before: at(2) }, "clock of this machine"),
            (CertificateError::NotValidForName, "for another name"),
            (CertificateError::NotValidForNameContext { expected, presented: vec!["x".into()] }, "for another name"),
        ] {
            let text = rustls::Error::InvalidCertificate(error).to_string();
            assert!(tls_hint(&text).contains(expect), "{text}");
        }
        assert_eq!(tls_hint(&rustls::Error::HandshakeNotComplete.to_string()), "");
    }
}
