use super::*;

#[test]
fn nearest_words() {
    for (word, expect) in [("devise", Some("device")), ("jsn", Some("json")), ("qqq", None), ("", None)] {
        assert_eq!(nearest(word, ["device", "json", "text"]), expect, "{word}");
    }
}

#[test]
fn a_span_outside_the_text_is_moved_inside() {
    let sources = [SourceFile { path: "a.toml".into(), text: "ä = 1\n".into() }];
    for span in [0..1, 1..1, 5..99, 98..99, Span { start: 3, end: 1 }] {
        let found = Diagnostic::error("x", "title", 0).at(span.clone(), "here").fix(span, "b");
        assert!(
            found.render(&sources, false).contains("a.toml:1") || found.render(&sources, false).contains("a.toml:2")
        );
        assert_eq!(found.json(&sources)["path"], "a.toml");
    }
}
