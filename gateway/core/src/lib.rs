//! Core of Amtsbote: what a message is, where it goes, and how it gets there without being lost.
//!
//! ```text
//! face (REST, XTA, OSCI) -> Intake -> MessageStore -> Engine -> Channel | Mailboxes -> department
//!                              |                         |
//!                            Router <-- Directory      Sealer
//! ```
//!
//! Invariants of the system:
//! - an answer is given only for what is durable ([`intake::Committed`]);
//! - a delivery changes only by its state machine ([`delivery::Delivery::apply`]) and only if nobody else changed it;
//! - nothing is handed out before it is sealed; every hand-over is counted durably before it happens;
//! - core knows no protocol, no database, no clock: all of that are ports.

pub mod account;
pub mod audit;
pub mod control;
pub mod delivery;
pub mod engine;
pub mod exchange;
pub mod hold;
pub mod id;
pub mod intake;
pub mod key;
pub mod mailbox;
pub mod message;
pub mod operations;
pub mod port;
pub mod remote;
pub mod reservation;
pub mod route;
pub mod submissions;
pub mod vitals;
pub mod wake;

pub use jiff::Timestamp;
