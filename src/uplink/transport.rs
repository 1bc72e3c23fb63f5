//! What carries MQTT to a hub: TLS on port 8883, or a WebSocket on 443 where a plant's firewall lets only that out.
//!
//! With `transport = "auto"` it begins with 8883. When [`MISSES`] connections in a row could not be made (no answer, a
//! refusal by the network or a proxy), the other one's turn comes, and what worked last is kept. All lines of a bridge
//! learn from one another, and none leaves a way on which another is connected. An answer of the hub, also a refusal, and a
//! certificate that is not believed are no reason to go elsewhere: the network is fine then. But a way that was taken
//! instead has to prove itself: until a connection was made on it, whatever fails there counts, for what answers on port
//! 443 may be a proxy with a certificate of its own, and 8883 was perhaps only away for a while.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::hub::limits::{MQTT_PORT, WEBSOCKET_PORT};

/// Connections in a row that could not be made, after which the other way is tried.
const MISSES: u32 = 3;

/// The carrier of the next connection.
#[derive(Debug, Clone, Default)]
pub struct Transport {
    websocket: bool,
    /// Where nobody has decided.
    learned: Option<Arc<Mutex<Learned>>>,
}

/// What all lines have learned.
#[derive(Debug, Default)]
struct Learned {
    websocket: bool,
    misses: u32,
    /// It was taken instead of the other way, and no connection was made on it yet.
    on_trial: bool,
    /// Lines that are connected, by way.
    up: [usize; 2],
}

impl Learned {
    fn up(&mut self, websocket: bool) -> &mut usize {
        let [mqtt, over_websocket] = &mut self.up;
        if websocket { over_websocket } else { mqtt }
    }
}

/// A line that is connected, for as long as this lives.
#[derive(Debug)]
pub(super) struct Up {
    websocket: bool,
    learned: Arc<Mutex<Learned>>,
}

impl Drop for Up {
    fn drop(&mut self) {
        *self.learned.lock().up(self.websocket) -= 1;
    }
}

impl Transport {
    /// MQTT over TLS.
    pub const MQTT: Self = Self { websocket: false, learned: None };
    /// MQTT over WebSocket over TLS.
    pub const WEBSOCKET: Self = Self { websocket: true, learned: None };

    /// Whichever works.
    pub fn auto() -> Self {
        Self { websocket: false, learned: Some(Arc::default()) }
    }

    /// Decides for the next connection.
    pub(super) fn decide(&mut self) {
        if let Some(learned) = &self.learned {
            self.websocket = learned.lock().websocket;
        }
    }

    /// True for a WebSocket.
    pub(super) fn is_websocket(&self) -> bool {
        self.websocket
    }

    /// True where only the other way is left to try, and nobody will.
    pub(super) fn is_fixed_to_mqtt(&self) -> bool {
        !self.websocket && self.learned.is_none()
    }

    pub(super) fn port(&self) -> u16 {
        if self.websocket { WEBSOCKET_PORT } else { MQTT_PORT }
    }

    /// How it is told to people, where it is not the usual way; `port` is the one that is connected to.
    pub(super) fn told(&self, port: u16) -> Option<String> {
        let because = match (self.learned.is_some(), port == WEBSOCKET_PORT) {
            (false, _) => String::new(),
            (true, true) => format!(", because port {MQTT_PORT} could not be reached"),
            (true, false) => ", because bare MQTT led to no connection".to_owned(),
        };
        self.websocket.then(|| format!("WebSocket on port {port}{because}"))
    }

    /// The hub has let a line in over it.
    pub(super) fn connected(&self) -> Option<Up> {
        let shared = self.learned.as_ref()?;
        let mut learned = shared.lock();
        *learned.up(self.websocket) += 1;
        if self.websocket == learned.websocket {
            (learned.misses, learned.on_trial) = (0, false);
        }
        Some(Up { websocket: self.websocket, learned: Arc::clone(shared) })
    }

    /// A connection failed before the hub let it in: the network did not let it through, or something else was amiss.
    /// Says so where that changes the way.
    pub(super) fn failed(&self, blocked: bool) -> Option<String> {
        let mut learned = self.learned.as_ref()?.lock();
        if self.websocket != learned.websocket {
            return None; // A line that set out before the change.
        }
        let is_miss = (blocked || learned.on_trial) && *learned.up(self.websocket) == 0;
        learned.misses = if is_miss { learned.misses + 1 } else { 0 };
        if learned.misses < MISSES {
            return None;
        }
        (learned.websocket, learned.misses, learned.on_trial) = (!self.websocket, 0, true);
        let other = Self { websocket: learned.websocket, learned: None }.port();
        Some(format!("port {} led to no connection {MISSES} times in a row: {other} is tried now", self.port()))
    }
}

