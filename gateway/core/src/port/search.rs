//! What operators look for among all messages.

use std::str::FromStr;

use jiff::Timestamp;
use serde::Deserialize;

use super::store::{Cursor, StoredMessage};
use crate::delivery::{Delivery, Event, EventKind, FailureReason, SHOWN_STATES};
use crate::id::MessageId;
use crate::key::{AccountName, CaseId, PartyId, ServiceKey};
use crate::message::Message;
use crate::route::Destination;

/// Which messages. All conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// Handed in by one account.
    pub account: Option<AccountName>,
    /// Of one case.
    pub case_id: Option<CaseId>,
    /// Submitted for one party, or going to it.
    pub party: Option<PartyId>,
    /// On the way to one destination.
    pub destination: Option<Destination>,
    /// For one service: as its sender named it, or by its OZG id.
    pub service: Option<ServiceKey>,
    /// In one shown state.
    pub state: Option<String>,
    /// Whose last failure has this code.
    pub code: Option<String>,
    /// Not with its department although its deadline is near or over.
    pub at_risk: bool,
    /// Whose last failure has this in its code or in its explanation, in whatever case.
    pub text: Option<String>,
    /// Accepted at or after a time.
    pub since: Option<Timestamp>,
    /// Accepted before a time.
    pub before: Option<Timestamp>,
}

/// What an index of messages keeps apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Facet {
    /// Account that handed it in.
    Account,
    /// Case.
    Case,
    /// A party: who submitted it, or where it goes.
    Party,
    /// Destination.
    Destination,
    /// Service.
    Service,
    /// Shown state.
    State,
    /// Code of the last failure.
    Code,
    /// Trouble with the deadline; the value is always the same.
    AtRisk,
}

/// A search as people write it: texts that may be malformed, each as the field of [`Search`] is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SearchText {
    /// See [`Search::account`].
    pub account: Option<String>,
    /// See [`Search::case_id`].
    pub case_id: Option<String>,
    /// See [`Search::party`].
    pub party: Option<String>,
    /// See [`Search::destination`].
    pub destination: Option<String>,
    /// See [`Search::service`].
    pub service: Option<String>,
    /// See [`Search::state`].
    pub state: Option<String>,
    /// See [`Search::code`].
    pub code: Option<String>,
    /// See [`Search::text`].
    pub text: Option<String>,
    /// See [`Search::at_risk`]; `true` or `false`.
    pub at_risk: Option<String>,
    /// See [`Search::since`].
    pub since: Option<String>,
    /// See [`Search::before`].
    pub before: Option<String>,
}

/// A part of a search is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the field {0} is malformed")]
pub struct InvalidSearch(
    /// Which, as in [`SearchText`]'s JSON form.
    pub &'static str,
);

/// Longest text that is looked for, in bytes.
const TEXT_MAX: usize = 200;

impl SearchText {
    /// What is meant. Fields that are empty ask for nothing.
    ///
    /// # Errors
    /// The first field that is malformed.
    pub fn parse(self) -> Result<Search, InvalidSearch> {
        let known = |state: &String| SHOWN_STATES.contains(&state.as_str());
        let short = |text: &String| text.len() <= TEXT_MAX;
        Ok(Search {
            account: parse("account", self.account)?,
            case_id: parse("caseId", self.case_id)?,
            party: parse("party", self.party)?,
            destination: parse("destination", self.destination)?,
            service: parse("service", self.service)?,
            state: checked("state", self.state, known)?,
            code: checked("code", self.code, short)?,
            text: checked("text", self.text, short)?,
            at_risk: parse("atRisk", self.at_risk)?.unwrap_or_default(),
            since: parse("since", self.since)?,
            before: parse("before", self.before)?,
        })
    }
}

/// A field, if it says anything.
///
/// # Errors
/// When it is malformed.
pub fn parse<T: FromStr>(field: &'static str, text: Option<String>) -> Result<Option<T>, InvalidSearch> {
    let said = text.as_deref().map(str::trim).filter(|text| !text.is_empty());
    said.map(|text| text.parse().map_err(|_| InvalidSearch(field))).transpose()
}

fn checked(
    field: &'static str,
    text: Option<String>,
    good: impl Fn(&String) -> bool,
) -> Result<Option<String>, InvalidSearch> {
    let text: Option<String> = parse(field, text)?;
    if text.as_ref().is_none_or(good) { Ok(text) } else { Err(InvalidSearch(field)) }
}

/// A facet with its value.
pub type FacetValue = (Facet, String);

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub id: MessageId,
    /// Where it stands.
    pub delivery: Delivery,
    /// What went wrong last, if anything did.
    pub failure: Option<FailureReason>,
}

