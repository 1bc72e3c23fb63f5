//! A hub, and the line to it, that do what they are told: take some, acknowledge some, fall silent, cut the line,
//! close it at a message they dislike. No sockets; the packet identifiers are given out as `rumqttc` does.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::target::Login;
use super::wire::{Broken, Dial, Event, Sender, Wire};
use super::{Options, Target};

/// A publish as the hub took it.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// Which connection it came over, counted from 1.
    pub(crate) connection: u64,
    pub(crate) topic: String,
    pub(crate) body: Bytes,
    /// The uplink has seen its PUBACK.
    pub(crate) told: bool,
}

/// The hub. Clones are one.
#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    arrivals: Vec<Arrival>,
    connections: u64,
    /// Nobody is let in, or heard.
    away: bool,
    /// A body that contains this closes the line.
    poison: Option<&'static [u8]>,
    line: Option<Line>,
}

#[derive(Default)]
struct Line {
    connected: bool,
    /// What the socket of the bridge takes no more of.
    stalled: bool,
    /// Sent, and not yet taken by the hub.
    sent: VecDeque<(u16, String, Bytes)>,
    /// Taken: identifier and place among the arrivals.
    owed: VecDeque<(u16, usize)>,
    /// PUBACKs that have reached the bridge.
    pubacks: VecDeque<(u16, usize)>,
    broken: Option<&'static str>,
}

/// How a line ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// The hub still takes so many of what was sent.
    pub(crate) taken: usize,
    /// And so many of its PUBACKs arrive.
    pub(crate) told: usize,
    /// The reason the uplink finds.
    pub(crate) reason: &'static str,
}

impl Hub {
    /// It closes the line at a body that contains this.
    pub(crate) fn poisoned_by(&self, poison: &'static [u8]) {
        self.0.state.lock().poison = Some(poison);
    }

    /// Calls `with` for what arrived from the `from`-th on.
    pub(crate) fn arrivals<T>(&self, with: impl FnOnce(&[Arrival]) -> T) -> T {
        with(&self.0.state.lock().arrivals)
    }

    /// Connections that were let in.
    pub(crate) fn connections(&self) -> u64 {
        self.0.state.lock().connections
    }

    /// While it is away it lets nobody in and takes nothing.
    pub(crate) fn away(&self, away: bool) {
        self.with(|state| state.away = away);
    }

    /// While the line is stalled the socket takes nothing more.
    pub(crate) fn stall(&self, stalled: bool) {
        self.with(|state| state.line.iter_mut().for_each(|line| line.stalled = stalled));
    }

    /// Takes up to `most` publishes of what is on the way.
    pub(crate) fn take(&self, most: usize) {
        self.with(|state| {
            if !state.away {
                (0..most).for_each(|_| state.take_one());
            }
        });
    }

    /// Sends up to `most` of the PUBACKs it owes; from the `at`-th on, where the hub does not keep their order.
    pub(crate) fn acknowledge(&self, most: usize, at: usize) {
        self.with(|state| {
            let Some(line) = state.line.as_mut().filter(|_| !state.away) else { return };
            for _ in 0..most {
                let at = at % line.owed.len().max(1);
                line.pubacks.extend(line.owed.remove(at));
            }
        });
    }

    /// Cuts the line.
    pub(crate) fn cut(&self, cut: Cut) {
        self.with(|state| state.cut(cut));
    }

    fn with(&self, what: impl FnOnce(&mut State)) {
        what(&mut self.0.state.lock());
        self.0.changed.notify_one();
    }
}

impl State {
    fn take_one(&mut self) {
        let Some(line) = &mut self.line else { return };
        let Some((packet_id, topic, body)) = line.sent.pop_front() else { return };
        let disliked = self.poison.is_some_and(|poison| body.windows(poison.len()).any(|part| part == poison));
        if disliked {
            line.sent.clear();
            line.owed.clear();
            line.broken.get_or_insert("closed");
            return;
        }
        line.owed.push_back((packet_id, self.arrivals.len()));
        self.arrivals.push(Arrival { connection: self.connections, topic, body, told: false });
    }

