//! Who may talk to the gateway, until when certificates are valid, and how routes are decided.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::account::{Account, Credential, LocalChannel, Role};
use amtsbote_http::Problem;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{AdminServices, Viewer};
use crate::routes::{RouteQuery, explained};

/// What an account proves itself with.
#[derive(Serialize, ToSchema)]
struct CredentialView {
    /// `certificate`, `subject`, `osci-cipher` or `osci-signature`.
    kind: &'static str,
    /// SHA-256 over the certificate in hex, or the subject.
    value: String,
}

impl From<&Credential> for CredentialView {
    fn from(credential: &Credential) -> Self {
        let (kind, value) = match credential {
            Credential::Pinned(fingerprint) => ("certificate", hex::encode(fingerprint)),
            Credential::Subject(subject) => ("subject", subject.to_string()),
            Credential::OsciCipher(fingerprint) => ("osci-cipher", hex::encode(fingerprint)),
            Credential::OsciSignature(fingerprint) => ("osci-signature", hex::encode(fingerprint)),
        };
        Self { kind, value }
    }
}

/// An account.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AccountView {
    /// Its name.
    name: String,
    /// author, reader, viewer, operator, administrator.
    roles: Vec<&'static str>,
    /// Parties it speaks for.
    parties: Vec<String>,
    /// Organisations whose messages it takes.
    serves: Vec<String>,
    /// How they leave: `mailbox` or an address.
    channel: String,
    /// What it proves itself with.
    credentials: Vec<CredentialView>,
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Author => "author",
        Role::Reader => "reader",
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Administrator => "administrator",
    }
}

impl From<&Account> for AccountView {
    fn from(account: &Account) -> Self {
        Self {
            name: account.name.to_string(),
            roles: account.roles.iter().map(|one| role(*one)).collect(),
            parties: account.parties.iter().map(ToString::to_string).collect(),
            serves: account.serves.iter().map(ToString::to_string).collect(),
            channel: match &account.channel {
                LocalChannel::Mailbox => "mailbox".to_owned(),
                LocalChannel::Push(_, address) => address.to_string(),
            },
            credentials: account.credentials.iter().map(Into::into).collect(),
        }
    }
}

/// All accounts.
#[derive(Serialize, ToSchema)]
pub(super) struct AccountList {
    /// In the order of the configuration.
    accounts: Vec<AccountView>,
}

/// List the accounts in force
#[utoipa::path(get, path = "/admin/v1/accounts", tag = "setup", operation_id = "accounts",
    responses((status = 200, description = "All accounts", body = AccountList)))]
pub(super) async fn accounts(
    State(services): State<Arc<AdminServices>>,
    _viewer: Viewer,
) -> Json<AccountList> {
    let book = services.accounts.load();
    Json(AccountList { accounts: book.iter().map(|account| account.as_ref().into()).collect() })
}

/// A certificate of the gateway.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CertificateView {
    /// What it is for, as in metrics.
    role: &'static str,
    /// When it expires.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    /// Days until then, rounded down; negative if it has.
    days_left: i64,
}

/// Certificates of the gateway.
#[derive(Serialize, ToSchema)]
pub(super) struct CertificateList {
    /// Those that expire first come first.
    certificates: Vec<CertificateView>,
}

/// List the certificates of the gateway that are in force
#[utoipa::path(get, path = "/admin/v1/certificates", tag = "setup", operation_id = "certificates",
    responses((status = 200, description = "All certificates", body = CertificateList)))]
pub(super) async fn certificates(
    State(services): State<Arc<AdminServices>>,
    _viewer: Viewer,
) -> Json<CertificateList> {
    let now = services.clock.now();
    let mut found = services.vitals.certificates();
    found.sort_by_key(|(_, expires)| *expires);
    let view = |(role, expires_at): (&'static str, Timestamp)| {
        let days_left = expires_at.duration_since(now).as_secs().div_euclid(86_400);
        CertificateView { role, expires_at, days_left }
    };
    Json(CertificateList { certificates: found.into_iter().map(view).collect() })
}

/// Explain a route
///
/// As portals ask: always 200 with `outcome` and `trace` when the question could be decided, whatever the outcome.
#[utoipa::path(get, path = "/admin/v1/routes", tag = "setup", operation_id = "explainRouteToOperator", params(RouteQuery),
    responses((status = 200, description = "How the question is decided, step by step", body = Object),
        (status = 400, description = "Malformed question", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn routes(
    State(services): State<Arc<AdminServices>>,
    _viewer: Viewer,
    query: Result<Query<RouteQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    explained(services.operations.router(), services.clock.now(), query).await.map(Json)
}
