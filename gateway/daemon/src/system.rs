//! The machine's clock and randomness.

use amtsbote_core::Timestamp;
use amtsbote_core::port::{Clock, Entropy};
use async_trait::async_trait;
use jiff::SignedDuration;

/// Longest nap; the wall clock may be set while we sleep.
const NAP: std::time::Duration = std::time::Duration::from_secs(30);

/// The wall clock, cut to milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the only look at the machine's clock")]
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    async fn sleep_until(&self, at: Timestamp) {
        loop {
            let left: SignedDuration = at.duration_since(self.now());
            match std::time::Duration::try_from(left) {
                Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(NAP)).await,
                _ => return,
            }
        }
    }

    async fn sleep(&self, time: std::time::Duration) {
        tokio::time::sleep(time).await;
    }
}

/// The operating system's cryptographically secure randomness.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        rand::fill(bytes);
    }
}
