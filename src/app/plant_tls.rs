//! The certificate of the TLS listener: read anew when its files change, and on SIGHUP.
//!
//! Connections keep what they were made with; new ones get the new certificate. Files that make no sense keep what is
//! in use, say so in the log, and set `config_last_reload_successful` to 0.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::watch;

use super::reload::{NotTaken, Watched};
use crate::broker;
use crate::hub::certificate;
use crate::metrics::Metrics;
use crate::uplink::tls;

/// The files of the TLS listener.
#[derive(Debug, Clone)]
pub struct Files {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Roots of the certificates clients must show.
    pub client_ca: Option<PathBuf>,
}

impl Files {
    /// The settings they make, and when the certificate expires.
    fn read(&self) -> Result<(Arc<ServerConfig>, Option<i64>), String> {
        let text = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let at = |path: &Path| {
            let path = path.display().to_string();
            move |error: tls::TlsError| format!("{path}: {error}")
        };
        let chain = tls::certificates(&text(&self.certificate)?).map_err(at(&self.certificate))?;
        let key = tls::private_key(&text(&self.key)?).map_err(at(&self.key))?;
        let roots = match &self.client_ca {
            Some(path) => Some(tls::roots(&text(path)?).map_err(at(path))?),
            None => None,
        };
        let expiry = chain.first().and_then(|leaf| certificate::expiry(leaf));
        let made = broker::server_tls((chain, key), roots);
        let config = made.map_err(|error| format!("{}: {error}", self.certificate.display()))?;
        Ok((config, expiry))
    }
}

/// The files, and where what they say goes.
pub(super) struct PlantTls {
    files: Files,
    config: watch::Sender<Arc<ServerConfig>>,
    metrics: Metrics,
}

impl PlantTls {
    pub(super) fn new(files: Files, config: watch::Sender<Arc<ServerConfig>>, metrics: Metrics) -> Self {
        if let Ok((_, Some(expiry))) = files.read() {
            metrics.plant_certificate_expires(expiry);
        }
        Self { files, config, metrics }
    }
}

impl Watched for PlantTls {
    const WHAT: &'static str = "the certificate of the TLS listener";
    const STILL: Duration = Duration::from_millis(100);
    type Found = Result<(Arc<ServerConfig>, Option<i64>), String>;

    fn paths(&self) -> Vec<PathBuf> {
        let Files { certificate, key, client_ca } = &self.files;
        [certificate, key].into_iter().chain(client_ca).cloned().collect()
    }

    fn read(&self) -> Self::Found {
        self.files.read()
    }

    fn take(&self, found: Self::Found, _: bool) -> Result<(), NotTaken> {
        match found {
            Ok((new, expiry)) => {
                self.config.send_replace(new);
                if let Some(expiry) = expiry {
                    self.metrics.plant_certificate_expires(expiry);
                }
                tracing::info!("{} is taken up", Self::WHAT);
                Ok(())
            }
            Err(error) => {
                let why = format!("{} stays the old one: {error}", Self::WHAT);
                tracing::error!("{why}");
                Err(why.into())
            }
        }
    }
}
