//! REST for portals and departments (design section 8): JSON, `multipart/form-data` in, problems out.
//!
//! A thin driving adapter: it knows who calls, reads what they send under limits, and leaves every decision to core. What
//! belongs to others answers exactly like what does not exist.

mod admin;
mod body;
mod caller;
mod describe;
mod fault;
mod mailbox;
mod metadata;
mod openapi;
mod range;
mod routes;
mod submissions;
mod upload;
mod view;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::account::AccountBook;
use amtsbote_core::intake::Intake;
use amtsbote_core::mailbox::Mailboxes;
use amtsbote_core::port::{Clock, MessageStore, ReceiptSigner};
use amtsbote_core::route::Router;
use amtsbote_core::submissions::Submissions;
use amtsbote_http::{InFlight, Quotas};
use arc_swap::ArcSwap;

pub use admin::{AdminServices, admin_document, admin_router};
pub use caller::{authenticate, role_missing};
pub use openapi::{document, router};

/// Bounds of what clients may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestLimits {
    /// Bytes of the metadata part.
    pub metadata: usize,
    /// Bytes of document and attachments together.
    pub body: u64,
    /// Attachments of one message.
    pub attachments: usize,
    /// Time without a single byte of a body.
    pub stall: Duration,
    /// Calls of one account per second.
    pub requests: NonZeroU32,
    /// Bytes of memory for bodies that are being received.
    pub in_flight: u64,
}

impl Default for RestLimits {
    /// 64 KiB, 1 GiB, 1,000, 30 s, 10,000 per second: more than one machine serves; 256 MiB.
    fn default() -> Self {
        Self {
            metadata: 64 << 10,
            body: 1 << 30,
            attachments: 1_000,
            stall: Duration::from_secs(30),
            requests: NonZeroU32::new(10_000).unwrap_or(NonZeroU32::MAX),
            in_flight: 256 << 20,
        }
    }
}

/// What the face works with.
pub struct Services {
    /// Takes submissions.
    pub intake: Arc<Intake>,
    /// Follows them.
    pub submissions: Arc<Submissions>,
    /// Hands them out.
    pub mailboxes: Arc<Mailboxes>,
    /// Explains routes.
    pub router: Arc<Router>,
    /// Stages bodies.
    pub store: Arc<dyn MessageStore>,
    /// Signs receipts.
    pub receipts: Arc<dyn ReceiptSigner>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who may call; replaced while running.
    pub accounts: Arc<ArcSwap<AccountBook>>,
    /// How often an account may call.
    pub quotas: Arc<Quotas>,
    /// Memory for bodies.
    pub in_flight: Arc<InFlight>,
    /// Bounds.
    pub limits: RestLimits,
}
