//! XTA 2 (wire version 2.1.1) for specialist systems: send, management and mailbox ports as the published WSDL has them.
//!
//! A thin driving adapter: it knows the wire and leaves every decision to core. Tolerant in, valid out. What belongs to others is
//! answered as the standard says, without telling whether it exists. Not here: XML and packages (`amtsbote-soap`), what a message is.

mod channel;
mod client;
mod content;
mod cursors;
mod fault;
mod management;
mod mapping;
mod metadata;
mod msgbox;
mod names;
mod operation;
mod order;
mod poller;
mod report;
mod request;
mod send;
mod server;
mod wsdl;

use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::account::AccountBook;
use amtsbote_core::exchange::{EXCHANGE_WITHIN, Exchanges};
use amtsbote_core::intake::Intake;
use amtsbote_core::mailbox::Mailboxes;
use amtsbote_core::port::{Clock, Entropy, MessageStore, PartReader, StoredMessage};
use amtsbote_core::reservation::Reservations;
use amtsbote_core::route::Router;
use amtsbote_core::submissions::Submissions;
use amtsbote_http::{InFlight, Quotas};
use amtsbote_soap::{Element, Name};
use arc_swap::ArcSwap;

use mapping::{View, order_of, wants_root};
use metadata::Repair;

pub use channel::{XtaChannel, XtaServer};
pub use client::{CallError, ContentStream, Fetched, Listed, RemoteFault, Reply, Urls, XtaClient};
pub use cursors::Cursors;
pub use fault::ErrorCode;
pub use operation::{Operation, Port};
pub use order::{NewOrder, container_of, document_of, metadata_of, read_carried, write_carried};
pub use poller::Poller;
pub use server::router;

/// The root element of a document is looked for in so many bytes.
const ROOT_WITHIN: usize = 64 << 10;

/// Where the ports are, and what they say about themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XtaOptions {
    /// Path of the send port.
    pub send: String,
    /// Path of the management port.
    pub management: String,
    /// Path of the mailbox port.
    pub msgbox: String,
    /// How this server calls itself in reports.
    pub server_identity: String,
    /// Identifier of the gateway as sender in orders; absent: none is written.
    pub sender: Option<String>,
    /// Bytes of the contents of one message an account may hand in, unless it is configured with another limit.
    pub message_limit: u64,
    /// The limit no account can have more than.
    pub most: u64,
    /// How long the author of a synchronous order waits for the reader.
    pub answer_within: Duration,
}

impl Default for XtaOptions {
    /// `/xta/send`, `/xta/management`, `/xta/msgbox`; 40 MiB as the standard has it, 1 GiB at most; 25 seconds for an answer.
    fn default() -> Self {
        Self {
            send: "/xta/send".to_owned(),
            management: "/xta/management".to_owned(),
            msgbox: "/xta/msgbox".to_owned(),
            server_identity: "urn:amtsbote:xta".to_owned(),
            sender: None,
            message_limit: 40 << 20,
            most: 1 << 30,
            answer_within: EXCHANGE_WITHIN,
        }
    }
}

/// What the face works with.
pub struct Services {
    /// Takes orders.
    pub intake: Arc<Intake>,
    /// Takes orders whose authors wait for the answer.
    pub exchanges: Arc<Exchanges>,
    /// Follows them.
    pub submissions: Arc<Submissions>,
    /// Hands them out.
    pub mailboxes: Arc<Mailboxes>,
    /// Gives ids out.
    pub reservations: Reservations,
    /// Says where services are.
    pub router: Arc<Router>,
    /// Stages contents.
    pub store: Arc<dyn MessageStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Who may call; replaced while running.
    pub accounts: Arc<ArcSwap<AccountBook>>,
    /// How often an account may call.
    pub quotas: Arc<Quotas>,
    /// Memory for bodies.
    pub in_flight: Arc<InFlight>,
    /// Paths, names, limits.
    pub options: XtaOptions,
    /// Open iterators.
    pub cursors: Cursors,
}

impl Services {
    /// The order of a message as it is shown now, and what was repaired when it came.
    async fn order(&self, stored: &StoredMessage, view: View) -> (Element, Vec<Repair>) {
        let root = match wants_root(&stored.message) && !stored.delivery.stripped {
            true => match self.store.open_part(stored.message.id, 0, 0).await {
                Ok(Some(reader)) => root_of(reader).await,
                // Whoever wants the document is told; the order can be shown without.
                Ok(None) | Err(_) => None,
            },
            false => None,
        };
        order_of(stored, view, self.options.sender.as_deref(), root).await
    }
}

/// The name of a document's root element, as far as its first piece tells.
async fn root_of(mut reader: Box<dyn PartReader>) -> Option<Name> {
    let first = reader.next().await.ok()??;
    amtsbote_soap::root_name(&first[..first.len().min(ROOT_WITHIN)]).await
}
