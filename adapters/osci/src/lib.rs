//! OSCI-Transport 1.2: the intermediary other systems talk to.
//!
//! [`codec`] knows the bytes and does no I/O. Around it: [`reception`] takes messages in, [`dialogs`] and [`clients`] say who is talking,
//! `orders` and `cards` do what is wanted through core, `deliveries` maps, `respond` sends. Every decision about a message is core's.

mod cards;
mod channel;
mod chunks;
mod client;
pub mod clients;
pub mod codec;
mod deliveries;
pub mod dialogs;
mod follower;
mod inbound;
mod orders;
mod poller;
mod push;
pub mod reception;
mod recipient;
mod respond;
mod server;
mod services;
mod session;
pub mod spool;
pub mod transfers;

pub use channel::{OsciChannel, OsciPeer, Protection};
pub use follower::OsciFollower;
pub use inbound::{Inbound, NotTaken};
pub use poller::OsciPoller;
pub use push::{OsciPusher, PushPorts};
pub use recipient::Recipient;
pub use server::router;
pub use services::{DIALOG_IDLE, DeliveryIds, MetadataCodec, OsciKeys, OsciOptions, Said, Services};
pub use session::{Answered, DialogError, Freight, OsciClient, Own, Peer, Session, first_digits};
