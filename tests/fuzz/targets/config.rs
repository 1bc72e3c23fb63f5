//! Any text as `bridge.toml`, with environment variables that exist, are empty, or do not exist: reading it ends,
//! settings come exactly where there is no error, and every finding can be shown to people and to machines.
#![no_main]

use brownbridge::config;
use brownbridge::diag::{Diagnostic, SourceFile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let env = |name: &str| match name.len() {
        0..=2 => Some("https://x/${A}$$\"".to_owned()),
        3 => Some(String::new()),
        _ => None,
    };
    let (settings, diagnostics) = config::parse(0, text, &env);
    assert_eq!(settings.is_none(), diagnostics.iter().any(Diagnostic::is_error));
    let sources = [SourceFile { path: "bridge.toml".to_owned(), text: text.to_owned() }];
    for diagnostic in &diagnostics {
        assert!(diagnostic.render(&sources, false).ends_with('\n'));
        assert!(diagnostic.json(&sources).is_object());
    }
});
