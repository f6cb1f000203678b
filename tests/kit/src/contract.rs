//! One suite per port; every adapter runs it with one line.

mod search;
mod store;

pub use store::{StoreFactory, crash_safe, in_memory_rules};
