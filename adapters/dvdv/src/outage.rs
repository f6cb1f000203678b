//! Remembers that the directory is down, so that not every sender has to find out by itself.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use amtsbote_core::Timestamp;

use crate::options::DvdvOptions;

#[derive(Debug, Clone)]
struct Down {
    reason: String,
    /// Until then nobody asks.
    until: Timestamp,
}

/// Whether the directory is down. While it is, one question in a while goes through; all others are answered at once.
#[derive(Debug)]
pub(crate) struct Outage {
    down: Mutex<Option<Down>>,
    rest: Duration,
    probe: Duration,
}

impl Outage {
    pub(crate) fn new(options: &DvdvOptions) -> Self {
        Self { down: Mutex::default(), rest: options.rest, probe: options.total }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Option<Down>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the caller should not ask. `None` means that it should: the directory is up, or it is the caller's turn to try.
    pub(crate) fn goes_on(&self, now: Timestamp) -> Option<String> {
        let mut state = self.state();
        let down = state.as_mut()?;
        if now < down.until {
            return Some(down.reason.clone());
        }
        // Nobody else tries while this one does; should it be given up, the next one may after its time.
        down.until = now.checked_add(self.probe).unwrap_or(Timestamp::MAX);
        None
    }

    pub(crate) fn begins(&self, now: Timestamp, reason: String) {
        *self.state() = Some(Down { reason, until: now.checked_add(self.rest).unwrap_or(Timestamp::MAX) });
    }

    pub(crate) fn is_over(&self) {
        *self.state() = None;
    }
}
