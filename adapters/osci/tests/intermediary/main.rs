//! The intermediary over real sockets: our own client in good times, and everything that is wrong in bad ones.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod bad_input;
mod chunks;
mod dialogs;
mod lab;
mod peers;
mod pushes;
mod replay;
