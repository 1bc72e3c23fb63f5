//! Who may come in, and how often: the gate the wiring gives, and the limits of each address and client.
//!
//! Without a gate and without limits nothing here costs anything: a connection then has an empty [`Badge`].

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use parking_lot::Mutex;
use rmqtt_codec::{MqttCodec, MqttPacket, v3, v5};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::codec::Encoder;

use super::handshake::Connected;
use super::{Ingest, Options, Shared};
use crate::message::excerpt;

/// Sockets of one address beyond its limit that are read up to CONNECT, so that they can be told why they end.
const TOLD: usize = 8;
/// Addresses remembered before those that are at rest are forgotten.
const ADDRESSES: usize = 1_024;
/// A client may save up its rate for this long.
const BURST: Duration = Duration::from_secs(1);

/// A pass, or why there is none, when it is known.
pub type Judgement<'g> = Pin<Box<dyn Future<Output = Result<Box<dyn Pass>, Refusal>> + Send + 'g>>;

/// Judges clients. The wiring implements it.
pub trait Gate: fmt::Debug + Send + Sync + 'static {
    /// Lets a client in, or says why not. It may take its time: `connect_timeout` bounds it.
    fn admit(&self, visitor: Visitor) -> Judgement<'_>;
}

/// What the gate remembers of one connected client. Asked for every publish: cheap.
pub trait Pass: Send {
    /// True where the client may publish to this valid topic name.
    fn may_publish(&mut self, topic: &str) -> bool;

    /// True where the client may subscribe to this valid filter.
    fn may_subscribe(&mut self, filter: &str) -> bool;

    /// True once after what the client may do has changed.
    fn has_changed(&mut self) -> bool {
        false
    }
}

/// A client at the gate.
pub struct Visitor {
    /// Where it comes from.
    pub address: IpAddr,
    /// Its client id, also one the broker chose.
    pub client: String,
    /// True where the broker chose the client id.
    pub assigned: bool,
    /// The user name it gives.
    pub user: Option<String>,
    /// The password it gives.
    pub password: Option<Bytes>,
}

/// Why a client is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What the protocol says.
    pub code: RefusalCode,
    /// The counter's label.
    pub label: &'static str,
}

/// The reasons of CONNACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// Code 4, MQTT 5: 0x86.
    BadUserNameOrPassword,
    /// Code 5, MQTT 5: 0x87.
    NotAuthorized,
    /// Code 3, MQTT 5: 0x97.
    QuotaExceeded,
    /// Code 3, MQTT 5: 0x9F.
    ConnectionRate,
}

/// What a connection carries: first what the client said of itself, then its pass and its pace.
#[derive(Default)]
pub(super) struct Badge {
    user: Option<ByteString>,
    password: Option<Bytes>,
    pass: Option<Box<dyn Pass>>,
    pace: Option<Pace>,
}

impl Badge {
    pub(super) fn claimed(user: Option<ByteString>, password: Option<Bytes>) -> Self {
        Self { user, password, ..Self::default() }
    }

    /// The user name the client gave; where a gate asks for one, it was proved.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The same for a will, which may outlive the connection.
    pub(super) fn user_of_will(&self) -> Option<ByteString> {
        self.user.clone()
    }

    pub(super) fn may_publish(&mut self, topic: &str) -> bool {
        self.pass.as_mut().is_none_or(|pass| pass.may_publish(topic))
    }

    pub(super) fn may_subscribe(&mut self, filter: &str) -> bool {
        self.pass.as_mut().is_none_or(|pass| pass.may_subscribe(filter))
    }

    /// True where somebody judges this client.
    pub(super) fn is_judged(&self) -> bool {
        self.pass.is_some()
    }

    /// True once after what the client may do has changed.
    pub(super) fn has_changed(&mut self) -> bool {
        self.pass.as_mut().is_some_and(|pass| pass.has_changed())
    }

    /// Counts a publish; false where the client is over its rate and must go.
    pub(super) fn count_publish(&mut self) -> bool {
        self.pace.as_mut().is_none_or(|pace| pace.take(Instant::now()) || !pace.closes)
    }

    /// Until when a client over its rate is not read.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        let pace = self.pace.as_ref().filter(|pace| !pace.closes)?;
        Some(pace.opens()).filter(|opens| *opens > Instant::now())
    }
}

/// A rate with a burst of one second of it.
#[derive(Debug, Clone, Copy)]
struct Pace {
    each: Duration,
    /// When everything taken so far is paid for.
    paid: Instant,
    closes: bool,
}

impl Pace {
    /// `None` for a rate of 0, which is no limit.
    fn new(rate: u32, closes: bool, now: Instant) -> Option<Self> {
        Some(Self { each: Duration::from_secs(1).checked_div(rate)?, paid: now, closes })
    }

