//! The broker beside Mosquitto, and under the loads of a large plant: `cargo bench --bench broker [mosquitto] [load]`.
//!
//! The servers run in processes of their own, the clients in this one and in children of it, all on one machine.
//! What compares needs Debian's package `mosquitto`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "a benchmark may fail loudly")]

#[path = "../../support/mod.rs"]
mod support;

mod beside_mosquitto;
mod client;
mod load;
mod server;

fn main() {
    if load::is_child() {
        return;
    }
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |name: &str| args.is_empty() || args.iter().any(|arg| arg == name);
    if wanted("mosquitto") {
        beside_mosquitto::run();
    }
    if wanted("load") {
        load::run();
    }
}
