//! MQTT packets to and from the words of a row.

/// The versions of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V31,
    V311,
    V5,
}

impl Version {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "3.1" => Self::V31,
            "3.1.1" => Self::V311,
            "5" => Self::V5,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Byte,
    Two,
    Four,
    Varint,
    Text,
    Pair,
}

/// The properties of MQTT 5, in the order in which rows name them.
const PROPERTIES: [(u8, &str, Kind); 27] = [
    (0x01, "format", Kind::Byte),
    (0x02, "message-expiry", Kind::Four),
    (0x03, "content-type", Kind::Text),
    (0x08, "response-topic", Kind::Text),
    (0x09, "correlation", Kind::Text),
    (0x0b, "subscription-id", Kind::Varint),
    (0x11, "session-expiry", Kind::Four),
    (0x12, "assigned-id", Kind::Text),
    (0x13, "server-keep-alive", Kind::Two),
    (0x15, "auth-method", Kind::Text),
    (0x16, "auth-data", Kind::Text),
    (0x17, "problem-info", Kind::Byte),
    (0x18, "delay", Kind::Four),
    (0x19, "response-info", Kind::Byte),
    (0x1a, "response-information", Kind::Text),
    (0x1c, "server-reference", Kind::Text),
    (0x1f, "reason", Kind::Text),
    (0x21, "receive-max", Kind::Two),
    (0x22, "alias-max", Kind::Two),
    (0x23, "alias", Kind::Two),
    (0x24, "max-qos", Kind::Byte),
    (0x25, "retain-available", Kind::Byte),
    (0x26, "user", Kind::Pair),
    (0x27, "max-packet", Kind::Four),
    (0x28, "wildcard-available", Kind::Byte),
    (0x29, "ids-available", Kind::Byte),
    (0x2a, "shared-available", Kind::Byte),
];

/// Where a word stands among the properties, if it is one.
pub(crate) fn property_rank(word: &str) -> Option<usize> {
    let (name, _) = word.split_once('=')?;
    PROPERTIES.iter().position(|(_, known, _)| *known == name)
}

/// The bytes a word stands for: `%41` is a byte, `{a*3}` a repetition, `""` nothing.
pub(crate) fn bytes(word: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = word.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        match first {
            b'%' => {
                out.push(u8::from_str_radix(std::str::from_utf8(&more[..2]).unwrap(), 16).unwrap());
                rest = &more[2..];
            }
            b'{' => {
                let end = more.iter().position(|byte| *byte == b'}').expect("a closing brace");
                let (what, times) = std::str::from_utf8(&more[..end]).unwrap().rsplit_once('*').expect("{text*n}");
                out.extend(what.repeat(times.parse().unwrap()).into_bytes());
                rest = &more[end + 1..];
            }
            b'"' => {}
            other => out.push(*other),
        }
    }
    out
}

/// The word for some bytes.
pub(crate) fn word(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'{' | b'"');
    let mut out = String::new();
    for byte in bytes {
        if plain(*byte) { out.push(char::from(*byte)) } else { out.push_str(&format!("%{byte:02x}")) }
    }
    if out.is_empty() { "\"\"".to_owned() } else { out }
}

fn number(text: &str) -> u32 {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 128 {
        out.push((value % 128) as u8 | 0x80);
        value /= 128;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text);
}

fn put_property(out: &mut Vec<u8>, word: &str) {
    let (name, value) = word.split_once('=').unwrap_or_else(|| panic!("{word:?} is no property"));
    if name == "raw" {
        return out.extend(hex(value));
    }
    let (id, _, kind) = PROPERTIES[property_rank(word).unwrap_or_else(|| panic!("no property {name:?}"))];
    out.push(id);
    match kind {
        Kind::Byte => out.push(number(value) as u8),
        Kind::Two => out.extend((number(value) as u16).to_be_bytes()),
        Kind::Four => out.extend(number(value).to_be_bytes()),
        Kind::Varint => put_varint(out, number(value) as usize),
        Kind::Text => put_text(out, &bytes(value)),
        Kind::Pair => {
            let (name, value) = value.split_once(':').expect("user=name:value");
            put_text(out, &bytes(name));
            put_text(out, &bytes(value));
        }
    }
}

