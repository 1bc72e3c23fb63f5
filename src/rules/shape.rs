//! `scale`, `set`, `rename` and `remove`: an object's text into another's. What no key names keeps its bytes.
//!
//! Fields are named by their path, `temp` or `motor.temp`. `scale` and `set` leave everything else as it is; `rename` and
//! `remove` write the objects they reach into anew, without the white space between their members. A field that is to
//! be renamed and meets one of that name takes its place. Where two are renamed to the same, the last one in the payload is kept.

use super::QuarantineReason;
use super::decode::push_key;
use super::expr::{self, Expr, Scope};
use super::json::{self, Kind, Member};
use super::number;
use super::refusal::{Refusal, shown};
use super::template::Facts;

/// The steps to a field.
pub(super) type Path = Box<[Box<str>]>;

/// One entry of `scale`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    pub(super) path: Path,
    /// The value by this, and then this added.
    pub(super) factor: f64,
    pub(super) offset: f64,
    /// Digits behind the point.
    pub(super) round: Option<f64>,
    /// The results that are cut off there.
    pub(super) clamp: Option<[f64; 2]>,
}

/// One entry of `set`.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) path: Path,
    pub(super) expr: Expr,
}

/// `rename` and `remove` as a tree of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reshape {
    pub(super) fields: Vec<(Box<str>, Field)>,
}

/// What becomes of a field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) remove: bool,
    pub(super) rename: Option<Box<str>>,
    pub(super) inner: Reshape,
}

impl Reshape {
    /// What becomes of a field the rule knows by this name, in words; none where it is sent as it is.
    pub(super) fn outcome(&self, path: &[Box<str>]) -> Option<String> {
        let (mut inner, mut names, mut is_renamed) = (Some(self), Vec::new(), false);
        for step in path {
            let field = inner.and_then(|inner| inner.fields.iter().find(|(name, _)| name == step));
            let field = field.map(|(_, field)| field);
            if field.is_some_and(|field| field.remove) {
                return Some("not sent".to_owned());
            }
            let new = field.and_then(|field| field.rename.as_deref());
            is_renamed |= new.is_some();
            names.push(new.unwrap_or(step));
            inner = field.map(|field| &field.inner);
        }
        is_renamed.then(|| format!("sent as `{}`", names.join(".")))
    }

    /// The name of the field that `rename` gives this one.
    pub(super) fn old_name(&self, path: &[Box<str>]) -> Option<String> {
        let (mut inner, mut names, mut is_renamed) = (Some(self), Vec::new(), false);
        for step in path {
            let made = |(_, field): &&(Box<str>, Field)| field.rename.as_ref() == Some(step);
            let fields = || inner.into_iter().flat_map(|inner| &inner.fields);
            let renamed = fields().find(made);
            is_renamed |= renamed.is_some();
            let field = renamed.or_else(|| fields().find(|(name, _)| name == step));
            names.push(field.map_or(&**step, |(name, _)| name));
            inner = field.map(|(_, field)| &field.inner);
        }
        is_renamed.then(|| names.join("."))
    }
}

impl Scale {
    fn apply(&self, value: f64) -> f64 {
        let mut scaled = value * self.factor + self.offset;
        if let Some([low, high]) = self.clamp {
            scaled = scaled.clamp(low.min(high), low.max(high));
        }
        match self.round {
            Some(digits) => expr::round(scaled, digits),
            None => scaled,
        }
    }
}

/// Writes an object with its numbers scaled.
pub(super) fn scale(scales: &[Scale], facts: &Facts<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let Facts { text, .. } = *facts;
    let mut changes: Vec<(usize, usize, f64)> = Vec::new();
    for scale in scales {
        let Some(value) = facts.field(&scale.path).filter(|value| *value != "null") else { continue };
        let scaled = value.parse::<f64>().ok().map(|value| scale.apply(value)).filter(|value| value.is_finite());
        let Some(scaled) = scaled else {
            let detail =
                format!("`scale` needs a number in `{}`, it is {}", scale.path.join("."), shown(value.as_bytes()));
            return Err(Refusal::new(QuarantineReason::NotANumber, detail));
        };
        // A field is a part of the text it was found in.
        let start = value.as_ptr() as usize - text.as_ptr() as usize;
        changes.push((start, start + value.len(), scaled));
    }
    changes.sort_unstable_by_key(|(start, ..)| *start);
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (start, end, scaled) in changes {
        out.extend_from_slice(bytes.get(copied..start).unwrap_or(&[]));
        number::push_f64(scaled, out);
        copied = end;
    }
    out.extend_from_slice(bytes.get(copied..).unwrap_or(&[]));
    Ok(())
}

