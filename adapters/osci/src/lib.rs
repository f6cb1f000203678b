//! OSCI-Transport 1.2: the intermediary other systems talk to.
//!
//! [`codec`] knows the bytes and does no I/O; everything else decides nothing but leaves that to core.

pub mod codec;
pub mod reception;
pub mod spool;