/// Appends the properties, where the version has them.
fn put_properties(out: &mut Vec<u8>, version: Version, words: &[&str]) {
    if version == Version::V5 {
        let mut properties = Vec::new();
        words.iter().for_each(|word| put_property(&mut properties, word));
        put_varint(out, properties.len());
        out.extend(properties);
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn whole(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    put_varint(&mut out, body.len());
    out.extend(body);
    out
}

/// The packet that words stand for; the first is its name.
pub(crate) fn encode(version: Version, words: &[String]) -> Vec<u8> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (name, words) = words.split_first().unwrap();
    let code = |words: &[&str]| words.iter().find(|word| word.starts_with("0x")).map(|code| number(code) as u8);
    match *name {
        "CONNECT" => whole(0x10, &connect(version, words)),
        "PUBLISH" => publish(version, words),
        "PUBACK" => whole(0x40, &acknowledgement(version, words, code(words))),
        "PUBREC" => whole(0x50, &acknowledgement(version, words, code(words))),
        "PUBREL" => whole(0x62, &acknowledgement(version, words, code(words))),
        "PUBCOMP" => whole(0x70, &acknowledgement(version, words, code(words))),
        "SUBSCRIBE" => whole(0x82, &subscribe(version, words)),
        "UNSUBSCRIBE" => whole(0xa2, &unsubscribe(version, words)),
        "PINGREQ" => vec![0xc0, 0],
        "DISCONNECT" | "AUTH" => {
            let first = if *name == "AUTH" { 0xf0 } else { 0xe0 };
            let mut body: Vec<u8> = code(words).into_iter().collect();
            let properties = properties(words);
            if !properties.is_empty() {
                put_properties(&mut body, version, &properties);
            }
            whole(first, &body)
        }
        "HEX" => {
            words.iter().flat_map(|word| if quoted(word).is_some() { payload(&[word]) } else { hex(word) }).collect()
        }
        other => panic!("no packet {other:?}"),
    }
}

/// The text of a word in single quotes: a payload.
fn quoted(word: &str) -> Option<&str> {
    word.strip_prefix('\'')?.strip_suffix('\'')
}

fn payload(words: &[&str]) -> Vec<u8> {
    words.iter().find_map(|word| quoted(word)).map(bytes).unwrap_or_default()
}

fn value<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn qos(words: &[&str]) -> u8 {
    words.iter().find_map(|word| ["q0", "q1", "q2", "q3"].iter().position(|qos| qos == word)).unwrap_or(0) as u8
}

fn identifier(word: &str) -> Option<u16> {
    word.strip_prefix('#')?.parse().ok()
}

fn is_property(word: &str) -> bool {
    property_rank(word).is_some() || word.starts_with("raw=")
}

fn properties<'a>(words: &[&'a str]) -> Vec<&'a str> {
    words.iter().copied().filter(|word| is_property(word)).collect()
}

fn connect(version: Version, words: &[&str]) -> Vec<u8> {
    let (name, level) = match version {
        Version::V31 => ("MQIsdp", 3),
        Version::V311 => ("MQTT", 4),
        Version::V5 => ("MQTT", 5),
    };
    let text = |name| value(words, name).map(bytes);
    let has = |word| words.contains(&word);
    let (will, username, password) = (text("will"), text("username"), text("password"));
    let flags = u8::from(value(words, "clean") != Some("0")) << 1
        | u8::from(will.is_some()) << 2
        | qos(words) << 3
        | u8::from(has("retain")) << 5
        | u8::from(password.is_some()) << 6
        | u8::from(username.is_some()) << 7;
    let mut out = Vec::new();
    put_text(&mut out, &text("name").unwrap_or_else(|| name.into()));
    out.push(value(words, "level").map_or(level, |level| number(level) as u8));
    out.push(value(words, "flags").map_or(flags, |flags| number(flags) as u8));
    out.extend((value(words, "keepalive").map_or(0, number) as u16).to_be_bytes());
    put_properties(&mut out, version, &properties(words));
    put_text(&mut out, &text("id").unwrap());
    if let Some(will) = will {
        let of_will: Vec<_> = words.iter().filter_map(|word| word.strip_prefix("will.")).collect();
        put_properties(&mut out, version, &of_will);
        put_text(&mut out, &will);
        put_text(&mut out, &payload(words));
    }
    username.iter().chain(&password).for_each(|text| put_text(&mut out, text));
    out
}

