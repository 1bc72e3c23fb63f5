//! Learning: what clients do today, written as an access file to start from.
//!
//! Bounded, whatever is observed: clients beyond [`CLIENTS`] are only counted, a level of topics with more than
//! [`SIBLINGS`] different values becomes `+`, below [`DEPTH`] levels or [`NODES`] of them everything is `#`, and more
//! than [`ADDRESSES`] addresses become their common network. Client ids the broker chose are not written: they are
//! others tomorrow. Clients that differ only in the digits of their id and do the same share one entry.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Caller;
use super::access::Access;
use super::network::Network;
use super::rights::unshared;

/// Most clients told apart.
pub const CLIENTS: usize = 1_000;
/// Most different values of one topic level.
pub const SIBLINGS: usize = 8;
/// Most levels of a topic.
pub const DEPTH: usize = 12;
/// Most levels of all topics of one client together.
pub const NODES: usize = 128;
/// Longest client id and topic noted, in bytes.
pub const LONGEST: usize = 512;
/// Most addresses of one entry.
pub const ADDRESSES: usize = 8;

/// What was seen of clients so far.
#[derive(Debug, Default)]
pub struct Notebook {
    clients: BTreeMap<Key, Seen>,
    left_out: u64,
    changed: bool,
}

/// User and client id as an access file writes them; none stands for everyone.
type Key = (Option<String>, Option<String>);

#[derive(Debug, Default, Clone)]
struct Seen {
    from: BTreeSet<Network>,
    publish: Tree,
    subscribe: Tree,
}

/// Topic levels, written as an access file writes them.
#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Tree {
    root: Node,
    nodes: usize,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    ends: bool,
    below: BTreeMap<String, Node>,
}

/// What a client does with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It publishes to it.
    Publish,
    /// It subscribes to it.
    Subscribe,
}

impl Notebook {
    /// Goes on from what was learned before.
    pub fn resume(access: &Access) -> Self {
        let mut notebook = Self { changed: true, ..Self::default() };
        for entry in &access.allow {
            let user = entry.who.users.first().map(|(_, (name, _))| name.clone());
            let client = entry.who.clients.first().map(ToString::to_string);
            let Some(seen) = notebook.seen((user, client)) else { continue };
            entry.who.from.iter().for_each(|network| {
                seen.from.insert(*network);
            });
            for (tree, templates) in [(&mut seen.publish, &entry.publish), (&mut seen.subscribe, &entry.subscribe)] {
                for template in templates {
                    tree.insert(template.to_string().split('/').map(str::to_owned).collect());
                }
            }
        }
        notebook
    }

    /// Notes that a client connected. `assigned` says that the broker chose its id.
    pub fn connected(&mut self, caller: &Caller<'_>, assigned: bool) {
        let Some(seen) = self.seen(key(caller, assigned)) else { return };
        let address = Network::of(caller.address);
        if seen.from.iter().any(|network| network.contains(caller.address)) {
            return;
        }
        seen.from.insert(address);
        if seen.from.len() > ADDRESSES {
            seen.from = joined(&seen.from);
        }
        self.changed = true;
    }

    /// Notes that a client publishes to a topic name or subscribes to a filter.
    pub fn does(&mut self, caller: &Caller<'_>, assigned: bool, (action, topic): (Action, &str)) {
        if topic.len() > LONGEST {
            self.left_out += 1;
            return;
        }
        let Some(seen) = self.seen(key(caller, assigned)) else { return };
        let topic = unshared(topic);
        let tree = match action {
            Action::Publish => &mut seen.publish,
            Action::Subscribe => &mut seen.subscribe,
        };
        let client = (!assigned).then_some(caller.client);
        let level = |level: &str| match level {
            // What cannot stand in a placeholder is written as it is.
            level if level.is_empty() || level.starts_with(['+', '#', '$']) => level.to_owned(),
            level if Some(level) == client => "{client}".to_owned(),
            level if Some(level) == caller.user => "{user}".to_owned(),
            level => level.replace('{', "{{").replace('}', "}}"),
        };
        self.changed |= tree.insert(topic.split('/').map(level).collect());
    }