    /// Takes one; true while that is within the rate.
    fn take(&mut self, now: Instant) -> bool {
        self.paid = self.paid.max(now) + self.each;
        self.paid <= now + BURST
    }

    /// When the next one is within the rate.
    fn opens(&self) -> Instant {
        (self.paid + self.each).checked_sub(BURST).unwrap_or(self.paid)
    }

    fn is_at_rest(&self, now: Instant) -> bool {
        self.paid <= now
    }
}

/// The addresses clients come from.
pub(super) struct Doors {
    max_connections: usize,
    connect_rate: u32,
    addresses: Mutex<Addresses>,
}

#[derive(Default)]
struct Addresses {
    open: HashMap<IpAddr, Address>,
    sweep_at: usize,
}

#[derive(Default)]
struct Address {
    connections: usize,
    pace: Option<Pace>,
}

/// One socket of an address; dropping it ends the visit.
pub(super) struct Visit<'d> {
    doors: &'d Doors,
    address: IpAddr,
}

impl Doors {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            max_connections: options.max_connections_per_address,
            connect_rate: options.max_connect_rate,
            addresses: Mutex::default(),
        }
    }

    /// Lets a socket in as far as its CONNECT. `None` where its address has so many that it is closed at once.
    pub(super) fn enter(&self, peer: SocketAddr) -> Option<Visit<'_>> {
        let address = origin(peer.ip());
        let now = Instant::now();
        let mut addresses = self.addresses.lock();
        let Addresses { open, sweep_at } = &mut *addresses;
        if open.len() >= *sweep_at {
            open.retain(|_, address| address.connections > 0 || address.pace.is_some_and(|pace| !pace.is_at_rest(now)));
            *sweep_at = (open.len() * 2).max(ADDRESSES);
        }
        let here = open.entry(address).or_default();
        if here.connections >= self.max_connections.saturating_add(TOLD) {
            return None;
        }
        here.connections += 1;
        Some(Visit { doors: self, address })
    }
}

