//! brownbridge: a durable bridge from plaintext MQTT on the plant floor to Azure IoT Hub and IoT Edge.
//!
//! The library exists for the binary, the tests, the benchmarks and the fuzz targets; it is no
//! public API. ARCHITECTURE.md has the code map. Modules stand on floors and name only lower ones:
//! words (`topic`, `message`, `diag`, `secret`, `metrics`) < cores (`config`, `rules`, `hub`, `fence`, `ledger`, `watch`,
//! `downlink`) < engines
//! (`broker`, `spool`, `quarantine`, `shelf`, `recording`, `uplink`, `provision`, `outbound`, `admin`, `control`, `hubsim`; below them `websocket`) < wiring
//! (`bridge`, `app`) < shell (`cli`).

pub mod admin;
pub mod amount;
pub mod app;
pub mod bridge;
pub mod broker;
pub mod cli;
pub mod config;
pub mod control;
pub mod diag;
pub mod downlink;
pub mod fence;
pub mod hub;
pub mod hubsim;
pub mod journal;
pub mod ledger;
pub mod message;
pub mod metrics;
pub mod outbound;
pub mod provision;
pub mod quarantine;
pub mod recording;
pub mod rules;
pub mod secret;
pub mod shelf;
pub mod spool;
pub mod topic;
pub mod uplink;
pub mod watch;
pub mod websocket;
