//! Findings show the user's own lines, and the user's own lines hold keys: this hides them first.

/// Parts of a connection string that are no secret.
const PUBLIC: [&str; 5] = ["HostName", "DeviceId", "ModuleId", "GatewayHostName", "x509"];

/// Keys of bridge.toml whose whole value is a secret.
const SECRET: [&str; 4] = ["password", "symmetric_key", "group_key", "proxy"];

/// The key of which a part is a secret.
const CONNECTION: &str = "connection_string";

/// The text with every key, token and password replaced by as many `*` as it has bytes, so that places stay right.
///
/// It errs on the side of hiding: of a connection string only the parts known to be public are left, since a
/// mistyped name (`SharedAccesKey=..`) still has the key behind it. Only the names of variables (`${NAME}`), quotes and
/// blanks of a secret are shown.
pub fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // The key whose value in three quotes goes on in the next line, and the quotes.
    let mut open: Option<(&str, &'static str)> = None;
    for line in text.split_inclusive('\n') {
        let keys = SECRET.into_iter().chain([CONNECTION]);
        let first = keys.filter_map(|key| Some((key, secret(line, key)?))).min_by_key(|(_, (before, _))| before.len());
        let (key, value, quotes) = match (first, open) {
            (Some((key, at)), None) => {
                out.push_str(at.0);
                (key, at.1, None)
            }
            (Some((key, at)), Some(_)) => {
                hide(&mut out, at.0);
                (key, at.1, None)
            }
            (None, Some((key, quotes))) => (key, line, Some(quotes)),
            (None, None) => {
                match line.contains(CONNECTION) || line.contains("SharedAccess") {
                    true => parts(&mut out, line, |out, prose| out.push_str(prose)),
                    false => out.push_str(line),
                }
                continue;
            }
        };
        match key {
            CONNECTION => parts(&mut out, value, hide),
            _ => hide(&mut out, value),
        }
        open = left_open(value, quotes).map(|quotes| (key, quotes));
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

/// The three quotes that are open at the end of a line, at whose beginning `open` are.
fn left_open(line: &str, mut open: Option<&'static str>) -> Option<&'static str> {
    const QUOTES: [&str; 4] = ["\"\"\"", "'''", "\"", "'"];
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let mut taken = first.len_utf8();
        match open {
            Some(quotes) if rest.starts_with(quotes) => (open, taken) = (None, quotes.len()),
            Some(quotes) if quotes.starts_with('"') && first == '\\' => {
                taken += rest.chars().nth(1).map_or(0, char::len_utf8);
            }
            Some(_) => {}
            None if first == '#' => break,
            None => {
                open = QUOTES.into_iter().find(|quotes| rest.starts_with(quotes));
                taken = open.map_or(taken, str::len);
            }
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
    open.filter(|quotes| quotes.len() == 3)
}

/// Hides the value of every `Name=value` that is not public; what is none is given to `other`.
fn parts(out: &mut String, text: &str, other: impl Fn(&mut String, &str)) {
    let marks = |c: char| c.is_whitespace() || matches!(c, '"' | '\'');
    for part in text.split_inclusive(';') {
        let (pair, end) = part.strip_suffix(';').map_or((part, ""), |pair| (pair, ";"));
        match pair.split_once('=') {
            Some((name, value)) if PUBLIC.contains(&name.trim_matches(marks)) && !value.contains('=') => {
                out.push_str(pair);
            }
            // The padding of a key without a name looks like one.
            Some((name, value))
                if name.contains("Shared") || !value.trim_matches(marks).trim_matches('=').is_empty() =>
            {
                out.push_str(name);
                out.push('=');
                hide(out, value);
            }
            Some(_) => hide(out, pair),
            None => other(out, pair),
        }
        out.push_str(end);
    }
}

fn hide(out: &mut String, value: &str) {
    let mut rest = value;
    while let Some(c) = rest.chars().next() {
        // Two of them are a dollar sign, which is of the value.
        let taken = match variable(rest) {
            _ if rest.starts_with("$$") => "$$".len(),
            Some(variable) => {
                out.push_str(variable);
                rest = rest.get(variable.len()..).unwrap_or_default();
                continue;
            }
            None => c.len_utf8(),
        };
        match c {
            '"' | '\'' | '\r' | '\n' | ' ' | '\t' => out.push(c),
            _ => out.extend(std::iter::repeat_n('*', taken)),
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
}

/// `${NAME}` at the beginning of a text.
fn variable(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix("${")?.split_once('}')?;
    let sound = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    text.get(..name.len() + "${}".len()).filter(|_| sound)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            ("password = \"Pa$$word123\"\n", "password = \"***********\"\n"),
            ("password = \"a$b${c d$${e}\"\n", "password = \"****** ******\"\n"),
            ("password = \"a${B_1}c\"\n", "password = \"*${B_1}*\"\n"),
            ("proxy = \"a;b\"\n", "proxy = \"***\"\n"),
            ("group_key = \"\"\"\na2V5\n\"\"\"\nwindow = 16\n", "group_key = \"\"\"\n****\n\"\"\"\nwindow = 16\n"),
            ("group_key = '''\na\"\"\"b'''\na = 1\n", "group_key = '''\n*\"\"\"*'''\na = 1\n"),
            ("password = \"\"\"a\\\"\"\"\nb\"\"\"\na = 1\n", "password = \"\"\"**\"\"\"\n*\"\"\"\na = 1\n"),
            ("password = '\"\"\"' # '''\na = 1\n", "password = '\"\"\"' * '''\na = 1\n"),
            (
                "connection_string = \"\"\"HostName=h;\\\n  DeviceId=d;SharedAccessKey=\\\n  abc\"\"\"\na = 1\n",
                "connection_string = \"\"\"HostName=h;*\n  DeviceId=d;SharedAccessKey=*\n  ***\"\"\"\na = 1\n",
            ),
            ("connection_string = \"a2V5=\"\n", "connection_string = \"*****\"\n"),
            (
                "connection_string = \"DeviceId=d,SharedAccessKey=a\"\n",
                "connection_string = \"DeviceId=*******************\"\n",
            ),
            ("  SharedAccessKey=abc\"\"\"\n", "  SharedAccessKey=***\"\"\"\n"),
            ("# the connection_string of the hub\n", "# the connection_string of the hub\n"),
            ("  HostName=h;SharedAccessKey=abc\n\"\"\"\n", "  HostName=h;SharedAccessKey=***\n\"\"\"\n"),
        ] {
            let masked = masked(text);
            assert_eq!(masked, expect);
            assert_eq!(masked.len(), text.len());
        }
    }

    proptest! {
        #[test]
        fn nothing_of_a_secret_is_shown(
            secret in "[A-Z0-9+/=${;#\\\\]{1,20}(\n[A-Z0-9+/=$]{1,12}){0,3}",
            key in prop::sample::select(vec!["password", "symmetric_key", "group_key", "proxy", "\"group_key\"", "x.password"]),
            quotes in prop::sample::select(vec!["\"\"\"", "'''"]),
            table in any::<bool>(),
        ) {
            let secret = format!("{secret}${{pw}}");
            let more: &[&str] = if secret.contains('\n') { &[] } else { &["\"", "'"] };
            for quotes in [quotes].iter().chain(more) {
                let value = format!("{quotes}{secret}{quotes}");
                let text = if table { format!("t = {{ {key} = {value} }}\n") } else { format!("{key} = {value}\n") };
                let masked = masked(&text);
                prop_assert_eq!(masked.len(), text.len());
                let (_, shown) = masked.split_once(&format!("{key} =")).unwrap();
                let shown = shown.replace("${pw}", "");
                prop_assert!(shown.chars().all(|c| " *\"'\n".contains(c)), "{}\n{}", text, masked);
            }
        }
    }
}
