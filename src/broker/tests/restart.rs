//! Sessions and retained messages that outlive the process, over a store in memory.

use super::properties::subscribe_5;
use super::sessions::{expiry, lasting, lasting_5, leave, resume, tell};
use super::*;

/// A store in memory; a rewriting replaces what was there when it is complete.
#[derive(Debug, Default)]
pub(super) struct Memory {
    records: Mutex<(Vec<Vec<u8>>, usize)>,
    full: Mutex<bool>,
}

impl Store for Memory {
    fn append(&self, record: &[u8]) {
        self.records.lock().0.push(record.to_vec());
    }

    fn begin_anew(&self) {
        let mut records = self.records.lock();
        records.1 = records.0.len();
    }

    fn written_anew(&self) {
        let mut records = self.records.lock();
        let obsolete = std::mem::take(&mut records.1);
        records.0.drain(..obsolete);
    }

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        if *self.full.lock() { Box::pin(std::future::pending()) } else { Box::pin(std::future::ready(())) }
    }

    fn outgrown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}

impl Memory {
    pub(super) fn count(&self) -> usize {
        self.records.lock().0.len()
    }

    /// There is no room from now on.
    pub(super) fn fill(&self) {
        *self.full.lock() = true;
    }

    /// A broker of the next process, with what was written down.
    pub(super) fn restart(self: &Arc<Self>) -> Bench {
        self.restart_with(Options::default())
    }

    pub(super) fn restart_with(self: &Arc<Self>, options: Options) -> Bench {
        let mut restored = Restored::default();
        self.records.lock().0.iter().for_each(|record| restored.read(record));
        assert_eq!(restored.counts().2, 0, "every record says something");
        let store: Arc<dyn Store> = Arc::clone(self) as _;
        let bench = Bench::restored(Options { store: Some(store), ..options }, restored);
        tokio::spawn(upkeep::write_down(Arc::clone(&bench.shared)));
        tokio::spawn(upkeep::expire(Arc::clone(&bench.shared)));
        bench
    }
}

/// As long as changes gather, and a little.
pub(super) async fn gathered() {
    tokio::time::sleep(Duration::from_millis(150)).await;
}

#[tokio::test(start_paused = true)]
async fn sessions_outlive_the_process() {
    let memory = Arc::new(Memory::default());
    let bench = memory.restart();
    let mut plc = bench.connect(&connect_311("plc")).await;
    let (mut hmi, _) = resume(&bench, &lasting_5("hmi", true, 1_000), false).await;
    hmi.send(&[subscribe_5(1, "gone", 1), subscribe_5(2, "t", 2), subscribe_5(3, "$share/g/s", 1)].concat()).await;
    hmi.send(&packet(0xa2, &[&[0, 4], &[0], &text("gone")])).await;
    hmi.read().await;
    let tell_2 = async |bench: &Bench, plc: &mut Client, payload: &str| {
        plc.send(&publish(4, "t", 7, payload)).await;
        bench.commit(1_000);
        plc.read().await;
        plc.send(&[0x62, 2, 0, 7]).await;
        plc.read().await;
    };
    for payload in ["done", "released", "in flight"] {
        tell_2(&bench, &mut plc, payload).await;
    }
    hmi.send(&[0x50, 2, 0, 1, 0x70, 2, 0, 1, 0x50, 2, 0, 2]).await;
    hmi.read().await;
    // A QoS 2 publish of its own that it has not released.
    hmi.send(&publish_5(4, "mine", 9, &[], "x")).await;
    assert_eq!(hmi.read().await, "50020009");
    drop(hmi);
    tell_2(&bench, &mut plc, "waits").await;
    tell(&bench, &mut plc, "s", &["shared"]).await;
    gathered().await;

    for round in 0..3 {
        let bench = memory.restart();
        let (mut hmi, waited) = resume(&bench, &lasting_5("hmi", false, 1_000), true).await;
        let expect = [
            vec![0x62, 2, 0, 2],
            publish_5(4 | 8, "t", 3, &[], "in flight"),
            publish_5(4 | if round == 0 { 0 } else { 8 }, "t", 4, &[], "waits"),
            publish_5(2 | if round == 0 { 0 } else { 8 }, "s", 5, &[], "shared"),
        ];
        assert_eq!(waited, hex(&expect.concat()), "round {round} [MQTT-3.1.2-4] [MQTT-4.4.0-1]");
        hmi.send(&publish_5(4 | 8, "mine", 9, &[], "x")).await;
        assert_eq!(hmi.read().await, "50020009");
        assert_eq!(bench.offered(), [""; 0], "taken by the process before");
        gathered().await;
    }
    let bench = memory.restart();
    let (mut hmi, _) = resume(&bench, &lasting_5("hmi", false, 1_000), true).await;
    let mut plc = bench.connect(&connect_311("plc")).await;
    hmi.send(&[0x70, 2, 0, 2, 0x50, 2, 0, 3, 0x70, 2, 0, 3, 0x50, 2, 0, 4, 0x70, 2, 0, 4, 0x40, 2, 0, 5]).await;
    hmi.read().await;
    hmi.send(&[0x62, 2, 0, 9]).await;
    assert_eq!(hmi.read().await, "70020009");
    tell(&bench, &mut plc, "t", &["new"]).await;
    assert_eq!(hmi.read().await, hex(&publish_5(2, "t", 6, &[], "new")), "the subscription is there");
    assert_eq!(bench.shared.router.subscription_count(), 2);
    hmi.send(&[0x40, 2, 0, 6]).await;
    leave(hmi).await;
    gathered().await;

    // Nothing is left of what is over, and a clean start ends it for every later process.
    let bench = memory.restart();
    let (hmi, waited) = resume(&bench, &lasting_5("hmi", false, 1_000), true).await;
    assert_eq!(waited, "");
    drop(hmi);
    leave(bench.connect(&connect_311("hmi")).await).await;
    gathered().await;
    resume(&memory.restart(), &lasting_5("hmi", false, 1_000), false).await;
}

