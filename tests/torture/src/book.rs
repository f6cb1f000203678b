//! What portals were told is safe, what arrived where, and the verdict. Kept by the laboratory alone, never asked from the gateway.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::parties::{DOWN, Lane, MAILBOX};

/// One arrival at a department.
#[derive(Debug, Clone)]
struct Arrival {
    digest: String,
    /// Whether the receiver was told that it may have it already.
    marked: bool,
    at: Instant,
}

#[derive(Debug)]
struct Accepted {
    digest: String,
    /// Where it is to arrive.
    lane: Lane,
    /// When the portal sent the request that was answered.
    sent: Instant,
}

#[derive(Debug, Default)]
struct Content {
    accepted: HashMap<String, Accepted>,
    /// Also of messages whose portal has no answer yet.
    arrivals: HashMap<String, Vec<Arrival>>,
    /// What departments have said about messages in their mailbox, and the gateway has confirmed.
    taken: HashMap<String, Taken>,
    /// Accepted since latencies were last taken.
    recent: Vec<String>,
}

/// What a department says about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is responsible now.
    Acknowledged,
    /// It cannot use it.
    Refused,
}

/// The laboratory's own journal.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Content>);

/// What became of a message that is not settled, as its sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A department has answered, and nobody heard that the answer arrived.
    Taken(Taken),
    /// For an operator, with a reason that is not the gateway's own.
    Dead,
    /// It still waits.
    Parked,
    /// The gateway cannot read it, does not know it, or says that it was handed over.
    Lost,
}

impl Content {
    /// Whether nothing more is to happen to a message: it is in its queue, or the department has answered for it.
    fn is_settled(&self, id: &str, accepted: &Accepted) -> bool {
        match accepted.lane == MAILBOX {
            true => self.taken.contains_key(id),
            false => self.arrivals.contains_key(id),
        }
    }
}

impl Book {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    /// A portal was told that a message is safe.
    pub(crate) fn accepted(&self, id: String, digest: String, lane: Lane, sent: Instant) {
        let mut content = self.content();
        content.recent.push(id.clone());
        content.accepted.entry(id).or_insert(Accepted { digest, lane, sent });
    }

    /// A message arrived at a department.
    pub(crate) fn arrived(&self, id: String, digest: String, marked: bool) {
        let arrival = Arrival { digest, marked, at: Instant::now() };
        self.content().arrivals.entry(id).or_default().push(arrival);
    }

    /// The gateway has confirmed what a department said about a message.
    pub(crate) fn taken(&self, id: String, taken: Taken) {
        self.content().taken.insert(id, taken);
    }

    /// Messages portals were told are safe.
    pub(crate) fn count(&self) -> usize {
        self.content().accepted.len()
    }

    /// Those of them that are not settled yet.
    pub(crate) fn open(&self) -> Vec<(String, Lane)> {
        let content = self.content();
        let open = content.accepted.iter().filter(|(id, accepted)| !content.is_settled(id, accepted));
        open.map(|(id, accepted)| (id.clone(), accepted.lane)).collect()
    }

    /// Takes the times from sending to first arrival of what a lane has accepted since the last call, sorted.
    pub(crate) fn take_latencies(&self, lane: Lane) -> Vec<Duration> {
        let mut content = self.content();
        let recent = std::mem::take(&mut content.recent);
        let (of, others): (Vec<_>, Vec<_>) =
            recent.into_iter().partition(|id| content.accepted[id].lane == lane);
        content.recent = others;
        let age = |id: &String| Some(content.arrivals.get(id)?.first()?.at - content.accepted[id].sent);
        let mut found: Vec<Duration> = of.iter().filter_map(age).collect();
        found.sort();
        found
    }

