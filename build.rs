//! Tells the program when it was released, which no clock can be before.
//!
//! The date is `SOURCE_DATE_EPOCH`, where who packages it sets that; otherwise the release of the Rust it needs. Never
//! the clock of the machine that builds: the same sources make the same program.

/// Rust 1.95, 2026-04-16: no program that needs it is older.
const RUST_RELEASED: i64 = 1_776_297_600;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().map(|text| text.trim().parse::<i64>());
    let released = match given {
        None => RUST_RELEASED,
        Some(Ok(seconds)) => seconds.max(RUST_RELEASED),
        Some(Err(error)) => {
            println!("cargo:error=SOURCE_DATE_EPOCH is no number of seconds: {error}");
            return;
        }
    };
    println!("cargo:rustc-env=BROWNBRIDGE_RELEASED={released}");
}
