//! A filter and a name, any texts with a newline between: the checks, the matcher and the trie agree with a matcher
//! that follows the words of the standard, and a trie that forgets its filters is empty again.
#![no_main]

use brownbridge::topic::{Trie, check_filter, check_name, matches};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (filters, name) = text.rsplit_once('\n').unwrap_or((text, text));
    let filters: Vec<&str> = filters.split('\n').filter(|filter| check_filter(filter).is_ok()).collect();
    let valid =
        !name.is_empty() && name.len() <= 65_535 && name.split('/').count() <= 200 && !name.contains(['\0', '+', '#']);
    assert_eq!(check_name(name).is_ok(), valid);
    if valid {
        assert_eq!(check_filter(name), Ok(()), "a name is a filter without wildcards");
    }
    let mut trie = Trie::default();
    filters.iter().enumerate().for_each(|(i, filter)| trie.entry(filter).push(i));
    let mut found = Vec::new();
    trie.each_match(name, |i| found.push(*i));
    found.sort_unstable();
    for (i, filter) in filters.iter().enumerate() {
        let (wanted, levels): (Vec<_>, Vec<_>) = (filter.split('/').collect(), name.split('/').collect());
        let expect = !(name.starts_with('$') && filter.starts_with(['+', '#'])) && naive(&wanted, &levels);
        assert_eq!(found.binary_search(&i).is_ok(), expect, "trie: {filter:?} {name:?}");
        assert_eq!(matches(filter, name), expect, "{filter:?} {name:?}");
    }
    filters.iter().for_each(|filter| trie.retain(filter, |_| false));
    assert!(trie.is_empty());
});

/// [MQTT-4.7.1], level by level.
fn naive(filter: &[&str], name: &[&str]) -> bool {
    match (filter, name) {
        (["#"], _) | ([], []) => true,
        ([want, filter @ ..], [level, name @ ..]) => (*want == "+" || want == level) && naive(filter, name),
        _ => false,
    }
}
