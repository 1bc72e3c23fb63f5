//! Plays a row against a broker.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::packet::{self, Version};
use crate::row::{Act, Row, Step};

/// How long a packet may take to come; only a row that fails waits for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// One client of a row.
struct Client {
    stream: TcpStream,
    version: Version,
    input: Vec<u8>,
    /// It has been accepted and has not ended.
    connected: bool,
    /// It has said DISCONNECT: a CONNECT is of a new connection.
    over: bool,
    /// It has said so just now, and the broker has not closed yet.
    leaves: bool,
}

struct Play {
    version: Version,
    broker: SocketAddr,
    /// What `~` stands for.
    prefix: String,
    clients: HashMap<String, Client>,
    /// Packet identifiers the broker chose: by client, then by the name the row gave them.
    names: HashMap<String, HashMap<String, String>>,
}

/// Plays a row from first to last step; afterwards no client may have more to hear.
pub(crate) fn play(row: &Row, version: Version, broker: SocketAddr) -> Result<(), String> {
    let file = row.file.split('.').next().unwrap();
    let prefix = format!("{file}{}v{}", row.number, version.name().replace('.', ""));
    let mut play = Play { version, broker, prefix, clients: HashMap::new(), names: HashMap::new() };
    let mut at = 0;
    while let Some(step) = row.steps.get(at) {
        let together = row.steps[at..]
            .iter()
            .take_while(|next| next.act == Act::HearsAnyOrder && next.client == step.client)
            .count()
            .max(1);
        let outcome = match step.act {
            Act::Sends => play.send(step),
            Act::Hears => play.hear(step),
            Act::HearsAnyOrder => play.hear_in_any_order(&row.steps[at..at + together]),
        };
        outcome.map_err(|error| format!("line {}: {} {}: {error}", step.line, step.client, step.tokens.join(" ")))?;
        at += together;
        let next = row.steps.get(at).filter(|next| next.client == step.client && next.act == Act::Hears);
        if let (None, Some(client)) = (next, play.clients.get_mut(&step.client).filter(|client| client.leaves)) {
            client.leaves = false;
            client.is_closed().map_err(|error| format!("line {}: after DISCONNECT: {error}", step.line))?;
        }
    }
    let mut still: Vec<_> = play.clients.into_iter().filter(|(_, client)| client.connected).collect();
    still.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, mut client) in still {
        client.hears_nothing().map_err(|error| format!("at the end: {name}: {error}"))?;
    }
    Ok(())
}

