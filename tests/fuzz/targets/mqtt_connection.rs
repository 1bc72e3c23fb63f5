//! Two clients of one broker, each an arbitrary byte stream in arbitrary pieces: serving them ends when the streams
//! end, in few turns, and what the broker writes is whole packets of its own side, CONNACK first and once.
//!
//! The first byte picks a valid CONNECT for each client or none, the second how the streams are cut into pieces, the
//! third how much of the rest belongs to the first client.
#![no_main]

use std::sync::{Arc, LazyLock};

use brownbridge::broker::{Options, fuzz::Lab};
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

fuzz_target!(|bytes: &[u8]| {
    let [connects, cut, share, rest @ ..] = bytes else { return };
    let (first, second) = rest.split_at(rest.len() * usize::from(*share) / 255);
    let limits = Options { max_packet_size: 4096, subscriber_queue_messages: 8, max_retained: 4, ..Options::default() };
    let options = Options { max_unacknowledged: 3, max_subscriptions: 4, ..limits };
    let broker = Lab::new(options, Arc::new(Ingest::default()), METRICS.clone());
    let mut clients = [Client::new(connects & 7, *cut, first), Client::new(connects >> 3 & 7, cut / 2, second)];
    let [one, two] = &mut clients;
    RUNTIME.with(|runtime| {
        runtime.block_on(async { tokio::join!(broker.serve(one), broker.serve(two)) });
    });
    clients.iter().for_each(Client::check);
});
