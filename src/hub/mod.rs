//! IoT Hub's protocol as pure functions: topics, property bag, SAS tokens, connection strings, limits.
//!
//! Bytes, text and the time go in, values come out; nothing here opens a socket or reads a clock.
//! The facts are those of Microsoft's own SDKs and server parsers: `tests/golden/azure` holds what
//! they produced, and the tests of this module replay it.
//!
//! | module | knows |
//! |---|---|
//! | [`accounts`] | what a device connects with, and who knows it |
//! | [`device_table`] | the file that lists devices |
//! | [`connection_string`] | the text pasted from the portal |
//! | [`connect`] | client id, user name, SAS resource, the host to dial |
//! | [`certificate`] | what a certificate says |
//! | [`sas`] | minting and checking tokens |
//! | [`dps`] | the dialogue with the Device Provisioning Service |
//! | [`d2c`] | the telemetry topic, its size, publishes already addressed to the hub |
//! | [`back`] | topics of twins, direct methods and cloud-to-device messages |
//! | [`bag`] | the property bag at the end of that topic |
//! | [`model`] | the ids of plug-and-play models |
//! | [`limits`] | numbers, with their source |
//! | [`pace`] | how fast a backlog may follow |
//! | [`broken`] | what an error of a line means |
//! | [`refused`] | what a refused CONNECT probably means |
//! | [`change`] | changes of reported properties that wait |
//! | [`exchange`] | the dialogue about one twin |
//! | [`twin`] | merging and limits of twin properties |

pub mod accounts;
pub mod back;
pub mod bag;
pub mod broken;
pub mod certificate;
pub mod change;
pub mod clock;
pub mod connect;
pub mod connection_string;
pub mod d2c;
pub mod device_table;
pub mod dps;
pub mod exchange;
pub mod limits;
pub mod model;
pub mod pace;
pub mod refused;
pub mod sas;
pub mod twin;
