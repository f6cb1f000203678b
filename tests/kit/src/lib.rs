//! In-memory ports, contract suites, private services, driven clocks. The store in memory satisfies the contract of its port,
//! proven by the same suite as the real one.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

pub mod channel;
pub mod contract;
pub mod directory;
pub mod files;
pub mod memory;
pub mod rabbitmq;
pub mod samples;
pub mod seal;
pub mod seeded;
pub mod time;
