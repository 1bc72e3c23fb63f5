//! One pass over a JSON text: is it JSON, what kind of value is it, and where are the members of its object.
//!
//! The rules keep the bytes of a payload and only splice into them, so they need places and not a tree. The
//! pass allocates nothing but the list of members, is iterative (the depth of the input never becomes the
//! depth of the stack), and accepts what RFC 8259 accepts with three limits: the text is UTF-8, a `\u`
//! surrogate has its other half, and nothing nests deeper than [`MAX_DEPTH`].

use std::borrow::Cow;
use std::ops::Range;

/// The deepest nesting taken as JSON; what reads the message later must be able to read it too.
pub(super) const MAX_DEPTH: usize = 128;

/// What kind of value a JSON text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    String,
    Number,
    Word,
}

/// Why a text is not taken as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotJson {
    Invalid { at: usize },
    TooDeep,
}

/// A member of the outermost object: where its key (without quotes) and its value are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) key: Range<usize>,
    pub(super) escaped: bool,
    pub(super) value: Range<usize>,
}

impl Member {
    /// True where the key, escapes resolved, is `name`.
    pub(super) fn is(&self, text: &str, name: &str) -> bool {
        let raw = text.get(self.key.clone()).unwrap_or("");
        if !self.escaped {
            return raw == name;
        }
        unescape(raw) == name
    }
}

/// Looks at a whole text and, where wanted, lists the members of its outermost object.
pub(super) fn scan(text: &str, members: Option<&mut Vec<Member>>) -> Result<Kind, NotJson> {
    let mut pass = Pass { bytes: text.as_bytes(), at: 0, open: [0; MAX_DEPTH / 8], depth: 0, members };
    if let Some(members) = &mut pass.members {
        members.clear();
    }
    pass.document()
}

/// The text of a JSON string, given without its quotes. What [`scan`] accepted always decodes.
pub(super) fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    serde_json::from_str(&format!("\"{raw}\"")).map_or(Cow::Borrowed(raw), Cow::Owned)
}

/// The text of a JSON string; none for another value.
pub(super) fn string(value: &str) -> Option<Cow<'_, str>> {
    value.strip_prefix('"')?.strip_suffix('"').map(unescape)
}

/// The value of a member of an object that was scanned. Of a key that is there twice the last one counts.
pub(super) fn member<'t>(text: &'t str, members: &[Member], key: &str) -> Option<&'t str> {
    let member = members.iter().rev().find(|member| member.is(text, key))?;
    text.get(member.value.clone())
}

/// Where the elements of a list are; none where the text is no JSON list.
pub(super) fn elements(text: &str) -> Vec<Range<usize>> {
    let mut pass = Pass { bytes: text.as_bytes(), at: 0, open: [0; MAX_DEPTH / 8], depth: 0, members: None };
    let mut found = Vec::new();
    pass.space();
    if !pass.take(b'[') {
        return found;
    }
    loop {
        pass.space();
        let start = pass.at;
        if pass.peek() == Some(b']') || pass.values().is_err() {
            return found;
        }
        found.push(start..pass.at);
        pass.space();
        if !pass.take(b',') {
            return found;
        }
    }
}

/// Appends a text as it stands inside the quotes of a JSON string.
pub(super) fn push_escaped(out: &mut Vec<u8>, text: &str) {
    for chunk in text.as_bytes().chunk_by(|a, b| is_plain(*a) && is_plain(*b)) {
        match chunk {
            [b'"'] => out.extend_from_slice(b"\\\""),
            [b'\\'] => out.extend_from_slice(b"\\\\"),
            [b'\n'] => out.extend_from_slice(b"\\n"),
            [b'\r'] => out.extend_from_slice(b"\\r"),
            [b'\t'] => out.extend_from_slice(b"\\t"),
            [control @ 0..0x20] => {
                let hex = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(control >> 4), hex(control & 15)]);
            }
            plain => out.extend_from_slice(plain),
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

struct Pass<'a> {
    bytes: &'a [u8],
    at: usize,
    /// One bit per open bracket: set for an object.
    open: [u8; MAX_DEPTH / 8],
    depth: usize,
    members: Option<&'a mut Vec<Member>>,
}

