//! A bridge before a simulator in the test's own process, and a plant client.
#![allow(dead_code, reason = "each test uses its own part")]

use std::net::SocketAddr;
use std::path::Path;

use brownbridge::hubsim::Running;
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tokio::sync::mpsc;

use crate::sim_client::LONG;
use crate::support::{Bridge, free_port};

/// Starts a bridge for the device `gw`, its uplink through `port`. What `sections` say of `[broker]` is their first
/// paragraph.
pub(crate) fn launched(dir: &Path, sim: &Running, port: u16, (rules, sections): (&str, &str)) -> Bridge {
    let (mqtt, admin) = (free_port(), free_port());
    let broker = sections.strip_prefix("[broker]\n").and_then(|rest| rest.split_once("\n\n"));
    let (broker, sections) = broker.unwrap_or(("", sections));
    let config = format!(
        "state = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n{broker}\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [uplink]\nconnection_string = \"{}\"\nca_file = \"{}\"\naddress = \"127.0.0.1:{port}\"\nbackoff_min = \"10ms\"\n\
         drain_timeout = \"10ms\"\n{sections}",
        sim.connection_string("gw").expose(),
        sim.ca_file().display(),
    );
    std::fs::create_dir_all(dir.join("rules")).unwrap();
    std::fs::write(dir.join("rules/1.toml"), rules).unwrap();
    Bridge::with_config(dir, &config, (mqtt, admin))
}

/// A plant client that knows nothing of a cloud.
pub(crate) struct Plant {
    pub(crate) client: AsyncClient,
    heard: mpsc::Receiver<rumqttc::Publish>,
}

impl Plant {
    pub(crate) async fn subscribed(at: SocketAddr, name: &str, filter: &str) -> Self {
        Self::with(MqttOptions::new(name, at.ip().to_string(), at.port()), filter, QoS::AtLeastOnce).await
    }

    pub(crate) async fn with(mut options: MqttOptions, filter: &str, qos: QoS) -> Self {
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, 16);
        let (sender, heard) = mpsc::channel(64);
        let (ready, mut is_ready) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                let gone = match event {
                    Event::Incoming(Incoming::Publish(publish)) => sender.send(publish).await.is_err(),
                    Event::Incoming(Incoming::SubAck(_)) => ready.send(()).await.is_err(),
                    _ => false,
                };
                if gone {
                    break;
                }
            }
        });
        client.subscribe(filter, qos).await.unwrap();
        is_ready.recv().await.unwrap();
        Self { client, heard }
    }

    pub(crate) async fn hears(&mut self) -> (String, String) {
        let publish = tokio::time::timeout(LONG, self.heard.recv()).await.expect("a publish").unwrap();
        (publish.topic, String::from_utf8(publish.payload.to_vec()).unwrap())
    }

    pub(crate) async fn says(&self, topic: &str, payload: &str) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    }
}

pub(crate) fn pair(topic: &str, payload: &str) -> (String, String) {
    (topic.to_owned(), payload.to_owned())
}
