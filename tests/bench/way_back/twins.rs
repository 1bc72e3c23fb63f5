//! Patches of desired properties: service, hub, bridge, and a retained publish to the device.

use std::time::{Duration, Instant};

use rumqttc::Publish;
use tokio::sync::mpsc;

use crate::methods::client;
use crate::service::Service;
use crate::{World, row};

const RULES: &str = "[[desired]]\nname = \"value\"\ntopic = \"plant/set/{path}\"\n";
const COMMANDS: &str = "[commands]\nenabled = true\nrate = 0\nown_methods = false\n";

const WARM_UP: usize = 100;
const PATCHES: usize = 1_000;

pub(crate) async fn run() {
    let world = World::start("bench-twins", RULES, COMMANDS).await;
    let (_device, mut heard) = client(world.bridge.mqtt, "device", "plant/set/#").await;
    let mut service = Service::connect(&world.sim).await;
    println!("\none at a time                                patches    p50 ms    p99 ms    max ms");
    let mut times = Vec::with_capacity(PATCHES);
    for n in 0..WARM_UP + PATCHES {
        let began = Instant::now();
        patch(&mut service, n).await;
        hears(&mut heard, n).await;
        if n >= WARM_UP {
            times.push(began.elapsed());
        }
    }
    row("a patch to a retained publish", times);

    // As fast as a service patches: of values that follow each other at once the device may hear the last one only.
    let began = Instant::now();
    let first = WARM_UP + PATCHES;
    for n in first..first + PATCHES {
        patch(&mut service, n).await;
    }
    let patched = began.elapsed();
    hears(&mut heard, first + PATCHES - 1).await;
    let rate = |took: Duration| PATCHES as f64 / took.as_secs_f64();
    println!("patched by one service                                   {:9.0} /s", rate(patched));
    println!("the last of them heard by the device                     {:9.0} /s", rate(began.elapsed()));
}

async fn patch(service: &mut Service, value: usize) {
    let body = format!("{{\"properties\":{{\"desired\":{{\"motor\":{{\"speed\":{value}}}}}}}}}");
    let (status, answer) = service.ask("PATCH", "/twins/gw?api-version=2021-04-12", &body).await;
    assert!(status == 200, "{value}: {status} {answer}");
}

async fn hears(heard: &mut mpsc::Receiver<Publish>, value: usize) {
    loop {
        let publish = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await.expect("a publish").unwrap();
        if *publish.payload == *value.to_string().as_bytes() {
            return;
        }
    }
}
