use async_trait::async_trait;
use jiff::Timestamp;

use crate::delivery::SealRecord;
use crate::message::Sha256Digest;

/// What is to be sealed: the digest of a document and the time to certify.
#[derive(Debug, Clone, Copy)]
pub struct SealRequest {
    /// SHA-256 of the document.
    pub document: Sha256Digest,
    /// Signing time.
    pub at: Timestamp,
}

/// A seal could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot seal: {reason}")]
pub struct SealError {
    /// For operators.
    pub reason: String,
}

/// Signs documents for the gateway. Never blocks the async runtime. Cancel-safe.
#[async_trait]
pub trait Sealer: Send + Sync {
    /// Seals one document.
    ///
    /// # Errors
    /// When the key cannot be used.
    async fn seal(&self, request: SealRequest) -> Result<SealRecord, SealError>;
}
