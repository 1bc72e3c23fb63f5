//! A server in front of a hub, with a name and a certificate of its own.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "test code")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

/// Ends TLS under its own name, and speaks it with the hub under the hub's.
pub struct Front {
    pub port: u16,
    /// The root of its certificate.
    pub ca: PathBuf,
    /// The names that clients asked for.
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Front {
    /// Runs until the program ends. `hub` is where the hub is, its name, and its root.
    pub fn start(dir: &Path, name: &str, (hub, hub_name, hub_ca): (SocketAddr, &str, &Path)) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let ca = dir.join("front.pem");
        std::fs::write(&ca, certificate.pem()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let server = server.unwrap().with_no_client_auth();
        let private = PrivatePkcs8KeyDer::from(key.serialize_der());
        let server = Arc::new(server.with_single_cert(vec![certificate.der().clone()], private.into()).unwrap());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(hub_ca).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let client = TlsConnector::from(Arc::new(client.with_root_certificates(roots).with_no_client_auth()));
        let hub_name = ServerName::try_from(hub_name.to_owned()).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, listener) = (Arc::clone(&asked), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((near, _)) = listener.accept().await {
                    let (seen, server, client) = (Arc::clone(&seen), Arc::clone(&server), client.clone());
                    let hub_name = hub_name.clone();
                    tokio::spawn(async move {
                        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), near).await.ok()?;
                        let name = hello.client_hello().server_name().unwrap_or_default().to_owned();
                        seen.lock().unwrap().push(name);
                        let mut near = hello.into_stream(server).await.ok()?;
                        let mut far = client.connect(hub_name, TcpStream::connect(hub).await.ok()?).await.ok()?;
                        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok()
                    });
                }
            });
        });
        Self { port, ca, asked }
    }
}
