//! A DVDV2 directory server as its published interface describes it (API v2, 2.15), for tests, the demo and laboratories.
//!
//! Written from the interface, not from the client next door, so that the two cannot agree on the same mistake. The shapes on
//! the wire are those real servers send, also where the published file is known to be wrong.
//! Not for production: it makes its own certificates and forgets everything when it ends.

mod auth;
mod certificate;
pub mod example;
mod faults;
mod model;
mod operations;
mod problem;
mod server;

pub use faults::{Fault, FaultRule};
pub use model::{DataError, Directory};
pub use server::{AudienceCheck, Miss, Mock, MockOptions, Now};
