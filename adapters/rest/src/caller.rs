//! Who calls, and what the account may do. Deny by default.

use std::sync::Arc;

use amtsbote_core::account::{Account, Credential, Role};
use amtsbote_http::{Peer, Problem};
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;

use crate::Services;

/// An authenticated account.
pub(crate) struct Caller(pub(crate) Arc<Account>);

impl Caller {
    /// Refuses accounts without the role.
    pub(crate) fn require(&self, role: Role) -> Result<(), Problem> {
        if self.0.has(role) { Ok(()) } else { Err(forbidden()) }
    }
}

fn forbidden() -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "role-missing", "This account may not do that")
}

impl FromRequestParts<Arc<Services>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, services: &Arc<Services>) -> Result<Self, Problem> {
        let Some(peer) = parts.extensions.get::<Arc<Peer>>() else {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "certificate-required",
                "A client certificate is required",
            ));
        };
        if peer.expired {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "certificate-expired",
                "The client certificate is outside its validity",
            ));
        }
        let accounts = services.accounts.load();
        let account = accounts.authenticate(&Credential::Pinned(peer.fingerprint)).or_else(|| {
            // A subject only means something if our own authority vouches for it.
            let vouched = peer.trust == amtsbote_http::PeerTrust::Authority;
            vouched
                .then(|| accounts.authenticate(&Credential::Subject(peer.subject.as_str().into())))
                .flatten()
        });
        account.cloned().map(Self).ok_or_else(|| {
            Problem::new(
                StatusCode::FORBIDDEN,
                "unknown-account",
                "No account belongs to this client certificate",
            )
        })
    }
}
