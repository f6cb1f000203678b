use async_trait::async_trait;
use jiff::Timestamp;

use crate::key::{PartyId, SpecificationUri};
use crate::route::{Endpoint, RecordRef};

/// Question to a directory: how is this organisation reached for this service?
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceQuery {
    /// Any key of the organisation.
    pub organization: PartyId,
    /// Service specification, including its version.
    pub specification: SpecificationUri,
}

/// A service entry that is valid now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryRecord {
    /// Identity and validity.
    pub record: RecordRef,
    /// Ways to reach the organisation, best first. Empty: listed without a channel this gateway knows.
    pub endpoints: Vec<Endpoint>,
    /// When the directory answered.
    pub fetched_at: Timestamp,
    /// Kept beyond its time because the directory is down.
    pub stale: bool,
}

/// What a directory knows. Absence is an answer, failure is [`DirectoryUnavailable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryAnswer {
    /// A valid entry.
    Found(DirectoryRecord),
    /// An entry exists, but is not valid now.
    NotValid {
        /// What the directory says about it.
        warning: String,
    },
    /// An entry exists, but its certificate must not be used.
    CertificateUnusable {
        /// Why.
        reason: String,
    },
    /// No entry.
    NotListed,
}

/// No server could be asked and nothing usable is cached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("directory unavailable: {reason}")]
pub struct DirectoryUnavailable {
    /// For operators; names no party.
    pub reason: String,
}

/// Looks up where a service is reachable. Idempotent and cancel-safe; may answer from a cache within the validity of the
/// entry, and within a grace time while the directory is down (then `stale`).
#[async_trait]
pub trait Directory: Send + Sync {
    /// Name of the source, for the evidence of a route.
    fn name(&self) -> &'static str;

    /// Answers a question that needs no waiting; `None` if the directory itself must be asked.
    fn cached(&self, query: &ServiceQuery) -> Option<DirectoryAnswer>;

    /// Asks.
    ///
    /// # Errors
    /// When no answer can be had within the adapter's time bound.
    async fn find(&self, query: &ServiceQuery) -> Result<DirectoryAnswer, DirectoryUnavailable>;
}

/// What a directory knows of certificates: who strangers are, and whom others encrypt for. Certificates are DER. Answers may be some minutes
/// old, never older: this is also how a withdrawn permission shows.
#[async_trait]
pub trait CertificateDirectory: Send + Sync {
    /// Whether an organisation of the category has this client certificate.
    ///
    /// # Errors
    /// When no answer can be had within the adapter's time bound.
    async fn belongs_to(&self, certificate: &[u8], category: &str) -> Result<bool, DirectoryUnavailable>;

    /// Keys of the organisations that are reached over OSCI with this cipher certificate.
    ///
    /// # Errors
    /// When no answer can be had within the adapter's time bound.
    async fn addressed_by(&self, certificate: &[u8]) -> Result<Vec<PartyId>, DirectoryUnavailable>;
}
