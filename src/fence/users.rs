//! The users file: names and Argon2id hashes.

use argon2::password_hash::{PasswordHash, SaltString};
use argon2::{Algorithm, Argon2, Params, PasswordVerifier as _, Version};
use toml::de::DeValue;

use crate::diag::walk::{Reader, Report, type_name};
use crate::diag::{Diagnostic, syntax};
use crate::secret::Secret;

/// Bytes of a salt.
pub const SALT: usize = 16;
/// Longest user name in bytes.
const LONGEST_NAME: usize = 256;
/// Most memory and passes a hash may ask for: one verification must not take the machine.
const MOST_KIB: u32 = 256 * 1024;
const MOST_PASSES: u32 = 100;

/// A hash nobody has the password of: what an unknown user is verified against, so that it takes as long.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$YnJvd25icmlkZ2Utbm9ib2R5$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A checked users file.
#[derive(Debug, Clone, Default)]
pub struct Users(Vec<(String, Secret)>);

impl Users {
    /// Reads a users file. It is there only without errors.
    pub fn parse(file: usize, text: &str) -> (Option<Self>, Vec<Diagnostic>) {
        let mut report = Report::new(file, text);
        let table = syntax::parse(&mut report);
        let mut users = Vec::new();
        if let Some(table) = &table {
            let mut top = Reader::new(table.get_ref(), "the users file");
            if let Some((table, _)) = top.table("users", &mut report) {
                for (name, value) in table {
                    if let Some(problem) = name_problem(name.get_ref()) {
                        report.error("bad-user", problem, name.span(), "");
                    }
                    match value.get_ref() {
                        DeValue::String(hash) => match hash_problem(hash) {
                            None => users.push((name.get_ref().to_string(), Secret::new(hash.to_string()))),
                            Some(problem) => {
                                let found = report.new_error("bad-hash", problem).at(value.span(), "");
                                let name = name.get_ref();
                                report.push(
                                    found.help(format!("let brownbridge write it: brownbridge passwd FILE {name}")),
                                );
                            }
                        },
                        other => {
                            let title = format!("`{}` must be an Argon2 hash in quotes", name.get_ref());
                            report.error("wrong-type", title, value.span(), format!("this is {}", type_name(other)));
                        }
                    }
                }
            }
            top.finish(&mut report);
        }
        let sound = !report.found.iter().any(Diagnostic::is_error);
        report.found.sort_by_key(Diagnostic::sort_key);
        (sound.then_some(Self(users)), report.found)
    }

