//! What the tests of the uplink share.

use super::*;
use crate::message::{Content, RecordWriter, Timestamp};
use tokio::sync::mpsc;

impl Backlog for mpsc::Receiver<Waiting> {
    async fn next(&mut self) -> Option<Waiting> {
        self.recv().await
    }
}

pub(super) fn waiting(sequence: u64) -> Waiting {
    let mut record = Vec::new();
    RecordWriter::begin(&mut record, Timestamp(0), Content::None, |_| ()).finish(|_| ()).unwrap();
    Waiting { sequence, record: record.into() }
}

pub(super) fn options(port: u16, window: u16) -> Options {
    let target = MqttTarget {
        address: ("127.0.0.1".into(), port),
        tls: None,
        topic: "t".into(),
        credentials: None,
        client_id: "c".into(),
        spool_id: 0,
    };
    Options {
        target: Target::Mqtt(target),
        window,
        keep_alive: Duration::from_secs(60),
        backoff: (Duration::from_millis(1), Duration::from_millis(1)),
        ack_timeout: Duration::from_secs(60),
    }
}
