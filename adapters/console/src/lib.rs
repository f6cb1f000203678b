//! The console for operators: pages made on the server, which need no script; with one they follow what happens.
//!
//! ```text
//! request -> guard (who, from where) -> pages -> core's operations
//! ```
//!
//! Signing in: a client certificate of an account with a role for operations, or a one-time link made on the host
//! ([`Links`]). Not here: what operators may do and what is audited; that is core's.

mod assets;
mod chart;
mod explain;
mod frame;
mod guard;
mod live;
mod pages;
mod session;
mod texts;

use std::sync::Arc;

use amtsbote_core::account::{Account, AccountBook};
use amtsbote_core::operations::Operations;
use amtsbote_core::port::{Clock, Entropy, MessageStore};
use amtsbote_core::vitals::Vitals;
use amtsbote_http::{Peer, Problem};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn;
use axum::response::Redirect;
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use session::{Grant, LinkError, Links};

use session::Sessions;

/// Who an account of a certificate is.
pub type Identify = Box<dyn Fn(Option<&Peer>) -> Result<Arc<Account>, Problem> + Send + Sync>;

/// What the console works with.
pub struct ConsolePorts {
    /// What operators may do.
    pub operations: Arc<Operations>,
    /// For downloads.
    pub store: Arc<dyn MessageStore>,
    /// How the gateway is.
    pub vitals: Arc<dyn Vitals>,
    /// Accounts in force.
    pub accounts: Box<dyn Fn() -> Arc<AccountBook> + Send + Sync>,
    /// Who a client certificate belongs to.
    pub identify: Identify,
    /// Links that sign in.
    pub links: Links,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names of sessions.
    pub entropy: Arc<dyn Entropy>,
    /// Cancelled when the gateway ends.
    pub ending: CancellationToken,
}

/// The console at work.
struct Console {
    ports: ConsolePorts,
    sessions: Sessions,
    /// Pages that are followed live at the same time.
    followers: Arc<Semaphore>,
    /// Key of the tokens in forms.
    form_key: [u8; 32],
}

/// Pages followed live at the same time, at most.
const FOLLOWERS: usize = 64;
/// Largest form.
const FORM: usize = 64 << 10;

/// Everything the console serves, under `/console`; without a fallback, so that it can be merged with other routes.
pub fn router(ports: ConsolePorts) -> Router {
    let mut form_key = [0; 32];
    ports.entropy.fill(&mut form_key);
    let followers = Arc::new(Semaphore::new(FOLLOWERS));
    let console = Arc::new(Console { ports, sessions: Sessions::default(), followers, form_key });
    let pages = Router::new()
        .route("/console", get(pages::overview::show))
        .route("/console/messages", get(pages::messages::list))
        .route("/console/messages/{id}", get(pages::message::show))
        .route(
            "/console/messages/{id}/contents",
            get(pages::message::without_contents).post(pages::message::contents),
        )
        .route("/console/messages/{id}/parts/{number}", post(pages::message::download))
        .route("/console/messages/{id}/{action}", post(pages::message::act))
        .route("/console/destinations", get(pages::destinations::list))
        .route("/console/destinations/{channel}/{organization}", get(pages::destinations::show))
        .route("/console/holds", get(pages::holds::list))
        .route("/console/holds/{action}", post(pages::holds::act))
        .route("/console/dead-letters", get(pages::dead_letters::list))
        .route("/console/dead-letters/preview", get(pages::dead_letters::preview))
        .route("/console/bulk", get(pages::bulk::list).post(pages::bulk::start))
        .route("/console/bulk/{job}", get(pages::bulk::show))
        .route("/console/bulk/{job}/stop", post(pages::bulk::stop))
        .route("/console/routes", get(pages::routes::show))
        .route("/console/setup", get(pages::setup::show))
        .route("/console/audit", get(pages::audit::list))
        .route("/console/live", get(live::follow))
        .route("/console/sign-out", post(pages::sign_in::leave))
        .route("/console/sign-in", get(pages::sign_in::show).post(pages::sign_in::enter))
        .route("/console/language/{language}", get(pages::sign_in::language))
        .layer(DefaultBodyLimit::max(FORM))
        .layer(from_fn(guard::same_origin))
        .layer(from_fn(guard::secure))
        .with_state(console);
    Router::new()
        .route("/", get(|| async { Redirect::to("/console") }))
        .route("/console/assets/{name}", get(assets::serve))
        .merge(pages)
}
