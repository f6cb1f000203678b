//! Runs the whole core (intake, router, engine, mailboxes) on in-memory ports under seeded faults, in paused time, and checks
//! conservation: accepted = delivered + parked + dead, and nothing twice without its mark.
//!
//! Faults: the store fails before or after a commit took effect, the channel fails, loses answers or hangs, the directory and
//! the sealer go down, the process dies between any two steps and is started again, or only seems to be dead and goes on beside
//! its successor, departments die holding leases.
//! Not here: real disks, brokers, clocks (those are tested from outside).

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod faults;
mod world;

pub use faults::{Breakage, FaultyStore};
pub use world::{Outcome, World};