/// True where an end of a connection says that the network did not let it through. `connected`: the hub let us in.
pub(super) fn is_blocked(reason: &str, connected: bool) -> bool {
    !connected && matches!(reason, "network" | "proxy" | "timeout" | "websocket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_works_is_kept() {
        // `m`: could not be reached; `r`: was, and did not let us in; `c`: did. What is dialled next, after all of them.
        for (ends, expect) in [
            ("", 8883),
            ("mm", 8883),
            ("mmm", 443),
            ("mmrmm", 8883),
            ("mmcmm", 8883),
            ("rrrrrr", 8883),
            ("mmmcmm", 443),
            ("mmmcrrrrrr", 443),
            ("mmmmmm", 8883),
            ("mmmmm", 443),
            ("mmmcmmm", 8883),
            // A proxy that answers on 443 with a certificate of its own is no way to the hub.
            ("mmmrr", 443),
            ("mmmrrr", 8883),
            ("mmmrmr", 8883),
            // And back it is the other one that has to prove itself.
            ("mmmrrrrrr", 443),
            ("mmmrrrcrrr", 8883),
        ] {
            let mut transport = Transport::auto();
            let mut told = 0;
            for end in ends.chars() {
                transport.decide();
                match end {
                    'c' => drop(transport.connected()),
                    end => told += usize::from(transport.failed(end == 'm').is_some()),
                }
            }
            transport.decide();
            assert_eq!(transport.port(), expect, "{ends}");
            assert_eq!(transport.told(443).is_some(), expect == 443, "{ends}");
            assert_eq!(told % 2 == 1, expect == 443, "{ends}: told {told} times");
        }
    }

    #[test]
    fn the_way_is_told_with_the_port_in_use() {
        let found = |websocket| Transport { websocket, ..Transport::auto() };
        for (transport, port, expect) in [
            (Transport::MQTT, 8883, None),
            (found(false), 8883, None),
            (Transport::WEBSOCKET, 443, Some("WebSocket on port 443")),
            (Transport::WEBSOCKET, 8443, Some("WebSocket on port 8443")),
            (found(true), 443, Some("WebSocket on port 443, because port 8883 could not be reached")),
            (found(true), 8443, Some("WebSocket on port 8443, because bare MQTT led to no connection")),
        ] {
            assert_eq!(transport.told(port).as_deref(), expect, "{transport:?} {port}");
        }
    }

    /// One device whose gateway is away must not take the others elsewhere.
    #[test]
    fn a_way_on_which_a_line_is_connected_is_not_left() {
        let mut lines = vec![Transport::auto(); 2];
        lines.iter_mut().for_each(Transport::decide);
        let up = lines[0].connected();
        for _ in 0..10 {
            assert_eq!(lines[1].failed(true), None);
        }
        drop(up);
        let told: Vec<_> = (0..3).map(|_| lines[1].failed(true).is_some()).collect();
        assert_eq!(told, [false, false, true]);
    }

    #[test]
    fn late_news_of_the_old_way_and_fixed_ways_change_nothing() {
        let mut lines = vec![Transport::auto(); 4];
        lines.iter_mut().for_each(Transport::decide);
        let news = lines.iter().filter(|line| line.failed(true).is_some()).count();
        assert_eq!(news, 1);
        lines.iter_mut().for_each(Transport::decide);
        assert!(lines.iter().all(Transport::is_websocket), "they learn from one another");
        for fixed in [Transport::MQTT, Transport::WEBSOCKET] {
            let mut transport = fixed.clone();
            for _ in 0..10 {
                assert!(transport.connected().is_none() && transport.failed(true).is_none());
                transport.decide();
            }
            assert_eq!(transport.is_websocket(), fixed.is_websocket());
        }
    }

    #[test]
    fn what_is_a_blocked_port() {
        for (reason, connected, expect) in [
            ("network", false, true),
            ("timeout", false, true),
            ("websocket", false, true),
            ("network", true, false),
            ("timeout", true, false),
            ("tls", false, false),
            ("refused", false, false),
            ("closed", false, false),
            ("clock", false, false),
        ] {
            assert_eq!(is_blocked(reason, connected), expect, "{reason} {connected}");
        }
    }
}
