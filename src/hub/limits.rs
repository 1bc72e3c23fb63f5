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

/// The port of MQTT over WebSocket over TLS.
pub const WEBSOCKET_PORT: u16 = 443;

/// The version of the protocol this bridge speaks.
pub const API_VERSION: &str = "2021-04-12";

/// The device id characters besides ASCII letters and digits. Some pages list `+` and `#` too, but a
/// topic with them cannot be published.
pub const DEVICE_ID_MARKS: &str = "-.%_*?!(),:=@$'";

/// The message id characters besides ASCII letters and digits.
pub const MESSAGE_ID_MARKS: &str = "-:.+%_#*?!(),=@;$'";

/// A device-to-cloud message is billed as one for each of these that it begins ("IoT Hub quotas and throttling").
pub const BLOCK_BYTES: usize = 4096;

/// The same in the free tier.
pub const FREE_BLOCK_BYTES: usize = 512;

/// The tiers of a hub and the messages a day that each unit takes ("IoT Hub quotas and throttling"). The free one has one
/// unit.
const QUOTAS: [(&str, u64); 7] = [
    ("F1", 8_000),
    ("B1", 400_000),
    ("S1", 400_000),
    ("B2", 6_000_000),
    ("S2", 6_000_000),
    ("B3", 300_000_000),
    ("S3", 300_000_000),
];

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

/// The bytes that a hub bills as one message; of the paid tiers where none is known.
pub fn block_bytes(tier: Option<&str>) -> usize {
    if tier == Some("F1") { FREE_BLOCK_BYTES } else { BLOCK_BYTES }
}

/// The blocks that a message of a size is billed for; an empty one is a message too.
pub fn billable_units(size: usize, block: usize) -> u64 {
    u64::try_from(size.div_ceil(block.max(1)).max(1)).unwrap_or(u64::MAX)
}

/// Billed messages a day that a hub takes; `None` for a tier there is not.
pub fn daily_quota(tier: &str, units: u32) -> Option<u64> {
    let (name, unit) = QUOTAS.iter().find(|(name, _)| *name == tier)?;
    Some(if *name == "F1" { *unit } else { unit.saturating_mul(u64::from(units)) })
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
    fn quotas() {
        for (tier, units, block, expect) in [
            ("F1", 1, 512, Some(8_000)),
            ("F1", 9, 512, Some(8_000)),
            ("S1", 1, 4096, Some(400_000)),
            ("B1", 3, 4096, Some(1_200_000)),
            ("S2", 2, 4096, Some(12_000_000)),
            ("B3", 10, 4096, Some(3_000_000_000)),
            ("S4", 1, 4096, None),
        ] {
            assert_eq!((daily_quota(tier, units), block_bytes(Some(tier))), (expect, block), "{tier} {units}");
        }
        for (size, block, expect) in [(0, 4096, 1), (1, 4096, 1), (4096, 4096, 1), (4097, 4096, 2), (513, 512, 2)] {
            assert_eq!(billable_units(size, block), expect, "{size} in {block}");
        }
    }

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
