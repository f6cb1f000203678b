//! Stops attempts at a destination that is out of order, and finds out when it is back. Pure.
//!
//! ```text
//! Closed --failures in a row--> Open --next_probe, one attempt--> answered: Closed
//!                                ^---------- out of order: a longer wait ----+
//! ```
//!
//! Only failures of the destination as a whole count. What waits meanwhile uses up nothing (promise P5).

use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::lanes::is_ahead;
use crate::delivery::FailureReason;
use crate::mailbox::add;
use crate::route::Destination;

/// When a destination counts as out of order, and how often it is tried then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row after which it opens.
    pub failures: NonZeroU32,
    /// Wait before the first probe.
    pub first: Duration,
    /// Longest wait; each failed probe doubles it up to here.
    pub longest: Duration,
}

impl Default for BreakerPolicy {
    /// 5 failures, probes after 5 seconds up to every 5 minutes.
    fn default() -> Self {
        let failures = NonZeroU32::new(5).unwrap_or(NonZeroU32::MIN);
        Self { failures, first: Duration::from_secs(5), longest: Duration::from_secs(300) }
    }
}

impl BreakerPolicy {
    /// Wait after a number of failed probes. A peer's wish is honoured between the shortest and the longest.
    fn wait(&self, failed_probes: u32, hint: Option<Duration>) -> Duration {
        let grown = self.first.saturating_mul(2_u32.saturating_pow(failed_probes));
        hint.unwrap_or(grown).clamp(self.first, self.longest.max(self.first))
    }
}

/// A destination that is out of order. The JSON form is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenBreaker {
    /// Which.
    pub destination: Destination,
    /// Since when.
    pub since: Timestamp,
    /// The last failure.
    pub reason: FailureReason,
    /// Probes that failed since.
    pub failed_probes: u32,
    /// When one message is tried again.
    pub next_probe: Timestamp,
}

/// How an attempt ended, as far as the destination is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AttemptEnd {
    /// It was not made after all.
    NotMade,
    /// The destination answered: it took the message or refused it.
    Answered,
    /// It says nothing about the destination.
    Unclear,
    /// The destination as a whole is out of order.
    OutOfOrder {
        /// What went wrong.
        reason: FailureReason,
        /// The peer's wish for the next attempt.
        retry_after: Option<Duration>,
    },
    /// The gateway itself is out of order.
    Ours,
}

/// What the end of an attempt did to a breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Same,
    /// It is open now, or stays open with another next probe.
    Open(OpenBreaker),
    /// It has closed.
    Closed,
}

#[derive(Debug)]
pub(super) enum Breaker {
    Closed { failures: u32 },
    Open(OpenBreaker),
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    /// Whether nothing is known that would have to be remembered.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self, Self::Closed { failures: 0 })
    }

    /// Takes note of how an attempt ended.
    pub(super) fn note(
        &mut self,
        destination: &Destination,
        end: AttemptEnd,
        policy: &BreakerPolicy,
        now: Timestamp,
    ) -> Turn {
        match (&mut *self, end) {
            (_, AttemptEnd::NotMade | AttemptEnd::Ours) => Turn::Same,
            (Self::Closed { failures }, AttemptEnd::Answered) => {
                *failures = 0;
                Turn::Same
            }
            (Self::Closed { .. }, AttemptEnd::Unclear) => Turn::Same,
            (Self::Open(_), AttemptEnd::Answered) => {
                *self = Self::default();
                Turn::Closed
            }
            (Self::Open(open), AttemptEnd::Unclear) => {
                open.next_probe = add(now, policy.wait(open.failed_probes, None));
                Turn::Open(open.clone())
            }
            (Self::Open(open), AttemptEnd::OutOfOrder { reason, retry_after }) => {
                // Attempts that were under way when it opened are no probes.
                if !is_ahead(open.next_probe, now, policy.longest.max(policy.first)) {
                    open.failed_probes += 1;
                    open.next_probe = add(now, policy.wait(open.failed_probes, retry_after));
                }
                open.reason = reason;
                Turn::Open(open.clone())
            }
            (Self::Closed { failures }, AttemptEnd::OutOfOrder { reason, retry_after }) => {
                *failures += 1;
                if *failures < policy.failures.get() {
                    return Turn::Same;
                }
                let next_probe = add(now, policy.wait(0, retry_after));
                let destination = destination.clone();
                let open = OpenBreaker { destination, since: now, reason, failed_probes: 0, next_probe };
                *self = Self::Open(open.clone());
                Turn::Open(open)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn down(hint: Option<u64>) -> AttemptEnd {
        let reason = FailureReason { code: "refused".to_owned(), detail: String::new() };
        AttemptEnd::OutOfOrder { reason, retry_after: hint.map(Duration::from_secs) }
    }

    fn probe(turn: Turn) -> i64 {
        let Turn::Open(open) = turn else { panic!("{turn:?}") };
        open.next_probe.as_second()
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_probes_ever_more_seldom() {
        let (office, policy) = ("amqp/wgb:073150000000".parse().unwrap(), BreakerPolicy::default());
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            assert_eq!(breaker.note(&office, down(None), &policy, at(0)), Turn::Same);
        }
        assert_eq!(breaker.note(&office, AttemptEnd::Answered, &policy, at(0)), Turn::Same);
        for _ in 0..4 {
            assert_eq!(breaker.note(&office, down(None), &policy, at(0)), Turn::Same);
            assert_eq!(breaker.note(&office, AttemptEnd::Unclear, &policy, at(0)), Turn::Same);
        }
        assert_eq!(probe(breaker.note(&office, down(None), &policy, at(0))), 5);
        assert_eq!(probe(breaker.note(&office, down(None), &policy, at(1))), 5, "a straggler is no probe");
        assert_eq!(probe(breaker.note(&office, down(None), &policy, at(5))), 15);
        assert_eq!(probe(breaker.note(&office, down(None), &policy, at(15))), 35);
        assert_eq!(probe(breaker.note(&office, down(Some(100)), &policy, at(35))), 135);
        assert_eq!(probe(breaker.note(&office, down(Some(100_000)), &policy, at(135))), 435, "clamped");
        assert_eq!(probe(breaker.note(&office, AttemptEnd::Unclear, &policy, at(435))), 435 + 80);
        assert_eq!(breaker.note(&office, AttemptEnd::Answered, &policy, at(600)), Turn::Closed);
        assert!(breaker.is_at_rest());
    }
}
