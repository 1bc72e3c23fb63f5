//! The access file: from text to entries, every mistake with its place.

use std::collections::HashMap;

use toml::de::{DeTable, DeValue};

use super::network::{Network, NetworkError};
use super::pattern::{Name, PLACEHOLDERS, Template, TemplateError};
use super::{Caller, users::Users};
use crate::diag::walk::{Entry as Key, Reader, Report, Text, text, type_name};
use crate::diag::{Diagnostic, Span, nearest, syntax};

/// A checked access file.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub(super) allow: Vec<Entry>,
    pub(super) deny: Vec<Entry>,
    pub(super) bind: Vec<Who>,
}

/// Whom an entry speaks of. An empty list is everyone.
#[derive(Debug, Clone, Default)]
pub(super) struct Who {
    pub(super) users: Vec<(Name, Placed)>,
    pub(super) clients: Vec<Name>,
    pub(super) from: Vec<Network>,
}

/// A text as written, with its place.
pub(super) type Placed = (String, Span);

/// One `[[allow]]` or `[[deny]]`.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) who: Who,
    pub(super) publish: Vec<Template>,
    pub(super) subscribe: Vec<Template>,
    /// False where the entry names no topics at all.
    pub(super) names_topics: bool,
}

impl Who {
    pub(super) fn includes(&self, caller: &Caller<'_>) -> bool {
        let user = |(name, _): &(Name, Placed)| caller.user.is_some_and(|user| name.matches(user));
        (self.users.is_empty() || self.users.iter().any(user)) && self.is_client(caller) && self.comes_from(caller)
    }

    pub(super) fn is_client(&self, caller: &Caller<'_>) -> bool {
        self.clients.is_empty() || self.clients.iter().any(|name| name.matches(caller.client))
    }

    pub(super) fn comes_from(&self, caller: &Caller<'_>) -> bool {
        self.from.is_empty() || self.from.iter().any(|network| network.contains(caller.address))
    }
}

impl Access {
    /// Reads an access file. It is there only without errors; warnings may come with it.
    pub fn parse(file: usize, text: &str) -> (Option<Self>, Vec<Diagnostic>) {
        let mut report = Report::new(file, text);
        let table = syntax::parse(&mut report);
        let access = table.as_ref().map(|table| whole(table.get_ref(), &mut report));
        let sound = !report.found.iter().any(Diagnostic::is_error);
        report.found.sort_by_key(Diagnostic::sort_key);
        (access.filter(|_| sound), report.found)
    }

    /// True for a file without `[[deny]]` and `[[bind]]`, as learning writes it.
    pub fn only_allows(&self) -> bool {
        self.deny.is_empty() && self.bind.is_empty()
    }

    /// Warns of entries for users nobody can be.
    pub fn check_users(&self, file: usize, users: Option<&Users>) -> Vec<Diagnostic> {
        let known = |name: &Name| users.is_some_and(|users| users.names().any(|user| name.matches(user)));
        let entries = self.allow.iter().chain(&self.deny);
        let unknown = entries.flat_map(|entry| &entry.who.users).filter(|(name, _)| !known(name));
        let tell = |(_, (written, span)): &(Name, Placed)| {
            let found = Diagnostic::warning("unknown-user", format!("there is no user `{written}`"), file);
            let found = found.at(span.clone(), "this entry never applies");
            match users {
                None => found.help("name a users file in bridge.toml: users = \"users.toml\""),
                Some(users) => match nearest(written, users.names()) {
                    Some(meant) => found.fix(span.clone(), format!("{meant:?}")),
                    None => found.help(format!("brownbridge passwd users.toml {written}")),
                },
            }
        };
        unknown.map(tell).collect()
    }
}

fn whole<'a>(table: &'a DeTable<'a>, report: &mut Report<'_>) -> Access {
    let mut file = Reader::new(table, "the access file");
    let mut allow = Vec::new();
    for (table, span) in file.tables("allow", report) {
        let entry = entry(Reader::new(table, "[[allow]]"), report);
        if !entry.names_topics {
            let found = report.new_error("nothing-allowed", "this entry allows nothing").at(span, "");
            report.push(found.help("say what: publish = [\"plant/{client}/#\"], subscribe = [], or both"));
        }
        allow.push(entry);
    }
    let deny = file.tables("deny", report);
    let deny = deny.iter().map(|(table, _)| entry(Reader::new(table, "[[deny]]"), report)).collect();
    let mut bound = HashMap::new();
    let bind = file.tables("bind", report);
    let bind = bind.iter().map(|(table, span)| self::bind(table, span, &mut bound, report)).collect();
    file.finish(report);
    if allow.is_empty() && report.found.is_empty() {
        let found = Diagnostic::warning("nobody-allowed", "nobody can connect: there is no [[allow]]", report.file);
        report.push(found.help("[[allow]]   # everyone, everything\n  publish = [\"#\"]\n  subscribe = [\"#\"]"));
    }
    Access { allow, deny, bind }
}

