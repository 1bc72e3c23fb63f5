//! The hub simulator.
