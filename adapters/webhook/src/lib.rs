//! Delivers messages to HTTPS endpoints (webhooks): one POST for each message, signed twice.
//!
//! ```text
//! Handover -> Body (document, or multipart with everything) -> Signer (Standard Webhooks) -> HTTPS -> outcome by status
//! ```
//!
//! The seal of the gateway goes along as it does everywhere. Besides, every request carries the headers of the Standard Webhooks
//! specification 1.0.0, which receivers verify with a shared secret and which bind the request to its time. The body is read twice, once for
//! that signature and once to be sent; memory stays bounded. Redirects are not followed. Endpoints that answer at once can be asked, too.

mod body;
mod channel;
mod sign;

pub use body::Format;
pub use channel::{Address, Webhook, WebhookChannel};
pub use sign::{Secrets, UnusableSecret};
