//! Who calls, and what the account may do. Deny by default.

use std::sync::Arc;

use amtsbote_core::account::{Account, AccountBook, Credential, Role};
use amtsbote_http::{Peer, PeerTrust, Problem};
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;

use crate::Services;

/// An authenticated account.
pub(crate) struct Caller(pub(crate) Arc<Account>);

impl Caller {
    /// Refuses accounts without the role.
    pub(crate) fn require(&self, role: Role) -> Result<(), Problem> {
        if self.0.has(role) { Ok(()) } else { Err(role_missing()) }
    }
}

impl FromRequestParts<Arc<Services>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, services: &Arc<Services>) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<Arc<Peer>>().map(Arc::as_ref);
        authenticate(peer, &services.accounts.load()).map(Self)
    }
}

/// The account of a peer; the one place where a certificate becomes an account, for every listener that speaks HTTP.
///
/// # Errors
/// A problem for nobody, for an expired certificate, and for one that belongs to no account.
pub fn authenticate(peer: Option<&Peer>, accounts: &AccountBook) -> Result<Arc<Account>, Problem> {
    let Some(peer) = peer else {
        let title = "A client certificate is required";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "certificate-required", title));
    };
    if peer.expired {
        let title = "The client certificate is outside its validity";
        return Err(Problem::new(StatusCode::FORBIDDEN, "certificate-expired", title));
    }
    let pinned = accounts.authenticate(&Credential::Pinned(peer.fingerprint));
    let account = pinned.or_else(|| {
        // A subject only means something if our own authority vouches for it.
        let vouched = peer.trust == PeerTrust::Authority;
        vouched.then(|| accounts.authenticate(&Credential::Subject(peer.subject.as_str().into()))).flatten()
    });
    account.cloned().ok_or_else(|| {
        let title = "No account belongs to this client certificate";
        Problem::new(StatusCode::FORBIDDEN, "unknown-account", title)
    })
}

/// The account has no role for this.
pub fn role_missing() -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "role-missing", "This account may not do that")
}
