//! `xml`: an element becomes an object of its attributes and children.
//!
//! Attributes are called `@name`. A child with neither is its text: a number, a truth value or text (`0012345`). Children of the same
//! name become a list. Text beside attributes or children is `#text`. The outermost element is a member itself:
//! `<press id="7"><bar>61.5</bar></press>` becomes `{"press":{"@id":7,"bar":61.5}}`. Names are without their namespace.
//! Document types are refused, so entities cannot grow.
//!
//! The text is UTF-16 behind a byte order mark of that, else what its declaration says: UTF-8, ISO-8859-1 or Windows-1252.

use std::borrow::Cow;

use super::encoding::{self, Encoding};
use super::{Decoded, ITEM_NAMES, push_guessed, push_key};
use crate::rules::QuarantineReason;
use crate::rules::json::MAX_DEPTH;
use crate::rules::refusal::{BASE64, Refusal};

/// Elements and texts of one payload at most.
const MAX_NODES: u32 = 20_000;

pub(super) fn decode(payload: &[u8], out: &mut Decoded) -> Result<(), Refusal> {
    let text = text_of(payload)?;
    let text = text.trim_start_matches('\u{feff}').trim_end_matches('\0');
    let options = roxmltree::ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options)
        .map_err(|error| Refusal::undecoded(format!("the payload is not XML: {error}")))?;
    let start = out.json.len();
    out.json.push(b'{');
    push_key(&mut out.json, &mut { true }, document.root_element().tag_name().name());
    push_element(document.root_element(), 2, &mut out.json)?;
    out.json.push(b'}');
    out.end(start, [""; ITEM_NAMES])
}

fn text_of(payload: &[u8]) -> Result<Cow<'_, str>, Refusal> {
    let declared = declared_encoding(payload);
    let encoding = match payload {
        [0xFF, 0xFE, ..] => Some(Encoding::Utf16Le),
        [0xFE, 0xFF, ..] => Some(Encoding::Utf16Be),
        _ => declared.and_then(|name| Encoding::named(name)?),
    };
    let Some(encoding) = encoding else {
        return std::str::from_utf8(payload).map(Cow::Borrowed).map_err(|error| {
            let at = error.valid_up_to() + 1;
            let declared = declared.map_or("no encoding".to_owned(), |name| format!("the encoding {name}"));
            let detail = format!("the payload is not text: byte {at} is no UTF-8, and its declaration says {declared}");
            Refusal::new(QuarantineReason::NotText, detail).advise(Some(BASE64))
        });
    };
    let mut text = Vec::new();
    encoding::read(encoding, payload, &mut text)?;
    Ok(Cow::Owned(String::from_utf8(text).unwrap_or_default()))
}

/// What `<?xml version="1.0" encoding=".."?>` says.
fn declared_encoding(payload: &[u8]) -> Option<&str> {
    const LONGEST: usize = 200;
    let head = payload.get(..LONGEST).unwrap_or(payload);
    let end = head.windows(2).position(|two| two == b"?>")?;
    let declaration = std::str::from_utf8(head.get(..end)?).ok()?.trim_start_matches('\u{feff}');
    let (_, rest) = declaration.strip_prefix("<?xml")?.split_once("encoding")?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    rest.strip_prefix(quote)?.split_once(quote).map(|(name, _)| name)
}

