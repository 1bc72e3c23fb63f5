//! `bridge.toml` as it may be shown: a finding prints the user's own line, and that line may hold a key.

/// Parts of a connection string that are no secret.
const PUBLIC: [&str; 6] = ["hostname", "deviceid", "moduleid", "gatewayhostname", "sharedaccesskeyname", "x509"];

/// Replaces what is or may be a secret by as many asterisks, so that every place stays where it is.
pub fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let lower = line.to_ascii_lowercase();
        let value = ["password", "connection_string"].iter().find_map(|key| value_of(&lower, key));
        let from = match value {
            Some(at) => at,
            // The rest of a text over several lines.
            None if lower.contains("sharedaccess") => 0,
            None => line.len(),
        };
        let (open, value) = line.split_at_checked(from).unwrap_or((line, ""));
        shown.push_str(open);
        for part in value.split_inclusive(';') {
            mask_part(part, &mut shown);
        }
    }
    shown
}

/// Where the value of `key` begins in a line, if the line gives it one.
fn value_of(line: &str, key: &str) -> Option<usize> {
    let at = line.find(key)? + key.len();
    let rest = line.get(at..)?;
    let equals = rest.find('=')?;
    let between = rest.get(..equals)?;
    between.chars().all(|c| c.is_whitespace() || c == '"' || c == '\'').then_some(at + equals + 1)
}

fn mask_part(part: &str, shown: &mut String) {
    let (name, value) = part.split_once('=').map_or(("", part), |(name, _)| part.split_at(name.len() + 1));
    let known = name.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '=')).to_ascii_lowercase();
    shown.push_str(name);
    if PUBLIC.contains(&known.as_str()) || value.trim_start_matches([' ', '"', '\'']).starts_with("${") {
        shown.push_str(value);
        return;
    }
    for c in value.chars() {
        if c.is_whitespace() || matches!(c, '"' | '\'' | ';') {
            shown.push(c);
        } else {
            (0..c.len_utf8()).for_each(|_| shown.push('*'));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_covered_and_places_stay() {
        for (text, expect) in [
            ("state = \"x\" # SharedKey\n", "state = \"x\" # SharedKey\n"),
            ("connection_string = \"${HUB}\"", "connection_string = \"${HUB}\""),
            ("connection_string_file = \"/etc/key\"", "connection_string_file = \"/etc/key\""),
            (
                "connection_string = \"HostName=h;DeviceId=d;SharedAccessKey=a2V5=\"\n",
                "connection_string = \"HostName=h;DeviceId=d;SharedAccessKey=*****\"\n",
            ),
            (
                "connection_string=\"HostName=h;SharedAccesKey=a2V5",
                "connection_string=\"HostName=h;SharedAccesKey=****",
            ),
            ("connection_string = \"a2V5\"", "connection_string = \"****\""),
            ("SharedAccessSignature=SharedAccessSignature sr=x", "SharedAccessSignature=********************* ****"),
            ("password = \"höl\"\nx = 1", "password = \"****\"\nx = 1"),
            ("uplink = { password = 'p' }", "uplink = { password = '*' *"),
        ] {
            assert_eq!(masked(text), expect);
            assert_eq!(masked(text).len(), text.len());
        }
    }
}
