//! A client with a session that lasts, then a restart of the broker, then the client again: every record the broker
//! writes down can be read, what is read and written again is the same, and the second broker serves to the end. With
//! a first byte of 255 the rest are records of nobody knows whom.
#![no_main]

use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};

use brownbridge::broker::{Options, Restored, Store, fuzz::Lab};
use brownbridge::metrics::Metrics;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

mod stand_in;
use stand_in::{Client, Ingest};

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::register);

thread_local! {
    static RUNTIME: Runtime =
        Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
}

/// MQTT 5, a session of 60 s, a will that waits for 9 s.
const LASTING: &[u8] = b"\x10\x1f\0\x04MQTT\x05\x2c\0\0\x05\x11\0\0\0\x3c\0\x01a\x05\x18\0\0\0\x09\0\x01w\0\x01x";

#[derive(Debug, Default)]
struct Records(Mutex<Vec<Vec<u8>>>);

impl Store for Records {
    fn append(&self, record: &[u8]) {
        self.0.lock().expect("no panic").push(record.to_vec());
    }

    fn begin_anew(&self) {
        self.0.lock().expect("no panic").clear();
    }

    fn written_anew(&self) {}

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(ready(()))
    }

    fn outgrown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(pending())
    }
}

impl Records {
    /// Kinds and lengths: times differ from one writing to the next.
    fn shape(&self) -> Vec<(u8, usize)> {
        let records = self.0.lock().expect("no panic");
        let mut shape: Vec<_> = records.iter().map(|record| (record[0], record.len())).collect();
        shape.sort_unstable();
        shape
    }

    fn read(&self) -> Restored {
        let mut restored = Restored::default();
        self.0.lock().expect("no panic").iter().for_each(|record| restored.read(record));
        assert_eq!(restored.counts().2, 0, "a record that says nothing");
        restored
    }
}

fn broker(records: &Arc<Records>, restored: Restored) -> Lab<Ingest> {
    let limits = Options { max_packet_size: 4096, subscriber_queue_messages: 8, max_retained: 4, ..Options::default() };
    let store: Arc<dyn Store> = Arc::clone(records) as _;
    let options = Options { max_unacknowledged: 3, max_subscriptions: 4, store: Some(store), ..limits };
    Lab::restored((options, restored), Arc::default(), METRICS.clone())
}

fuzz_target!(|bytes: &[u8]| {
    let [first, cut, share, rest @ ..] = bytes else { return };
    let records = Arc::new(Records::default());
    if *first == 255 {
        let mut restored = Restored::default();
        rest.split(|byte| byte == share).for_each(|record| restored.read(record));
        RUNTIME.with(|runtime| runtime.block_on(broker(&records, restored).write_down(true)));
        records.read();
        return;
    }
    let (before, after) = rest.split_at(rest.len() * usize::from(*share) / 255);
    let before = [LASTING, before].concat();
    let mut clients = [Client::new(0, *cut, &before), Client::new(7, cut / 2, after)];
    let [one, two] = &mut clients;
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let first = broker(&records, Restored::default());
            first.serve(one).await;
            first.write_down(false).await;
            let second = broker(&records, records.read());
            second.write_down(true).await;
            let shape = records.shape();
            let third = broker(&records, records.read());
            third.write_down(true).await;
            assert_eq!(records.shape(), shape, "read and written again");
            third.serve(two).await;
            // What has changed is held until it is written.
            third.write_down(false).await;
            records.read();
        });
    });
    clients.iter().for_each(Client::check);
});
