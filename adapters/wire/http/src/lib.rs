//! HTTP for Amtsbote: listeners with limits and time-outs, `application/problem+json`, and a client that cannot be talked into
//! calling internal addresses.
//!
//! Not here: what any path means; routers are handed in.

mod client;
mod in_flight;
mod listener;
mod problem;
mod quota;

pub use amtsbote_tls::{Peer, PeerTrust, ServerTls};
pub use client::{BodyError, Client, ClientError, ClientOptions, Reach, Reply, Streamed};
pub use in_flight::InFlight;
pub use listener::{Limits, Listener, Nobody, serve};
pub use problem::{PROBLEM_BASE, Problem};
pub use quota::{Left, Quotas};