    fn seen(&mut self, key: Key) -> Option<&mut Seen> {
        let long = key.1.as_ref().is_some_and(|client| client.len() > LONGEST);
        if long || self.clients.len() >= CLIENTS && !self.clients.contains_key(&key) {
            self.left_out += 1;
            return None;
        }
        Some(self.clients.entry(key).or_default())
    }

    /// The access file, where it differs from the last one made.
    pub fn take_changes(&mut self) -> Option<String> {
        std::mem::take(&mut self.changed).then(|| self.text())
    }

    fn text(&self) -> String {
        let mut text = String::from(
            "# Learned by brownbridge from the clients that were here. Read it, widen and narrow it, then name it\n\
             # in bridge.toml: access = \"...\" instead of learn = \"...\".\n",
        );
        if self.left_out > 0 {
            let _ = writeln!(
                text,
                "# There were too many or too long client ids or topics ({CLIENTS} clients, {LONGEST} bytes): not all are here."
            );
        }
        // Clients that do the same and differ in digits only.
        let mut groups = BTreeMap::<_, (BTreeSet<String>, BTreeSet<Network>)>::new();
        for ((user, client), seen) in &self.clients {
            let alike = (user.clone(), client.as_deref().map(without_digits));
            let place = (alike, seen.publish.filters(), seen.subscribe.filters());
            let (clients, from) = groups.entry(place).or_default();
            clients.extend(client.clone());
            from.extend(&seen.from);
        }
        for (((user, alike), publish, subscribe), (clients, from)) in &groups {
            let client = if clients.len() == 1 { clients.first() } else { alike.as_ref() };
            let from = if from.len() > ADDRESSES { joined(from) } else { from.clone() };
            text.push_str("\n[[allow]]\n");
            for (key, name) in [("user     ", user.as_ref()), ("client   ", client)] {
                if let Some(name) = name {
                    let _ = writeln!(text, "{key} = {}", quoted(name));
                }
            }
            let from: Vec<String> = from.iter().map(Network::to_string).collect();
            if !from.is_empty() {
                let _ = writeln!(text, "from      = {}", list(&from));
            }
            let _ = writeln!(text, "publish   = {}\nsubscribe = {}", list(publish), list(subscribe));
        }
        text
    }
}

fn key(caller: &Caller<'_>, assigned: bool) -> Key {
    (caller.user.map(str::to_owned), (!assigned).then(|| caller.client.to_owned()))
}

/// The smallest network around all, one for each kind of address.
fn joined(networks: &BTreeSet<Network>) -> BTreeSet<Network> {
    let mut whole: Vec<Network> = Vec::new();
    for network in networks {
        match whole.iter_mut().find_map(|known| known.join(*network).map(|joined| (known, joined))) {
            Some((known, joined)) => *known = joined,
            None => whole.push(*network),
        }
    }
    whole.into_iter().collect()
}

/// `plc-12` and `plc-7` are both `plc-*`.
fn without_digits(name: &str) -> String {
    let mut alike = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            c if c.is_ascii_digit() || c == '*' => {
                if !alike.ends_with('*') {
                    alike.push('*');
                }
            }
            c => alike.push(c),
        }
    }
    alike
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

impl Tree {
    /// Files a topic; says whether that was new.
    fn insert(&mut self, mut levels: Vec<String>) -> bool {
        if levels.len() > DEPTH {
            levels.truncate(DEPTH - 1);
            levels.push("#".to_owned());
        }
        if self.nodes > NODES {
            if levels.first().is_some_and(|level| level.starts_with('$')) {
                return false;
            }
            if levels.len() > 1 {
                levels.truncate(1);
                levels.push("#".to_owned());
            }
        }
        let new = self.root.insert(&levels, true);
        if new {
            self.nodes = self.root.count();
        }
        new
    }

