//! Typed reading of one section of `bridge.toml`, with defaults, ranges and environment variables.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeTable;

use super::schema::{Known, Shape};
use super::{Devices, Fence, Kind, Placed, Uplink, units};
use crate::diag::walk::{Entry, Reader, Report, Text};
use crate::diag::{Diagnostic, Span, nearest};
use crate::secret::Secret;

pub(super) mod commands;
pub(super) mod roots;

/// Longest keep-alive the hub honours, in seconds (it waits 1.5 times as long, at most 1767 s).
const KEEP_ALIVE_MAX: u64 = 1_177;
/// Shortest token that leaves time to renew it.
const TOKEN_LIFETIME_MIN: Duration = Duration::from_secs(10);

/// One table being read.
pub(super) struct Section<'a, 'r, 's> {
    reader: Reader<'a>,
    span: Span,
    env: &'r dyn Fn(&str) -> Option<String>,
    report: &'r mut Report<'s>,
    what: &'a str,
    /// Where each key that is asked for is noted, if anybody wants to know.
    noted: Option<&'r mut Vec<Known>>,
}

impl<'a, 'r, 's> Section<'a, 'r, 's> {
    pub(super) fn new(
        table: &'a DeTable<'a>,
        what: &'a str,
        env: &'r dyn Fn(&str) -> Option<String>,
        report: &'r mut Report<'s>,
    ) -> Self {
        Self { reader: Reader::new(table, what), span: 0..0, env, report, what, noted: None }
    }

    /// Notes each key that is asked for, with what it can be.
    pub(super) fn noting(self, noted: &'r mut Vec<Known>) -> Self {
        Self { noted: Some(noted), ..self }
    }

    /// A key may be noted more than once: the first time counts.
    fn note(&mut self, key: &'static str, shape: impl FnOnce() -> Shape) {
        if let Some(noted) = &mut self.noted {
            noted.push(Known { section: self.what.to_owned(), key, shape: shape() });
        }
    }

    /// Reads the sub-table `key`, where there is one, to its end.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        what: &'static str,
        read: impl FnOnce(&mut Section<'a, '_, 's>) -> T,
    ) -> Option<T> {
        self.note(key, || Shape::Section(what));
        let (table, _) = self.reader.table(key, self.report)?;
        let span = self.reader.any(key).map_or(0..0, |entry| entry.key_span);
        let mut section = Section {
            reader: Reader::new(table, what),
            span,
            env: self.env,
            report: &mut *self.report,
            what,
            noted: self.noted.as_deref_mut(),
        };
        let value = read(&mut section);
        section.finish();
        Some(value)
    }

    /// Reports the keys nobody asked for.
    pub(super) fn finish(self) {
        self.reader.finish(self.report);
    }

