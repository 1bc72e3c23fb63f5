//! The service side over HTTPS, on the same port as MQTT: what Microsoft's service SDK asks of a hub, as far as it
//! concerns the way back to devices.
//!
//! | request | does |
//! |---|---|
//! | `GET /twins/{id}` | the twin |
//! | `PATCH /twins/{id}` `PUT /twins/{id}` | changes or replaces desired properties and tags; `If-Match` is obeyed |
//! | `POST /twins/{id}/methods` | calls a direct method and waits for its answer |
//! | `POST /devices/{id}/messages/devicebound` | puts a cloud-to-device message into the device's queue |
//! | `DELETE /devices/{id}/commands` | empties that queue |
//! | `GET /messages/serviceBound/feedback` | a batch of what became of messages with `iothub-ack`; `ETag` is the token of its lock; 204 where there is nothing |
//! | `DELETE /messages/serviceBound/feedback/{token}` | that batch is done |
//! | `POST /messages/serviceBound/feedback/{token}/abandon` | that batch is to come again |
//! | `GET /devices/{id}` `GET /devices` | the identities |
//! | `POST /devices/query` | `SELECT * FROM devices`: all twins |
//! | `GET /statistics/service` `GET /statistics/devices` | how many there are |
//!
//! `{id}` is a device, or `{device}/modules/{module}`. Each request carries `api-version` and a token of the policy
//! `iothubowner`. The properties of a message are headers as with the hub's own HTTPS side: `iothub-app-{name}`,
//! `iothub-messageid`, `iothub-correlationid`, `iothub-expiry`, `iothub-ack`, `iothub-contenttype`,
//! `iothub-contentencoding`. `HEAD` needs nothing and tells the time.

use std::convert::Infallible;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, IF_MATCH};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::Shared;
use super::cloud::{CallError, Change, NEVER};
use super::connection::{PACKET_MAX, Stream};
use super::counters::Closed;
use super::websocket::Next;
use crate::hub::bag;
use crate::hub::sas::{Key, Token};
use crate::hub::twin::{Properties, TwinError};
use crate::message::Timestamp;
use crate::secret::Secret;

mod messages;

/// The policy a service signs with.
pub(super) const POLICY: &str = "iothubowner";
/// The largest payload of a method, and with room around it of any request.
const METHOD_MAX_BYTES: usize = 128 * 1024;
const REQUEST_MAX_BYTES: usize = 160 * 1024;
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The key of the policy.
pub(super) fn policy_key(master: &Key) -> Secret {
    master.derive(POLICY)
}

/// Whether a client begins an HTTP request; `None` while its first bytes do not tell yet.
pub(super) fn is_http(input: &[u8]) -> Option<bool> {
    const METHODS: [&[u8]; 6] = [b"GET ", b"HEAD ", b"PUT ", b"POST ", b"PATCH ", b"DELETE "];
    if METHODS.iter().any(|method| input.starts_with(method)) {
        return Some(true);
    }
    // No MQTT connection begins with a letter.
    if METHODS.iter().any(|method| method.starts_with(input)) { None } else { Some(false) }
}

