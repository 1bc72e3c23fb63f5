//! Shared access signatures: the password of a device that holds a symmetric key.
//!
//! ```text
//! SharedAccessSignature sr={resource}&sig={signature}&se={expiry}[&skn={policy}]
//! signature = base64(HMAC-SHA256(base64decode(key), sr as written + "\n" + se as written))
//! ```
//!
//! Minting writes the form of Microsoft's Python SDK. Reading follows Microsoft's server-side parser:
//! the prefix is case-sensitive and followed by exactly one space, the fields may come in any order and
//! case, unknown fields are ignored, a repeated one is malformed. A value ends at its second raw `=`,
//! and `+` in it is a space, which is why a signature must be percent-encoded.

use std::fmt;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::bag;
use super::limits::CLOCK_SKEW_SECS;
use crate::secret::Secret;

/// Padding is required, stray bits in the last character are not looked at: what Python and .NET accept.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

const PREFIX: &str = "SharedAccessSignature";

/// The key of a device or a policy, decoded.
#[derive(Clone)]
pub struct Key(Zeroizing<Vec<u8>>);

/// A key that is not base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// There is no text at all.
    Empty,
    /// A character that base64 does not know, at this position.
    Character(usize),
    /// The length cannot be: characters are missing at the end, most often the closing `=`.
    Cut,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the key is empty"),
            Self::Character(at) => write!(f, "the key is not base64: character {} cannot be in it", at + 1),
            Self::Cut => f.write_str("the key is not base64: it is cut short (is the `=` at its end missing?)"),
        }
    }
}

impl std::error::Error for KeyError {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Reads the base64 text of a key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        BASE64.decode(text).map(|bytes| Self(Zeroizing::new(bytes))).map_err(|e| match e {
            base64::DecodeError::InvalidByte(at, byte) if byte != b'=' => KeyError::Character(at),
            _ => KeyError::Cut,
        })
    }

    /// Takes the bytes of a key as they are.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// The base64 text again.
    pub fn encode(&self) -> Secret {
        Secret::new(BASE64.encode(&*self.0))
    }

    /// The key of one device of a group, in base64: base64(HMAC-SHA256(this key, id)).
    pub fn derive(&self, id: &str) -> Secret {
        Secret::new(BASE64.encode(self.mac(&[id]).finalize().into_bytes()))
    }

    fn mac(&self, parts: &[&str]) -> Hmac<Sha256> {
        #[expect(clippy::expect_used)]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("invariant: HMAC takes a key of any length");
        parts.iter().for_each(|part| mac.update(part.as_bytes()));
        mac
    }
}

/// Makes a token for `resource` (see [`super::connect::Identity::resource`]) that ends at `expiry`,
/// seconds since 1970. A `policy` is named only where the key belongs to one.
pub fn mint(key: &Key, resource: &str, expiry: i64, policy: Option<&str>) -> Secret {
    let mut sr = String::with_capacity(resource.len() + 16);
    bag::encode(&mut sr, resource);
    let se = expiry.to_string();
    let signature = BASE64.encode(key.mac(&[&sr, "\n", &se]).finalize().into_bytes());
    let mut token = String::with_capacity(sr.len() + 128);
    let _ = write!(token, "{PREFIX} sr={sr}&sig=");
    bag::encode(&mut token, &signature);
    let _ = write!(token, "&se={se}");
    if let Some(policy) = policy {
        token.push_str("&skn=");
        bag::encode(&mut token, policy);
    }
    Secret::new(token)
}

/// A token, taken apart.
pub struct Token {
    /// The resource it is for, decoded.
    pub audience: String,
    /// The policy it names; empty for a device key.
    pub key_name: String,
    /// When it ends, seconds since 1970.
    pub expiry: i64,
    signed_resource: String,
    signed_expiry: String,
    signature: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("audience", &self.audience).field("expiry", &self.expiry).finish_non_exhaustive()
    }
}

/// Why a token is no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// The text is no `SharedAccessSignature sr=..&sig=..&se=..`.
    Malformed,
    /// A field is not there.
    Missing(&'static str),
    /// A field is there twice.
    Repeated,
    /// `se` is no number of seconds.
    Expiry,
    /// It ended, seconds ago, longer than the clock skew allows.
    Expired(i64),
    /// No key made this signature.
    Signature,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the token is not of the form `SharedAccessSignature sr=..&sig=..&se=..`"),
            Self::Missing(field) => write!(f, "the token has no field `{field}`"),
            Self::Repeated => f.write_str("the token has a field twice"),
            Self::Expiry => f.write_str("the expiry `se` of the token is not a number of seconds"),
            Self::Expired(ago) => write!(f, "the token expired {ago} s ago"),
            Self::Signature => f.write_str("the signature of the token does not match the key"),
        }
    }
}

impl std::error::Error for TokenError {}

impl Token {
    /// Takes a token apart, without looking at its signature or the time.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let mut words = text.split(char::is_whitespace);
        let (Some(PREFIX), Some(fields), None) = (words.next(), words.next(), words.next()) else {
            return Err(TokenError::Malformed);
        };
        let [mut sr, mut sig, mut se, mut skn] = [const { None::<&str> }; 4];
        for field in fields.split('&').filter(|f| !f.is_empty()) {
            let mut parts = field.split('=');
            let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
                return Err(TokenError::Malformed);
            };
            let slot = match name.to_ascii_lowercase().as_str() {
                "sr" => &mut sr,
                "sig" => &mut sig,
                "se" => &mut se,
                "skn" => &mut skn,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(TokenError::Repeated);
            }
        }
        let signed_resource = sr.ok_or(TokenError::Missing("sr"))?.to_owned();
        let signature = form_decode(sig.ok_or(TokenError::Missing("sig"))?);
        let signed_expiry = form_decode(se.ok_or(TokenError::Missing("se"))?);
        let seconds: f64 = signed_expiry.parse().map_err(|_| TokenError::Expiry)?;
        if !seconds.is_finite() {
            return Err(TokenError::Expiry);
        }
        Ok(Self {
            audience: form_decode(&signed_resource),
            key_name: skn.map(form_decode).unwrap_or_default(),
            expiry: seconds as i64,
            signed_resource,
            signed_expiry,
            signature,
        })
    }

    /// Checks the time, with the clock skew Microsoft allows, and the signature against any of `keys`.
    pub fn check(&self, now: i64, keys: &[&Key]) -> Result<(), TokenError> {
        let ago = now.saturating_sub(self.expiry);
        if ago > CLOCK_SKEW_SECS {
            return Err(TokenError::Expired(ago));
        }
        let signature = base64::prelude::BASE64_STANDARD.decode(&self.signature).map_err(|_| TokenError::Signature)?;
        let signed = [self.signed_resource.as_str(), "\n", self.signed_expiry.as_str()];
        let good = |key: &&Key| key.mac(&signed).verify_slice(&signature).is_ok();
        if keys.iter().any(good) { Ok(()) } else { Err(TokenError::Signature) }
    }
}

fn form_decode(text: &str) -> String {
    bag::unescape(&text.replace('+', " ")).into_owned()
}
