//! What the uplink asks of an MQTT client, so that a simulated hub can take the place of `rumqttc` and the network.
//!
//! Everything that decides about a message is on this side of it: which one goes next, how many are under way, what
//! an acknowledgement means, what happens after a cut.

use std::future::Future;
use std::io;

use bytes::Bytes;

use super::Options;
use super::target::{Login, Target};

/// What happened on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The hub let us in.
    Connected,
    /// The oldest publish that was handed over and not yet sent went out, with this packet identifier.
    Sent(u16),
    /// PUBACK.
    Acknowledged(u16),
    /// DISCONNECT went out.
    Left,
    /// Nothing that matters here.
    Other,
}

/// How a line ended: the counter's label, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) reason: &'static str,
    pub(crate) text: String,
}

/// Makes connections.
pub(crate) trait Dial: Send + Sync + 'static {
    type Wire: Wire;

    /// Prepares one; it is made when it is first asked for an event.
    fn dial(&self, options: &Options, login: &Login) -> impl Future<Output = io::Result<Self::Wire>> + Send;
}

/// The receiving half of a connection, which also does its work.
pub(crate) trait Wire: Send {
    type Sender: Sender;

    fn sender(&self) -> Self::Sender;

    /// What happens next. Its future is never dropped half-way unless the whole connection is.
    fn event(&mut self, target: &Target) -> impl Future<Output = Result<Event, Broken>> + Send;
}

/// The sending half.
pub(crate) trait Sender: Send + Sync {
    /// Hands over a publish of QoS 1. They go out in this order.
    fn publish(&self, topic: String, body: Bytes) -> impl Future<Output = Result<(), String>> + Send;

    /// Says DISCONNECT after what was handed over before.
    fn disconnect(&self) -> impl Future<Output = ()> + Send;
}