    fn filters(&self) -> Vec<String> {
        let mut filters = Vec::new();
        self.root.collect(None, &mut filters);
        filters
    }
}

impl Node {
    fn insert(&mut self, levels: &[String], is_root: bool) -> bool {
        // What `#` covers already brings nothing new; `$` topics are covered by none at the first level.
        let system = is_root && levels.first().is_some_and(|level| level.starts_with('$'));
        if !system && self.below.contains_key("#") {
            return false;
        }
        let Some((level, rest)) = levels.split_first() else {
            return !std::mem::replace(&mut self.ends, true);
        };
        if level == "#" {
            // `a/#` covers all that was known below `a`, and `a` itself.
            self.below.retain(|level, _| is_root && level.starts_with('$'));
            self.ends = false;
            self.below.insert("#".to_owned(), Self { ends: true, ..Self::default() });
            return true;
        }
        if !system && let Some(any) = self.below.get_mut("+") {
            return any.insert(rest, false);
        }
        let new = self.below.entry(level.clone()).or_default().insert(rest, false);
        let plain = |level: &&String| !(is_root && level.starts_with('$'));
        if level == "+" || self.below.keys().filter(plain).count() > SIBLINGS {
            self.merge(is_root);
        }
        new
    }

    /// Makes one `+` of all levels here.
    fn merge(&mut self, is_root: bool) {
        let mut any = Self::default();
        for (level, node) in std::mem::take(&mut self.below) {
            if is_root && level.starts_with('$') {
                self.below.insert(level, node);
            } else {
                any.absorb(node);
            }
        }
        self.below.insert("+".to_owned(), any);
    }

    fn absorb(&mut self, other: Self) {
        if other.ends {
            self.insert(&[], false);
        }
        let mut filters = Vec::new();
        Self { ends: false, below: other.below }.collect(None, &mut filters);
        for filter in filters {
            let levels: Vec<String> = filter.split('/').map(str::to_owned).collect();
            self.insert(&levels, false);
        }
    }

    fn count(&self) -> usize {
        self.below.values().map(|node| 1 + node.count()).sum()
    }

