//! What is different between two texts of bridge.toml, by the names of its keys. Values are not told: some are secret.

use toml::{Table, Value};

/// The keys that are not the same in both, as `section.key` and in the order of their names. Nothing of a text that is no
/// TOML.
pub fn changed_keys(before: &str, after: &str) -> Vec<String> {
    let mut changed = Vec::new();
    if let (Ok(before), Ok(after)) = (before.parse(), after.parse()) {
        differ("", &before, &after, &mut changed);
    }
    changed.sort();
    changed
}

fn differ(path: &str, before: &Table, after: &Table, changed: &mut Vec<String>) {
    let nothing = Table::new();
    let new = after.keys().filter(|key| !before.contains_key(*key));
    for key in before.keys().chain(new) {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (before.get(key), after.get(key)) {
            (Some(Value::Table(before)), Some(Value::Table(after))) => differ(&path, before, after, changed),
            (Some(Value::Table(table)), None) => differ(&path, table, &nothing, changed),
            (None, Some(Value::Table(table))) => differ(&path, &nothing, table, changed),
            (before, after) if before == after => {}
            _ => changed.push(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_are_named() {
        let before = "rules = \"r\"\n[spool]\nmax_size = \"1GiB\"\n[broker.tls]\nkey = \"a\"\n";
        for (after, expect) in [
            (before, ""),
            ("# a comment\nrules = 'r'\nspool = { max_size = \"1GiB\" }\nbroker.tls.key = \"a\"", ""),
            ("rules = \"s\"\n[spool]\nmax_size = \"1GiB\"\n[broker.tls]\nkey = \"a\"\n", "rules"),
            (
                "rules = \"r\"\n[spool]\nmax_size = \"2GiB\"\nmax_age = \"1d\"\n",
                "broker.tls.key spool.max_age spool.max_size",
            ),
            ("spool = 1\nrules = \"r\"\n[broker.tls]\nkey = \"a\"\n", "spool"),
            ("no toml", ""),
        ] {
            assert_eq!(changed_keys(before, after).join(" "), expect, "{after}");
        }
    }
}
