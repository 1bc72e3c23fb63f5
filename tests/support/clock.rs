//! A clock of its own for a program: Debian's package `faketime`, a library that is put before the system's own.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "test code")]

use std::fs;
use std::path::{Path, PathBuf};

/// A clock that is off, and can be set.
pub struct Clock {
    library: String,
    file: PathBuf,
}

impl Clock {
    /// Off by so much: `-2d`. `None` without the package.
    pub fn off(dir: &Path, by: &str) -> Option<Self> {
        let library = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
            .map(|machine| format!("/usr/lib/{machine}/faketime/libfaketime.so.1"))
            .into_iter()
            .find(|path| Path::new(path).exists());
        let Some(library) = library else {
            assert!(std::env::var_os("BROWNBRIDGE_SLOW").is_none(), "the package faketime is missing");
            eprintln!("the package faketime is missing: a part of this test is left out");
            return None;
        };
        let clock = Self { library, file: dir.join("clock") };
        clock.set(by);
        Some(clock)
    }

    /// From now on, about a second later, it is off by so much.
    pub fn set(&self, by: &str) {
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{by}\n")).unwrap();
        fs::rename(&next, &self.file).unwrap();
    }

    /// What a program is to be started with.
    pub fn environment(&self) -> [(&str, &str); 4] {
        [
            ("LD_PRELOAD", &self.library),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap()),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
    }
}
