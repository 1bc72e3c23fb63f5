//! Publishes whose parts are in several logs: read on, acknowledged in order, and not before both logs have them.

use proptest::prelude::*;

use super::*;

/// What happens between a client and two logs.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A publish with flags, below a first level.
    Publish(u8, &'static str),
    /// The next so many sequences of a log become durable.
    Commit(usize, u64),
    /// The last QoS 2 publish comes once more.
    Again,
    /// The client comes back to its session.
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let top = prop_oneof![Just("t"), Just("held"), Just("both"), Just("dropped")];
    prop_oneof![
        4 => (prop_oneof![Just(2_u8), Just(4)], top).prop_map(|(flags, top)| Step::Publish(flags, top)),
        3 => (0..2_usize, 1..4_u64).prop_map(|(log, more)| Step::Commit(log, more)),
        1 => Just(Step::Again),
        1 => Just(Step::Reconnect),
    ]
}

/// What is owed, told without a queue of the broker's.
#[derive(Default)]
struct Model {
    owed: VecDeque<(String, [u64; 2])>,
    last: [u64; 2],
    durable: [u64; 2],
    /// The last QoS 2 publish, and what it waits for.
    exactly_once: Option<(u16, &'static str, [u64; 2])>,
}

impl Model {
    fn publish(&mut self, id: u16, flags: u8, top: &'static str) {
        let logs = [matches!(top, "t" | "both"), matches!(top, "held" | "both")];
        let mut waits_for = [0; 2];
        for log in 0..2 {
            self.last[log] += u64::from(logs[log]);
            waits_for[log] = if logs[log] { self.last[log] } else { 0 };
        }
        let kind = if flags == 4 { "5002" } else { "4002" };
        self.owed.push_back((format!("{kind}{id:04x}"), waits_for));
        if flags == 4 {
            self.exactly_once = Some((id, top, waits_for));
        }
    }

    /// What leaves now.
    fn released(&mut self) -> String {
        let mut all = String::new();
        while let Some((packet, waits_for)) = self.owed.front() {
            if waits_for.iter().zip(&self.durable).any(|(wanted, durable)| wanted > durable) {
                break;
            }
            all += packet;
            self.owed.pop_front();
        }
        all
    }
}

/// A client whose session lasts.
async fn connect(bench: &Bench) -> Client {
    let mut client = bench.open();
    client.send(&packet(0x10, &[&text("MQTT"), &[4, 0, 0, 0], &text("a")])).await;
    assert!(client.read().await.starts_with("2002"));
    client
}

async fn play(steps: Vec<Step>) {
    let bench = Bench::new();
    let mut client = connect(&bench).await;
    let mut model = Model::default();
    let mut published = 0;
    for (step, id) in steps.into_iter().zip(1..) {
        match step {
            Step::Publish(flags, top) => {
                published += 1;
                client.send(&publish(flags, &format!("{top}/x"), id, "x")).await;
                model.publish(id, flags, top);
            }
            Step::Commit(log, more) => {
                model.durable[log] = model.last[log].min(model.durable[log] + more);
                bench.commit_log(log, model.durable[log]);
            }
            Step::Again => {
                let Some((id, top, waits_for)) = model.exactly_once else { continue };
                client.send(&publish(4 | 8, &format!("{top}/x"), id, "x")).await;
                model.owed.push_back((format!("5002{id:04x}"), waits_for));
            }
            Step::Reconnect => {
                client = connect(&bench).await;
                model.owed.clear();
            }
        }
        assert_eq!(client.read().await, model.released(), "after {step:?}");
        assert_eq!(bench.offered().len(), published, "what comes is read on");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_acknowledgement_leaves_in_order_once_both_logs_have_all(steps in prop::collection::vec(step(), 1..40)) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(play(steps));
    }
}