    /// The names of all users.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The hash to verify a password of this user against. An unknown user gets one that nothing verifies against
    /// and that takes as long.
    pub fn hash(&self, name: &str) -> Secret {
        let known = self.0.iter().find(|(user, _)| user == name);
        known.map_or_else(|| Secret::new(NOBODY.to_owned()), |(_, hash)| hash.clone())
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True where there is no user.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Verifies a password: some 20 ms of one core and 19 MiB, on purpose.
pub fn verify(hash: &Secret, password: &[u8]) -> bool {
    PasswordHash::new(hash.expose()).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

/// Hashes a password with a fresh salt.
pub fn hash(password: &Secret, salt: &[u8; SALT]) -> Option<Secret> {
    let salt = SaltString::encode_b64(salt).ok()?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
    let hash = argon2::PasswordHasher::hash_password(&argon2, password.expose().as_bytes(), salt.as_salt()).ok()?;
    Some(Secret::new(hash.to_string()))
}

/// Why a name cannot be a user's; `None` for one that can.
pub fn name_problem(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("a user name cannot be empty"),
        name if name.len() > LONGEST_NAME => Some("a user name has at most 256 bytes"),
        name if name.chars().any(char::is_control) => Some("a user name has no control characters"),
        name if name.contains('*') => Some("a user name has no `*`: in an access file it stands for any characters"),
        _ => None,
    }
}

fn hash_problem(text: &str) -> Option<&'static str> {
    let Ok(hash) = PasswordHash::new(text) else { return Some("this is no password hash") };
    let known = ["argon2id", "argon2i", "argon2d"].contains(&hash.algorithm.as_str());
    let (Ok(params), true) = (Params::try_from(&hash), known && hash.hash.is_some() && hash.salt.is_some()) else {
        return Some("this is no Argon2 hash");
    };
    let heavy = params.m_cost() > MOST_KIB || params.t_cost() > MOST_PASSES;
    heavy.then_some("verifying this hash would take more than 256 MiB or 100 passes")
}

/// The text of a users file with the user's hash in it, put in or replaced; everything else stays as it is.
/// `None` where the file is not laid out as one table `[users]`, so that there is no place for a line.
pub fn set(text: &str, name: &str, hash: &Secret) -> Option<String> {
    let key = format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
    let line = format!("{key} = \"{}\"\n", hash.expose());
    let mut edited = without(text, name);
    if !edited.is_empty() && !edited.ends_with('\n') {
        edited.push('\n');
    }
    if toml::de::DeTable::parse(&edited).ok()?.get_ref().get("users").is_none() {
        edited.push_str("[users]\n");
    }
    edited.push_str(&line);
    let users = Users::parse(0, &edited).0?;
    (users.hash(name).expose() == hash.expose()).then_some(edited)
}

/// The text of a users file without the user. `None` where there is no such user, or no line that is only it.
pub fn remove(text: &str, name: &str) -> Option<String> {
    let before = Users::parse(0, text).0?;
    let edited = without(text, name);
    let after = Users::parse(0, &edited).0?;
    (after.len() + 1 == before.len() && after.names().all(|left| left != name)).then_some(edited)
}

/// The text without the line of a user.
fn without(text: &str, name: &str) -> String {
    let Ok(table) = toml::de::DeTable::parse(text) else { return text.to_owned() };
    let users = table.get_ref().get("users").and_then(|users| users.get_ref().as_table());
    let place =
        users.and_then(|users| users.get_key_value(name)).map(|(key, value)| key.span().start..value.span().end);
    let Some(place) = place else { return text.to_owned() };
    let start = text.get(..place.start).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let end =
        text.get(place.end..).and_then(|after| after.find('\n')).map_or(text.len(), |newline| place.end + newline + 1);
    [text.get(..start), text.get(end..)].into_iter().flatten().collect()
}

/// The text with every hash replaced by as many `*` as it has bytes: for findings that show the user's own lines.
pub fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        // A hash in the making is hidden as well as one that is one.
        match line.split_once('=') {
            Some((key, value)) if !value.trim().is_empty() => {
                out.push_str(key);
                out.push('=');
                let visible = |c: char| c.is_whitespace() || matches!(c, '"' | '\'');
                value.chars().for_each(|c| match c {
                    c if visible(c) => out.push(c),
                    c => out.extend(std::iter::repeat_n('*', c.len_utf8())),
                });
            }
            _ => out.push_str(line),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$MTIzNDU2Nzg5MDEyMzQ1Ng";

    #[test]
    fn a_hash_verifies_its_password_and_no_other() {
        let hash = hash(&Secret::new("hunter2".into()), &[7; SALT]).unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(verify(&hash, b"hunter2"));
        assert!(!verify(&hash, b"hunter3"));
        let users = Users::parse(0, &set("", "panel", &hash).unwrap()).0.unwrap();
        assert!(verify(&users.hash("panel"), b"hunter2"));
        assert!(!verify(&users.hash("nobody"), b"hunter2"));
        let costs = |text: &str| Params::try_from(&PasswordHash::new(text).unwrap()).unwrap();
        assert_eq!(costs(NOBODY).m_cost(), costs(hash.expose()).m_cost());
        assert_eq!(hash_problem(NOBODY), None);
    }

    #[test]
    fn findings() {
        for (text, expect) in [
            ("", vec![]),
            (&format!("[users]\na = \"{HASH}\"\n\"b c\" = \"{HASH}\""), vec![]),
            ("[users]\na = \"secret\"", vec!["bad-hash"]),
            ("[users]\na = \"$argon2id$v=19$m=9999999,t=1,p=1$c2FsdHNhbHQ$MTIzNDU2Nzg5MDEyMzQ1Ng\"", vec!["bad-hash"]),
            ("[users]\na = \"$scrypt$c2FsdHNhbHQ$MTIzNDU2Nzg5MDEyMzQ1Ng\"", vec!["bad-hash"]),
            ("[users]\na = \"$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ\"", vec!["bad-hash"]),
            ("[users]\na = 5", vec!["wrong-type"]),
            (&format!("[users]\n\"\" = \"{HASH}\"\n\"a*\" = \"{HASH}\""), vec!["bad-user", "bad-user"]),
            ("[user]\n", vec!["unknown-key"]),
            ("users = 1", vec!["wrong-type"]),
            ("[users\n", vec!["toml-syntax"]),
        ] {
            let (users, found) = Users::parse(0, text);
            assert_eq!(found.iter().map(|found| found.code).collect::<Vec<_>>(), expect, "{text}\n{found:#?}");
            assert_eq!(users.is_none(), !expect.is_empty(), "{text}");
        }
    }

    #[test]
    fn lines_are_put_in_replaced_and_taken_out() {
        let hash = Secret::new(HASH.to_owned());
        for (text, name, expect) in [
            ("", "a", Some(format!("[users]\n\"a\" = \"{HASH}\"\n"))),
            ("# mine\n[users]\n", "a", Some(format!("# mine\n[users]\n\"a\" = \"{HASH}\"\n"))),
            (
                &format!("[users]\na = \"{HASH}\" # x\nb = \"{HASH}\""),
                "a",
                Some(format!("[users]\nb = \"{HASH}\"\n\"a\" = \"{HASH}\"\n")),
            ),
            ("[users]\n", "q\"\\", Some(format!("[users]\n\"q\\\"\\\\\" = \"{HASH}\"\n"))),
            ("users = {}\n", "a", None),
            ("[users]\nb = 5\n", "a", None),
            ("[users]\n", "a*", None),
        ] {
            assert_eq!(set(text, name, &hash), expect, "{text:?} {name}");
        }
        let two = format!("[users]\na = \"{HASH}\"\n# b is new\n'b' = \"{HASH}\"\n");
        assert_eq!(remove(&two, "b"), Some(format!("[users]\na = \"{HASH}\"\n# b is new\n")));
        assert_eq!(remove(&two, "c"), None);
        assert_eq!(remove(&format!("users = {{ a = \"{HASH}\", b = \"{HASH}\" }}"), "a"), None);
    }

    #[test]
    fn no_finding_shows_a_hash() {
        for (text, expect) in [
            ("[users]\na = \"$argon2\" # x\n", "[users]\na = \"*******\" * *\n"),
            ("# a = b\nä='ü'", "# a = *\nä='**'"),
        ] {
            assert_eq!(masked(text), expect);
            assert_eq!(masked(text).len(), text.len());
        }
    }

    proptest! {
        #[test]
        fn any_text_and_name_is_answered(text in "(\\[users\\]|[a-b\"'\\\\]{1,4} = (\"\\$argon2id\\$[a-z=,0-9$]{0,12}\"|1)|\n){0,6}|\\PC{0,30}", name in "\\PC{0,8}") {
            let _ = Users::parse(0, &text);
            let _ = remove(&text, &name);
            let hash = Secret::new(HASH.to_owned());
            if let Some(edited) = set(&text, &name, &hash) {
                prop_assert_eq!(Users::parse(0, &edited).0.unwrap().hash(&name).expose().to_owned(), HASH);
            }
        }
    }
}
