//! The admin page: `/metrics` for Prometheus, `/healthz` for "the process lives", `/readyz` for "it does its job",
//! `/status` and `/ledger` for the commands of these names.
//!
//! It owns the metrics recorder. What it shows beyond that comes in through [`Source`]: gauges that are read
//! when scraped, and readiness with its reason in words.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections served at one time; a scraper needs one.
const MAX_CONNECTIONS: usize = 64;
/// Time for a request's head, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last; a scraper simply opens the next.
const MAX_LIFE: Duration = Duration::from_secs(300);
/// How often histograms are folded together between scrapes, so that they stay small.
const UPKEEP: Duration = Duration::from_secs(1);

/// Upper bounds of the latency histograms, in seconds.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// What the page shows beyond the counters.
pub trait Source: Send + Sync + 'static {
    /// Sets the gauges that are read when scraped.
    fn refresh(&self);

    /// Lines of `/metrics` that the recorder cannot hold, because it never forgets a label.
    fn info(&self) -> String;

    /// `Err` says in words why the process does not do its job; `Ok` may have a warning.
    fn ready(&self) -> Result<Option<String>, String>;

    /// The state of the process as JSON; `metrics` is the page of that moment.
    fn status(&self, metrics: &str) -> String;

    /// What became of everything, as JSON.
    fn ledger(&self) -> String;
}

/// The installed metrics recorder.
#[derive(Clone)]
pub struct Recorder(PrometheusHandle);

impl Recorder {
    /// Installs the recorder; once per process, before any metric is registered.
    pub fn install() -> Result<Self, BuildError> {
        let seconds = Matcher::Suffix("_seconds".to_owned());
        PrometheusBuilder::new().set_buckets_for_metric(seconds, &SECONDS)?.install_recorder().map(Self)
    }

    /// The page in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

struct Page<S> {
    recorder: Recorder,
    source: Arc<S>,
}

/// Serves `listener` until `stop`.
pub async fn serve<S: Source>(listener: TcpListener, recorder: Recorder, source: Arc<S>, stop: CancellationToken) {
    let page = Arc::new(Page { recorder, source });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    let mut upkeep = tokio::time::interval(UPKEEP);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            _ = upkeep.tick() => {
                page.recorder.0.run_upkeep();
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let page = Arc::clone(&page);
        let stop = stop.clone();
        tasks.spawn(async move {
            let service = service_fn(|request| answer(&page, request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // A peer that never reads its answer must not keep its place.
            tokio::select! {
                _ = tokio::time::timeout(MAX_LIFE, connection) => {}
                () = stop.cancelled() => {}
            }
            drop(place);
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn answer<S: Source>(page: &Page<S>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    Ok(match request.uri().path() {
        _ if !is_get => text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        "/metrics" => {
            page.source.refresh();
            let page = page.recorder.render() + &page.source.info();
            typed("text/plain; version=0.0.4; charset=utf-8", page)
        }
        "/status" => {
            page.source.refresh();
            typed("application/json", page.source.status(&page.recorder.render()))
        }
        "/ledger" => typed("application/json", page.source.ledger()),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match page.source.ready() {
            Ok(None) => text(StatusCode::OK, "ready\n"),
            Ok(Some(warning)) => text(StatusCode::OK, format!("ready, but: {warning}\n")),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz, /readyz, /status and /ledger\n"),
    })
}

fn typed(kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