    fn cut(&mut self, Cut { taken, told, reason }: Cut) {
        let taken = if self.away { 0 } else { taken };
        (0..taken).for_each(|_| self.take_one());
        let Some(line) = &mut self.line else { return };
        line.sent.clear();
        let told = told.min(line.owed.len());
        line.pubacks.extend(line.owed.drain(..told));
        line.owed.clear();
        line.broken.get_or_insert(reason);
    }
}

/// The bridge's end of a line.
pub(crate) struct SimWire {
    hub: Hub,
    number: u64,
    requests: mpsc::Receiver<Request>,
    sender: SimSender,
    most: u16,
    last_id: u16,
}

enum Request {
    Publish(String, Bytes),
    Disconnect,
}

#[derive(Clone)]
pub(crate) struct SimSender {
    hub: Hub,
    requests: mpsc::Sender<Request>,
}

impl Dial for Hub {
    type Wire = SimWire;

    async fn dial(&self, options: &Options, _: &Login) -> io::Result<SimWire> {
        let most = options.window.most();
        let (sender, requests) = mpsc::channel(usize::from(most));
        {
            let mut state = self.0.state.lock();
            // What the line before brought last is read before this one is let in.
            state.cut(Cut { taken: 4, told: 0, reason: "network" });
            state.connections += 1;
            state.line = Some(Line::default());
        }
        let number = self.connections();
        Ok(SimWire {
            hub: self.clone(),
            number,
            requests,
            sender: SimSender { hub: self.clone(), requests: sender },
            most,
            last_id: 0,
        })
    }
}

impl SimWire {
    fn look(&mut self) -> Option<Result<Event, Broken>> {
        let mut state = self.hub.0.state.lock();
        assert_eq!(state.connections, self.number, "one line at a time");
        let away = state.away;
        let line = state.line.as_mut()?;
        if let Some((packet_id, at)) = line.pubacks.pop_front() {
            if let Some(arrival) = state.arrivals.get_mut(at) {
                arrival.told = true;
            }
            return Some(Ok(Event::Acknowledged(packet_id)));
        }
        if let Some(reason) = line.broken {
            return Some(Err(Broken { reason, text: format!("the line broke: {reason}") }));
        }
        if !line.connected {
            line.connected = !away;
            return line.connected.then_some(Ok(Event::Connected));
        }
        if line.stalled {
            return None;
        }
        match self.requests.try_recv().ok()? {
            Request::Publish(topic, body) => {
                self.last_id = self.last_id % self.most + 1;
                let in_use = line.sent.iter().map(|(id, ..)| id).chain(line.owed.iter().map(|(id, _)| id));
                assert!(in_use.into_iter().all(|id| *id != self.last_id), "a packet identifier in use is given again");
                line.sent.push_back((self.last_id, topic, body));
                Some(Ok(Event::Sent(self.last_id)))
            }
            Request::Disconnect => Some(Ok(Event::Left)),
        }
    }
}

impl Wire for SimWire {
    type Sender = SimSender;

    fn sender(&self) -> SimSender {
        self.sender.clone()
    }

    async fn event(&mut self, _: &Target) -> Result<Event, Broken> {
        loop {
            if let Some(event) = self.look() {
                return event;
            }
            self.hub.0.changed.notified().await;
        }
    }
}

impl Sender for SimSender {
    async fn publish(&self, topic: String, body: Bytes) -> Result<(), String> {
        let sent = self.requests.send(Request::Publish(topic, body)).await;
        self.hub.0.changed.notify_one();
        sent.map_err(|error| error.to_string())
    }

    async fn disconnect(&self) {
        let _ = self.requests.send(Request::Disconnect).await;
        self.hub.0.changed.notify_one();
    }
}
