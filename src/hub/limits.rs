//! The numbers of the service. Sources are Microsoft's pages and source files of 2026.

/// The largest device-to-cloud message: body, values of system properties, names and values of
/// application properties ("IoT Hub quotas and throttling": 256 KB).
pub const D2C_MAX_BYTES: usize = 262_144;

/// Longest topic an MQTT string can carry ([MQTT-1.5.3]).
pub const TOPIC_MAX_BYTES: usize = 65_535;

/// Longest message id ("Create and read IoT Hub messages").
pub const MESSAGE_ID_MAX_CHARS: usize = 128;

/// Longest device or module id ("Identity registry").
pub const DEVICE_ID_MAX_CHARS: usize = 128;

/// How far a token's expiry may lie in the past: the clock skew of Microsoft's server-side parser.
pub const CLOCK_SKEW_SECS: i64 = 300;

/// The hub gives up on a silent client after 1.5 times its keep-alive, and never later than this
/// ("Communicate with an IoT hub using the MQTT protocol").
pub const KEEP_ALIVE_TIMEOUT_MAX_SECS: u64 = 1767;

/// The longest keep-alive a client may ask for and still be alive by the rule above.
pub const KEEP_ALIVE_CLIENT_MAX_SECS: u16 = 1177;

/// The same cap of an IoT Edge hub (its `appsettings_hub.json`).
pub const EDGE_KEEP_ALIVE_TIMEOUT_MAX_SECS: u64 = 600;

/// Unacknowledged publishes after which Microsoft's gateway stops reading (edgeHub: `MaxPendingInboundAcknowledgements`).
pub const IN_FLIGHT_MAX: u16 = 16;

/// Topic filters one device may subscribe to ("IoT Hub quotas and throttling").
pub const SUBSCRIPTIONS_MAX: usize = 5;

/// The port of MQTT over TLS.
pub const MQTT_PORT: u16 = 8883;

/// The version of the protocol this bridge speaks.
pub const API_VERSION: &str = "2021-04-12";

/// The device id characters besides ASCII letters and digits. Some pages list `+` and `#` too, but a
/// topic with them cannot be published.
pub const DEVICE_ID_MARKS: &str = "-.%_*?!(),:=@$'";

/// The message id characters besides ASCII letters and digits.
pub const MESSAGE_ID_MARKS: &str = "-:.+%_#*?!(),=@;$'";

/// The tiers of a hub and the device-to-cloud messages a second that it takes: so many, but at least the second
/// number, a unit ("IoT Hub quotas and throttling"). The rate counts messages of any size and is the hub's, not the
/// device's.
const TIERS: [(&str, u32, u32); 7] = [
    ("F1", 0, 100),
    ("B1", 12, 100),
    ("S1", 12, 100),
    ("B2", 120, 120),
    ("S2", 120, 120),
    ("B3", 6000, 6000),
    ("S3", 6000, 6000),
];

/// Device-to-cloud messages a second that a hub takes; `None` for a tier there is not.
pub fn d2c_per_second(tier: &str, units: u32) -> Option<u32> {
    let (_, unit, least) = TIERS.iter().find(|(name, ..)| *name == tier)?;
    Some(unit.saturating_mul(units).max(*least))
}

/// Connects a second that a hub takes: the same numbers.
pub fn connects_per_second(tier: &str, units: u32) -> Option<u32> {
    d2c_per_second(tier, units)
}

/// Connects a second that every hub takes.
pub const CONNECTS_PER_SECOND_MIN: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers() {
        for (tier, units, expect) in [
            ("F1", 1, Some(100)),
            ("S1", 1, Some(100)),
            ("S1", 8, Some(100)),
            ("S1", 9, Some(108)),
            ("B1", 200, Some(2400)),
            ("S2", 1, Some(120)),
            ("B2", 10, Some(1200)),
            ("S3", 1, Some(6000)),
            ("B3", 10, Some(60_000)),
            ("S4", 1, None),
        ] {
            assert_eq!(d2c_per_second(tier, units), expect, "{tier} {units}");
        }
    }
}