fn publish(version: Version, words: &[&str]) -> Vec<u8> {
    let (topic, words) = words.split_first().unwrap();
    let has = |word| u8::from(words.contains(&word));
    let first = 0x30 | has("dup") << 3 | qos(words) << 1 | has("retain");
    let mut body = Vec::new();
    put_text(&mut body, &bytes(topic));
    if let Some(identifier) = words.iter().find_map(|word| identifier(word)) {
        body.extend(identifier.to_be_bytes());
    }
    put_properties(&mut body, version, &properties(words));
    body.extend(payload(words));
    whole(first, &body)
}

fn acknowledgement(version: Version, words: &[&str], code: Option<u8>) -> Vec<u8> {
    let mut body = identifier(words[0]).expect("an identifier").to_be_bytes().to_vec();
    body.extend(code);
    let properties = properties(words);
    if !properties.is_empty() {
        put_properties(&mut body, version, &properties);
    }
    body
}

fn subscribe(version: Version, words: &[&str]) -> Vec<u8> {
    let mut body = identifier(words[0]).expect("an identifier").to_be_bytes().to_vec();
    put_properties(&mut body, version, &properties(words));
    let mut words = words[1..].iter().filter(|word| !is_property(word)).peekable();
    while let Some(filter) = words.next() {
        put_text(&mut body, &bytes(filter));
        let mut options = 0;
        while let Some(more) = words.peek().and_then(|word| option(word)) {
            options |= more;
            words.next();
        }
        body.push(options);
    }
    body
}

fn unsubscribe(version: Version, words: &[&str]) -> Vec<u8> {
    let mut body = identifier(words[0]).expect("an identifier").to_be_bytes().to_vec();
    put_properties(&mut body, version, &properties(words));
    words[1..].iter().filter(|word| !is_property(word)).for_each(|filter| put_text(&mut body, &bytes(filter)));
    body
}

/// The bits a subscription option stands for.
fn option(word: &str) -> Option<u8> {
    Some(match word {
        "q0" => 0,
        "q1" => 1,
        "q2" => 2,
        "nl" => 4,
        "rap" => 8,
        "rh=1" => 0x10,
        "rh=2" => 0x20,
        other => number(other.strip_prefix("opts=")?) as u8,
    })
}

/// Takes a packet apart.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("the packet is too short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<u32, String> {
        Ok(self.take(bytes)?.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }

    fn varint(&mut self) -> Result<usize, String> {
        let mut sum = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.number(1)? as usize;
            sum |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return if byte == 0 && shift > 0 { Err("a length in too many bytes".into()) } else { Ok(sum) };
            }
        }
        Err("a length of five bytes".into())
    }

    fn text(&mut self) -> Result<&'a [u8], String> {
        let length = self.number(2)? as usize;
        self.take(length)
    }

    fn identifier(&mut self) -> Result<String, String> {
        match self.number(2)? {
            0 => Err("a packet identifier of zero".into()),
            identifier => Ok(format!("#{identifier}")),
        }
    }

    /// Properties as words, in the order of [`PROPERTIES`]; those of one name as they came.
    fn properties(&mut self, words: &mut Vec<String>) -> Result<(), String> {
        let length = self.varint()?;
        let mut inside = Reader(self.take(length)?);
        let mut found = Vec::new();
        while !inside.0.is_empty() {
            let id = inside.number(1)? as u8;
            let rank = PROPERTIES.iter().position(|(known, ..)| *known == id).ok_or(format!("a property {id:#x}"))?;
            let (_, name, kind) = PROPERTIES[rank];
            let value = match kind {
                Kind::Byte => inside.number(1)?.to_string(),
                Kind::Two => inside.number(2)?.to_string(),
                Kind::Four => inside.number(4)?.to_string(),
                Kind::Varint => inside.varint()?.to_string(),
                Kind::Text => word(inside.text()?),
                Kind::Pair => format!("{}:{}", word(inside.text()?), word(inside.text()?)),
            };
            let repeats = matches!(name, "user" | "subscription-id");
            if !repeats && found.iter().any(|(other, _)| *other == rank) {
                return Err(format!("{name} twice"));
            }
            found.push((rank, format!("{name}={value}")));
        }
        found.sort_by_key(|(rank, _)| *rank);
        words.extend(found.into_iter().map(|(_, text)| text));
        Ok(())
    }
}

