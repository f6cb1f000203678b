//! What portals were told is safe, what arrived where, and the verdict. Kept by the laboratory alone, never asked from the gateway.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// One arrival at a department.
#[derive(Debug, Clone)]
struct Arrival {
    /// Whether the receiver was told that it may have it already.
    marked: bool,
    /// Whether the content is what was submitted.
    intact: bool,
}

#[derive(Debug, Clone)]
struct Accepted {
    digest: String,
    at: Instant,
}

#[derive(Debug, Default)]
struct Content {
    accepted: HashMap<String, Accepted>,
    arrivals: HashMap<String, Vec<Arrival>>,
    /// Ids that arrived before the portal had its answer, with digest and mark.
    early: HashMap<String, Vec<(String, bool)>>,
    refused: HashMap<String, ()>,
    oldest: Duration,
    latencies: HashMap<String, Vec<Duration>>,
}

/// The laboratory's own journal.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Content>);

/// What became of a message that never arrived, as its sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// With a reason, for an operator, or refused by the department.
    Dead,
    /// It still waits.
    Parked,
    /// The gateway says it was handed over, or does not know it.
    Lost,
}

impl Book {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    /// A portal was told that a message is safe.
    pub(crate) fn accepted(&self, id: String, digest: String) {
        let mut content = self.content();
        for (arrived, marked) in content.early.remove(&id).unwrap_or_default() {
            let arrival = Arrival { marked, intact: arrived == digest };
            content.arrivals.entry(id.clone()).or_default().push(arrival);
        }
        content.accepted.entry(id).or_insert(Accepted { digest, at: Instant::now() });
    }

    /// A message arrived at a department; `lane` names the department.
    pub(crate) fn arrived(&self, lane: &str, id: String, digest: String, marked: bool) {
        let mut content = self.content();
        let Some(accepted) = content.accepted.get(&id).cloned() else {
            content.early.entry(id).or_default().push((digest, marked));
            return;
        };
        if !content.arrivals.contains_key(&id) {
            let age = accepted.at.elapsed();
            content.oldest = content.oldest.max(age);
            content.latencies.entry(lane.to_owned()).or_default().push(age);
        }
        let arrival = Arrival { marked, intact: accepted.digest == digest };
        content.arrivals.entry(id).or_default().push(arrival);
    }

    /// A department refused a message for good.
    pub(crate) fn refused(&self, id: String) {
        self.content().refused.insert(id, ());
    }

    /// Messages portals were told are safe.
    pub(crate) fn count(&self) -> usize {
        self.content().accepted.len()
    }

    /// Those of them that have not arrived yet.
    pub(crate) fn open(&self) -> Vec<String> {
        let content = self.content();
        let open = content.accepted.keys().filter(|id| !content.arrivals.contains_key(*id));
        open.cloned().collect()
    }

    /// Takes the times from acceptance to first arrival at a department since the last call, sorted.
    pub(crate) fn take_latencies(&self, lane: &str) -> Vec<Duration> {
        let mut found = self.content().latencies.remove(lane).unwrap_or_default();
        found.sort();
        found
    }

    /// The verdict: numbers for the last line. `fates` has those that never arrived.
    pub(crate) fn verdict(&self, fates: &HashMap<String, Fate>) -> Verdict {
        let content = self.content();
        let mut verdict =
            Verdict { accepted: content.accepted.len(), oldest_age: content.oldest, ..Verdict::default() };
        for id in content.accepted.keys() {
            let arrivals = content.arrivals.get(id).map_or(&[][..], Vec::as_slice);
            let intact = arrivals.iter().any(|arrival| arrival.intact);
            match (intact, content.refused.contains_key(id), fates.get(id)) {
                (_, true, _) | (false, _, Some(Fate::Dead)) => verdict.dead += 1,
                (true, ..) => verdict.delivered += 1,
                (false, _, Some(Fate::Parked)) => verdict.parked += 1,
                (false, ..) => verdict.lost += 1,
            }
            if arrivals.len() > 1 {
                match arrivals[1..].iter().any(|arrival| arrival.marked) {
                    true => verdict.marked_duplicates += 1,
                    false => verdict.unmarked_duplicates += 1,
                }
            }
        }
        verdict
    }
}

/// Counts of a whole run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    accepted: usize,
    delivered: usize,
    dead: usize,
    parked: usize,
    /// Acknowledged and gone, or altered.
    pub(crate) lost: usize,
    /// Came twice, and no later copy said so.
    pub(crate) unmarked_duplicates: usize,
    marked_duplicates: usize,
    oldest_age: Duration,
}

impl Verdict {
    /// The last line.
    pub(crate) fn json(&self, profile: &str, seed: u64, cycles: u32, recovery: Duration) -> Value {
        json!({
            "profile": profile, "seed": seed, "cycles": cycles,
            "accepted": self.accepted, "delivered": self.delivered, "dead": self.dead, "parked": self.parked,
            "lost": self.lost, "unmarked_duplicates": self.unmarked_duplicates,
            "marked_duplicates": self.marked_duplicates,
            "longest_recovery_ms": millis(recovery), "oldest_age_ms": millis(self.oldest_age),
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
