//! What carries MQTT to a hub: TLS on port 8883, or a WebSocket on 443 where a plant's firewall lets only that out.
//!
//! With `transport = "auto"` it begins with 8883. When [`MISSES`] connections in a row could not be made (no answer, a
//! refusal by the network or a proxy), the other one's turn comes, and what worked last is kept. All lines of a bridge
//! learn from one another. An answer of the hub, also a refusal, and a certificate that is not believed are no
//! reason to go elsewhere: the network is fine then.

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

    /// How it is told to people, where it is not the usual way.
    pub(super) fn told(&self) -> Option<&'static str> {
        match (self.websocket, self.learned.is_some()) {
            (true, false) => Some("WebSocket on port 443"),
            (true, true) => Some("WebSocket on port 443, because port 8883 could not be reached"),
            (false, _) => None,
        }
    }

    /// The hub's side was reached with it, or could not be; says so where that changes the way.
    pub(super) fn tried(&self, reached: bool) -> Option<String> {
        let mut learned = self.learned.as_ref()?.lock();
        if self.websocket != learned.websocket {
            return None; // A line that set out before the change.
        }
        learned.misses = if reached { 0 } else { learned.misses + 1 };
        if learned.misses < MISSES {
            return None;
        }
        *learned = Learned { websocket: !self.websocket, misses: 0 };
        let other = Self { websocket: learned.websocket, learned: None }.port();
        Some(format!("port {} could not be reached {MISSES} times in a row: {other} is tried now", self.port()))
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
        // `m`: could not be reached; `r`: was. What is dialled next, after all of them.
        for (ends, expect) in [
            ("", 8883),
            ("mm", 8883),
            ("mmm", 443),
            ("mmrmm", 8883),
            ("mmmrmm", 443),
            ("mmmrrrrrr", 443),
            ("mmmmmm", 8883),
            ("mmmmm", 443),
            ("mmmrmmm", 8883),
        ] {
            let mut transport = Transport::auto();
            let mut told = 0;
            for end in ends.chars() {
                transport.decide();
                told += usize::from(transport.tried(end == 'r').is_some());
            }
            transport.decide();
            assert_eq!(transport.port(), expect, "{ends}");
            assert_eq!(transport.told().is_some(), expect == 443, "{ends}");
            assert_eq!(told % 2 == 1, expect == 443, "{ends}: told {told} times");
        }
    }

    #[test]
    fn late_news_of_the_old_way_and_fixed_ways_change_nothing() {
        let mut lines = vec![Transport::auto(); 4];
        lines.iter_mut().for_each(Transport::decide);
        let news = lines.iter().filter(|line| line.tried(false).is_some()).count();
        assert_eq!(news, 1);
        lines.iter_mut().for_each(Transport::decide);
        assert!(lines.iter().all(Transport::is_websocket), "they learn from one another");
        for fixed in [Transport::MQTT, Transport::WEBSOCKET] {
            let mut transport = fixed.clone();
            for _ in 0..10 {
                assert_eq!(transport.tried(false), None);
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