fn entry(mut keys: Reader<'_>, report: &mut Report<'_>) -> Entry {
    let who = who(&mut keys, report);
    let publish = templates(&mut keys, "publish", report);
    let subscribe = templates(&mut keys, "subscribe", report);
    keys.finish(report);
    let names_topics = publish.is_some() || subscribe.is_some();
    Entry { who, publish: publish.unwrap_or_default(), subscribe: subscribe.unwrap_or_default(), names_topics }
}

fn who(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Who {
    let users = texts(keys, "user", report).unwrap_or_default();
    let users = users.iter().map(|text| (Name::new(text.value), (text.value.to_owned(), text.span()))).collect();
    let (clients, from) = place(keys, report);
    Who { users, clients, from }
}

fn place(keys: &mut Reader<'_>, report: &mut Report<'_>) -> (Vec<Name>, Vec<Network>) {
    let clients = texts(keys, "client", report).unwrap_or_default();
    let clients = clients.iter().map(|text| Name::new(text.value)).collect();
    let from = texts(keys, "from", report).unwrap_or_default();
    let from = from.iter().filter_map(|text| network(text, report)).collect();
    (clients, from)
}

fn bind<'a>(table: &'a DeTable<'a>, span: &Span, bound: &mut HashMap<&'a str, Span>, report: &mut Report<'_>) -> Who {
    let mut keys = Reader::new(table, "[[bind]]");
    for text in keys.any("client").iter().flat_map(|entry| list(entry)).filter_map(|value| value.get_ref().as_str()) {
        if let Some(first) = bound.get(text) {
            let title = format!("the client id `{text}` is bound twice");
            let found =
                report.new_error("duplicate-bind", title).at(span.clone(), "").context(first.clone(), "first here");
            report.push(found.help("put all its addresses into one entry: from = [\"10.1.2.3\", \"10.1.2.4\"]"));
        }
        bound.insert(text, span.clone());
    }
    let has = ["client", "from"].map(|key| (key, keys.any(key).is_some()));
    for (key, _) in has.into_iter().filter(|(_, there)| !there) {
        let found = report.new_error("missing-key", format!("[[bind]] has no `{key}`")).at(span.clone(), "");
        report.push(found.help("client = \"plc-7\"\n  from   = \"10.1.2.3\""));
    }
    let (clients, from) = place(&mut keys, report);
    keys.finish(report);
    Who { users: Vec::new(), clients, from }
}

/// The elements of a list, or the value itself.
fn list<'a>(entry: &Key<'a>) -> Vec<&'a toml::Spanned<DeValue<'a>>> {
    match entry.value.get_ref() {
        DeValue::Array(array) => array.iter().collect(),
        _ => vec![entry.value],
    }
}

/// The texts of a key, written as one text or as a list.
fn texts<'a>(keys: &mut Reader<'a>, key: &'a str, report: &mut Report<'_>) -> Option<Vec<Text<'a>>> {
    let entry = keys.any(key)?;
    let mut found = Vec::new();
    for value in list(&entry) {
        match value.get_ref() {
            DeValue::String(_) => {
                found.extend(text(&Key { key, key_span: entry.key_span.clone(), value }, report));
            }
            other => {
                let title = format!("`{key}` must be text in quotes, or a list of them");
                report.error("wrong-type", title, value.span(), format!("this is {}", type_name(other)));
            }
        }
    }
    // An empty list would mean everyone, the opposite of what it says.
    if found.is_empty() && matches!(entry.value.get_ref(), DeValue::Array(_)) && !matches!(key, "publish" | "subscribe")
    {
        let found = report.new_error("missing-key", format!("`{key}` is an empty list"));
        report.push(found.at(entry.value.span(), "").help(format!("without `{key}` the entry is for everyone")));
    }
    Some(found)
}

fn network(text: &Text<'_>, report: &mut Report<'_>) -> Option<Network> {
    let error = match Network::parse(text.value) {
        Ok(network) => return Some(network),
        Err(error) => error,
    };
    let found = report.new_error("bad-network", error.to_string()).at(text.span(), "");
    report.push(match error {
        NetworkError::HostBits(meant) => found.fix(text.span(), format!("\"{meant}\"")),
        _ => found.help("write an address or a network: \"10.1.2.3\", \"10.0.0.0/8\", \"fd00::/8\""),
    });
    None
}

fn templates(keys: &mut Reader<'_>, key: &'static str, report: &mut Report<'_>) -> Option<Vec<Template>> {
    let written = texts(keys, key, report)?;
    Some(written.iter().filter_map(|text| template(text, report)).collect())
}

