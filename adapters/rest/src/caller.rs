//! Who calls, and what the account may do. Deny by default.

use std::sync::Arc;

use amtsbote_core::account::{Account, AccountBook, Role};
use amtsbote_http::{Peer, PeerTrust, Problem};
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use serde::de::DeserializeOwned;

use crate::Services;
use crate::fault::not_found;

/// An authenticated account. Known for every request once [`admit`] has let it in.
#[derive(Clone)]
pub(crate) struct Caller(pub(crate) Arc<Account>);

impl Caller {
    /// Refuses accounts without the role.
    pub(crate) fn require(&self, role: Role) -> Result<(), Problem> {
        if self.0.has(role) { Ok(()) } else { Err(role_missing()) }
    }

    /// Refuses accounts that neither send nor receive: operators have no mailbox.
    pub(crate) fn require_party(&self) -> Result<(), Problem> {
        if self.0.has(Role::Author) || self.0.has(Role::Reader) { Ok(()) } else { Err(role_missing()) }
    }
}

/// Parameters of a path. What cannot be read names nothing there is.
pub(crate) struct At<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(value) = Path::from_request_parts(parts, state).await.map_err(|_| not_found())?;
        Ok(Self(value))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().cloned().ok_or_else(certificate_required)
    }
}

/// Stands before every route: finds out who calls, counts the call, and says what is left of the quota.
pub(crate) async fn admit(
    State(services): State<Arc<Services>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let peer = request.extensions().get::<Arc<Peer>>().map(Arc::as_ref);
    let account = authenticate(peer, &services.accounts.load())?;
    let (counted, left) = services.quotas.count(account.name.as_str());
    request.extensions_mut().insert(Caller(account));
    let mut response = match counted {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    left.show(response.headers_mut());
    Ok(response)
}

fn certificate_required() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "certificate-required", "A client certificate is required")
}

/// The account of a peer; the one place where a certificate becomes an account, for every listener that speaks HTTP.
///
/// # Errors
/// A problem for nobody, for an expired certificate, and for one that belongs to no account.
pub fn authenticate(peer: Option<&Peer>, accounts: &AccountBook) -> Result<Arc<Account>, Problem> {
    let peer = peer.ok_or_else(certificate_required)?;
    if peer.expired {
        let title = "The client certificate is outside its validity";
        return Err(Problem::new(StatusCode::FORBIDDEN, "certificate-expired", title));
    }
    let vouched = (peer.trust == PeerTrust::Authority).then_some(peer.subject.as_str());
    accounts.identify(peer.fingerprint, vouched).cloned().ok_or_else(|| {
        let title = "No account belongs to this client certificate";
        Problem::new(StatusCode::FORBIDDEN, "unknown-account", title)
    })
}

/// The account has no role for this.
pub fn role_missing() -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "role-missing", "This account may not do that")
}
