//! The round trip of a direct method: service, hub, bridge, device and all the way back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tokio::sync::mpsc;

use crate::service::Service;
use crate::{World, row};

const RULES: &str = "[[command]]\nmethod = \"read\"\ndecode = \"json\"\ntopic = \"plant/read/{id}\"\n\
    response = { topic = \"plant/answers/{id}\", within = \"10s\" }\n";
const COMMANDS: &str = "[commands]\nenabled = true\nrate = 0\n";
const ANSWER: &str = "{\"rpm\":1450,\"running\":true}";

const WARM_UP: usize = 100;
const CALLS: usize = 2_000;

pub(crate) async fn run() {
    let world = World::start("bench-way-back", RULES, COMMANDS).await;
    device(world.bridge.mqtt).await;
    let (asker, mut heard) = client(world.bridge.mqtt, "asker", "plant/answers/#").await;
    println!("\none at a time                                  calls    p50 ms    p99 ms    max ms");

    let mut times = Vec::with_capacity(CALLS);
    for n in 0..WARM_UP + CALLS {
        let began = Instant::now();
        asker.publish(format!("plant/read/local-{n}"), QoS::AtLeastOnce, false, "{}").await.unwrap();
        let answer = heard.recv().await.unwrap();
        assert!(answer.topic.ends_with(&format!("local-{n}")));
        if n >= WARM_UP {
            times.push(began.elapsed());
        }
    }
    let local = row("local MQTT round trip alone", times);
    asker.disconnect().await.unwrap();

    let mut service = Service::connect(&world.sim).await;
    row("a method of the bridge itself (ping)", calls(&mut service, "ping", "version").await);
    let whole = row("a method answered by the device", calls(&mut service, "read", ANSWER).await);
    println!("added to the local round trip                            {:9.2}    (aim: under 5)", whole - local);
}

async fn calls(service: &mut Service, method: &str, expect: &str) -> Vec<Duration> {
    let body = format!("{{\"methodName\":\"{method}\",\"payload\":{{}},\"responseTimeoutInSeconds\":30}}");
    let mut times = Vec::with_capacity(CALLS);
    for n in 0..WARM_UP + CALLS {
        let began = Instant::now();
        let (status, answer) = service.ask("POST", "/twins/gw/methods?api-version=2021-04-12", &body).await;
        assert!(status == 200 && answer.contains(expect), "{method} {n}: {status} {answer}");
        if n >= WARM_UP {
            times.push(began.elapsed());
        }
    }
    times
}

/// Answers whatever is asked.
async fn device(at: SocketAddr) {
    let (device, mut heard) = client(at, "device", "plant/read/+").await;
    tokio::spawn(async move {
        while let Some(asked) = heard.recv().await {
            let id = asked.topic.rsplit('/').next().unwrap();
            device.publish(format!("plant/answers/{id}"), QoS::AtLeastOnce, false, ANSWER).await.unwrap();
        }
    });
}

pub(crate) async fn client(
    at: SocketAddr,
    name: &str,
    filter: &str,
) -> (AsyncClient, mpsc::Receiver<rumqttc::Publish>) {
    let (client, mut events) = AsyncClient::new(MqttOptions::new(name, at.ip().to_string(), at.port()), 64);
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
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
    client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    is_ready.recv().await.unwrap();
    (client, heard)
}