fn template(text: &Text<'_>, report: &mut Report<'_>) -> Option<Template> {
    let error = match Template::parse(text.value) {
        Ok(template) => return Some(template),
        Err(error) => error,
    };
    let found = match error {
        TemplateError::Topic(error) => report.new_error("bad-topic", error.to_string()).at(text.span(), ""),
        TemplateError::Brace(at) => {
            let found = report.new_error("bad-topic", "a brace alone means nothing here");
            let found = found.at(text.part(report.text, at..at + 1), "");
            found.help("`{client}` and `{user}` stand for the client's own names; `{{` and `}}` are braces")
        }
        TemplateError::Unknown { name, at } => {
            let place = text.part(report.text, at..at + name.len() + 2);
            let found = report.new_error("unknown-name", format!("`{{{name}}}` is not known in an access file"));
            let found = found.at(place.clone(), "");
            match nearest(&name, PLACEHOLDERS) {
                Some(meant) if place != text.span() => found.fix(place, format!("{{{meant}}}")),
                _ => found.help("known names: {client}, {user}; for any one level write +"),
            }
        }
    };
    report.push(found);
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn findings() {
        for (text, expect) in [
            ("[[allow]]\npublish = \"a/{client}/#\"\nsubscribe = [\"#\"]", vec![]),
            ("", vec!["nobody-allowed"]),
            ("[[allow]]\nuser = \"a\"", vec!["nothing-allowed"]),
            ("[[allow]]\nsubscribe = []", vec![]),
            ("[[deny]]\nclient = \"x\"\n[[allow]]\npublish = []", vec![]),
            (
                "[[allow]]\npublish = []\nfrom = [\"10.0.0.1/8\", \"x\", 5]",
                vec!["bad-network", "bad-network", "wrong-type"],
            ),
            ("[[allow]]\npublish = []\nfrom = []", vec!["missing-key"]),
            ("[[allow]]\npublish = [\"a/{usr}\", \"a#\", \"{\"]", vec!["unknown-name", "bad-topic", "bad-topic"]),
            ("[[allow]]\npublsh = []", vec!["nothing-allowed", "unknown-key"]),
            ("[allow]\npublish = []", vec!["wrong-type"]),
            ("[[bind]]\nclient = \"a\"", vec!["missing-key"]),
            (
                "[[allow]]\npublish = []\n[[bind]]\nclient = \"a\"\nfrom = \"::1\"\n[[bind]]\nclient = [\"b\", \"a\"]\nfrom = \"::2\"",
                vec!["duplicate-bind"],
            ),
            ("[[bind]]\nclient = \"a\"\nfrom = \"::1\"\nuser = \"x\"", vec!["unknown-key"]),
            ("[[allow]\n", vec!["toml-syntax"]),
        ] {
            let (access, found) = Access::parse(0, text);
            let codes: Vec<&str> = found.iter().map(|found| found.code).collect();
            assert_eq!(codes, expect, "{text}\n{found:#?}");
            assert_eq!(access.is_none(), found.iter().any(Diagnostic::is_error), "{text}");
        }
    }

    #[test]
    fn fixes_do_what_they_promise() {
        let text = "[[dny]]\nclient = \"x\"\n[[allow]]\nfrom = [\"10.1.2.3/8\"]\npublish = [\"a/{clint}\", \"{{/{usr}\"]\nsubscrib = []\n";
        let found = Access::parse(0, text).1;
        let fixes: Vec<_> = found.iter().filter_map(|found| found.fix.clone()).collect();
        assert_eq!(fixes.len(), 5, "{found:#?}");
        let mut fixed = text.to_owned();
        for fix in fixes.into_iter().rev() {
            fixed.replace_range(fix.span, &fix.replacement);
        }
        let left: Vec<_> = Access::parse(0, &fixed).1.into_iter().map(|found| found.code).collect();
        assert!(left.is_empty(), "{left:?}\n{fixed}");
    }

    #[test]
    fn entries_for_nobody() {
        let text = "[[allow]]\nuser = [\"panl\", \"night\", \"p*\"]\npublish = []";
        let access = Access::parse(0, text).0.unwrap();
        let users =
            Users::parse(0, "[users]\npanel = \"$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$MTIzNDU2Nzg5MDEyMzQ1Ng\"").0;
        let found = access.check_users(0, users.as_ref());
        let told: Vec<_> = found.iter().map(|found| (found.title.as_str(), found.fix.is_some())).collect();
        assert_eq!(told, [("there is no user `panl`", true), ("there is no user `night`", false)]);
        assert_eq!(access.check_users(0, None).len(), 3);
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "((\\[\\[(allow|deny|bind)\\]\\]|client|from|publish|user) ?=? ?(\"[a{}/+#*.0-9]{0,8}\"|\\[\\]|5)?\n){0,8}|\\PC{0,40}") {
            let (access, found) = Access::parse(0, &text);
            prop_assert_eq!(access.is_none(), found.iter().any(Diagnostic::is_error));
        }
    }
}
