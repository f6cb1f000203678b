//! Sealers for tests of what comes before and after sealing.

use std::sync::atomic::{AtomicUsize, Ordering};

use amtsbote_core::delivery::SealRecord;
use amtsbote_core::port::{SealError, SealRequest, Sealer};
use async_trait::async_trait;

/// "Signs" by repeating the digest; fails as often as told first.
#[derive(Debug, Default)]
pub struct FakeSealer {
    failures: AtomicUsize,
}

impl FakeSealer {
    /// A sealer whose first calls fail.
    pub fn failing(times: usize) -> Self {
        Self { failures: AtomicUsize::new(times) }
    }
}

#[async_trait]
impl Sealer for FakeSealer {
    async fn seal(&self, request: SealRequest) -> Result<SealRecord, SealError> {
        let failing =
            self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if failing.is_ok() {
            return Err(SealError { reason: "scripted".to_owned() });
        }
        Ok(SealRecord {
            algorithm: "fake".to_owned(),
            certificate: "00".to_owned(),
            signature: request.document.as_bytes().to_vec().into(),
        })
    }
}
