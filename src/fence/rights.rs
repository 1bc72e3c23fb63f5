//! The decision: what one client may do under an access file.

use std::fmt;

use super::Caller;
use super::access::{Access, Entry};
use super::cover::{covers, overlap};
use super::pattern::Template;
use crate::topic;

/// Why a client stays out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A `[[bind]]` gives its client id to other addresses.
    BoundElsewhere,
    /// A `[[deny]]` keeps it out.
    Denied,
    /// No `[[allow]]` speaks of it.
    NotAllowed,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BoundElsewhere => "its client id is bound to another address",
            Self::Denied => "a [[deny]] without topics keeps it out",
            Self::NotAllowed => "no [[allow]] speaks of it",
        })
    }
}

impl std::error::Error for Refused {}

/// What one client may publish and subscribe to: the filters of its entries, placeholders filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    publish: Filters,
    subscribe: Filters,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Filters {
    allow: Vec<String>,
    deny: Vec<String>,
}

impl Access {
    /// What a client may do, or why it may not even connect.
    pub fn rights(&self, caller: &Caller<'_>) -> Result<Rights, Refused> {
        if self.bind.iter().any(|bind| bind.is_client(caller) && !bind.comes_from(caller)) {
            return Err(Refused::BoundElsewhere);
        }
        let deny: Vec<&Entry> = self.deny.iter().filter(|entry| entry.who.includes(caller)).collect();
        if deny.iter().any(|entry| !entry.names_topics) {
            return Err(Refused::Denied);
        }
        let allow: Vec<&Entry> = self.allow.iter().filter(|entry| entry.who.includes(caller)).collect();
        if allow.is_empty() {
            return Err(Refused::NotAllowed);
        }
        let filters = |of: fn(&Entry) -> &Vec<Template>| Filters {
            allow: allow.iter().flat_map(|entry| of(entry)).filter_map(|template| template.allow(caller)).collect(),
            deny: deny.iter().flat_map(|entry| of(entry)).filter_map(|template| template.deny(caller)).collect(),
        };
        Ok(Rights { publish: filters(|entry| &entry.publish), subscribe: filters(|entry| &entry.subscribe) })
    }
}

impl Rights {
    /// True where a publish to this valid topic name is allowed.
    pub fn may_publish(&self, name: &str) -> bool {
        let matched = |filters: &[String]| filters.iter().any(|filter| topic::matches(filter, name));
        matched(&self.publish.allow) && !matched(&self.publish.deny)
    }

    /// True where a subscription to this valid filter is allowed: nothing it can match is forbidden.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let asked = unshared(filter);
        self.subscribe.allow.iter().any(|allowed| covers(allowed, asked))
            && !self.subscribe.deny.iter().any(|denied| overlap(denied, asked))
    }
}