/// Writes an object with one field calculated; false, and nothing, where what it is made of is missing.
pub(super) fn set(set: &Set, facts: &Facts<'_>, value: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, Refusal> {
    let calculated = Scope::new(facts).value(&set.expr).map_err(|problem| {
        let detail = format!("`{}` cannot be calculated: {problem}", set.path.join("."));
        Refusal::new(QuarantineReason::NotCalculable, detail)
    })?;
    value.clear();
    if !calculated.push(value) {
        return Ok(false);
    }
    put(facts.text, facts.members, &set.path, value, out);
    Ok(true)
}

/// Writes an object with a field in its place, or behind the last one.
fn put(text: &str, members: &[Member], path: &[Box<str>], value: &[u8], out: &mut Vec<u8>) {
    let Some((first, rest)) = path.split_first() else { return out.extend_from_slice(value) };
    let bytes = |from: usize, to: usize| text.as_bytes().get(from..to).unwrap_or(&[]);
    if let Some(member) = members.iter().rev().find(|member| member.is(text, first)) {
        out.extend_from_slice(bytes(0, member.value.start));
        put_into(text.get(member.value.clone()).unwrap_or(""), rest, value, out);
        out.extend_from_slice(bytes(member.value.end, text.len()));
        return;
    }
    let end = members.last().map_or_else(|| text.rfind('}').unwrap_or(text.len()), |last| last.value.end);
    out.extend_from_slice(bytes(0, end));
    push_key(out, &mut members.is_empty(), first);
    put_into("", rest, value, out);
    out.extend_from_slice(bytes(end, text.len()));
}

/// The same for a field of a value; what is no object becomes one.
fn put_into(old: &str, path: &[Box<str>], value: &[u8], out: &mut Vec<u8>) {
    let mut members = Vec::new();
    match path {
        [] => out.extend_from_slice(value),
        _ if json::scan(old, Some(&mut members)) == Ok(Kind::Object) => put(old, &members, path, value, out),
        _ => put("{}", &[], path, value, out),
    }
}

