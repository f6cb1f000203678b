//! Whether the gateway can do its work (promise P10).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::port::StoreStatus;
use serde::Serialize;

/// The engine looks at its work at least every few seconds; after this time it counts as stuck.
const SCHEDULER_SILENCE: Duration = Duration::from_secs(30);

/// What the gateway knows about itself.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    scheduler: Option<Timestamp>,
    certificates: Vec<(&'static str, Timestamp)>,
    directory_down: Option<String>,
    ending: bool,
}

/// The truth at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// `ready`, `degraded` (still ready) or `not-ready`.
    pub status: &'static str,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
}

impl Readiness {
    /// Whether work may be sent here.
    pub fn is_ready(&self) -> bool {
        self.status != "not-ready"
    }
}

impl Health {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The engine has looked at its work.
    pub fn scheduler_moved(&self, at: Timestamp) {
        self.with(|state| state.scheduler = Some(at));
    }

    /// A certificate in force expires at a time.
    pub fn certificate(&self, role: &'static str, expires: Timestamp) {
        self.with(|state| {
            state.certificates.retain(|(known, _)| *known != role);
            state.certificates.push((role, expires));
        });
    }

    /// Certificates in force with their ends.
    pub fn certificates(&self) -> Vec<(&'static str, Timestamp)> {
        self.with(|state| state.certificates.clone())
    }

    /// Whether the directory answers.
    pub fn directory(&self, down: Option<String>) {
        self.with(|state| state.directory_down = down);
    }

    /// Whether the directory did not answer the last question.
    pub fn directory_is_down(&self) -> bool {
        self.with(|state| state.directory_down.is_some())
    }

    /// The gateway is shutting down.
    pub fn ending(&self) {
        self.with(|state| state.ending = true);
    }

    /// Judges.
    pub fn readiness(&self, store: &StoreStatus, now: Timestamp) -> Readiness {
        self.with(|state| {
            let mut reasons = Vec::new();
            if let Some(reason) = &store.stopped {
                reasons.push(format!("the store does not commit: {reason}"));
            }
            if store.full {
                reasons.push("the store has no room left".to_owned());
            }
            match state.scheduler {
                Some(at) if now.duration_since(at).unsigned_abs() <= SCHEDULER_SILENCE => {}
                Some(_) => reasons.push("the scheduler does not move".to_owned()),
                None => reasons.push("the scheduler has not started".to_owned()),
            }
            for (role, expires) in &state.certificates {
                if *expires <= now {
                    reasons.push(format!("the {role} certificate has expired"));
                }
            }
            if state.ending {
                reasons.push("the gateway is shutting down".to_owned());
            }
            if !reasons.is_empty() {
                return Readiness { status: "not-ready", reasons };
            }
            reasons.extend(store.low.clone());
            reasons.extend(
                state.directory_down.as_ref().map(|why| format!("the directory cannot be asked: {why}")),
            );
            Readiness { status: if reasons.is_empty() { "ready" } else { "degraded" }, reasons }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn ready_needs_store_scheduler_and_certificates() {
        let health = Health::default();
        let store = StoreStatus::default();
        assert!(!health.readiness(&store, at(0)).is_ready());
        health.scheduler_moved(at(0));
        health.certificate("seal", at(100));
        assert_eq!(health.readiness(&store, at(1)).status, "ready");
        health.directory(Some("x".to_owned()));
        assert_eq!(health.readiness(&store, at(1)).status, "degraded");
        let sick = StoreStatus { stopped: Some("disk".to_owned()), ..StoreStatus::default() };
        assert_eq!(health.readiness(&sick, at(1)).reasons, ["the store does not commit: disk"]);
        let full = StoreStatus { full: true, ..StoreStatus::default() };
        assert_eq!(health.readiness(&full, at(1)).reasons, ["the store has no room left"]);
        let low = StoreStatus { low: Some("little room".to_owned()), ..StoreStatus::default() };
        let readiness = health.readiness(&low, at(1));
        assert_eq!((readiness.status, readiness.reasons[0].as_str()), ("degraded", "little room"));
        assert_eq!(health.readiness(&store, at(31)).reasons, ["the scheduler does not move"]);
        health.scheduler_moved(at(100));
        assert_eq!(health.readiness(&store, at(100)).reasons, ["the seal certificate has expired"]);
        health.certificate("seal", at(1000));
        health.ending();
        assert!(!health.readiness(&store, at(100)).is_ready());
    }
}