/// The filter of `$share/<group>/<filter>`; any other as it is, also one that has no filter there.
pub(super) fn unshared(filter: &str) -> &str {
    let shared = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    shared.map(|(_, filter)| filter).filter(|filter| topic::check_filter(filter).is_ok()).unwrap_or(filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = r##"
        [[allow]]
        publish = ["plant/{client}/#", "$test/x"]
        subscribe = "plant/{client}/cmd/#"

        [[allow]]
        user = "panel"
        from = ["10.1.0.0/16", "::1"]
        publish = "panel/{user}/#"
        subscribe = ["plant/#"]

        [[deny]]
        client = ["test-*", "lab"]
        publish = "plant/+/setpoint"
        subscribe = "plant/+/cmd/secret"

        [[deny]]
        from = "10.66.0.0/16"

        [[bind]]
        client = "plc-7"
        from = "10.1.2.3"

        [[bind]]
        client = "plc-*"
        from = "10.1.0.0/16"
    "##;

    fn rights(client: &str, user: Option<&str>, address: &str) -> Result<Rights, Refused> {
        let access = Access::parse(0, FILE).0.unwrap();
        access.rights(&Caller { client, user, address: address.parse().unwrap() })
    }

    #[test]
    fn who_comes_in() {
        for (client, user, address, expect) in [
            ("x", None, "10.1.0.1", Ok(())),
            ("x", None, "10.66.0.1", Err(Refused::Denied)),
            ("plc-7", None, "10.1.2.3", Ok(())),
            ("plc-7", None, "10.1.2.4", Err(Refused::BoundElsewhere)),
            ("plc-8", None, "10.1.2.4", Ok(())),
            ("plc-8", None, "10.2.2.4", Err(Refused::BoundElsewhere)),
            ("plc-7", Some("panel"), "::1", Err(Refused::BoundElsewhere)),
        ] {
            assert_eq!(rights(client, user, address).map(drop), expect, "{client} {user:?} {address}");
        }
        let nobody = Access::parse(0, "").0.unwrap();
        let caller = Caller { client: "x", user: None, address: [10, 0, 0, 1].into() };
        assert_eq!(nobody.rights(&caller), Err(Refused::NotAllowed));
    }

    #[test]
    fn who_does_what() {
        let (anyone, panel, elsewhere) =
            (("x", None, "10.1.0.1"), ("x", Some("panel"), "10.1.0.1"), ("x", Some("panel"), "10.2.0.1"));
        let (lab, odd) = (("test-1", None, "10.1.0.1"), ("+", None, "10.1.0.1"));
        for (who, action, topic, expect) in [
            (anyone, "pub", "plant/x/temp", true),
            (anyone, "pub", "plant/y/temp", false),
            (anyone, "pub", "$test/x", true),
            (anyone, "pub", "panel/panel/a", false),
            (anyone, "sub", "plant/x/cmd/+", true),
            (anyone, "sub", "plant/x/cmd", true),
            (anyone, "sub", "plant/x/#", false),
            (anyone, "sub", "plant/+/cmd/#", false),
            (anyone, "sub", "#", false),
            (anyone, "sub", "$share/g/plant/x/cmd/#", true),
            (anyone, "sub", "$share/g/plant/#", false),
            (anyone, "sub", "$share/g/", false),
            (anyone, "sub", "$share/g/#", false),
            (panel, "pub", "panel/panel/a", true),
            (panel, "sub", "plant/#", true),
            (panel, "sub", "plant/+/cmd", true),
            (panel, "sub", "#", false),
            (elsewhere, "pub", "panel/panel/a", false),
            (elsewhere, "sub", "plant/#", false),
            (lab, "pub", "plant/test-1/setpoint", false),
            (lab, "pub", "plant/test-1/temp", true),
            (lab, "sub", "plant/test-1/cmd/public", true),
            (lab, "sub", "plant/test-1/cmd/+", false),
            (odd, "pub", "plant/y/temp", false),
            (odd, "sub", "plant/+/cmd/#", false),
        ] {
            let rights = rights(who.0, who.1, who.2).unwrap();
            let got = if action == "pub" { rights.may_publish(topic) } else { rights.may_subscribe(topic) };
            assert_eq!(got, expect, "{who:?} {action} {topic}");
        }
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "+", "$s"]);
        (prop::collection::vec(level, 1..=3), any::<bool>())
            .prop_map(|(levels, hash)| levels.join("/") + if hash { "/#" } else { "" })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// Whoever may subscribe to a filter gets only topics it could subscribe to one by one.
        #[test]
        fn a_granted_subscription_brings_nothing_forbidden(
            allow in prop::collection::vec(filter(), 1..4),
            deny in prop::collection::vec(filter(), 0..3),
            asked in filter(),
            name in "[ab](/[ab]){0,3}|\\$s(/[ab]){0,2}",
        ) {
            let access = format!("[[allow]]\nsubscribe = {allow:?}\n[[deny]]\nsubscribe = {deny:?}");
            let access = Access::parse(0, &access).0.unwrap();
            let rights = access.rights(&Caller { client: "c", user: None, address: [1, 1, 1, 1].into() }).unwrap();
            if topic::matches(&asked, &name) && rights.may_subscribe(&asked) {
                prop_assert!(allow.iter().any(|filter| topic::matches(filter, &name)));
                prop_assert!(!deny.iter().any(|filter| topic::matches(filter, &name)));
                prop_assert!(rights.may_subscribe(&name));
            }
        }
    }
}
