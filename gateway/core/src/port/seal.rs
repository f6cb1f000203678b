use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use super::store::StoredMessage;
use crate::delivery::SealRecord;
use crate::id::MessageId;
use crate::key::{CaseId, PartyId};
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

/// What the gateway states about a message it has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The message.
    pub id: MessageId,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// The sender's case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case_id: Option<CaseId>,
    /// Whom it is for; absent while the route is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<PartyId>,
    /// Document and attachments with their digests.
    pub parts: Vec<ReceiptPart>,
}

/// One part of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceiptPart {
    /// File name as given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Media type as given.
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// Digest.
    pub sha256: Sha256Digest,
}

impl Receipt {
    /// The receipt of a stored message.
    pub fn of(stored: &StoredMessage) -> Self {
        let message = &stored.message;
        Self {
            id: message.id,
            received_at: message.received_at,
            case_id: message.metadata.case_id.clone(),
            recipient: stored
                .delivery
                .destination
                .as_ref()
                .map(|destination| destination.organization.clone()),
            parts: message
                .parts
                .iter()
                .map(|part| ReceiptPart {
                    name: part.name.clone(),
                    media_type: part.media_type.clone(),
                    size: part.size,
                    sha256: part.sha256,
                })
                .collect(),
        }
    }
}

/// Signs receipts as compact JWS with the certificate chain in `x5c`. Never blocks the async runtime. Cancel-safe.
#[async_trait]
pub trait ReceiptSigner: Send + Sync {
    /// Signs one receipt now.
    ///
    /// # Errors
    /// When the key cannot be used, or its certificate is not valid now.
    async fn sign(&self, receipt: Receipt, now: Timestamp) -> Result<String, SealError>;
}