    fn collect(&self, path: Option<&str>, filters: &mut Vec<String>) {
        for (level, node) in &self.below {
            let path = path.map_or_else(|| level.clone(), |path| format!("{path}/{level}"));
            if node.ends {
                filters.push(path.clone());
            }
            node.collect(Some(&path), filters);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn caller<'a>(client: &'a str, user: Option<&'a str>, last: u8) -> Caller<'a> {
        Caller { client, user, address: [10, 1, 2, last].into() }
    }

    #[test]
    fn what_is_written() {
        let mut notebook = Notebook::default();
        for n in 1..=3_u8 {
            let id = format!("plc-{n}");
            let plc = caller(&id, None, n);
            notebook.connected(&plc, false);
            for topic in ["plant/{id}/temp", "plant/{id}/oil"] {
                notebook.does(&plc, false, (Action::Publish, &topic.replace("{id}", &id)));
            }
            notebook.does(&plc, false, (Action::Subscribe, &format!("cmd/{id}/#")));
        }
        let gateway = caller("gw", Some("gateway"), 9);
        notebook.connected(&gateway, false);
        (0..20).for_each(|n| notebook.does(&gateway, false, (Action::Publish, &format!("gw/s{n}/v"))));
        let auto = caller("auto-1", None, 50);
        notebook.connected(&auto, true);
        notebook.does(&auto, true, (Action::Subscribe, "$share/g/"));
        notebook.does(&auto, true, (Action::Subscribe, "$share/g/plant/+/temp"));
        let text = notebook.take_changes().unwrap();
        let expect = r##"
[[allow]]
from      = ["10.1.2.50"]
publish   = []
subscribe = ["$share/g/", "plant/+/temp"]

[[allow]]
client    = "plc-*"
from      = ["10.1.2.1", "10.1.2.2", "10.1.2.3"]
publish   = ["plant/{client}/oil", "plant/{client}/temp"]
subscribe = ["cmd/{client}/#"]

[[allow]]
user      = "gateway"
client    = "gw"
from      = ["10.1.2.9"]
publish   = ["{client}/+/v"]
subscribe = []
"##;
        assert!(text.ends_with(expect), "{text}");
        assert_eq!(notebook.take_changes(), None);
        // A restart goes on with it.
        let mut resumed = Notebook::resume(&Access::parse(0, &text).0.unwrap());
        assert_eq!(resumed.take_changes().unwrap(), text);
    }

    #[test]
    fn everything_is_bounded() {
        let mut notebook = Notebook::default();
        for n in 0..2_000_u32 {
            let id = format!("{n}x{}", "y".repeat(n as usize));
            let [_, _, high, low] = n.to_be_bytes();
            let plc = Caller { client: &id, user: None, address: [10, 1, high, low].into() };
            notebook.connected(&plc, false);
            notebook.connected(&caller("one", None, low), false);
            for topic in
                [format!("{n}/a"), format!("a/{}", n % 7), format!("{}/b{}", "x/".repeat(n as usize % 190), n % 9)]
            {
                notebook.does(&caller("one", None, 1), false, (Action::Publish, &topic));
            }
            notebook.does(&caller("one", None, 1), false, (Action::Subscribe, &format!("${n}/a")));
        }
        assert!(notebook.clients.len() <= CLIENTS && notebook.left_out > 0);
        let one = &notebook.clients[&(None, Some("one".to_owned()))];
        assert!(one.from.len() <= ADDRESSES);
        assert!(one.publish.nodes <= NODES + DEPTH && one.subscribe.nodes <= NODES + DEPTH, "{one:?}");
    }

    fn topic() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "c", "d", "e", "f", "g", "h", "i", "c1", "u", "", "$s", "{x}"]);
        prop::collection::vec(level, 1..5)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("a topic", |topic| !topic.is_empty())
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "c1", "+", "$s"]);
        (prop::collection::vec(level, 1..4), any::<bool>())
            .prop_map(|(levels, hash)| levels.join("/") + if hash { "/#" } else { "" })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        /// Enforcing what was learned refuses nothing that was seen.
        #[test]
        fn what_was_seen_is_allowed(
            publishes in prop::collection::vec((topic(), 0..5_usize, any::<u8>()), 0..60),
            subscriptions in prop::collection::vec((filter(), 0..5_usize), 0..20),
        ) {
            let clients = [("c1", None), ("c2", Some("u")), ("*+\"\n", None), ("+", None), ("$s", None)];
            let mut notebook = Notebook::default();
            for (topic, who, last) in &publishes {
                let caller = caller(clients[*who].0, clients[*who].1, *last);
                notebook.connected(&caller, false);
                notebook.does(&caller, false, (Action::Publish, topic));
            }
            for (filter, who) in &subscriptions {
                let caller = caller(clients[*who].0, clients[*who].1, 1);
                notebook.connected(&caller, false);
                notebook.does(&caller, false, (Action::Subscribe, filter));
            }
            let text = notebook.text();
            let (access, found) = Access::parse(0, &text);
            let Some(access) = access else { return Err(TestCaseError::fail(format!("{text}\n{found:#?}"))) };
            for (topic, who, last) in &publishes {
                let caller = caller(clients[*who].0, clients[*who].1, *last);
                let rights = access.rights(&caller);
                prop_assert!(rights.is_ok_and(|rights| rights.may_publish(topic)), "{:?} {}\n{}", caller, topic, text);
            }
            for (filter, who) in &subscriptions {
                let caller = caller(clients[*who].0, clients[*who].1, 1);
                let rights = access.rights(&caller);
                prop_assert!(rights.is_ok_and(|rights| rights.may_subscribe(filter)), "{:?} {}\n{}", caller, filter, text);
            }
        }
    }
}
