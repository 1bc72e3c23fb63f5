//! A broker without a listener, for the fuzz targets: it serves whatever stream it is given.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{Ingest, Options, Restored, Shared, serve, upkeep};
use crate::metrics::Metrics;

/// A broker whose connections are streams of the caller.
pub struct Lab<I>(Shared<I>);

impl<I: Ingest> Lab<I> {
    /// A broker nobody is connected to.
    pub fn new(options: Options, ingest: Arc<I>, metrics: Metrics) -> Self {
        Self::restored((options, Restored::default()), ingest, metrics)
    }

    /// A broker with the sessions of an earlier one.
    pub fn restored(options: (Options, Restored), ingest: Arc<I>, metrics: Metrics) -> Self {
        Self(Shared::new(options, ingest, metrics, CancellationToken::new()))
    }

    /// Writes down what has changed, or everything.
    pub async fn write_down(&self, everything: bool) {
        if everything {
            upkeep::write_everything(&self.0.router).await;
        } else {
            upkeep::write_changes(&self.0.router);
        }
    }

    /// Serves one connection from its first byte to its end, as [`Broker`](super::Broker) does.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) {
        serve::serve(stream, SocketAddr::from(([127, 0, 0, 1], 9)), &self.0).await;
    }
}