/// Answers requests until the client has no more of them, or asked for a WebSocket: the stream that follows then.
pub(super) async fn serve(stream: Stream, read: BytesMut, shared: &Arc<Shared>) -> Result<Stream, Closed> {
    let next = Next::default();
    let (reader, writer) = tokio::io::split(stream);
    let stream = tokio::io::join(Cursor::new(read.freeze()).chain(reader), writer);
    let answer = service_fn(|mut request| {
        let (shared, upgrade) = (Arc::clone(shared), next.answer(&mut request));
        async move {
            Ok::<_, Infallible>(match upgrade {
                Some(answer) => answer,
                None => answer(request, &shared).await,
            })
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades();
    let ended = tokio::select! {
        () = shared.stop.cancelled() => Closed::Stopped,
        served = served => if served.is_ok() { Closed::Goodbye } else { Closed::Lost },
    };
    next.stream(ended, PACKET_MAX).await
}

/// An answer that is no success, in the hub's form.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    code: u32,
    name: &'static str,
    text: String,
}

impl Failure {
    fn new(status: u16, code: u32, name: &'static str, text: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code, name, text: text.into() }
    }

    fn argument(text: impl Into<String>) -> Self {
        Self::new(400, 400_004, "ArgumentInvalid", text)
    }

    fn not_found(what: &str) -> Self {
        Self::new(404, 404_001, "DeviceNotFound", format!("there is no {what}"))
    }
}

impl From<TwinError> for Failure {
    fn from(error: TwinError) -> Self {
        Self::argument(error.to_string())
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: Request<Incoming>, shared: &Shared) -> Answer {
    if request.method() == Method::HEAD {
        return Response::new(Full::default());
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match respond(request, shared).await {
        Ok(answer) => answer,
        Err(failure) => {
            tracing::info!(%method, path, status = failure.status.as_u16(), "service request refused: {}", failure.text);
            let body = json!({
                "errorCode": failure.code,
                "trackingId": format!("{:032x}", rand::random::<u128>()),
                "message": failure.text,
                "timestampUtc": Timestamp::now().to_string(),
            });
            let mut answer = json_answer(failure.status, &body);
            answer.headers_mut().insert("iothub-errorcode", HeaderValue::from_static(failure.name));
            answer
        }
    }
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    answer
}

fn done(body: &Value) -> Result<Answer, Failure> {
    Ok(json_answer(StatusCode::OK, body))
}

async fn respond(request: Request<Incoming>, shared: &Shared) -> Result<Answer, Failure> {
    let (head, body) = request.into_parts();
    authorize(&head.headers, shared)?;
    if !head.uri.query().unwrap_or("").split('&').any(|field| field.starts_with("api-version=20")) {
        return Err(Failure::argument("api-version is missing"));
    }
    let body = match Limited::new(body, REQUEST_MAX_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Err(Failure::new(413, 413_001, "MessageTooLarge", "the request is too large")),
    };
    let path: Vec<_> = head.uri.path().split('/').skip(1).map(bag::unescape).collect();
    let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
    match (head.method.as_str(), path.as_slice()) {
        ("GET", ["statistics", "service"]) => done(&json!({"connectedDeviceCount": shared.cloud.known().1})),
        ("GET", ["statistics", "devices"]) => {
            let count = shared.cloud.known().0.len();
            done(&json!({"totalDeviceCount": count, "enabledDeviceCount": count, "disabledDeviceCount": 0}))
        }
        ("GET", ["devices"]) => {
            let known = shared.cloud.known().0;
            done(&known.iter().filter(|id| !id.contains('/')).map(|id| identity(id, shared)).collect())
        }
        ("POST", ["devices", "query"]) => query(&body, shared),
        (method, ["messages", box_, "feedback", rest @ ..]) if box_.eq_ignore_ascii_case("servicebound") => {
            messages::feedback((method, rest), shared)
        }
        (method, [first @ ("devices" | "twins"), device, "modules", module, rest @ ..]) => {
            let id = known(&format!("{device}/{module}"), shared)?;
            of_identity((method, first, rest), &id, (&head.headers, body), shared).await
        }
        (method, [first @ ("devices" | "twins"), device, rest @ ..]) => {
            let id = known(device, shared)?;
            of_identity((method, first, rest), &id, (&head.headers, body), shared).await
        }
        _ => {
            Err(Failure::new(404, 404_000, "NotFound", format!("nothing answers {} {}", head.method, head.uri.path())))
        }
    }
}

async fn of_identity(
    (method, first, rest): (&str, &str, &[&str]),
    id: &str,
    (headers, body): (&HeaderMap, Bytes),
    shared: &Shared,
) -> Result<Answer, Failure> {
    match (method, first, rest) {
        ("GET", "devices", []) => done(&identity(id, shared)),
        ("GET", "twins", []) => done(&shared.cloud.twin_for_service(id)),
        ("PATCH" | "PUT", "twins", []) => change_twin(method == "PUT", id, (headers, &body), shared),
        ("POST", "twins", ["methods"]) => call(id, &body, shared).await,
        ("DELETE", "devices", ["commands"]) => {
            let purged = shared.cloud.purge(id);
            done(&json!({"deviceId": id, "moduleId": null, "totalMessagesPurged": purged}))
        }
        ("POST", "devices", ["messages", box_]) if box_.eq_ignore_ascii_case("devicebound") => {
            messages::send(id, headers, body, shared)
        }
        _ => Err(Failure::new(405, 405_000, "InvalidOperation", "this simulator does not do that")),
    }
}

/// The token of a request.
fn authorize(headers: &HeaderMap, shared: &Shared) -> Result<(), Failure> {
    let refuse = |why: String| Failure::new(401, 401_003, "IotHubUnauthorizedAccess", why);
    let text = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let text = text.ok_or_else(|| refuse("there is no Authorization header".to_owned()))?;
    let token = Token::parse(text).map_err(|error| refuse(error.to_string()))?;
    let host = token.audience.split(['/', ':']).next().unwrap_or("");
    if token.key_name != POLICY || !host.eq_ignore_ascii_case(&shared.register.host) {
        return Err(refuse(format!("the token is for {:?} and policy {:?}", token.audience, token.key_name)));
    }
    let key = Key::parse(policy_key(&shared.register.master).expose()).map_err(|error| refuse(error.to_string()))?;
    token.check(Timestamp::now().as_secs(), &[&key]).map_err(|error| refuse(error.to_string()))
}

fn known(id: &str, shared: &Shared) -> Result<String, Failure> {
    if shared.register.has(id) { Ok(id.to_owned()) } else { Err(Failure::not_found(id)) }
}

fn identity(id: &str, shared: &Shared) -> Value {
    json!({
        "deviceId": id,
        "generationId": "1",
        "etag": "MQ==",
        "connectionState": if shared.cloud.is_connected(id) { "Connected" } else { "Disconnected" },
        "status": "enabled",
        "statusReason": null,
        "connectionStateUpdatedTime": NEVER,
        "statusUpdatedTime": NEVER,
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": shared.cloud.waiting(id),
        "authentication": {
            "symmetricKey": {"primaryKey": null, "secondaryKey": null},
            "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null},
            "type": "sas",
        },
        "capabilities": {"iotEdge": false},
    })
}

fn query(body: &Bytes, shared: &Shared) -> Result<Answer, Failure> {
    let asked: Value = serde_json::from_slice(body).map_err(|error| Failure::argument(error.to_string()))?;
    let words: Vec<String> = text(&asked, "query").split_whitespace().map(str::to_ascii_lowercase).collect();
    if words != ["select", "*", "from", "devices"] {
        return Err(Failure::argument("this simulator knows one query: SELECT * FROM devices"));
    }
    done(&shared.cloud.known().0.iter().map(|id| shared.cloud.twin_for_service(id)).collect())
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or("")
}

fn change_twin(
    replace: bool,
    id: &str,
    (headers, body): (&HeaderMap, &Bytes),
    shared: &Shared,
) -> Result<Answer, Failure> {
    let asked: Value = serde_json::from_slice(body).map_err(|error| Failure::argument(error.to_string()))?;
    let object = |value: Option<&Value>| match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(own(object))),
        Some(_) => Err(Failure::from(TwinError::NotAnObject)),
    };
    let desired = object(asked.pointer("/properties/desired"))?;
    let tags = object(asked.get("tags"))?;
    let wanted = headers.get(IF_MATCH).and_then(|value| value.to_str().ok()).map(|tag| tag.trim_matches('"'));
    if wanted.is_some_and(|tag| tag != "*" && tag != shared.cloud.etag(id)) {
        return Err(Failure::new(412, 412_002, "PreconditionFailed", "the twin has changed since"));
    }
    shared.cloud.change(&shared.sessions, id, Change { replace, desired, tags })?;
    done(&shared.cloud.twin_for_service(id))
}

/// Without what is the hub's: a twin that was read may be sent back.
fn own(properties: &Properties) -> Properties {
    properties.iter().filter(|(name, _)| !name.starts_with('$')).map(|(n, v)| (n.clone(), v.clone())).collect()
}

async fn call(id: &str, body: &Bytes, shared: &Shared) -> Result<Answer, Failure> {
    let asked: Value = serde_json::from_slice(body).map_err(|error| Failure::argument(error.to_string()))?;
    let name = Some(text(&asked, "methodName")).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Failure::argument("methodName is missing"))?;
    let seconds = |key: &str, least: u64, otherwise: u64| match asked.get(key) {
        None | Some(Value::Null) => Ok(Duration::from_secs(otherwise)),
        Some(value) => value
            .as_u64()
            .filter(|seconds| (least..=300).contains(seconds))
            .map(Duration::from_secs)
            .ok_or_else(|| Failure::argument(format!("{key} is from {least} to 300"))),
    };
    let times = (seconds("connectTimeoutInSeconds", 0, 0)?, seconds("responseTimeoutInSeconds", 5, 30)?);
    let payload = asked.get("payload").map_or_else(Bytes::new, |payload| Bytes::from(payload.to_string()));
    if payload.len() > METHOD_MAX_BYTES {
        return Err(Failure::new(413, 413_001, "MessageTooLarge", "the payload is larger than 128 KB"));
    }
    match shared.cloud.call(&shared.sessions, id, (name, payload), times).await {
        Ok((status, payload)) => {
            let payload = if payload.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(&payload)
                    .map_err(|_| Failure::new(502, 502_000, "InvalidResponse", "the answer of the device is no JSON"))?
            };
            done(&json!({"status": status, "payload": payload}))
        }
        Err(CallError::NotOnline) => {
            Err(Failure::new(404, 404_103, "DeviceNotOnline", format!("{id} is not connected, or takes no methods")))
        }
        Err(CallError::Timeout) => {
            Err(Failure::new(504, 504_101, "GatewayTimeout", format!("{id} has not answered in time")))
        }
    }
}
