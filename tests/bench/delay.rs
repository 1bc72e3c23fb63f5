//! A TCP relay that takes its time: a line with a round trip.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Chunks of up to 64 KiB on the way in each direction: far more than a window.
const CHUNKS: usize = 4096;

/// Forwards every connection to `to`, each byte half a round trip late both ways. Where to connect.
pub(crate) fn relay(to: SocketAddr, round_trip: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(to) else { continue };
            for (from, into) in [(&near, &far), (&far, &near)] {
                from.set_nodelay(true).unwrap();
                let (chunks, late) = sync_channel(CHUNKS);
                let (from, into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                std::thread::spawn(move || read(from, &chunks, round_trip / 2));
                std::thread::spawn(move || write(into, &late));
            }
        }
    });
    address
}

fn read(mut from: TcpStream, chunks: &SyncSender<(Instant, Vec<u8>)>, delay: Duration) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if chunks.send((Instant::now() + delay, buffer[..n].to_vec())).is_err() {
            return;
        }
    }
}

fn write(mut into: TcpStream, chunks: &Receiver<(Instant, Vec<u8>)>) {
    for (due, bytes) in chunks {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if into.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = into.shutdown(Shutdown::Both);
}