/// Length of the packet a buffer begins with and of its first part, once it has come whole.
pub(crate) fn length(buffer: &[u8]) -> Option<(usize, usize)> {
    let mut reader = Reader(buffer.get(1..)?);
    let body = reader.varint().ok()?;
    let header = buffer.len() - reader.0.len();
    (reader.0.len() >= body).then_some((header, header + body))
}

/// The words of a packet of the broker; strict.
pub(crate) fn decode(version: Version, first: u8, body: &[u8]) -> Result<Vec<String>, String> {
    let mut reader = Reader(body);
    let mut words = Vec::new();
    let is_v5 = version == Version::V5;
    match first {
        0x20 => {
            words.push("CONNACK".to_owned());
            match reader.number(1)? {
                0 => {}
                1 => words.push("session".to_owned()),
                flags => return Err(format!("CONNACK flags {flags:#x}")),
            }
            push_code(&mut words, reader.number(1)?);
            // Refusals of an unknown level are answered in the oldest form.
            if is_v5 && !reader.0.is_empty() {
                reader.properties(&mut words)?;
            }
        }
        0x30..=0x3f => {
            words.extend(["PUBLISH".to_owned(), word(reader.text()?)]);
            let qos = first >> 1 & 3;
            words.extend(["q1", "q2", "q3"].get(usize::from(qos).wrapping_sub(1)).map(|qos| (*qos).to_owned()));
            words.extend((first & 8 != 0).then(|| "dup".to_owned()));
            words.extend((first & 1 != 0).then(|| "retain".to_owned()));
            if qos > 0 {
                words.push(reader.identifier()?);
            }
            let mut properties = Vec::new();
            if is_v5 {
                reader.properties(&mut properties)?;
            }
            let payload = reader.take(reader.0.len())?;
            words.extend((!payload.is_empty()).then(|| format!("'{}'", word(payload))));
            words.extend(properties);
        }
        0x40 | 0x50 | 0x62 | 0x70 => {
            let name = ["PUBACK", "PUBREC", "PUBREL", "PUBCOMP"][usize::from(first >> 4) - 4];
            words.extend([name.to_owned(), reader.identifier()?]);
            if is_v5 && !reader.0.is_empty() {
                push_code(&mut words, reader.number(1)?);
                if !reader.0.is_empty() {
                    reader.properties(&mut words)?;
                }
            }
        }
        0x90 | 0xb0 => {
            let name = if first == 0x90 { "SUBACK" } else { "UNSUBACK" };
            words.extend([name.to_owned(), reader.identifier()?]);
            let mut properties = Vec::new();
            if is_v5 {
                reader.properties(&mut properties)?;
            }
            if is_v5 || first == 0x90 {
                let codes = reader.take(reader.0.len())?;
                words.extend(codes.iter().map(|code| format!("0x{code:02x}")));
            }
            words.extend(properties);
        }
        0xd0 => words.push("PINGRESP".to_owned()),
        0xe0 if is_v5 => {
            words.push("DISCONNECT".to_owned());
            if !reader.0.is_empty() {
                push_code(&mut words, reader.number(1)?);
            }
            if !reader.0.is_empty() {
                reader.properties(&mut words)?;
            }
        }
        other => return Err(format!("a packet with first byte {other:#04x}")),
    }
    if reader.0.is_empty() { Ok(words) } else { Err(format!("{} bytes after {words:?}", reader.0.len())) }
}

fn push_code(words: &mut Vec<String>, code: u32) {
    if code != 0 {
        words.push(format!("0x{code:02x}"));
    }
}
