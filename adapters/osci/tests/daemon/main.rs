//! The intermediary as a process: killed at any moment, and driven by the official library.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod bridging;
mod killed;
mod lab;
mod large;
mod library;
mod two;
