//! Looks organisations up in DVDV2 (Deutsches Verwaltungsdiensteverzeichnis, API v2) over its directory interface.
//!
//! ```text
//! Directory port -> cache (fresh, negative, stale while down) -> failover over servers -> token -> HTTP
//! ```
//!
//! Absence is an answer, failure is an error, and neither is ever taken for the other: only a problem of type ENTITY_NOT_FOUND
//! or a 204 is a miss; a plain 404 is a wrong base URL. Behaviour follows the published interface 2.15 and what is known of
//! deployed servers (docs/protocols.md); decisions are in ADR 0004.

mod cache;
mod certificates;
mod directory;
mod options;
mod outage;
mod servers;
mod token;
mod wire;

pub use directory::DvdvDirectory;
pub use options::{DvdvOptions, EntryPath, InvalidDvdvOptions};
pub use servers::AskError;