    /// Where findings go.
    pub(super) fn report(&mut self) -> &mut Report<'s> {
        self.report
    }

    /// Where the section's name stands.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// A text with its variables filled in.
    pub(super) fn text(&mut self, key: &'static str) -> Option<Placed<String>> {
        self.note(key, || Shape::Text);
        let text = self.reader.string(key, self.report)?;
        let value = self.filled_in(key, text)?;
        Some(Placed { value, span: text.span() })
    }

    pub(super) fn text_or(&mut self, key: &'static str, default: &str) -> Placed<String> {
        self.text(key).unwrap_or(Placed { value: default.to_owned(), span: 0..0 })
    }

    pub(super) fn secret(&mut self, key: &'static str) -> Option<Placed<Secret>> {
        self.text(key).map(|text| Placed { value: Secret::new(text.value), span: text.span })
    }

    /// A list of texts, as they are written.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<Placed<String>> {
        self.note(key, || Shape::Texts);
        let texts = self.reader.strings(key, self.report).unwrap_or_default();
        texts.into_iter().map(|text| Placed { value: text.value.to_owned(), span: text.span() }).collect()
    }

    /// What a section would read that is not there: the defaults.
    pub(super) fn without<T>(&mut self, read: impl FnOnce(&mut Section<'_, '_, '_>) -> T) -> T {
        let (empty, mut ignored) = (DeTable::new(), Report::new(0, ""));
        let mut section = Section::new(&empty, "", self.env, &mut ignored);
        section.span = self.span();
        read(&mut section)
    }

    /// Tells a key that means nothing with a plain broker.
    pub(super) fn only_for_a_hub(&mut self, key: &'static str, kind: Kind) {
        if let Some(Entry { key_span, .. }) = self.reader.any(key).filter(|_| kind == Kind::Mqtt) {
            let title = format!("`{key}` is only for a hub or an edge");
            let found = self.report.new_error("not-for-this-kind", title).at(key_span, "");
            self.report.push(found.help("remove this line"));
        }
    }

    /// A text that means nothing with a plain broker.
    pub(super) fn for_a_hub(&mut self, key: &'static str, kind: Kind) -> Option<Placed<String>> {
        self.only_for_a_hub(key, kind);
        self.text(key)
    }

    /// Tells a section that nothing reads.
    pub(super) fn unused_devices(&mut self, given: bool) {
        if let Some(Entry { key_span, .. }) = self.reader.any("devices").filter(|_| given) {
            let title = "[uplink.devices] is not used: all messages go up under the bridge's own identity";
            let found = Diagnostic::warning("not-used", title, self.report.file).at(key_span, "");
            self.report.push(found.help("in [uplink]: identity = \"per-device\""));
        }
    }

    /// What the keys of `[uplink.devices]` demand of each other.
    pub(super) fn check_devices(&mut self, devices: &Devices) {
        if let (Some(key), Some(file)) = (&devices.group_key, &devices.group_key_file) {
            let found = self.report.new_error("two-keys", "the group key is given twice").at(file.span.clone(), "");
            self.report.push(found.context(key.span.clone(), "here it is too"));
        }
        let mut small = |key: &str, sound: bool, help: &str| {
            if !sound {
                let found = self.report.new_error("out-of-range", format!("`{key}` is out of range"));
                self.report.push(found.at(devices.span.clone(), "").help(help));
            }
        };
        small("idle_timeout", devices.idle_timeout >= Duration::from_secs(1), "at least 1s");
        let fits = devices.shelf_max_device_size <= devices.shelf_max_size;
        small("shelf_max_device_size", fits, "at most shelf_max_size");
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.note(key, || Shape::Flag);
        self.reader.boolean(key, self.report).map_or(default, |(value, _)| value)
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Option<Placed<T>> {
        self.note(key, || Shape::Words(choices.iter().map(|(word, _)| *word).collect()));
        let text = self.reader.string(key, self.report)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text.value) {
            return Some(Placed { value: *value, span: text.span() });
        }
        let names = choices.iter().map(|(name, _)| *name);
        let found = self.report.new_error("unknown-value", format!("`{key}` cannot be `{}`", text.value));
        let found = found.at(text.span(), "");
        self.report.push(match nearest(text.value, names.clone()) {
            Some(meant) => found.fix(text.span(), format!("{meant:?}")),
            None => {
                let quoted: Vec<String> = names.map(|name| format!("{name:?}")).collect();
                found.help(format!("write one of {}", quoted.join(", ")))
            }
        });
        None
    }

    pub(super) fn count(&mut self, key: &'static str, default: usize, range: RangeInclusive<i64>) -> usize {
        self.note(key, || Shape::Count(*range.start(), *range.end()));
        let Some((value, span)) = self.reader.integer(key, self.report) else { return default };
        if !range.contains(&value) {
            let title = format!("`{key}` is out of range");
            let found = self.report.new_error("out-of-range", title).at(span, "");
            self.report.push(found.help(format!("from {} to {}", range.start(), range.end())));
        }
        usize::try_from(value).unwrap_or(default)
    }

    /// A count, or `"auto"`, which is the default and `None`.
    pub(super) fn count_or_auto(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<usize> {
        self.note(key, || Shape::CountOrAuto(*range.start(), *range.end()));
        let entry = self.reader.any(key)?;
        if entry.value.get_ref().as_str().is_some() {
            self.choice(key, &[("auto", ())]);
            return None;
        }
        Some(self.count(key, 1, range))
    }

    /// The tier of a hub. Nothing else has one.
    pub(super) fn tier(&mut self, kind: Kind) -> Option<&'static str> {
        if kind != Kind::IotHub {
            for key in ["tier", "units"] {
                if let Some(Entry { key_span, .. }) = self.reader.any(key) {
                    let found = self.report.new_error("not-for-this-kind", format!("`{key}` is only for an IoT hub"));
                    self.report.push(found.at(key_span, "").help("remove this line"));
                }
            }
            return None;
        }
        let tiers = ["F1", "B1", "B2", "B3", "S1", "S2", "S3"].map(|tier| (tier, tier));
        self.choice("tier", &tiers).map(|tier| tier.value)
    }

    /// How old a message may become: a minute at least, or it would be gone before it could be sent.
    pub(super) fn age(&mut self, key: &'static str) -> Option<Duration> {
        self.note(key, || Shape::Duration);
        let age = self.has(key).then(|| self.duration(key, Duration::MAX))?;
        self.check(key, age >= Duration::from_secs(60), "at least 1m; leave it out to keep messages for ever");
        Some(age)
    }

    pub(super) fn size(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.note(key, || Shape::Size);
        let Some(text) = self.reader.string(key, self.report) else { return default };
        let Some(value) = units::size(text.value) else {
            let found = self.report.new_error("not-a-size", format!("`{key}` is not a size")).at(text.span(), "");
            self.report.push(found.help("write a number and a unit: \"64KiB\", \"10MiB\", \"4GiB\""));
            return default;
        };
        if !range.contains(&value) {
            let title = format!("`{key}` is out of range");
            let found = self.report.new_error("out-of-range", title).at(text.span(), "");
            self.report.push(found.help(format!("from {} to {}", in_units(*range.start()), in_units(*range.end()))));
        }
        value
    }

    pub(super) fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        self.note(key, || Shape::Duration);
        let Some(text) = self.reader.string(key, self.report) else { return default };
        units::duration(text.value).unwrap_or_else(|| {
            let title = format!("`{key}` is not a duration");
            let found = self.report.new_error("not-a-duration", title).at(text.span(), "");
            self.report.push(found.help("write a number and a unit: \"500ms\", \"10s\", \"5m\", \"1h\""));
            default
        })
    }

    /// An IP address and port to listen on.
    pub(super) fn listen(&mut self, key: &'static str, default: SocketAddr) -> Placed<SocketAddr> {
        let Some(text) = self.text(key) else { return Placed { value: default, span: 0..0 } };
        let value = text.value.parse().unwrap_or_else(|_| {
            let found = self.report.new_error("not-an-address", format!("`{key}` is not an address to listen on"));
            let found = found.at(text.span.clone(), "");
            self.report.push(found.help(format!("write an IP address and a port: \"{default}\"")));
            default
        });
        Placed { value, span: text.span }
    }

    /// An IP address and port to listen on, where one is given; `sample` is shown where it is wrong.
    pub(super) fn listen_if(&mut self, key: &'static str, sample: SocketAddr) -> Option<Placed<SocketAddr>> {
        self.note(key, || Shape::Text);
        self.has(key).then(|| self.listen(key, sample))
    }

    /// A text that must be there.
    pub(super) fn demanded(&mut self, key: &'static str, sample: &str) -> Option<Placed<String>> {
        if !self.has(key) {
            let found = self.report.new_error("missing-key", format!("there is no `{key}`"));
            self.report.push(found.at(self.span(), "").help(sample));
        }
        self.text(key)
    }

    /// A host with an optional port to connect to.
    pub(super) fn address(&mut self, key: &'static str, port: u16) -> Option<Placed<(String, u16)>> {
        let text = self.text(key)?;
        let value = match text.value.rsplit_once(':') {
            Some((host, number)) if !host.is_empty() && !host.contains(':') || host.starts_with('[') => {
                number.parse().ok().map(|number| (host.trim_matches(['[', ']']).to_owned(), number))
            }
            None if !text.value.is_empty() => Some((text.value.clone(), port)),
            _ => None,
        };
        if value.is_none() {
            let found = self.report.new_error("not-an-address", format!("`{key}` is not a host and port"));
            let found = found.at(text.span.clone(), "");
            self.report.push(found.help(format!("write a host name or IP address and a port: \"10.0.0.5:{port}\"")));
        }
        Some(Placed { value: value?, span: text.span })
    }

    /// The path of a URL.
    pub(super) fn url_path(&mut self, key: &'static str, default: &str) -> Placed<String> {
        let path = self.text_or(key, default);
        // Anything else would end the line of the request, or be no path.
        if !path.value.starts_with('/') || !path.value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            let found = self.report.new_error("not-a-path", format!("`{key}` is not the path of a URL"));
            self.report
                .push(found.at(path.span.clone(), "").help(format!("it begins with a slash: {key} = \"/mqtt\"")));
        }
        path
    }

    /// Tells where `transport = "auto"` has nothing to choose from.
    pub(super) fn check_auto(&mut self, kind: Kind, span: Span) {
        let why = if kind == Kind::Mqtt {
            "is for a hub or an edge, whose two ports are known"
        } else if self.has("address") {
            "goes to port 8883 or 443, and `address` names one port"
        } else {
            return;
        };
        let found = self.report.new_error("not-for-this-kind", format!("`transport = \"auto\"` {why}")).at(span, "");
        self.report.push(found.help("transport = \"mqtt\" or transport = \"websocket\""));
    }

    /// A topic with `{names}`, each one of `known`.
    pub(super) fn topic_template(&mut self, key: &'static str, default: &str, known: &[&str]) -> Placed<String> {
        let text = self.text_or(key, default);
        let mut rest = text.value.as_str();
        while let Some((_, after)) = rest.split_once('{') {
            let (name, next) = after.split_once('}').unwrap_or((after, ""));
            if !known.contains(&name) {
                let title = format!("`{{{name}}}` is not known in `{key}`");
                let found = self.report.new_error("unknown-name", title).at(text.span.clone(), "");
                let names: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
                self.report.push(found.help(format!("known names: {}", names.join(", "))));
            }
            rest = next;
        }
        let sample = text.value.replace(['{', '}'], "");
        if let Err(error) = crate::topic::check_name(&sample) {
            self.report.error("topic", format!("`{key}` cannot be published to"), text.span.clone(), error.to_string());
        }
        text
    }

    /// Tells keys that only mean something with `kind = "mqtt"`.
    pub(super) fn only_for_mqtt(&mut self, keys: &[&'static str]) {
        for key in keys {
            if let Some(Entry { key_span, .. }) = self.reader.any(key) {
                let title = format!("`{key}` is only for `kind = \"mqtt\"`");
                let found = self.report.new_error("not-for-this-kind", title).at(key_span, "");
                self.report
                    .push(found.help("for a hub or an edge the connection string says it all: remove this line"));
            }
        }
    }

    /// Tells that there is no `[uplink]`.
    pub(super) fn missing_uplink(&mut self) {
        if self.reader.any("uplink").is_none() {
            let found = self.report.new_error("no-uplink", "there is no [uplink]: where should messages go?");
            self.report.push(found.help(
                "[uplink]\n  kind = \"iothub\"\n  connection_string = \"${HUB_CONNECTION}\"   # HostName=..;DeviceId=..;SharedAccessKey=..",
            ));
        }
    }

    /// What the keys of `[broker]` about users and rights demand of each other.
    pub(super) fn check_fence(&mut self, fence: &Fence) {
        if !fence.anonymous && fence.users.is_none() && !self.has("users") {
            let span = self.reader.any("anonymous").map_or(self.span(), |entry| entry.value.span());
            let found = self.report.new_error("no-users", "nobody could connect: there are no users").at(span, "");
            self.report.push(found.help("users = \"users.toml\"   # brownbridge passwd users.toml NAME"));
        }
        if let (Some(access), Some(learn)) = (&fence.access, &fence.learn) {
            if access.value == learn.value {
                let found = self.report.new_error("learning", "what is learned would overwrite the access file");
                let found = found.at(learn.span.clone(), "").context(access.span.clone(), "the same file");
                return self.report.push(found.help("learn = \"learned-access.toml\""));
            }
            let title = "the access file is not enforced while `learn` is there";
            let found = Diagnostic::warning("learning", title, self.report.file).at(learn.span.clone(), "");
            self.report.push(found.context(access.span.clone(), "this one"));
        }
    }

    /// What the keys of `[uplink]` demand of each other.
    pub(super) fn check_uplink(&mut self, uplink: &Uplink) {
        let given = [
            uplink.connection_string.as_ref().map(|s| &s.span),
            uplink.connection_string_file.as_ref().map(|s| &s.span),
        ];
        match (uplink.kind.value, given) {
            (Kind::Mqtt, [Some(span), _] | [_, Some(span)]) => {
                let found = self.report.new_error("not-for-this-kind", "a plain MQTT broker has no connection string");
                self.report.push(found.at(span.clone(), "").help("say where it is: address = \"broker.example:8883\""));
            }
            (Kind::Mqtt, [None, None]) if uplink.address.is_none() => {
                self.lacks("address", uplink, "address = \"broker.example:8883\"");
            }
            (_, [Some(first), Some(second)]) => {
                let found = self.report.new_error("two-connection-strings", "the connection string is given twice");
                self.report.push(found.at(second.clone(), "").context(first.clone(), "here it is too"));
            }
            (Kind::Mqtt, [None, None]) => {}
            (_, [None, None])
                if !["connection_string", "connection_string_file", "dps"].into_iter().any(|key| self.has(key)) =>
            {
                self.lacks(
                    "connection_string",
                    uplink,
                    "connection_string = \"${HUB_CONNECTION}\"   # HostName=..;DeviceId=..;SharedAccessKey=..",
                );
            }
            _ => {}
        }
        match (&uplink.certificate, &uplink.key) {
            (Some(certificate), None) => {
                self.report.error(
                    "no-key",
                    "a certificate needs its key",
                    certificate.span.clone(),
                    "no `key` beside it",
                );
            }
            (None, Some(key)) => {
                self.report.error(
                    "no-certificate",
                    "a key needs its certificate",
                    key.span.clone(),
                    "no `certificate` beside it",
                );
            }
            _ => {}
        }
        let keep_alive = uplink.keep_alive.as_secs();
        self.check("keep_alive", (1..=KEEP_ALIVE_MAX).contains(&keep_alive), "from 1s to 1177s, the hub's limit");
        self.check("token_lifetime", uplink.token_lifetime >= TOKEN_LIFETIME_MIN, "at least 10s; 1h is usual");
        let (shortest, longest) = uplink.backoff;
        self.check("backoff_min", !shortest.is_zero() && shortest <= longest, "more than 0 and at most backoff_max");
        if let Some(name) = uplink.sequence_property.as_ref().filter(|name| !is_property(&name.value)) {
            let found = self.report.new_error("not-a-property", "`sequence_property` is no name for a property");
            let found = found.at(name.span.clone(), "");
            self.report.push(found.help("letters, digits, `_`, `-` and `.`: sequence_property = \"seq\""));
        }
        self.check("ack_timeout", uplink.ack_timeout >= Duration::from_secs(1), "at least 1s");
    }

    fn has(&mut self, key: &'static str) -> bool {
        self.reader.any(key).is_some()
    }

    fn lacks(&mut self, key: &str, uplink: &Uplink, help: &str) {
        let found = self.report.new_error("missing-key", format!("[uplink] has no `{key}`"));
        self.report.push(found.at(uplink.kind.span.clone(), "").help(help));
    }

    fn check(&mut self, key: &'static str, sound: bool, help: &str) {
        if let Some(entry) = self.reader.any(key)
            && !sound
        {
            let found = self.report.new_error("out-of-range", format!("`{key}` is out of range"));
            self.report.push(found.at(entry.value.span(), "").help(help));
        }
    }

    /// Replaces `${NAME}` by the environment variable and `$$` by `$`.
    fn filled_in(&mut self, key: &str, text: Text<'_>) -> Option<String> {
        let mut value = String::with_capacity(text.value.len());
        let mut rest = text.value;
        while let Some((before, after)) = rest.split_once('$') {
            value.push_str(before);
            rest = if let Some(after) = after.strip_prefix('$') {
                value.push('$');
                after
            } else if let Some((name, after)) = after.strip_prefix('{').and_then(|after| after.split_once('}')) {
                let Some(content) = (self.env)(name) else {
                    let title = format!("the environment variable `{name}` is not set");
                    let at = text.value.len() - rest.len() + before.len();
                    let place = text.part(self.report.text, at..at + name.len() + 3);
                    let found = self.report.new_error("no-such-variable", title).at(place, format!("`{key}` needs it"));
                    self.report.push(found.help(format!(
                        "export {name}=.. before the start; under systemd: Environment= or EnvironmentFile= in the unit"
                    )));
                    return None;
                };
                value.push_str(&content);
                after
            } else {
                value.push('$');
                after
            };
        }
        value.push_str(rest);
        Some(value)
    }
}

fn in_units(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = |shift: &u32| bytes >= 1 << shift && bytes.trailing_zeros() >= *shift;
    match UNITS.iter().find(|(_, shift)| whole(shift)) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

/// A name that needs no escape anywhere and is none of the hub's own.
fn is_property(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !name.is_empty() && name.len() <= 64 && name.chars().all(plain) && !name.starts_with("iothub")
}
