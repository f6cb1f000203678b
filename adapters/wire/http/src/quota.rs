//! How often an account may call: a token bucket each (GCRA), shown in every answer as the fields `RateLimit-Policy` and
//! `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).

use std::num::NonZeroU32;

use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::Problem;

/// Time for the limiter: it must not stand still for as long as the wall clock was set back.
#[derive(Clone)]
struct Time(Instant);

impl governor::clock::Clock for Time {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Calls per second and account; a second's worth may come at once.
pub struct Quotas {
    limiter: RateLimiter<Box<str>, HashMapStateStore<Box<str>>, Time, StateInformationMiddleware>,
    per_second: NonZeroU32,
}

/// What an account has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    per_second: NonZeroU32,
    calls: u32,
}

impl Left {
    /// Says so in an answer.
    pub fn show(self, headers: &mut HeaderMap) {
        let policy = format!("\"account\";q={};w=1", self.per_second);
        let left = format!("\"account\";r={};t=1", self.calls);
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", left)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

impl Quotas {
    /// The same quota for every account.
    pub fn new(per_second: NonZeroU32) -> Self {
        let limiter = RateLimiter::hashmap_with_clock(Quota::per_second(per_second), Time(Instant::now()));
        Self { limiter: limiter.with_middleware(), per_second }
    }

    /// Counts a call; whether it may go on, and what is left.
    ///
    /// # Errors
    /// A problem with 429 when it may not.
    pub fn count(&self, account: &str) -> (Result<(), Problem>, Left) {
        match self.limiter.check_key(&account.into()) {
            Ok(state) => {
                let calls = state.remaining_burst_capacity();
                (Ok(()), Left { per_second: self.per_second, calls })
            }
            Err(_) => {
                let title = "This account calls more often than it may";
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", title);
                (Err(problem.retry_after(1)), Left { per_second: self.per_second, calls: 0 })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_account_has_its_own_quota_that_comes_back() {
        let quotas = Quotas::new(NonZeroU32::new(2).unwrap());
        let (busy, quiet) = ("busy", "quiet");
        let count = |account| {
            let (counted, left) = quotas.count(account);
            (counted.map_err(|problem| problem.status().as_u16()), left.calls)
        };
        assert_eq!([count(busy), count(busy), count(busy)], [(Ok(()), 1), (Ok(()), 0), (Err(429), 0)]);
        assert_eq!(count(quiet), (Ok(()), 1));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!([count(busy), count(busy)], [(Ok(()), 0), (Err(429), 0)]);
    }
}
