//! Findings show the user's own lines, and the user's own lines hold keys: this hides them first.

/// Parts of a connection string that are no secret.
const PUBLIC: [&str; 5] = ["HostName", "DeviceId", "ModuleId", "GatewayHostName", "x509"];

/// Keys of bridge.toml whose whole value is a secret.
const SECRET: [&str; 4] = ["password", "symmetric_key", "group_key", "proxy"];

/// The text with every key, token and password replaced by as many `*` as it has bytes, so that places stay right.
///
/// It errs on the side of hiding: of a connection string only the parts known to be public are left, since a
/// mistyped name (`SharedAccesKey=..`) still has the key behind it.
pub fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match SECRET.into_iter().filter_map(|key| secret(line, key)).min_by_key(|(before, _)| before.len()) {
            Some((before, value)) => {
                out.push_str(before);
                hide(&mut out, value);
            }
            None if line.contains("connection_string") || line.contains("SharedAccess") => parts(&mut out, line),
            None => out.push_str(line),
        }
    }
    out
}

/// The line up to the `=` of `key`, also in an inline table, and what is behind it; `None` where it has no such key.
fn secret<'l>(line: &'l str, key: &str) -> Option<(&'l str, &'l str)> {
    let mut from = 0;
    while let Some(at) = line.get(from..).and_then(|rest| rest.find(key)).map(|at| from + at) {
        from = at + key.len();
        let alone = line.get(..at)?.chars().next_back().is_none_or(|c| !c.is_alphanumeric() && !"_-".contains(c));
        let quoted = line.get(from..)?.trim_start_matches(['"', '\'']).trim_start();
        if alone && quoted.starts_with('=') {
            return line.split_at_checked(line.len() - quoted.len() + 1);
        }
    }
    None
}

/// Hides the value of every `Name=value` that is not public. The first `=` of the line is TOML's own.
fn parts(out: &mut String, line: &str) {
    for (n, part) in line.split_inclusive(';').enumerate() {
        let start = if n == 0 { part.find(['"', '\'']).map_or(0, |quote| quote + 1) } else { 0 };
        let (before, pair) = part.split_at_checked(start).unwrap_or(("", part));
        out.push_str(before);
        match pair.split_once('=') {
            Some((name, value)) if !PUBLIC.contains(&name.trim()) => {
                out.push_str(name);
                out.push('=');
                hide(out, value);
            }
            _ => out.push_str(pair),
        }
    }
}

fn hide(out: &mut String, value: &str) {
    let mut in_variable = false;
    for c in value.chars() {
        in_variable |= c == '$';
        match c {
            '"' | '\'' | ';' | '\r' | '\n' | ' ' | '\t' => out.push(c),
            _ if in_variable => out.push(c),
            _ => out.extend(std::iter::repeat_n('*', c.len_utf8())),
        }
        in_variable &= c != '}';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_secrets_are_hidden_and_places_stay() {
        for (text, expect) in [
            (
                "connection_string = \"HostName=h;DeviceId=d;SharedAccessKey=a2V5=\" # SharedAccessKey=x\n",
                "connection_string = \"HostName=h;DeviceId=d;SharedAccessKey=*****\" * *****************\n",
            ),
            (
                "connection_string = 'HostName=h;SharedAccesKey=kéy'\n",
                "connection_string = 'HostName=h;SharedAccesKey=****'\n",
            ),
            (
                "connection_string = \"SharedAccessKey=abc;HostName=h\"",
                "connection_string = \"SharedAccessKey=***;HostName=h\"",
            ),
            ("connection_string = \"${HUB}\"\n", "connection_string = \"${HUB}\"\n"),
            ("password = \"s3cret\"\n", "password = \"******\"\n"),
            ("group_key = \"a2V5\"\n", "group_key = \"****\"\n"),
            (
                "devices = { allow = [\"a\"], group_key = \"a2V5\" }\n",
                "devices = { allow = [\"a\"], group_key = \"****\" *\n",
            ),
            ("group_key_file = \"group.key\"\n", "group_key_file = \"group.key\"\n"),
            ("password = \"${PW}\"\n", "password = \"${PW}\"\n"),
            (
                "group_key = \"a2V5=\"\nsymmetric_key_file = \"k\"\n",
                "group_key = \"*****\"\nsymmetric_key_file = \"k\"\n",
            ),
            (
                "dps = { id_scope = \"0ne\", symmetric_key = \"a2V5\" }\n",
                "dps = { id_scope = \"0ne\", symmetric_key = \"****\" *\n",
            ),
            ("proxy = \"http://me:pw@h:1\"\n", "proxy = \"****************\"\n"),
            ("\"password\" = 'x'\n", "\"password\" = '*'\n"),
            ("rules = \"rules\"\nwindow = 16\n", "rules = \"rules\"\nwindow = 16\n"),
            ("  HostName=h;SharedAccessKey=abc\n\"\"\"\n", "  HostName=h;SharedAccessKey=***\n\"\"\"\n"),
        ] {
            let masked = masked(text);
            assert_eq!(masked, expect);
            assert_eq!(masked.len(), text.len());
        }
    }
}
