//! When a failed delivery is tried again. Validated when built, pure when asked.

use std::time::Duration;

use crate::port::Entropy;

/// Growing delay with jitter, bounded by a number of attempts and an age.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    first: Duration,
    growth: f64,
    cap: Duration,
    jitter: f64,
    max_attempts: u32,
    max_age: Duration,
}

/// A retry policy contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRetryPolicy {
    /// The first delay is zero or above the cap.
    #[error("the first delay must be above zero and at most the longest delay")]
    Delay,
    /// The delay would shrink or explode.
    #[error("growth must be between 1 and 100")]
    Growth,
    /// Jitter is a share of the delay.
    #[error("jitter must be between 0 and 1")]
    Jitter,
    /// No attempt would ever be made.
    #[error("at least one attempt must be allowed")]
    Attempts,
}

impl RetryPolicy {
    /// Builds a policy; `jitter` is the share of the delay that is random (0.5: between 50 % and 100 % of it).
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn try_new(
        first: Duration,
        growth: f64,
        cap: Duration,
        jitter: f64,
        max_attempts: u32,
        max_age: Duration,
    ) -> Result<Self, InvalidRetryPolicy> {
        if first.is_zero() || first > cap {
            return Err(InvalidRetryPolicy::Delay);
        }
        if !(1.0..=100.0).contains(&growth) {
            return Err(InvalidRetryPolicy::Growth);
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(InvalidRetryPolicy::Jitter);
        }
        if max_attempts == 0 {
            return Err(InvalidRetryPolicy::Attempts);
        }
        Ok(Self { first, growth, cap, jitter, max_attempts, max_age })
    }

    /// Delay after attempt number `attempt` (from 1). A peer's hint is honoured between the first delay and the cap.
    pub fn delay(&self, attempt: u32, hint: Option<Duration>, entropy: &dyn Entropy) -> Duration {
        if let Some(hint) = hint {
            return hint.clamp(self.first, self.cap);
        }
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.first.as_secs_f64() * self.growth.powi(exponent);
        let full = grown.min(self.cap.as_secs_f64());
        Duration::from_secs_f64(full * (1.0 - self.jitter * entropy.unit()))
    }

    /// Delay after the first failure.
    pub fn first(&self) -> Duration {
        self.first
    }

    /// Factor from one delay to the next.
    pub fn growth(&self) -> f64 {
        self.growth
    }

    /// Longest delay.
    pub fn cap(&self) -> Duration {
        self.cap
    }

    /// Share of a delay that is random.
    pub fn jitter(&self) -> f64 {
        self.jitter
    }

    /// Attempts after which a message is dead-lettered.
    pub fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// Age after which a message is dead-lettered instead of tried again.
    pub fn max_age(&self) -> Duration {
        self.max_age
    }
}

impl Default for RetryPolicy {
    /// 10 s, doubling up to one hour, half of it random; 200 attempts or 7 days.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(10),
            growth: 2.0,
            cap: Duration::from_secs(3600),
            jitter: 0.5,
            max_attempts: 200,
            max_age: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Fixed(u8);
    impl Entropy for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    fn seconds(value: u64) -> Duration {
        Duration::from_secs(value)
    }

    #[test]
    fn nonsense_is_refused() {
        let build = |first, growth, cap, jitter, attempts| {
            RetryPolicy::try_new(seconds(first), growth, seconds(cap), jitter, attempts, seconds(9))
                .map(|_| ())
        };
        assert_eq!(build(0, 2.0, 5, 0.5, 3), Err(InvalidRetryPolicy::Delay));
        assert_eq!(build(6, 2.0, 5, 0.5, 3), Err(InvalidRetryPolicy::Delay));
        assert_eq!(build(1, 0.5, 5, 0.5, 3), Err(InvalidRetryPolicy::Growth));
        assert_eq!(build(1, f64::NAN, 5, 0.5, 3), Err(InvalidRetryPolicy::Growth));
        assert_eq!(build(1, 2.0, 5, 1.5, 3), Err(InvalidRetryPolicy::Jitter));
        assert_eq!(build(1, 2.0, 5, 0.5, 0), Err(InvalidRetryPolicy::Attempts));
    }

    proptest! {
        #[test]
        fn delays_stay_inside_the_policy(attempt in 1_u32..5_000, byte: u8, hint in proptest::option::of(0_u64..100_000)) {
            let policy = RetryPolicy::default();
            let delay = policy.delay(attempt, hint.map(seconds), &Fixed(byte));
            prop_assert!(delay >= seconds(5) && delay <= seconds(3600), "{delay:?}");
        }
    }

    #[test]
    fn delays_grow_without_jitter() {
        let policy = RetryPolicy::try_new(seconds(1), 3.0, seconds(100), 0.0, 9, seconds(9)).unwrap();
        let delays: Vec<u64> = (1..=6).map(|n| policy.delay(n, None, &Fixed(7)).as_secs()).collect();
        assert_eq!(delays, [1, 3, 9, 27, 81, 100]);
    }
}
