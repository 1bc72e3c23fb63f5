//! The certificate of the TLS listener: read anew when its files change, and on SIGHUP.
//!
//! Connections keep what they were made with; new ones get the new certificate. Files that make no sense keep what is
//! in use, say so in the log, and set `config_last_reload_successful` to 0.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::ServerConfig;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::reload::{LOOK, hung_up, mark, settled};
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
            Some(path) => Some(tls::roots(Some(&text(path)?)).map_err(at(path))?),
            None => None,
        };
        let expiry = chain.first().and_then(|leaf| certificate::expiry(leaf));
        let made = broker::server_tls((chain, key), roots);
        let config = made.map_err(|error| format!("{}: {error}", self.certificate.display()))?;
        Ok((config, expiry))
    }
}

/// Follows the files until `stop`. `sound` tells whether the files on disk are the ones in use.
pub(super) async fn run(
    files: Files,
    config: watch::Sender<Arc<ServerConfig>>,
    metrics: Metrics,
    sound: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let mut hangup = signal(SignalKind::hangup()).ok();
    let marks = || [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()].map(|path| mark(path?));
    if let Ok((_, Some(expiry))) = files.read() {
        metrics.plant_certificate_expires(expiry);
    }
    let mut known = marks();
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => false,
            () = hung_up(&mut hangup) => true,
        };
        if !asked && marks() == known {
            continue;
        }
        known = settled(marks).await;
        let read = files.read();
        sound.store(read.is_ok(), Ordering::Relaxed);
        match read {
            Ok((new, expiry)) => {
                config.send_replace(new);
                if let Some(expiry) = expiry {
                    metrics.plant_certificate_expires(expiry);
                }
                tracing::info!("the certificate of the TLS listener is taken up");
            }
            Err(error) => tracing::error!("the certificate of the TLS listener stays the old one: {error}"),
        }
    }
}
