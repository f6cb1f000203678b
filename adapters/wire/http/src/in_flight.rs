//! Admission before memory runs out (promise P8): every body that is being received reserves what it may take.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Problem;

/// Memory a body takes at most while it is received: what stays in memory, and a buffer in front of the file.
const MOST: u64 = 3 << 20;
/// A body up to this size is small: it is still taken when large ones are refused already.
const SMALL: u64 = 64 << 10;
/// Reservations are counted in units of so many bytes.
const UNIT: u64 = 4 << 10;
/// Seconds after which a client may try again.
const RETRY: u64 = 1;

/// Memory for bodies that are being received.
pub struct InFlight {
    room: Arc<Semaphore>,
    /// Units left below which only small bodies are taken: a fifth of all.
    reserve: usize,
}

impl InFlight {
    /// Room for so many bytes.
    pub fn new(bytes: u64) -> Self {
        let units =
            usize::try_from(bytes / UNIT).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { room: Arc::new(Semaphore::new(units)), reserve: units / 5 }
    }

    /// Reserves room for a request, until the permit is dropped.
    ///
    /// # Errors
    /// A problem with 503 when there is none.
    pub fn enter(&self, headers: &HeaderMap) -> Result<OwnedSemaphorePermit, Problem> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = length.unwrap_or(MOST).clamp(UNIT, MOST);
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let left_for_large = self.room.available_permits().saturating_sub(self.reserve);
        if bytes > SMALL && (units as usize) > left_for_large {
            return Err(overloaded());
        }
        Arc::clone(&self.room).try_acquire_many_owned(units).map_err(|_| overloaded())
    }
}

fn overloaded() -> Problem {
    let title = "The gateway receives as much as it can; nothing was stored";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", title).retry_after(RETRY)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn sized(bytes: u64) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from(bytes))])
    }

    #[test]
    fn large_bodies_are_refused_first_and_room_comes_back() {
        let in_flight = InFlight::new(10 << 20);
        let first = in_flight.enter(&HeaderMap::new()).unwrap();
        let second = in_flight.enter(&sized(1 << 30)).unwrap();
        assert!(in_flight.enter(&sized(3 << 20)).is_err(), "the last fifth is for small ones");
        let mut small = Vec::new();
        while let Ok(one) = in_flight.enter(&sized(SMALL)) {
            small.push(one);
        }
        assert_eq!(small.len(), 64, "four MiB of small ones");
        assert_eq!(in_flight.enter(&sized(1)).unwrap_err().status().as_u16(), 503);
        drop((first, second));
        assert!(in_flight.enter(&sized(3 << 20)).is_ok());
    }
}
