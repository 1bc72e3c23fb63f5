//! MQTT 3.1.1 clients that cost little beside the server they load.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A 236-byte JSON object, as in the other benchmarks.
pub(crate) fn payload() -> Vec<u8> {
    let values: Vec<String> = (0..14).map(|n| format!("\"value{n:02}\": {}.5", n * 7)).collect();
    format!("{{{}}}", values.join(", ")).into_bytes()
}

/// Appends a packet of `first` byte and `body`.
pub(crate) fn packet(out: &mut Vec<u8>, first: u8, body: &[&[u8]]) {
    out.push(first);
    let mut len: usize = body.iter().map(|part| part.len()).sum();
    while len >= 128 {
        out.push((len % 128) as u8 | 0x80);
        len /= 128;
    }
    out.push(len as u8);
    body.iter().for_each(|part| out.extend_from_slice(part));
}

fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

/// A CONNECT with a clean session and without keep-alive.
pub(crate) fn connect_packet(client_id: &str) -> Vec<u8> {
    let mut out = Vec::new();
    packet(&mut out, 0x10, &[b"\0\x04MQTT\x04\x02\0\0", &text(client_id)]);
    out
}

/// Connects and reads the CONNACK.
pub(crate) fn connect(address: SocketAddr, client_id: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(&connect_packet(client_id))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    if connack == [0x20, 2, 0, 0] { Ok(stream) } else { Err(io::Error::other(format!("CONNACK {connack:?}"))) }
}

/// A PUBLISH of QoS 0.
pub(crate) fn publish(out: &mut Vec<u8>, topic: &str, payload: &[u8]) {
    packet(out, 0x30, &[&text(topic), payload]);
}

/// A PUBLISH of QoS 1.
pub(crate) fn publish_once(out: &mut Vec<u8>, topic: &str, packet_id: u16, payload: &[u8]) {
    packet(out, 0x32, &[&text(topic), &packet_id.to_be_bytes(), payload]);
}

/// Subscribes and reads the SUBACK.
pub(crate) fn subscribe(stream: &mut TcpStream, filter: &str, qos: u8) -> io::Result<()> {
    let mut out = Vec::new();
    packet(&mut out, 0x82, &[&[0, 1], &text(filter), &[qos]]);
    stream.write_all(&out)?;
    let mut suback = [0; 5];
    stream.read_exact(&mut suback)?;
    if suback == [0x90, 3, 0, 1, qos] { Ok(()) } else { Err(io::Error::other(format!("SUBACK {suback:?}"))) }
}

/// Reads publishes, acknowledges them as their QoS asks (0 or 1), and says how many there were and when the last came:
/// until there were `total`, or none for `patience`.
pub(crate) fn count_publishes(stream: &mut TcpStream, total: usize, patience: Duration) -> (usize, Instant) {
    stream.set_read_timeout(Some(patience)).unwrap();
    let (mut count, mut last) = (0, Instant::now());
    let mut input = vec![0; 256 * 1024];
    let mut filled = 0;
    let mut acks = Vec::new();
    while count < total {
        match stream.read(&mut input[filled..]) {
            Ok(0) => break,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
            read => filled += read.unwrap(),
        }
        let mut at = 0;
        while let Some((len, header)) = length(&input[at..filled]) {
            if input[at] & 0xf0 == 0x30 {
                count += 1;
                if input[at] & 0x06 == 0x02 {
                    let topic = usize::from(u16::from_be_bytes([input[at + header], input[at + header + 1]]));
                    let id = at + header + 2 + topic;
                    acks.extend_from_slice(&[0x40, 2, input[id], input[id + 1]]);
                }
            }
            at += len;
        }
        input.copy_within(at..filled, 0);
        filled -= at;
        last = Instant::now();
        stream.write_all(&acks).unwrap();
        acks.clear();
    }
    (count, last)
}

/// The length of the whole packet that `input` begins with, and of its fixed header.
fn length(input: &[u8]) -> Option<(usize, usize)> {
    let mut len = 0;
    for (n, byte) in input.iter().skip(1).take(4).enumerate() {
        len |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            let whole = n + 2 + len;
            return (input.len() >= whole).then_some((whole, n + 2));
        }
    }
    None
}
