//! What happened in the last hour, in memory: enough for charts without a service that keeps metrics.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use amtsbote_core::Timestamp;
use amtsbote_core::operations::Overview;
use amtsbote_core::vitals::Sample;

/// Samples kept: an hour of one every ten seconds.
const KEPT: usize = 360;

/// What was counted since the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals {
    /// Messages accepted.
    pub accepted: u64,
    /// Attempts that succeeded.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Submissions answered within so many seconds, for each limit of the histogram; ascending, the last holds all.
    pub answered: Vec<(f64, u64)>,
}

impl Totals {
    /// Time within which a share of what came since then was answered.
    fn within(&self, before: &Self, share: f64) -> Option<f64> {
        let earlier = |place: usize| before.answered.get(place).map_or(0, |(_, count)| *count);
        let since = |place: usize| self.answered[place].1.saturating_sub(earlier(place));
        let all = since(self.answered.len().checked_sub(1)?);
        if all == 0 {
            return None;
        }
        let place = (0..self.answered.len()).find(|place| since(*place) as f64 >= share * all as f64)?;
        Some(self.answered[place].0)
    }
}

/// The samples.
#[derive(Debug, Default)]
pub struct History(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    last: Option<(Timestamp, Totals)>,
    samples: VecDeque<Sample>,
}

impl History {
    /// Adds what happened since the last call; the first one only remembers where to begin.
    pub fn add(&self, now: Timestamp, totals: Totals, overview: Option<&Overview>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, before)) = &kept.last {
            let waiting = overview.map_or(&[][..], |overview| &overview.destinations);
            let oldest = waiting.iter().filter_map(|one| one.oldest).min();
            let sample = Sample {
                at: now,
                seconds: now.duration_since(*then).as_secs_f64(),
                accepted: totals.accepted.saturating_sub(before.accepted),
                delivered: totals.delivered.saturating_sub(before.delivered),
                failed: totals.failed.saturating_sub(before.failed),
                answered: totals.within(before, 0.5).zip(totals.within(before, 0.99)),
                waiting: waiting.iter().map(|one| one.messages).sum(),
                oldest: oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64()),
            };
            if kept.samples.len() == KEPT {
                kept.samples.pop_front();
            }
            kept.samples.push_back(sample);
        }
        kept.last = Some((now, totals));
    }

    /// All of it, oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).samples.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(accepted: u64, fast: u64, slow: u64) -> Totals {
        let answered = vec![(0.01, fast), (0.1, fast + slow), (f64::INFINITY, fast + slow)];
        Totals { accepted, answered, ..Totals::default() }
    }

    #[test]
    fn samples_are_what_came_since_the_last_one() {
        let (history, at) = (History::default(), |second| Timestamp::from_second(second).unwrap());
        history.add(at(0), totals(5, 5, 0), None);
        assert!(history.samples().is_empty());
        history.add(at(10), totals(105, 95, 10), None);
        history.add(at(20), totals(105, 95, 10), None);
        let [first, second] = history.samples().try_into().unwrap();
        assert_eq!((first.accepted, first.seconds, first.answered), (100, 10.0, Some((0.01, 0.1))));
        assert_eq!((second.accepted, second.answered), (0, None));
        for second in 0..1_000 {
            history.add(at(30 + second), totals(105, 95, 10), None);
        }
        assert_eq!(history.samples().len(), KEPT);
    }
}