impl Visit<'_> {
    /// Judges a CONNECT by the limits of its address.
    fn check(&self) -> Result<(), Refusal> {
        let mut addresses = self.doors.addresses.lock();
        let Some(here) = addresses.open.get_mut(&self.address) else { return Ok(()) };
        if here.connections > self.doors.max_connections {
            return Err(Refusal { code: RefusalCode::QuotaExceeded, label: "connections_per_address" });
        }
        let now = Instant::now();
        here.pace = here.pace.or_else(|| Pace::new(self.doors.connect_rate, true, now));
        // A refused attempt costs nothing: a client that goes on trying gets in when the second is over.
        let taken = here.pace.map(|mut pace| pace.take(now).then_some(pace));
        match taken {
            None => Ok(()),
            Some(Some(pace)) => {
                here.pace = Some(pace);
                Ok(())
            }
            Some(None) => Err(Refusal { code: RefusalCode::ConnectionRate, label: "connect_rate" }),
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut addresses = self.doors.addresses.lock();
        if let Some(here) = addresses.open.get_mut(&self.address) {
            here.connections = here.connections.saturating_sub(1);
            if here.connections == 0 && here.pace.is_none() {
                addresses.open.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: of IPv6 the network a single subscriber has to itself.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

/// Judges a CONNECT: limits of the address, then the gate, then the will. A refused client is told so, counted and
/// logged; then there is nobody.
pub(super) async fn admit<S, I>(
    stream: &mut S,
    mut connected: Connected,
    (peer, visit): (SocketAddr, &Visit<'_>),
    shared: &Shared<I>,
) -> Option<Connected>
where
    S: AsyncWrite + Unpin,
    I: Ingest,
{
    let user = connected.badge.user.clone();
    let judged = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return None,
        judged = tokio::time::timeout(shared.options.connect_timeout, judge(&mut connected, user.clone(), (peer.ip(), visit), shared)) => judged,
    };
    let late = Refusal { code: RefusalCode::ConnectionRate, label: "gate_timeout" };
    let Err(refusal) = judged.unwrap_or(Err(late)) else {
        let options = &shared.options;
        connected.badge.pace = Pace::new(options.max_publish_rate, options.close_over_publish_rate, Instant::now());
        return Some(connected);
    };
    shared.metrics.connection_closed(refusal.label);
    shared.metrics.log_pace(refusal.label, |left_out| {
        let (client, user) = (excerpt(&connected.client_id), user.as_deref().map(excerpt));
        tracing::warn!(%peer, client, user, reason = refusal.label, left_out, "a client was refused");
    });
    let mut output = BytesMut::new();
    let answer = connack(&connected.codec, refusal.code);
    let _ = connected.codec.encode(answer, &mut output);
    let told = async {
        stream.write_all(&output).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
    None
}

async fn judge<I: Ingest>(
    connected: &mut Connected,
    user: Option<ByteString>,
    (address, visit): (IpAddr, &Visit<'_>),
    shared: &Shared<I>,
) -> Result<(), Refusal> {
    visit.check()?;
    let Some(gate) = &shared.options.gate else { return Ok(()) };
    let visitor = Visitor {
        address: address.to_canonical(),
        client: connected.client_id.to_string(),
        assigned: connected.is_assigned(),
        user: user.map(|user| user.to_string()),
        password: connected.badge.password.take(),
    };
    let mut pass = gate.admit(visitor).await?;
    if connected.will.as_ref().is_some_and(|will| !pass.may_publish(&will.topic)) {
        return Err(Refusal { code: RefusalCode::NotAuthorized, label: "will_not_authorized" });
    }
    connected.badge.pass = Some(pass);
    Ok(())
}

fn connack(codec: &MqttCodec, code: RefusalCode) -> MqttPacket {
    if matches!(codec, MqttCodec::V5(_)) {
        use v5::ConnectAckReason as Reason;
        let reason_code = match code {
            RefusalCode::BadUserNameOrPassword => Reason::BadUserNameOrPassword,
            RefusalCode::NotAuthorized => Reason::NotAuthorized,
            RefusalCode::QuotaExceeded => Reason::QuotaExceeded,
            RefusalCode::ConnectionRate => Reason::ConnectionRateExceeded,
        };
        MqttPacket::V5(v5::Packet::ConnectAck(Box::new(v5::ConnectAck { reason_code, ..Default::default() })))
    } else {
        use v3::ConnectAckReason as Reason;
        let return_code = match code {
            RefusalCode::BadUserNameOrPassword => Reason::BadUserNameOrPassword,
            RefusalCode::NotAuthorized => Reason::NotAuthorized,
            RefusalCode::QuotaExceeded | RefusalCode::ConnectionRate => Reason::ServiceUnavailable,
        };
        MqttPacket::V3(v3::Packet::ConnectAck(v3::ConnectAck { return_code, session_present: false }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_with_a_second_of_burst() {
        let start = Instant::now();
        for (rate, expect) in [
            // Milliseconds of attempts, and how many of them are within the rate.
            (2, vec![(0, true), (0, true), (0, false), (600, true), (600, false), (9_000, true), (9_000, true)]),
            (1, vec![(0, true), (500, false), (3_000, true)]),
        ] {
            let mut pace = Pace::new(rate, true, start).unwrap();
            for (millis, within) in expect {
                let now = start + Duration::from_millis(millis);
                assert_eq!(pace.opens() <= now, within, "{rate}/s at {millis} ms");
                let mut next = pace;
                assert_eq!(next.take(now), within, "{rate}/s at {millis} ms");
                if within {
                    pace = next;
                }
            }
        }
        assert!(Pace::new(0, true, start).is_none());
    }

    fn doors(max_connections_per_address: usize, max_connect_rate: u32) -> Doors {
        Doors::new(&Options { max_connections_per_address, max_connect_rate, ..Options::default() })
    }

    fn peer(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 1)
    }

    #[test]
    fn an_address_has_its_places() {
        let doors = doors(2, 0);
        let mut visits: Vec<_> = (0..2 + TOLD).map(|_| doors.enter(peer("10.0.0.1")).unwrap()).collect();
        assert!(doors.enter(peer("10.0.0.1")).is_none(), "more than can be told");
        assert!(doors.enter(peer("::ffff:10.0.0.1")).is_none(), "the same address");
        assert!(doors.enter(peer("10.0.0.2")).unwrap().check().is_ok());
        let label = visits[0].check().map_err(|refusal| refusal.label);
        assert_eq!(label, Err("connections_per_address"));
        visits.truncate(2);
        assert_eq!(visits[1].check(), Ok(()));
        // The subscriber of an IPv6 network is one, whatever its addresses.
        let visits: Vec<_> = (1..=3).map(|n| doors.enter(peer(&format!("fd00::{n}"))).unwrap()).collect();
        assert!(visits[0].check().is_err());
        drop(visits);
        assert!(doors.enter(peer("fd00::9")).unwrap().check().is_ok());
    }

    #[test]
    fn an_address_connects_at_its_rate_and_is_forgotten() {
        let limited = doors(10, 2);
        let connect = || limited.enter(peer("10.0.0.1")).unwrap().check().map_err(|refusal| refusal.label);
        assert_eq!([connect(), connect(), connect()], [Ok(()), Ok(()), Err("connect_rate")]);
        let unlimited = doors(10, 0);
        drop(unlimited.enter(peer("10.0.0.1")));
        assert!(unlimited.addresses.lock().open.is_empty());
        let fast = doors(10, 1_000_000);
        for n in 0..20_000_u32 {
            let visit = fast.enter(SocketAddr::new(IpAddr::from(n.to_be_bytes()), 1)).unwrap();
            let _ = visit.check();
        }
        assert!(fast.addresses.lock().open.len() <= 4 * ADDRESSES);
    }
}
