//! An HTTP proxy, as plants have them.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "test code")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// An HTTP proxy that wants `me:pass word`; what it was asked for.
pub fn start() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || tunnel(near, &seen));
        }
    });
    (port, asked)
}

fn tunnel(mut near: TcpStream, seen: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(near.try_clone().unwrap()).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    if !head.iter().any(|line| line == "Proxy-Authorization: Basic bWU6cGFzcyB3b3Jk") {
        let _ = near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
        return;
    }
    let place = request.split(' ').nth(1).unwrap().to_owned();
    let mut far = TcpStream::connect(&place).unwrap();
    seen.lock().unwrap().push(place);
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
    let (mut back_far, mut back_near) = (far.try_clone().unwrap(), near.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut back_far, &mut back_near));
    let _ = std::io::copy(&mut near, &mut far);
}
