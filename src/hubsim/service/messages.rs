//! Cloud-to-device messages of a service, and the feedback it asks for.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};

use super::{Answer, Failure, json_answer};
use crate::hub::back::Command;
use crate::hubsim::Shared;
use crate::hubsim::feedback::ACKS;
use crate::hubsim::queue::QUEUE_MAX;

/// The largest message ("Understand cloud-to-device messaging").
const COMMAND_MAX_BYTES: usize = 64 * 1024;
const FEEDBACK: HeaderValue = HeaderValue::from_static("application/vnd.microsoft.iothub.feedback.json");

/// Puts a message into the queue of a device.
pub(super) fn send(id: &str, headers: &HeaderMap, body: Bytes, shared: &Shared) -> Result<Answer, Failure> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (device, module) = id.split_once('/').map_or((id, None), |(device, module)| (device, Some(module)));
    let to = match module {
        Some(module) => format!("/devices/{device}/modules/{module}/messages/deviceBound"),
        None => format!("/devices/{device}/messages/deviceBound"),
    };
    let properties = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix("iothub-app-")?;
        let value = value.to_str().ok()?;
        Some((name.to_owned(), Some(value.to_owned()).filter(|value| !value.is_empty())))
    });
    let ack = value("iothub-ack");
    if let Some(ack) = ack.as_deref().filter(|ack| !ACKS.iter().any(|known| ack.eq_ignore_ascii_case(known))) {
        return Err(Failure::argument(format!("iothub-ack is none, positive, negative or full, not {ack:?}")));
    }
    let expiry = value("iothub-expiry");
    if let Some(text) = expiry.as_deref().filter(|text| text.parse::<jiff::Timestamp>().is_err()) {
        return Err(Failure::argument(format!("iothub-expiry is a time like 2027-01-31T12:00:00Z, not {text:?}")));
    }
    let command = Command {
        message_id: value("iothub-messageid"),
        correlation_id: value("iothub-correlationid"),
        user_id: value("iothub-userid"),
        to: Some(to),
        content_type: value("iothub-contenttype"),
        content_encoding: value("iothub-contentencoding"),
        expiry,
        ack,
        properties: properties.collect(),
    };
    if body.len() > COMMAND_MAX_BYTES {
        return Err(Failure::new(413, 413_001, "MessageTooLarge", "the message is larger than 64 KB"));
    }
    if shared.cloud.send(id, command, body).is_err() {
        let text = format!("{QUEUE_MAX} messages wait for {id} already");
        return Err(Failure::new(403, 403_004, "DeviceMaximumQueueDepthExceeded", text));
    }
    Ok(nothing())
}

/// Answers a request about feedback.
pub(super) fn feedback((method, rest): (&str, &[&str]), shared: &Shared) -> Result<Answer, Failure> {
    let settled = match (method, rest) {
        ("GET", []) => {
            let Some((token, records)) = shared.cloud.receive_feedback() else { return Ok(nothing()) };
            let mut answer = json_answer(StatusCode::OK, &records);
            answer.headers_mut().insert(CONTENT_TYPE, FEEDBACK);
            if let Ok(tag) = HeaderValue::try_from(format!("\"{token}\"")) {
                answer.headers_mut().insert(ETAG, tag);
            }
            return Ok(answer);
        }
        ("DELETE", [token]) => shared.cloud.feedback.settle(token.trim_matches('"'), false),
        ("POST", [token, "abandon"]) => shared.cloud.feedback.settle(token.trim_matches('"'), true),
        _ => {
            return Err(Failure::new(405, 405_000, "InvalidOperation", "feedback is received, completed or abandoned"));
        }
    };
    if settled {
        return Ok(nothing());
    }
    Err(Failure::new(412, 412_002, "DeviceMessageLockLost", "this batch is not locked under that token"))
}

fn nothing() -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}
