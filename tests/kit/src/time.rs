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

    async fn sleep(&self, time: std::time::Duration) {
        tokio::time::sleep(time).await;
    }
}

/// The time at which most tests begin.
pub fn noon() -> Timestamp {
    "2026-01-15T12:00:00Z".parse().unwrap()
}

/// Runs with real time, for tests with real sockets, and can be moved forward by hand.
#[derive(Debug)]
pub struct ShiftableClock {
    base: Timestamp,
    started: std::time::Instant,
    shift: std::sync::atomic::AtomicU64,
}

impl ShiftableClock {
    /// A clock that shows `base` now.
    pub fn starting_at(base: Timestamp) -> Self {
        Self { base, started: std::time::Instant::now(), shift: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Moves the clock forward at once.
    pub fn advance(&self, by: std::time::Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap();
        self.shift.fetch_add(millis, std::sync::atomic::Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for ShiftableClock {
    fn now(&self) -> Timestamp {
        let shift = std::time::Duration::from_millis(self.shift.load(std::sync::atomic::Ordering::SeqCst));
        self.base.checked_add(self.started.elapsed() + shift).unwrap()
    }

    async fn sleep_until(&self, at: Timestamp) {
        if let Ok(ahead) = std::time::Duration::try_from(at.duration_since(self.now())) {
            tokio::time::sleep(ahead).await;
        }
    }

    async fn sleep(&self, time: std::time::Duration) {
        tokio::time::sleep(time).await;
    }
}
