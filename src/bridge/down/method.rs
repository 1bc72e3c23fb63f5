//! Direct methods: those of the rules, and what is answered.

use bytes::Bytes;
use serde_json::{Value, json};

use super::own::Own;
use super::{Downlink, Instant, Kind, Order, telling};
use crate::downlink::Forbidden;
use crate::hub::back;
use crate::message::Timestamp;
use crate::rules::{Commanded, Incoming, Made};
use crate::uplink::{Arrival, Return};

impl Downlink {
    /// A method is called. Commands of the rules go before the bridge's own methods, which only its own identity has.
    pub(super) async fn method(&mut self, name: &str, rid: String, arrival: Arrival) {
        let Arrival { device, own: is_own, payload, line, .. } = arrival;
        let incoming = Incoming {
            device: &device,
            method: Some(name),
            id: &rid,
            props: &[],
            payload: &payload,
            received: Timestamp::now(),
        };
        let (rules, terms) = (self.parts.rules.rules(), self.terms());
        let asked = rules.command(&incoming);
        let passed_by = match asked {
            Commanded::NoRule => telling::passed_by(&rules.passed_by(&incoming)),
            _ => None,
        };
        let number = self.number;
        let order = |made| Order {
            number,
            identity: device.clone(),
            device,
            made,
            kind: Kind::Method(rid.clone()),
            who: None,
            id: rid,
            expires: None,
            begun: false,
            admitted: false,
            line,
        };
        if !terms.enabled {
            return self.forbidden(order(Made::nothing(String::new())), "", &Forbidden::Closed).await;
        }
        match asked {
            Commanded::Made(made) => {
                let now = Instant::now();
                self.deliver(order(made), String::new(), (now, now)).await;
            }
            Commanded::Refused { command, reason, detail } => {
                self.finish(order(Made::nothing(command)), "", reason.label(), &detail).await;
            }
            Commanded::NoRule => match Own::named(name).filter(|_| terms.own_methods && is_own) {
                Some(own) => self.own_method(own, &payload, order(Made::nothing(format!("({name})")))).await,
                None => {
                    let detail = passed_by.unwrap_or_else(|| telling::no_method(name));
                    self.finish(order(Made::nothing(String::new())), "", "no_rule", &detail).await;
                }
            },
        }
    }
}

/// Answers a method; where the connection has ended there is nobody to answer.
pub(super) async fn answer(line: &Return, rid: &str, status: i32, body: &Value) {
    let _ = line.answer(back::method_answer(status, rid), Bytes::from(body.to_string())).await;
}

/// What a method is answered that ends without an answer of the plant.
pub(super) fn of_outcome(outcome: &str, detail: &str, made: &Made) -> (i32, Bytes) {
    let error = |status, text: &str| (status, json!({"error": text}));
    let (status, body) = match outcome {
        "published" | "nothing" => return (200, Bytes::new()),
        "dry_run" => {
            let topics: Vec<&str> = made.publishes.iter().map(|publish| publish.topic.as_str()).collect();
            (200, json!({"dry_run": true, "topics": topics}))
        }
        "no_rule" | "no_device" => error(404, detail),
        "not_allowed" | "closed" => error(403, detail),
        "unaudited" => error(503, detail),
        "over_rate" => error(429, "the device is over its rate of commands"),
        "timeout" => error(504, "the device has not answered in time"),
        "in_part" => error(502, detail),
        "bad_answer" => error(502, &format!("the answer of the device cannot be read: {detail}")),
        "answer_too_large" => error(502, "the answer of the device is larger than 128 KB"),
        _ => error(400, detail),
    };
    (status, Bytes::from(body.to_string()))
}

/// The body a plant's answer becomes: JSON stays, text becomes a JSON text, other bytes base64.
pub(super) fn body(payload: Vec<u8>) -> Bytes {
    use base64::Engine as _;
    if payload.is_empty() || serde_json::from_slice::<Value>(&payload).is_ok() {
        return Bytes::from(payload);
    }
    match String::from_utf8(payload) {
        Ok(text) => Bytes::from(json!(text).to_string()),
        Err(error) => {
            let text = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
            Bytes::from(json!({"value_base64": text}).to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_plant() {
        for (payload, expect) in [
            (&b""[..], &b""[..]),
            (b"12.0", b"12.0"),
            (b"done", b"\"done\""),
            (br#"{"result":{"code":409}}"#, br#"{"result":{"code":409}}"#),
            (b"\xff\x00", br#"{"value_base64":"/wA="}"#),
        ] {
            assert_eq!(body(payload.to_vec()), expect, "{}", payload.escape_ascii());
        }
    }
}
