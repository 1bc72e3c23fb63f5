//! An open spool over a simulated disk whose threads are the test: every step of theirs is taken when the test says so.

use std::io;
use std::sync::Arc;

use super::appender::lock;
use super::lanes::{ReadAhead, Turn};
use super::log::{Committed, Log};
use super::sim::SimDisk;
use super::{Acker, Appender, Opened, Options, Reader, Spool, assemble};

/// The steps of both threads.
pub(crate) struct Steps {
    log: Log,
    ahead: ReadAhead,
    failed: bool,
}

/// Opens what is on the disk.
pub(crate) fn open(disk: &SimDisk, options: &Options) -> io::Result<(Opened, Steps)> {
    let (mut log, ahead, recovered) = assemble(Arc::new(disk.clone()), options)?;
    log.tidy();
    log.list_every = 0;
    let shared = log.shared.clone();
    let opened = Opened {
        appender: Appender { shared: shared.clone() },
        reader: Reader::new(shared.clone()),
        acker: Acker { shared: shared.clone() },
        recovered,
        spool: Spool { shared, writer: None, reader: None },
    };
    Ok((opened, Steps { log, ahead, failed: false }))
}

impl Steps {
    /// What has gathered becomes durable, unless the disk fails. False where it failed for good.
    pub(crate) fn commit(&mut self) -> bool {
        if !self.failed {
            self.failed = matches!(self.log.commit(), Committed::Failed(_));
            if self.failed {
                lock(&self.log.shared.pending).closed = true;
            } else {
                self.log.tidy();
            }
        }
        !self.failed
    }

    /// Everything up to this one is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.log.shared.durable.borrow().seq
    }

    /// Writes down what is acknowledged.
    pub(crate) fn write_cursor(&mut self, sync: bool) {
        if !self.failed {
            self.log.write_cursor(sync);
            self.log.tidy();
        }
    }

    /// What the threads do last. True where everything is on the disk then.
    pub(crate) fn close(&mut self) -> bool {
        self.retry();
        self.commit() && !self.log.write_cursor(true) && !self.log.has_batch()
    }

    /// Asks a full disk again.
    pub(crate) fn retry(&mut self) {
        self.log.retry();
        self.log.tidy();
    }

    /// Reads ahead as far as there is room.
    pub(crate) fn read_ahead(&mut self) {
        while self.ahead.turn() == Turn::Again {}
    }
}
