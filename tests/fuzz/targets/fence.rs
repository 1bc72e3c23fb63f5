//! A client id, a topic filter and a text that is an access file and a users file: findings can be shown and keep
//! hashes hidden, a decision comes where there is no error, what is allowed as a filter is allowed for every name it
//! is tried with, and a file learned from what was done allows it.
#![no_main]

use brownbridge::diag::{Diagnostic, SourceFile};
use brownbridge::fence::Caller;
use brownbridge::fence::access::Access;
use brownbridge::fence::learn::{Action, Notebook};
use brownbridge::fence::users::{self, Users};
use brownbridge::topic::{check_filter, check_name, matches};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut parts = text.splitn(3, '\n');
    let (client, filter, text) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let (access, found) = Access::parse(0, text);
    assert_eq!(access.is_none(), found.iter().any(Diagnostic::is_error));
    shown(&found, text.to_owned());
    let (known, found) = Users::parse(0, text);
    assert_eq!(known.is_none(), found.iter().any(Diagnostic::is_error));
    assert_eq!(users::masked(text).len(), text.len());
    shown(&found, users::masked(text));

    let caller = Caller { client, user: Some("panel"), address: [10, 1, 2, 3].into() };
    if check_filter(filter).is_err() {
        return;
    }
    let name = filter.replace('+', "x").replace('#', "y/z");
    if let Some(Ok(rights)) = access.as_ref().map(|access| access.rights(&caller)) {
        if rights.may_subscribe(filter) && matches(filter, &name) {
            assert!(rights.may_subscribe(&name), "{filter:?} allows {name:?}");
        }
        rights.may_publish(&name);
    }
    let mut notebook = access.map_or_else(Notebook::default, |access| Notebook::resume(&access));
    notebook.connected(&caller, false);
    notebook.does(&caller, false, (Action::Subscribe, filter));
    if check_name(&name).is_ok() {
        notebook.does(&caller, false, (Action::Publish, &name));
    }
    let learned = notebook.take_changes().expect("something was seen");
    let (learned, found) = Access::parse(0, &learned);
    let rights = learned.unwrap_or_else(|| panic!("{found:?}")).rights(&caller);
    if client.len() <= 512 && filter.len() <= 512 && name.len() <= 512 && filter.split('/').count() < 12 {
        assert!(rights.expect("it was here").may_subscribe(filter), "{client:?} {filter:?}");
    }
});

fn shown(found: &[Diagnostic], text: String) {
    let sources = [SourceFile { path: "access.toml".to_owned(), text }];
    for diagnostic in found {
        assert!(diagnostic.render(&sources, false).ends_with('\n'));
        assert!(diagnostic.json(&sources).is_object());
    }
}
