//! The simulator's own certificates and keys, and the TLS it listens with.
//!
//! In a folder that is kept, `ca.pem`, `ca.key` and `master.key` survive a restart, so that a bridge
//! configured once goes on working. The server's certificate is made anew at every start.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};

use crate::hub::sas::Key;

/// Why the simulator has no certificates.
#[derive(Debug)]
pub enum AuthorityError {
    /// A file or the folder.
    Io(PathBuf, std::io::Error),
    /// A key or certificate could not be made or read.
    Certificate(rcgen::Error),
    /// The library of TLS refused them.
    Tls(String),
    /// `master.key` is not the base64 text the simulator wrote.
    MasterKey(PathBuf),
}

impl std::fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(path, e) => write!(f, "{}: {e}", path.display()),
            Self::Certificate(e) => write!(f, "certificate: {e}"),
            Self::Tls(e) => write!(f, "TLS: {e}"),
            Self::MasterKey(path) => write!(f, "{}: not a key this program wrote", path.display()),
        }
    }
}

impl std::error::Error for AuthorityError {}

impl From<rcgen::Error> for AuthorityError {
    fn from(e: rcgen::Error) -> Self {
        Self::Certificate(e)
    }
}

/// TLS 1.3 is a preview, on hubs of another host name.
const HUB_VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// The folder with the certificates; a temporary one is removed at the end.
#[derive(Debug)]
pub(super) struct Authority {
    folder: PathBuf,
    temporary: bool,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// Device keys are derived from it.
    pub(super) master: Key,
}

impl Drop for Authority {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

impl Authority {
    /// Opens or fills the folder.
    pub(super) fn open(folder: Option<&Path>) -> Result<Self, AuthorityError> {
        let temporary = folder.is_none();
        let folder = folder.map_or_else(
            || std::env::temp_dir().join(format!("brownbridge-sim-{:016x}", rand::random::<u64>())),
            Path::to_path_buf,
        );
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|e| AuthorityError::Io(folder.clone(), e))?;
        let key = kept(&folder.join("ca.key"), || Ok(KeyPair::generate()?.serialize_pem()))?;
        let key = KeyPair::from_pem(&key)?;
        let params = ca_params()?;
        let made = params.self_signed(&key)?;
        let pem = kept(&folder.join("ca.pem"), || Ok(made.pem()))?;
        let certificate = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes())
            .map_err(|e| AuthorityError::Tls(format!("ca.pem: {e}")))?;
        let at = folder.join("master.key");
        let random = || Ok(base64::prelude::BASE64_STANDARD.encode(rand::random::<[u8; 32]>()));
        let master = Key::parse(kept(&at, random)?.trim()).map_err(|_| AuthorityError::MasterKey(at))?;
        Ok(Self { folder, temporary, issuer: Issuer::new(params, key), certificate, master })
    }

    /// The certificate a client must trust.
    pub(super) fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// What the server shows: good for these names and for this machine.
    pub(super) fn server_config(&self, hosts: &[String], edge: bool) -> Result<rustls::ServerConfig, AuthorityError> {
        let mut names = hosts.to_vec();
        names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
        names.dedup();
        let host = hosts.first().map_or("localhost", String::as_str);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, host);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let provider = Arc::new(ring::default_provider());
        let versions = if edge { rustls::ALL_VERSIONS } else { HUB_VERSIONS };
        let tls = |e: rustls::Error| AuthorityError::Tls(e.to_string());
        rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(tls)?
            .with_client_cert_verifier(Arc::new(Asks(provider)))
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .map_err(tls)
    }

    /// Writes `{device}.pem` and `{device}.key`, signed by the simulator's CA, and returns their paths.
    pub(super) fn issue(&self, device: &str) -> Result<(PathBuf, PathBuf), AuthorityError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, device);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        // Device ids have marks that a file name had better not have.
        let stem: String =
            device.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        let (pem, key_at) = (self.folder.join(format!("{stem}.pem")), self.folder.join(format!("{stem}.key")));
        write(&pem, &certificate.pem())?;
        write(&key_at, &key.serialize_pem())?;
        Ok((pem, key_at))
    }

    /// Checks certificates of clients against the simulator's CA.
    pub(super) fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, AuthorityError> {
        Self::verifier(self.certificate.clone())
    }

    /// Checks certificates of clients against `root`.
    pub(super) fn verifier(root: CertificateDer<'static>) -> Result<Arc<dyn ClientCertVerifier>, AuthorityError> {
        let mut roots = RootCertStore::empty();
        roots.add(root).map_err(|e| AuthorityError::Tls(e.to_string()))?;
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
            .build()
            .map_err(|e| AuthorityError::Tls(e.to_string()))
    }
}

fn ca_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "brownbridge simulated hub CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// The text of a file; it is made where there is none.
fn kept(path: &Path, make: impl FnOnce() -> Result<String, AuthorityError>) -> Result<String, AuthorityError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let text = make()?;
            write(path, &text)?;
            Ok(text)
        }
        Err(e) => Err(AuthorityError::Io(path.to_path_buf(), e)),
    }
}

fn write(path: &Path, text: &str) -> Result<(), AuthorityError> {
    let mode = if path.extension().is_some_and(|e| e == "key") { 0o600 } else { 0o644 };
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| AuthorityError::Io(path.to_path_buf(), e))
}

/// Asks every client for a certificate and takes any, as the hub does: whose it is, CONNECT decides.
/// That the client has the key to it is checked here.
#[derive(Debug)]
struct Asks(Arc<CryptoProvider>);

impl ClientCertVerifier for Asks {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
