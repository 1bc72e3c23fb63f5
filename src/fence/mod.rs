//! The fence of the plaintext port: who may come in, and who may publish and subscribe to what.
//!
//! Pure: texts of files and facts about a client in, decisions out. It opens no file and no socket, and knows no
//! clock.
//!
//! # The users file
//! One table of names and Argon2id hashes, written by `brownbridge passwd`:
//! ```toml
//! [users]
//! panel = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$5ZFMDf7..."
//! ```
//!
//! # The access file
//! ```toml
//! [[allow]]                          # no key names who: everyone
//! publish   = ["plant/{client}/#"]
//!
//! [[allow]]
//! user      = "panel"
//! from      = "10.1.0.0/16"
//! subscribe = ["plant/#"]
//!
//! [[deny]]
//! client    = "test-*"
//! publish   = ["plant/+/setpoint"]
//!
//! [[bind]]
//! client    = "plc-7"
//! from      = "10.1.2.3"
//! ```
//! | key | in | meaning |
//! |---|---|---|
//! | `user` | allow, deny | the name the client proved with its password; `*` stands for any characters, so `"*"` is anybody who proved one |
//! | `client` | all | the client id; `*` stands for any characters |
//! | `from` | all | addresses and networks in CIDR notation |
//! | `publish`, `subscribe` | allow, deny | topic filters with `{client}` and `{user}`; `{{` and `}}` are braces |
//!
//! Every key takes one text or a list. An entry speaks of a client where all its `user`, `client` and `from` agree.
//!
//! # The decision
//! The order of entries does not matter:
//! 1. A client id some `[[bind]]` names comes from that entry's addresses, or not at all.
//! 2. A `[[deny]]` without topics keeps its clients out. A client no `[[allow]]` speaks of stays out too.
//! 3. To publish, the topic must match a filter of some `[[allow]]` and none of any `[[deny]]`.
//! 4. To subscribe, one filter of an `[[allow]]` must *cover* the asked filter (match every topic it can match), and
//!    none of a `[[deny]]` may *overlap* it (match any topic it can match). The words of the two filters may differ.
//!    Of `$share/<group>/<filter>` the filter is judged.
//!
//! A client id or user name that is empty, begins with `$` or holds `/`, `+` or `#` never fills a placeholder of an
//! `[[allow]]`: it would reach other topics than were meant.

use std::net::IpAddr;

pub mod access;
pub mod cover;
pub mod learn;
pub mod network;
mod pattern;
pub mod rights;
pub mod users;

pub use pattern::Name;

/// Every code an access or users file can be answered with, beside those of TOML itself.
pub const CODES: [&str; 12] = [
    "bad-hash",
    "bad-network",
    "bad-topic",
    "bad-user",
    "duplicate-bind",
    "missing-key",
    "nobody-allowed",
    "nothing-allowed",
    "unknown-key",
    "unknown-name",
    "unknown-user",
    "wrong-type",
];

/// What is known of a client that comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller<'a> {
    /// Its client id.
    pub client: &'a str,
    /// The user name it proved with a password.
    pub user: Option<&'a str>,
    /// Where it comes from.
    pub address: IpAddr,
}
