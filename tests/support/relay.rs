//! A TCP relay that behaves as a bad line: late, stalling, silent, torn in the middle of a packet.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How the line behaves from now on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line {
    /// Every piece comes so much later.
    pub delay: Duration,
    /// Each so-many-th piece comes 300 ms late, as a lost packet does.
    pub lose_every: u64,
    /// Nothing passes, and nobody is told; what was sent comes when it ends.
    pub partition: bool,
    /// A connection is torn after so many bytes, wherever that is.
    pub tear_after: Option<u64>,
}

type State = Arc<(Mutex<Line>, Condvar)>;

/// Listens on a port of its own and connects to `to`.
pub struct Relay {
    pub port: u16,
    state: State,
}

impl Relay {
    pub fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(to) else { continue };
                for (from, into) in [(&near, &far), (&far, &near)] {
                    let _ = from.set_nodelay(true);
                    let (from, into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                    let state = Arc::clone(&shared);
                    std::thread::spawn(move || pump(from, into, &state));
                }
            }
        });
        Self { port, state }
    }

    pub fn set(&self, line: Line) {
        *self.state.0.lock().unwrap() = line;
        self.state.1.notify_all();
    }
}

fn pump(mut from: TcpStream, mut into: TcpStream, state: &State) {
    let (mut buffer, mut pieces, mut bytes) = ([0; 1_400], 0_u64, 0_u64);
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        let line = {
            let line = state.0.lock().unwrap();
            *state.1.wait_while(line, |line| line.partition).unwrap()
        };
        pieces += 1;
        bytes += len as u64;
        if line.tear_after.is_some_and(|most| bytes > most) {
            break;
        }
        let lost = line.lose_every > 0 && pieces % line.lose_every == 0;
        // The line itself, not a wait for something to happen.
        std::thread::sleep(line.delay + if lost { Duration::from_millis(300) } else { Duration::ZERO });
        if into.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = into.shutdown(Shutdown::Both);
}
