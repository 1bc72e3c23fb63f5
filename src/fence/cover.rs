//! Topic filters compared with topic filters: what one of them matches against what another matches.

/// True where `allowed` matches every topic name that `asked` matches. Both are valid filters.
pub fn covers(allowed: &str, asked: &str) -> bool {
    if starts_wild(allowed) && asked.starts_with('$') {
        return false; // [MQTT-4.7.2-1]
    }
    let mut asked = plain(asked).split('/');
    for level in plain(allowed).split('/') {
        match (level, asked.next()) {
            ("#", _) => return true,
            (_, Some("#") | None) => return false,
            ("+", Some(_)) => {}
            (level, Some(other)) if level == other => {}
            _ => return false,
        }
    }
    asked.next().is_none()
}

/// True where some topic name matches both. Both are valid filters.
pub fn overlap(one: &str, other: &str) -> bool {
    if starts_wild(one) && other.starts_with('$') || one.starts_with('$') && starts_wild(other) {
        return false; // [MQTT-4.7.2-1]
    }
    let (mut one, mut other) = (plain(one).split('/'), plain(other).split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(level), Some(same)) if level == same => {}
            _ => return false,
        }
    }
}

/// The same filter in the words the comparison needs. Every name has a first level, so `+/#` is `#`; and no name is
/// empty, so `/#` has a second level too.
fn plain(filter: &str) -> &str {
    match filter {
        "+/#" => "#",
        "/#" => "/+/#",
        filter => filter,
    }
}

fn starts_wild(filter: &str) -> bool {
    filter.starts_with(['+', '#'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::matches;
    use proptest::prelude::*;

    #[test]
    fn rows() {
        for (allowed, asked, covered, overlapping) in [
            ("a/#", "a", true, true),
            ("a/#", "a/+/b", true, true),
            ("a/#", "a/#", true, true),
            ("a/+", "a/#", false, true),
            ("a/+", "a/b", true, true),
            ("a/b", "a/+", false, true),
            ("#", "#", true, true),
            ("+/#", "#", true, true),
            ("a/+/#", "a/#", false, true),
            ("#", "$SYS/#", false, false),
            ("+/x", "$SYS/x", false, false),
            ("$SYS/#", "$SYS/+", true, true),
            ("a", "b", false, false),
            ("a/b", "a", false, false),
            ("a/+/c", "+/b/+", false, true),
            ("+", "/#", false, false),
            ("/+/#", "/#", true, true),
        ] {
            assert_eq!(covers(allowed, asked), covered, "{allowed} covers {asked}");
            assert_eq!(overlap(allowed, asked), overlapping, "{allowed} overlaps {asked}");
            assert_eq!(overlap(asked, allowed), overlapping, "{asked} overlaps {allowed}");
        }
    }

    /// Every name of up to four levels; no filter of the property below has a level `z`.
    fn names() -> Vec<String> {
        let mut all = Vec::new();
        let mut last = vec![Vec::new()];
        for _ in 0..4 {
            last = last
                .iter()
                .flat_map(|name: &Vec<&str>| ["a", "b", "", "$s", "z"].map(|level| [&name[..], &[level]].concat()))
                .collect();
            all.extend(last.iter().map(|name| name.join("/")));
        }
        all.retain(|name| !name.is_empty());
        all
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "", "$s", "+", "+"]);
        (prop::collection::vec(level, 0..=3), any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash {
                    levels.push("#");
                }
                levels.join("/")
            })
            .prop_filter("a filter", |filter| !filter.is_empty())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn the_same_as_trying_every_name(one in filter(), other in filter()) {
            let names = names();
            let covered = names.iter().all(|name| !matches(&other, name) || matches(&one, name));
            prop_assert_eq!(covers(&one, &other), covered, "{} covers {}", one, other);
            let shared = names.iter().any(|name| matches(&other, name) && matches(&one, name));
            prop_assert_eq!(overlap(&one, &other), shared, "{} overlaps {}", one, other);
        }
    }
}