impl Pass<'_> {
    fn document(&mut self) -> Result<Kind, NotJson> {
        self.space();
        let kind = match self.peek() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            _ => Kind::Word,
        };
        self.values()?;
        self.space();
        if self.at == self.bytes.len() { Ok(kind) } else { Err(self.invalid()) }
    }

    /// Reads one value with everything in it.
    fn values(&mut self) -> Result<(), NotJson> {
        loop {
            self.space();
            // A value begins here. An opened container that is not empty has its first value next.
            match self.peek() {
                Some(b'{') => {
                    self.push(true)?;
                    self.space();
                    if self.peek() != Some(b'}') {
                        self.key()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.push(false)?;
                    self.space();
                    if self.peek() != Some(b']') {
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // A value has ended, or an empty container is about to: then its closing bracket is next.
            loop {
                if self.depth == 0 {
                    return Ok(());
                }
                if self.depth == 1
                    && let Some(member) = self.members.as_mut().and_then(|members| members.last_mut())
                {
                    member.value.end = self.at;
                }
                self.space();
                let object = self.in_object();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.space();
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    Some(b'}') if object => self.pop(),
                    Some(b']') if !object => self.pop(),
                    _ => return Err(self.invalid()),
                }
            }
        }
    }

    fn key(&mut self) -> Result<(), NotJson> {
        let start = self.at + 1;
        let escaped = self.string()?;
        let key = start..self.at - 1;
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.invalid());
        }
        self.at += 1;
        self.space();
        let value = self.at..self.at;
        if self.depth == 1
            && let Some(members) = &mut self.members
        {
            members.push(Member { key, escaped, value });
        }
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), NotJson> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                let rest = self.bytes.get(self.at..).unwrap_or(&[]);
                let word = [&b"true"[..], b"false", b"null"].into_iter().find(|word| rest.starts_with(word));
                self.at += word.ok_or(self.invalid())?.len();
                Ok(())
            }
        }
    }

    fn number(&mut self) -> Result<(), NotJson> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'-') {
                self.take(b'+');
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.invalid()) }
    }

    /// Reads a string with its quotes and says whether it has escapes.
    fn string(&mut self) -> Result<bool, NotJson> {
        if !self.take(b'"') {
            return Err(self.invalid());
        }
        let mut escaped = false;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                Some(0x20..) => self.at += 1,
                _ => return Err(self.invalid()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), NotJson> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                self.at += 1;
                match self.hex()? {
                    0xDC00..=0xDFFF => Err(self.invalid()),
                    0xD800..=0xDBFF => {
                        let low = self.take(b'\\') && self.take(b'u') && matches!(self.hex()?, 0xDC00..=0xDFFF);
                        if low { Ok(()) } else { Err(self.invalid()) }
                    }
                    _ => Ok(()),
                }
            }
            _ => Err(self.invalid()),
        }
    }

    fn hex(&mut self) -> Result<u32, NotJson> {
        let mut value = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            value = value * 16 + digit.ok_or(self.invalid())?;
            self.at += 1;
        }
        Ok(value)
    }

    fn push(&mut self, object: bool) -> Result<(), NotJson> {
        let bit = 1 << (self.depth % 8);
        let byte = self.open.get_mut(self.depth / 8).ok_or(NotJson::TooDeep)?;
        if object {
            *byte |= bit;
        } else {
            *byte &= !bit;
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    fn in_object(&self) -> bool {
        let depth = self.depth.wrapping_sub(1);
        self.open.get(depth / 8).is_some_and(|byte| byte & (1 << (depth % 8)) != 0)
    }

    fn space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn invalid(&self) -> NotJson {
        NotJson::Invalid { at: self.at }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(text: &str) -> Vec<(&str, &str)> {
        let mut list = Vec::new();
        scan(text, Some(&mut list)).unwrap();
        list.iter()
            .map(|member| (text.get(member.key.clone()).unwrap(), text.get(member.value.clone()).unwrap()))
            .collect()
    }

    #[test]
    fn members_of_an_object() {
        for (text, expect) in [
            ("{}", vec![]),
            (" { } ", vec![]),
            ("[{\"a\":1}]", vec![]),
            ("{\"a\":1}", vec![("a", "1")]),
            ("{ \"a\" : {\"b\":[1,{}]} , \"\\\"c\" : \"}\" }", vec![("a", "{\"b\":[1,{}]}"), ("\\\"c", "\"}\"")]),
            ("{\"a\":[],\"b\":{},\"a\":null}", vec![("a", "[]"), ("b", "{}"), ("a", "null")]),
        ] {
            assert_eq!(members(text), expect, "{text}");
        }
    }

    #[test]
    fn elements_of_a_list() {
        for (text, expect) in
            [("[]", vec![]), (" [ 1 , [2,3],{\"a\":[4]} ]", vec!["1", "[2,3]", "{\"a\":[4]}"]), ("{\"a\":[1]}", vec![])]
        {
            let found: Vec<&str> = elements(text).into_iter().map(|place| text.get(place).unwrap()).collect();
            assert_eq!(found, expect, "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_and_costs_no_stack() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(scan(&nested(MAX_DEPTH), None), Ok(Kind::Array));
        assert_eq!(scan(&nested(MAX_DEPTH + 1), None), Err(NotJson::TooDeep));
        assert_eq!(scan(&"{\"a\":".repeat(1_000_000), None), Err(NotJson::TooDeep));
    }

    fn check_against_serde(text: &str) {
        let ours = scan(text, None).is_ok();
        let theirs = serde_json::from_str::<serde_json::Value>(text);
        let expect = theirs.as_ref().is_ok_and(|_| true)
            || theirs.as_ref().is_err_and(|error| error.to_string().starts_with("number out of range"));
        assert_eq!(ours, expect, "{text:?}: {theirs:?}");
    }

    #[test]
    fn the_same_texts_are_json_as_for_serde_json() {
        for text in [
            "",
            " ",
            "01",
            "-",
            "-0",
            "1.",
            ".5",
            "1e",
            "1e+",
            "1E-2",
            "+1",
            "tru",
            "true1",
            "nul",
            "[1,]",
            "[,1]",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1 \"b\":2}",
            "{1:2}",
            "[1 2]",
            "[}",
            "{]",
            "[]]",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\\ud800\\udc00\"",
            "\"\\udc00\"",
            "\"\t\"",
            "\"",
            "\u{feff}1",
            "[[],{},[{}]]",
            "{\"a\":[]}",
            "[{}1]",
            "{}{}",
        ] {
            check_against_serde(text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn random_texts_are_json_as_for_serde_json(text in "([\\[\\]{},: ]|\"a\"|\"\\\\\\\\u00e9\"|1|-2\\.5|true|null){0,12}") {
            check_against_serde(&text);
        }

        #[test]
        fn escaped_text_reads_back(text in any::<String>()) {
            let mut out = b"\"".to_vec();
            push_escaped(&mut out, &text);
            out.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