/// A page of what was found, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchPage {
    /// The messages.
    pub found: Vec<Found>,
    /// Where to go on; also when this call has looked at enough without finding anything.
    pub next: Option<Cursor>,
    /// Bytes of the journal the search does not know yet; what changed last may be missing.
    pub behind: u64,
}

impl Search {
    /// What a message must have.
    pub fn facets(&self) -> Vec<FacetValue> {
        let text = |facet, value: Option<&dyn ToString>| value.map(|value| (facet, value.to_string()));
        let all = [
            text(Facet::Account, self.account.as_ref().map(|one| one as _)),
            text(Facet::Case, self.case_id.as_ref().map(|one| one as _)),
            text(Facet::Party, self.party.as_ref().map(|one| one as _)),
            text(Facet::Destination, self.destination.as_ref().map(|one| one as _)),
            text(Facet::Service, self.service.as_ref().map(|one| one as _)),
            text(Facet::State, self.state.as_ref().map(|one| one as _)),
            text(Facet::Code, self.code.as_ref().map(|one| one as _)),
            self.at_risk.then(at_risk),
        ];
        all.into_iter().flatten().collect()
    }

    /// Whether a delivery passes, as far as it alone can tell.
    pub fn allows(&self, delivery: &Delivery) -> bool {
        self.state.as_deref().is_none_or(|wanted| delivery.shown_state() == wanted)
            && self.destination.as_ref().is_none_or(|wanted| delivery.destination.as_ref() == Some(wanted))
            && self.account.as_ref().is_none_or(|wanted| delivery.account == *wanted)
            && self.case_id.as_ref().is_none_or(|wanted| delivery.case_id.as_ref() == Some(wanted))
    }

    /// Whether a failure has the text that is looked for.
    pub fn speaks_of(&self, failure: Option<&FailureReason>) -> bool {
        let Some(wanted) = self.text.as_deref().map(str::to_lowercase) else { return true };
        failure.is_some_and(|failure| {
            failure.code.to_lowercase().contains(&wanted) || failure.detail.to_lowercase().contains(&wanted)
        })
    }

    /// Whether a message passes. The meaning of a search; indexes only get there faster.
    pub fn matches(&self, stored: &StoredMessage) -> bool {
        let accepted = stored.message.id.accepted_at();
        let has = facets(&stored.message, &stored.delivery, &stored.events);
        self.facets().iter().all(|wanted| has.contains(wanted))
            && self.speaks_of(last_failure(&stored.events))
            && self.since.is_none_or(|since| accepted >= Some(since))
            && self.before.is_none_or(|before| accepted < Some(before))
    }
}

/// What a message is found by.
pub fn facets(message: &Message, delivery: &Delivery, events: &[Event]) -> Vec<FacetValue> {
    let mut all = delivery_facets(delivery);
    all.push((Facet::Party, message.sender.to_string()));
    all.push((Facet::Service, message.metadata.service.to_string()));
    all.extend(routed_service(events));
    all.extend((!delivery.is_finished() && misses_its_deadline(events)).then(at_risk));
    all.extend(last_failure(events).map(|failure| (Facet::Code, failure.code.clone())));
    all.sort_unstable();
    all.dedup();
    all
}

/// What a message is found by of which only the delivery can be read.
pub fn delivery_facets(delivery: &Delivery) -> Vec<FacetValue> {
    let mut all = vec![
        (Facet::Account, delivery.account.to_string()),
        (Facet::State, delivery.shown_state().to_owned()),
    ];
    all.extend(delivery.case_id.as_ref().map(|case| (Facet::Case, case.to_string())));
    if let Some(destination) = &delivery.destination {
        all.push((Facet::Destination, destination.to_string()));
        all.push((Facet::Party, destination.organization.to_string()));
    }
    all
}

fn at_risk() -> FacetValue {
    (Facet::AtRisk, String::new())
}

fn misses_its_deadline(events: &[Event]) -> bool {
    let near = |event: &Event| {
        matches!(event.kind, EventKind::DeadlineNear { .. } | EventKind::DeadlineMissed { .. })
    };
    events.iter().any(near)
}

fn routed_service(events: &[Event]) -> Option<FacetValue> {
    let route = events.iter().rev().find_map(|event| match &event.kind {
        EventKind::Routed { route } => Some(route),
        _ => None,
    })?;
    let id = route.service.parse().ok()?;
    Some((Facet::Service, ServiceKey::Ozg(id).to_string()))
}

/// What went wrong last with a message, if anything ever did.
pub fn last_failure(events: &[Event]) -> Option<&FailureReason> {
    events.iter().rev().find_map(|event| match &event.kind {
        EventKind::AttemptFailed { reason, .. } | EventKind::RouteOpen { reason, .. } => Some(reason),
        EventKind::Dead { reason } => Some(reason.last()),
        _ => None,
    })
}
