//! Black-box tests: configuration file and protocol in, protocol out.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod amqp;
mod architecture;
mod bad_input;
mod commands;
mod console;
mod durability;
mod dvdv_interface;
mod folder;
mod large;
mod least_knowledge;
mod lifecycle;
mod monitoring;
mod operators;
mod packaging;
mod round_trip;
mod routing;
mod tutorial;
mod webhook;
mod xta;
mod xta_peers;
mod xta_remote;
mod xta_toolkits;
