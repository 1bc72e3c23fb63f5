//! `$SYS/broker/..`: what the broker says about itself, in Mosquitto's names.
//!
//! Who subscribes gets the values of that moment as retained messages, and all of them again every
//! [`REFRESH`]. While nobody subscribes to `$SYS` nothing is computed. The values go to local subscribers only:
//! never to the rules, the spool or the hub.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use rmqtt_codec::types::{Publish, QoS};

use super::Shared;
use super::router::Router;

/// How often subscribers hear the values again.
const REFRESH: Duration = Duration::from_secs(10);
/// The first level of these topics.
pub(super) const ROOT: &str = "$SYS";

/// Tells subscribers the values until the broker stops.
pub(super) async fn refresh<I>(shared: Arc<Shared<I>>) {
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + REFRESH, REFRESH);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if shared.router.has_subscribers_below(ROOT) {
            for publish in publishes(&shared.router) {
                shared.router.route(None, &publish);
            }
        }
    }
}

/// The values now.
pub(super) fn publishes(router: &Router) -> Vec<Publish> {
    let totals = router.census.totals();
    let traffic = totals.traffic;
    let values = [
        ("version", format!("brownbridge version {}", env!("CARGO_PKG_VERSION"))),
        ("uptime", format!("{} seconds", totals.uptime.as_secs())),
        ("clients/connected", totals.connected.to_string()),
        ("clients/total", router.session_count().to_string()),
        ("clients/maximum", totals.maximum.to_string()),
        ("messages/received", traffic.packets_in.to_string()),
        ("messages/sent", traffic.packets_out.to_string()),
        ("publish/messages/received", traffic.publishes_in.to_string()),
        ("publish/messages/sent", traffic.publishes_out.to_string()),
        ("publish/messages/dropped", totals.dropped.to_string()),
        ("retained messages/count", router.retained.lock().len().to_string()),
        ("subscriptions/count", router.subscription_count().to_string()),
    ];
    values.into_iter().map(|(name, value)| publish(format!("{ROOT}/broker/{name}"), value)).collect()
}

fn publish(topic: String, value: String) -> Publish {
    Publish {
        dup: false,
        retain: false,
        qos: QoS::AtMostOnce,
        topic: ByteString::from(topic),
        packet_id: None,
        payload: Bytes::from(value),
        properties: None,
    }
}