impl Play {
    /// The words of a step for a client of this version: `~` is the row's own, `[x]` is for MQTT 5, `0x80/0x87` is the
    /// code of the older versions and that of MQTT 5.
    fn words(&self, step: &Step, version: Version) -> Vec<String> {
        let mut words = Vec::new();
        for token in &step.tokens {
            let mut token = token.as_str();
            if token == "session" && version == Version::V31 {
                continue; // MQTT 3.1 has no such flag.
            }
            if let Some(inside) = token.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                if version != Version::V5 {
                    continue;
                }
                token = inside;
            }
            if token.starts_with("0x")
                && let Some((old, new)) = token.split_once('/')
            {
                token = if version == Version::V5 { new } else { old };
            }
            words.push(token.replace('~', &self.prefix));
        }
        words
    }

    fn send(&mut self, step: &Step) -> Result<(), String> {
        let name = &step.client;
        match step.tokens[0].as_str() {
            "END" => {
                self.clients.remove(name);
                return Ok(());
            }
            "CONNECT" => return self.send_connect(step),
            _ => {}
        }
        if !self.clients.contains_key(name) {
            let client = Client::open(self.broker, self.version)?;
            self.clients.insert(name.clone(), client);
        }
        let version = self.clients[name].version;
        let mut words = self.words(step, version);
        if let Some(names) = self.names.get(name) {
            for word in &mut words[1..] {
                if let Some(known) = names.get(word.as_str()) {
                    word.clone_from(known);
                }
            }
        }
        let client = self.clients.get_mut(name).unwrap();
        client.write(&packet::encode(version, &words));
        if words[0] == "DISCONNECT" && client.connected {
            client.over = true;
            client.leaves = true;
            client.connected = false;
        }
        Ok(())
    }

    fn send_connect(&mut self, step: &Step) -> Result<(), String> {
        let name = &step.client;
        let chosen = step.tokens.iter().find_map(|token| Version::parse(token.strip_prefix("v=")?));
        let version = chosen.unwrap_or(self.version);
        let mut words = self.words(step, version);
        words.retain(|word| !word.starts_with("v="));
        if !words.iter().any(|word| word.starts_with("id=")) {
            words.push(format!("id={}{name}", self.prefix));
        }
        if self.clients.get(name).is_none_or(|client| client.over) {
            self.clients.insert(name.clone(), Client::open(self.broker, version)?);
        }
        let client = self.clients.get_mut(name).unwrap();
        client.version = version;
        client.write(&packet::encode(version, &words));
        Ok(())
    }

    fn hear(&mut self, step: &Step) -> Result<(), String> {
        let client = self.clients.get_mut(&step.client).ok_or("no such client")?;
        match step.tokens[0].as_str() {
            "NOTHING" => return client.hears_nothing(),
            "CLOSED" => {
                let version = client.version;
                let words = self.words(step, version);
                let mut client = self.clients.remove(&step.client).unwrap();
                if let (Version::V5, Some(code)) = (version, words.get(1)) {
                    let got = client.packet()?;
                    if got[0] != "DISCONNECT" || (code != "*" && got[1..] != [code.clone()]) {
                        return Err(format!("got {}", shortened(&got)));
                    }
                }
                return client.is_closed();
            }
            _ => {}
        }
        let version = client.version;
        if step.tokens[0] == "*" && version != Version::V5 {
            return Ok(());
        }
        let got = client.packet()?;
        let mut wanted = self.words(step, version);
        wanted.iter_mut().filter(|word| word.contains('{')).for_each(|word| *word = packet::word(&packet::bytes(word)));
        self.compare(&step.client, &wanted, &got).map_err(|why| format!("got {}{why}", shortened(&got)))
    }

    fn hear_in_any_order(&mut self, steps: &[Step]) -> Result<(), String> {
        let name = &steps[0].client;
        let version = self.clients.get(name).ok_or("no such client")?.version;
        let mut wanted: Vec<_> = steps.iter().map(|step| self.words(step, version)).collect();
        while !wanted.is_empty() {
            let got = self.clients.get_mut(name).unwrap().packet()?;
            let found = (0..wanted.len()).find(|at| self.compare(name, &wanted[*at], &got).is_ok());
            wanted.remove(found.ok_or_else(|| format!("got {}", shortened(&got)))?);
        }
        Ok(())
    }

    fn compare(&mut self, name: &str, wanted: &[String], got: &[String]) -> Result<(), &'static str> {
        let is_connack = got[0] == "CONNACK";
        if is_connack && !got.iter().any(|word| word == "session") {
            self.names.remove(name);
        }
        let is_property = |word: &&String| packet::property_rank(word).is_some();
        let (mut wanted_properties, wanted): (Vec<&String>, Vec<&String>) = wanted.iter().partition(is_property);
        let (got_properties, got_rest): (Vec<&String>, Vec<&String>) = got.iter().partition(is_property);
        let (absent, wanted): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|word| word.starts_with("no:"));
        let alike = |wanted: &str, got: &str| match wanted.strip_suffix('*') {
            Some(start) => got.starts_with(start),
            None => wanted == got,
        };
        wanted_properties.sort_by_key(|word| packet::property_rank(word));
        let properties_are_right = if is_connack {
            wanted_properties.iter().all(|wanted| got_properties.iter().any(|got| alike(wanted, got)))
        } else {
            wanted_properties.len() == got_properties.len()
                && wanted_properties.iter().zip(&got_properties).all(|(wanted, got)| alike(wanted, got))
        };
        let has_absent =
            |absent: &&String| got_properties.iter().any(|got| got.split('=').next() == absent.strip_prefix("no:"));
        if !properties_are_right || absent.iter().any(has_absent) || wanted.len() != got_rest.len() {
            return Err("");
        }
        let mut bound = Vec::new();
        for (wanted, got) in wanted.iter().zip(got_rest) {
            if wanted.starts_with('#') && wanted[1..].starts_with(char::is_alphabetic) && got.starts_with('#') {
                bound.push(((*wanted).clone(), got.clone()));
            } else if *wanted != got {
                return Err("");
            }
        }
        let names = self.names.entry(name.to_owned()).or_default();
        for (wanted, got) in bound {
            match names.get(&wanted) {
                Some(known) if *known == got => {}
                Some(_) => return Err(", another packet identifier than before"),
                None if names.values().any(|other| *other == got) => return Err(", a packet identifier in use"),
                None => drop(names.insert(wanted, got)),
            }
        }
        Ok(())
    }
}

impl Client {
    fn open(broker: SocketAddr, version: Version) -> Result<Self, String> {
        let stream = TcpStream::connect(broker).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Ok(Self { stream, version, input: Vec::new(), connected: false, over: false, leaves: false })
    }

    /// A broker that has closed already is found out when reading.
    fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Reads once; false at the end.
    fn read(&mut self) -> Result<bool, String> {
        let mut buffer = [0; 8192];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(read) => {
                self.input.extend(&buffer[..read]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(false),
            Err(_) => Err(format!("nothing came within {PATIENCE:?}")),
        }
    }

    fn packet(&mut self) -> Result<Vec<String>, String> {
        loop {
            if let Some((header, end)) = packet::length(&self.input) {
                let whole: Vec<u8> = self.input.drain(..end).collect();
                let words = packet::decode(self.version, whole[0], &whole[header..])?;
                if words[0] == "CONNACK" {
                    self.connected = !words.iter().any(|word| word.starts_with("0x"));
                }
                return Ok(words);
            }
            if !self.read()? {
                return Err("the connection was closed".to_owned());
            }
        }
    }

    fn is_closed(&mut self) -> Result<(), String> {
        while self.input.is_empty() {
            if !self.read()? {
                return Ok(());
            }
        }
        Err(format!("got {}", shortened(&self.packet()?)))
    }

    /// Two PINGREQ: what was waiting when the first one came has gone out before the second is answered.
    fn hears_nothing(&mut self) -> Result<(), String> {
        for _ in 0..2 {
            self.write(&[0xc0, 0]);
            let got = self.packet()?;
            if got != ["PINGRESP"] {
                return Err(format!("got {}", shortened(&got)));
            }
        }
        Ok(())
    }
}

fn shortened(words: &[String]) -> String {
    let text = words.join(" ");
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{} ..", &text[..end]),
        None => text,
    }
}
