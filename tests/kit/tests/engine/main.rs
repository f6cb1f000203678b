//! The whole engine on fakes, with simulated time: what the simulation does not script.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod attempts;
mod exchanges;
mod lab;
mod operations;