impl Reshape {
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The entry of a field, made where there is none.
    pub(super) fn entry(&mut self, path: &[Box<str>]) -> Option<&mut Field> {
        let (first, rest) = path.split_first()?;
        let at = self.fields.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
            self.fields.push((first.clone(), Field::default()));
            self.fields.len() - 1
        });
        let field = self.fields.get_mut(at).map(|(_, field)| field)?;
        if rest.is_empty() { Some(field) } else { field.inner.entry(rest) }
    }

    /// Writes an object with its fields renamed and removed.
    pub(super) fn apply(&self, text: &str, members: &[Member], out: &mut Vec<u8>) {
        let of = |member: &Member| self.fields.iter().find(|(name, _)| member.is(text, name)).map(|(_, field)| field);
        let renamed = |(name, field): &'_ (Box<str>, Field)| {
            let new = field.rename.clone()?;
            members.iter().any(|member| member.is(text, name)).then_some(new)
        };
        let taken: Vec<Box<str>> = self.fields.iter().filter_map(renamed).collect();
        let replaced = |member: &Member| taken.iter().any(|new| member.is(text, new));
        let renamed_to = |member: &Member| of(member).filter(|field| !field.remove)?.rename.as_deref();
        let comes_again =
            |at: usize, new: &str| members.iter().skip(at + 1).any(|later| renamed_to(later) == Some(new));
        out.push(b'{');
        let mut first = true;
        for (at, member) in members.iter().enumerate() {
            let field = of(member);
            let stays = field.is_none_or(|field| field.rename.is_none());
            if field.is_some_and(|field| field.remove) || (stays && replaced(member)) {
                continue;
            }
            if renamed_to(member).is_some_and(|new| comes_again(at, new)) {
                continue;
            }
            match field.and_then(|field| field.rename.as_deref()) {
                Some(new) => push_key(out, &mut first, new),
                None => {
                    if !std::mem::take(&mut first) {
                        out.push(b',');
                    }
                    out.push(b'"');
                    out.extend_from_slice(text.get(member.key.clone()).unwrap_or("").as_bytes());
                    out.extend_from_slice(b"\":");
                }
            }
            let value = text.get(member.value.clone()).unwrap_or("");
            let mut inner = Vec::new();
            match field.filter(|field| !field.inner.is_empty()) {
                Some(field) if json::scan(value, Some(&mut inner)) == Ok(Kind::Object) => {
                    field.inner.apply(value, &inner, out);
                }
                _ => out.extend_from_slice(value.as_bytes()),
            }
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> Path {
        text.split('.').map(Box::from).collect()
    }

    fn members(text: &str) -> Vec<Member> {
        let mut members = Vec::new();
        assert_eq!(json::scan(text, Some(&mut members)), Ok(Kind::Object));
        members
    }

    #[test]
    fn fields_are_put_where_they_belong() {
        for (text, at, expect) in [
            ("{}", "a", "{\"a\":7}"),
            (" { \"b\" : 1 } ", "a", " { \"b\" : 1,\"a\":7 } "),
            ("{\"a\": [1], \"b\":2}", "a", "{\"a\": 7, \"b\":2}"),
            ("{\"a\":{\"x\":1}}", "a.b", "{\"a\":{\"x\":1,\"b\":7}}"),
            ("{\"a\":1}", "a.b.c", "{\"a\":{\"b\":{\"c\":7}}}"),
            ("{}", "a.b", "{\"a\":{\"b\":7}}"),
        ] {
            let mut out = Vec::new();
            put(text, &members(text), &path(at), b"7", &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expect, "{text} {at}");
        }
    }

    #[test]
    fn the_names_before_and_after() {
        let mut reshape = Reshape::default();
        for (old, new) in [("T", "temperature"), ("motor.rpm", "speed"), ("box", "crate")] {
            reshape.entry(&path(old)).unwrap().rename = Some(new.into());
        }
        reshape.entry(&path("box.lid")).unwrap().rename = Some("cover".into());
        reshape.entry(&path("secret")).unwrap().remove = true;
        for (name, outcome, old) in [
            ("T", Some("sent as `temperature`"), None),
            ("temperature", None, Some("T")),
            ("motor.rpm", Some("sent as `motor.speed`"), None),
            ("motor.speed", None, Some("motor.rpm")),
            ("speed", None, None),
            ("box.lid", Some("sent as `crate.cover`"), None),
            ("crate.cover", None, Some("box.lid")),
            ("box.rest", Some("sent as `crate.rest`"), None),
            ("secret.inner", Some("not sent"), None),
            ("other", None, None),
        ] {
            let told = (reshape.outcome(&path(name)), reshape.old_name(&path(name)));
            assert_eq!((told.0.as_deref(), told.1.as_deref()), (outcome, old), "{name}");
        }
    }

    #[test]
    fn fields_are_renamed_and_removed() {
        for (text, remove, rename, expect) in [
            ("{\"a\": 1, \"b\":2,\"c\":3}", &["b"][..], &[][..], "{\"a\":1,\"c\":3}"),
            ("{\"a\":1,\"b\":2}", &["a", "b", "c"], &[], "{}"),
            ("{\"a\":1,\"b\":2}", &[], &[("a", "x")], "{\"x\":1,\"b\":2}"),
            ("{\"a\":1,\"b\":2}", &[], &[("a", "b")], "{\"b\":1}"),
            ("{\"a\":1,\"b\":2}", &[], &[("a", "b"), ("b", "a")], "{\"b\":1,\"a\":2}"),
            ("{\"b\":2}", &[], &[("a", "b")], "{\"b\":2}"),
            ("{\"a\":1,\"x\":0,\"c\":3}", &[], &[("a", "b"), ("c", "b")], "{\"x\":0,\"b\":3}"),
            ("{\"c\":3,\"b\":2,\"a\":1}", &[], &[("a", "b"), ("c", "b")], "{\"b\":1}"),
            ("{\"c\":3}", &[], &[("a", "b"), ("c", "b")], "{\"b\":3}"),
            ("{\"a\":1,\"a\":2}", &[], &[("a", "b")], "{\"b\":2}"),
            ("{\"a\":1,\"b\":{\"x\":2}}", &["b.x"], &[("a", "b")], "{\"b\":1}"),
            ("{\"m\":{\"a\":1,\"b\":[ 2]}}", &["m.a"], &[("m.b", "x")], "{\"m\":{\"x\":[ 2]}}"),
            ("{\"m\":1}", &["m.a"], &[], "{\"m\":1}"),
            ("{\"\\u0061\":1,\"a\":2}", &["a"], &[], "{}"),
        ] {
            let mut reshape = Reshape::default();
            for name in remove {
                reshape.entry(&path(name)).unwrap().remove = true;
            }
            for (name, new) in rename {
                reshape.entry(&path(name)).unwrap().rename = Some((*new).into());
            }
            let mut out = Vec::new();
            reshape.apply(text, &members(text), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expect, "{text}");
        }
    }

    proptest! {
        /// Putting a field is what it is for a tree.
        #[test]
        fn putting_equals_a_tree(
            object in proptest::collection::btree_map("[abc]", prop_oneof![
                Just(serde_json::json!(1)), Just(serde_json::json!({"b": {"c": []}})), Just(serde_json::json!("}"))
            ], 0..4),
            at in "[abc](\\.[abc]){0,2}", pretty: bool,
        ) {
            let object = serde_json::Value::Object(object.into_iter().collect());
            let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
            let mut out = Vec::new();
            put(&text, &members(&text), &path(&at), b"7", &mut out);
            let mut expect = object;
            let mut place = &mut expect;
            for step in at.split('.') {
                if !place.is_object() {
                    *place = serde_json::json!({});
                }
                place = &mut place[step];
            }
            *place = 7.into();
            prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap(), expect);
        }
    }
}
