//! The gateway as a process: configuration, wiring, commands. The only place that names concrete adapters.

mod admin;
pub mod config;
pub mod console;
pub mod demo;
pub mod doctor;
pub mod operator;
mod osci;
pub mod party;
pub mod probe;
pub mod service;
mod system;
mod vitals;
mod wire;

pub use system::SystemClock;
pub use wire::{Gateway, StartError, check_files};
