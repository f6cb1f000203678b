//! Clocks that tests drive.

use async_trait::async_trait;
use jiff::Timestamp;

use amtsbote_core::port::Clock;

/// Follows tokio's paused time: it stands still while anything can run and jumps to the next timer when nothing can.
#[derive(Debug)]
pub struct PausedClock {
    base: Timestamp,
    started: tokio::time::Instant,
}

impl PausedClock {
    /// A clock that shows `base` now. Use inside a runtime with paused time.
    pub fn starting_at(base: Timestamp) -> Self {
        Self { base, started: tokio::time::Instant::now() }
    }
}

#[async_trait]
impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap();
        self.base.checked_add(std::time::Duration::from_millis(elapsed)).unwrap()
    }

    async fn sleep_until(&self, at: Timestamp) {
        let ahead = at.duration_since(self.now());
        if let Ok(ahead) = std::time::Duration::try_from(ahead) {
            // One millisecond more, because tokio rounds timers down to its own ticks.
            tokio::time::sleep(ahead + std::time::Duration::from_millis(1)).await;
        }
    }
}

/// The time at which most tests begin.
pub fn noon() -> Timestamp {
    "2026-01-15T12:00:00Z".parse().unwrap()
}