#[tokio::test(start_paused = true)]
async fn what_keeps_up_is_not_written() {
    let memory = Arc::new(Memory::default());
    let bench = memory.restart();
    let mut plc = bench.connect(&connect_311("plc")).await;
    let (mut hmi, _) = resume(&bench, &lasting("hmi"), false).await;
    hmi.send(&subscribe(1, "t", 1)).await;
    hmi.read().await;
    gathered().await;
    let before = memory.count();
    for round in 0..5_u16 {
        for n in 1..=10 {
            tell(&bench, &mut plc, "t", &["x"]).await;
            hmi.read().await;
            hmi.send(&[&[0x40, 2][..], &(round * 10 + n).to_be_bytes()].concat()).await;
            plc.send(&publish(1, "state", 0, "retained")).await;
        }
        gathered().await;
    }
    let written = memory.count() - before;
    assert!(written <= 5, "a retained message each time: {written}");
    plc.send(&publish(1, "state", 0, "")).await;
    plc.send(&publish(1, "other", 0, "on")).await;
    gathered().await;
    let bench = memory.restart();
    let mut sub = bench.connect(&connect_311("sub")).await;
    sub.send(&subscribe(1, "#", 0)).await;
    assert_eq!(sub.read().await, format!("9003000100{}", hex(&publish(1, "other", 0, "on"))));
}

#[tokio::test(start_paused = true)]
async fn time_goes_on_between_processes() {
    let memory = Arc::new(Memory::default());
    let bench = memory.restart();
    let will = [&[5, 0x18, 0, 0, 0, 50][..], &text("w"), &text("gone")].concat();
    let user = text("oven");
    let connect = packet(0x10, &[&text("MQTT"), &[5, 0x86, 0, 0, 5], &expiry(100), &text("a"), &will, &user]);
    let mut client = bench.open();
    client.send(&connect).await;
    client.read().await;
    drop(client);
    gathered().await;
    let bench = memory.restart();
    let mut watcher = bench.connect(&connect_311("watcher")).await;
    watcher.send(&subscribe(1, "w", 0)).await;
    watcher.read().await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(watcher.read().await, "");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(watcher.read().await, hex(&publish(0, "w", 0, "gone")), "a will that waits outlives the process");
    assert_eq!(bench.shared.ingest.user.lock().as_deref(), Some("oven"), "and so does whose it is");
    gathered().await;
    let bench = memory.restart();
    tokio::time::sleep(Duration::from_secs(101)).await;
    assert_eq!(bench.shared.router.session_count(), 0, "the session has ended");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_who_is_away_is_written_at_once() {
    let memory = Arc::new(Memory::default());
    let bench = memory.restart();
    let mut plc = bench.connect(&connect_311("plc")).await;
    let (mut hmi, _) = resume(&bench, &lasting("hmi"), false).await;
    hmi.send(&subscribe(1, "t", 1)).await;
    hmi.read().await;
    leave(hmi).await;
    tell(&bench, &mut plc, "t", &["1", "2"]).await;
    // No time passes: nothing else has been written down since the subscription.
    let bench = memory.restart();
    let (_hmi, waited) = resume(&bench, &lasting("hmi"), true).await;
    assert_eq!(waited, hex(&[publish(2, "t", 1, "1"), publish(2, "t", 2, "2")].concat()));
}
