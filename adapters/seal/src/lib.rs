//! Signs for the gateway: detached CMS (CAdES-BES, ETSI EN 319 122-1) over documents, compact JWS (RFC 7515) over receipts.
//!
//! Keys are ECDSA P-256 or RSA of at least 3072 bits from PEM files; aws-lc computes in constant time. Signatures are made on
//! the blocking pool. The certificate chain is part of every signature.

mod cades;
mod key;
mod receipt;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::SealRecord;
use amtsbote_core::port::{Receipt, ReceiptSigner, SealError, SealRequest, Sealer};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

pub use key::KeyError;
use key::SealKey;

/// The gateway's seal; key and certificate can be replaced while it works.
pub struct Seal {
    key: ArcSwap<SealKey>,
    /// One signature for each core at a time.
    turns: Arc<Semaphore>,
}

impl Seal {
    /// Loads certificate chain (leaf first) and key from PEM files.
    ///
    /// # Errors
    /// When a file is unusable, the key is too weak, or key and certificate do not belong together.
    pub fn load(chain: &Path, key: &Path) -> Result<Self, KeyError> {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let key = ArcSwap::from_pointee(SealKey::load(chain, key)?);
        Ok(Self { key, turns: Arc::new(Semaphore::new(cores)) })
    }

    /// Puts another key into force; on error the old one stays.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn replace(&self, chain: &Path, key: &Path) -> Result<(), KeyError> {
        self.key.store(Arc::new(SealKey::load(chain, key)?));
        Ok(())
    }

    /// The key, if what it signs at a time will verify.
    fn in_force(&self, at: Timestamp) -> Result<Arc<SealKey>, SealError> {
        let key = self.key.load_full();
        if key.is_valid_at(at.into()) {
            Ok(key)
        } else {
            Err(SealError { reason: "the certificate of the seal is not valid at this time".to_owned() })
        }
    }

    /// Signs on the blocking pool.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, SealError> + Send + 'static,
    ) -> Result<T, SealError> {
        let permit = Arc::clone(&self.turns).acquire_owned().await.map_err(failed)?;
        let signing = spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        signing.await.map_err(failed)?
    }

    /// When the certificate in force expires.
    pub fn expires(&self) -> SystemTime {
        self.key.load().expires()
    }
}

fn failed(error: impl std::fmt::Display) -> SealError {
    SealError { reason: error.to_string() }
}

#[async_trait]
impl Sealer for Seal {
    async fn seal(&self, request: SealRequest) -> Result<SealRecord, SealError> {
        let key = self.in_force(request.at)?;
        self.blocking(move || {
            let signature = cades::sign(&key, request.document.as_bytes(), request.at).map_err(failed)?;
            Ok(SealRecord {
                algorithm: key.algorithm_name().to_owned(),
                certificate: key.fingerprint(),
                signature: signature.into(),
            })
        })
        .await
    }
}

#[async_trait]
impl ReceiptSigner for Seal {
    async fn sign(&self, receipt: Receipt, at: Timestamp) -> Result<String, SealError> {
        let key = self.in_force(at)?;
        self.blocking(move || receipt::sign(&key, &receipt)).await
    }
}