fn push_element(element: roxmltree::Node<'_, '_>, depth: usize, out: &mut Vec<u8>) -> Result<(), Refusal> {
    if depth > MAX_DEPTH {
        return Err(Refusal::undecoded(format!("the payload nests deeper than {MAX_DEPTH} levels")));
    }
    let text: String = element.children().filter(|node| node.is_text()).filter_map(|node| node.text()).collect();
    let text = text.trim();
    let children = || element.children().filter(roxmltree::Node::is_element);
    if element.attributes().len() == 0 && children().next().is_none() {
        push_guessed(out, text, false);
        return Ok(());
    }
    out.push(b'{');
    let mut first = true;
    for attribute in element.attributes() {
        push_key(out, &mut first, &format!("@{}", attribute.name()));
        push_guessed(out, attribute.value(), false);
    }
    let mut named: Vec<(&str, roxmltree::Node<'_, '_>)> =
        children().map(|child| (child.tag_name().name(), child)).collect();
    // The order of the names is that of the document.
    let mut order = std::collections::HashMap::new();
    for (name, _) in &named {
        let next = order.len();
        order.entry(*name).or_insert(next);
    }
    named.sort_by_key(|(name, _)| order.get(name).copied());
    for group in named.chunk_by(|(a, _), (b, _)| a == b) {
        let Some((name, _)) = group.first() else { continue };
        push_key(out, &mut first, name);
        let many = group.len() > 1;
        if many {
            out.push(b'[');
        }
        for (index, (_, child)) in group.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            push_element(*child, depth + 1 + usize::from(many), out)?;
        }
        if many {
            out.push(b']');
        }
    }
    if !text.is_empty() {
        push_key(out, &mut first, "#text");
        push_guessed(out, text, false);
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use crate::rules::rule::Decode;

    #[test]
    fn documents() {
        for (payload, expect) in [
            ("<a>1</a>", Ok("{\"a\":1}")),
            ("\u{feff}<a>0012345</a>", Ok("{\"a\":\"0012345\"}")),
            (
                "<?xml version=\"1.0\"?><p:press xmlns:p=\"x\" id=\"7\">\n <bar>61.5</bar><run>true</run></p:press>",
                Ok("{\"press\":{\"@id\":7,\"bar\":61.5,\"run\":true}}"),
            ),
            ("<a><b>1</b><c/><b>x &amp; y</b></a>", Ok("{\"a\":{\"b\":[1,\"x & y\"],\"c\":\"\"}}")),
            ("<a u=\"bar\">61.5</a>", Ok("{\"a\":{\"@u\":\"bar\",\"#text\":61.5}}")),
            ("<a>", Err("the payload is not XML: the root node was opened but never closed")),
            ("<!DOCTYPE a []><a/>", Err("the payload is not XML: XML with DTD detected")),
        ] {
            check(&Decode::Xml, payload.as_bytes(), expect.map(|text| vec![text]));
        }
        let declared = |name: &str| [b"<?xml version='1.0' encoding='", name.as_bytes(), b"'?><a>\xfc</a>"].concat();
        let utf16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            let text = "\u{feff}<?xml version=\"1.0\" encoding=\"UTF-16\"?><a>ü</a>\0";
            text.encode_utf16().flat_map(bytes).collect()
        };
        let unknown = "the payload is not text: byte 46 is no UTF-8, and its declaration says the encoding Shift_JIS";
        for (payload, expect) in [
            (declared("ISO-8859-1"), Ok("{\"a\":\"ü\"}")),
            (declared("windows-1252"), Ok("{\"a\":\"ü\"}")),
            (utf16(u16::to_le_bytes), Ok("{\"a\":\"ü\"}")),
            (utf16(u16::to_be_bytes), Ok("{\"a\":\"ü\"}")),
            (b"<a>1</a>\0".to_vec(), Ok("{\"a\":1}")),
            (declared("Shift_JIS"), Err(unknown)),
            (
                b"<a>\xfc</a>".to_vec(),
                Err("the payload is not text: byte 4 is no UTF-8, and its declaration says no encoding"),
            ),
        ] {
            check(&Decode::Xml, &payload, expect.map(|text| vec![text]));
        }
        let deep = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        check(&Decode::Xml, deep(3).as_bytes(), Ok(vec!["{\"a\":{\"a\":{\"a\":\"\"}}}"]));
        check(&Decode::Xml, deep(2000).as_bytes(), Err("the payload nests deeper than 128 levels"));
    }
}