    /// The verdict: numbers for the last line. `fates` has those that are not settled.
    pub(crate) fn verdict(&self, fates: &HashMap<String, Fate>) -> Verdict {
        let content = self.content();
        let mut verdict = Verdict { accepted: content.accepted.len(), ..Verdict::default() };
        verdict.strangers = content.arrivals.keys().filter(|id| !content.accepted.contains_key(*id)).count();
        for (id, accepted) in &content.accepted {
            let arrivals = content.arrivals.get(id).map_or(&[][..], Vec::as_slice);
            let intact =
                !arrivals.is_empty() && arrivals.iter().all(|arrival| arrival.digest == accepted.digest);
            if let Some(first) = arrivals.first() {
                verdict.oldest_age =
                    verdict.oldest_age.max(first.at.saturating_duration_since(accepted.sent));
            }
            let fate = match (content.taken.get(id), content.is_settled(id, accepted)) {
                (Some(taken), _) => Some(Fate::Taken(*taken)),
                (None, true) => Some(Fate::Taken(Taken::Acknowledged)),
                (None, false) => fates.get(id).copied(),
            };
            match (intact, fate) {
                (true, Some(Fate::Taken(Taken::Acknowledged))) => verdict.delivered += 1,
                (true, Some(Fate::Taken(Taken::Refused))) | (_, Some(Fate::Dead)) => verdict.dead += 1,
                (_, Some(Fate::Parked)) => {
                    verdict.parked += 1;
                    verdict.stuck += usize::from(accepted.lane != DOWN);
                }
                _ => verdict.lost += 1,
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
    /// Parked although nothing stands in the way.
    stuck: usize,
    /// Arrived, and no portal was ever told of them: one submission became two messages.
    strangers: usize,
    /// Acknowledged and gone, or altered.
    lost: usize,
    /// Came twice, and no later copy said so.
    unmarked_duplicates: usize,
    marked_duplicates: usize,
    oldest_age: Duration,
}

impl Verdict {
    /// Whether every promise was kept.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.unmarked_duplicates + self.stuck + self.strangers == 0
    }

    /// The last line.
    pub(crate) fn json(&self, profile: &str, seed: u64, cycles: u32, recovery: Duration) -> Value {
        json!({
            "profile": profile, "seed": seed, "cycles": cycles,
            "accepted": self.accepted, "delivered": self.delivered, "dead": self.dead, "parked": self.parked,
            "lost": self.lost, "unmarked_duplicates": self.unmarked_duplicates,
            "marked_duplicates": self.marked_duplicates, "stuck": self.stuck, "strangers": self.strangers,
            "longest_recovery_ms": millis(recovery), "oldest_age_ms": millis(self.oldest_age),
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parties::QUEUE;

    fn told(book: &Book, id: &str, lane: Lane) {
        book.accepted(id.to_owned(), "content".to_owned(), lane, Instant::now());
    }

    fn arrives(book: &Book, id: &str, marked: bool) {
        book.arrived(id.to_owned(), "content".to_owned(), marked);
    }

    #[test]
    fn every_broken_promise_is_counted() {
        let book = Book::default();
        for id in ["fetched", "taken", "refused", "unheard", "waiting", "gone"] {
            told(&book, id, MAILBOX);
        }
        told(&book, "queued", QUEUE);
        told(&book, "altered", QUEUE);
        told(&book, "down", DOWN);
        for id in ["fetched", "taken", "refused", "unheard", "queued", "stranger"] {
            arrives(&book, id, false);
        }
        book.arrived("altered".to_owned(), "other".to_owned(), false);
        book.taken("taken".to_owned(), Taken::Acknowledged);
        book.taken("refused".to_owned(), Taken::Refused);
        let mut open: Vec<String> = book.open().into_iter().map(|(id, _)| id).collect();
        open.sort();
        assert_eq!(open, ["down", "fetched", "gone", "unheard", "waiting"]);
        let fates = HashMap::from(
            [
                ("fetched", Fate::Parked),
                ("unheard", Fate::Taken(Taken::Acknowledged)),
                ("waiting", Fate::Parked),
                ("gone", Fate::Taken(Taken::Acknowledged)),
                ("down", Fate::Parked),
            ]
            .map(|(id, fate)| (id.to_owned(), fate)),
        );
        let verdict = book.verdict(&fates);
        let Verdict { accepted, delivered, dead, parked, lost, stuck, strangers, .. } = verdict;
        assert_eq!((accepted, delivered, dead, parked, lost), (9, 3, 1, 3, 2));
        assert_eq!((stuck, strangers), (2, 1));
        assert!(!verdict.is_clean());
    }

    #[test]
    fn a_second_copy_needs_a_mark() {
        let book = Book::default();
        for (id, marks) in [("marked", [false, true]), ("unmarked", [true, false])] {
            told(&book, id, QUEUE);
            marks.into_iter().for_each(|marked| arrives(&book, id, marked));
        }
        let verdict = book.verdict(&HashMap::new());
        assert_eq!((verdict.marked_duplicates, verdict.unmarked_duplicates), (1, 1));
    }
}
