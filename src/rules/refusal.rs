//! Why a message cannot be made, in words a person understands.

use std::fmt::Write as _;

use super::QuarantineReason;
use super::json::{self, NotJson};

/// The `decode` that takes any bytes.
pub(super) const BASE64: &str = "decode = { format = \"raw\", as = \"base64\" }";

const UTF_16_LE: &str = "decode = { .., encoding = \"utf-16le\" }";
const UTF_16_BE: &str = "decode = { .., encoding = \"utf-16be\" }";

/// Why a message cannot be made.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: QuarantineReason,
    /// In words.
    pub(super) detail: String,
    /// What the rule could say instead.
    pub(super) advice: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(reason: QuarantineReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), advice: None }
    }

    /// The payload is not what `decode` says.
    pub(super) fn undecoded(detail: impl Into<String>) -> Self {
        Self::new(QuarantineReason::NotDecoded, detail)
    }

    pub(super) fn advise(mut self, advice: Option<&'static str>) -> Self {
        self.advice = advice;
        self
    }
}

/// JSON was asked for.
pub(super) fn not_json(payload: &[u8], error: Option<NotJson>) -> Refusal {
    match error {
        Some(NotJson::TooDeep) => {
            let detail = format!("the payload nests deeper than {} levels", json::MAX_DEPTH);
            Refusal::new(QuarantineReason::TooDeep, detail)
        }
        Some(NotJson::Invalid { at }) => {
            let detail = format!("the payload is not JSON, at byte {}: {}", at + 1, shown(payload));
            Refusal::new(QuarantineReason::NotJson, detail).advise(Some("decode = \"text\""))
        }
        None => {
            let detail = format!("the payload is not JSON: {}", shown(payload));
            Refusal::new(QuarantineReason::NotJson, detail).advise(Some(readable(payload)))
        }
    }
}

/// The text of a payload that must be text.
pub(super) fn text(payload: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(payload).map_err(|error| {
        let detail = format!("the payload is not text: byte {} is no UTF-8", error.valid_up_to() + 1);
        Refusal::new(QuarantineReason::NotText, detail).advise(Some(encoding(payload)))
    })
}

/// What `decode` could say of a payload that is no UTF-8 and was to be text, by its looks.
fn encoding(payload: &[u8]) -> &'static str {
    let is_control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    match utf16(payload) {
        Some(advice) => advice,
        None if payload.iter().any(is_control) => BASE64,
        None => "decode = { .., encoding = \"latin1\" }",
    }
}

/// The same for one that is not JSON.
pub(super) fn readable(payload: &[u8]) -> &'static str {
    match encoding(payload) {
        BASE64 => BASE64,
        _ if payload.trim_ascii_start().starts_with(b"{") => "decode = { format = \"json\", encoding = \"latin1\" }",
        _ => BASE64,
    }
}

/// The same for UTF-16, which has zero bytes beside its letters and digits.
pub(super) fn utf16(payload: &[u8]) -> Option<&'static str> {
    let (units, _) = payload.as_chunks::<2>();
    let is_zero = |place: fn(&[u8; 2]) -> u8| !units.is_empty() && units.iter().all(|unit| place(unit) == 0);
    match payload {
        [0xFF, 0xFE, ..] => Some(UTF_16_LE),
        [0xFE, 0xFF, ..] => Some(UTF_16_BE),
        [0, 0, ..] => None,
        _ if is_zero(|[_, high]| *high) => Some(UTF_16_LE),
        _ if is_zero(|[high, _]| *high) => Some(UTF_16_BE),
        _ => None,
    }
}

/// The beginning of a payload for a message to a person.
pub(super) fn shown(payload: &[u8]) -> String {
    const LENGTH: usize = 40;
    let mut head = payload.get(..LENGTH).unwrap_or(payload);
    if let Err(error) = std::str::from_utf8(head)
        && error.error_len().is_none()
    {
        head = head.get(..error.valid_up_to()).unwrap_or(head);
    }
    let more = if payload.len() > LENGTH { " ..." } else { "" };
    match std::str::from_utf8(head) {
        _ if payload.is_empty() => "empty".to_owned(),
        Ok(text) if !text.chars().any(char::is_control) => format!("`{text}`{more}"),
        _ => {
            let mut hex = String::from("the bytes");
            for byte in head.iter().take(16) {
                let _ = write!(hex, " {byte:02x}");
            }
            if payload.len() > 16 { hex + " ..." } else { hex }
        }
    }
}
