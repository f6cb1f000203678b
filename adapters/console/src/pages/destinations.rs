//! Where messages go, what waits there, and what stands in the way.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::engine::DestinationPolicy;
use amtsbote_core::hold::HoldKey;
use amtsbote_core::operations::DestinationStatus;
use amtsbote_core::port::Search;
use amtsbote_core::route::Destination;
use amtsbote_core::vitals::Counted;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};

use super::{holds, messages};
use crate::Console;
use crate::frame::{
    Failure, Place, age, ago, encode, fact, facts, fail, live, number, page, state, table, time,
};
use crate::guard::Visitor;
use crate::texts::Texts;

/// Messages shown with a destination.
const LATEST: usize = 20;

/// Address of the page of a destination.
pub(crate) fn address(destination: &Destination) -> String {
    format!(
        "/console/destinations/{}/{}",
        destination.channel.as_str(),
        encode(destination.organization.as_str())
    )
}

pub(crate) fn heads(t: &Texts) -> [&str; 5] {
    [t.destination, t.state, t.queue, t.oldest, t.why]
}

fn condition(status: &DestinationStatus) -> &'static str {
    match (&status.hold, &status.breaker) {
        (Some(_), _) => "held",
        (None, Some(_)) => "out-of-order",
        (None, None) => "open",
    }
}

/// A line of a list of destinations.
pub(crate) fn row(visitor: &Visitor, status: &DestinationStatus, now: Timestamp) -> Markup {
    let oldest = status.oldest.map_or(String::new(), |oldest| age(now.duration_since(oldest).as_secs()));
    html! {
        tr {
            td { a href=(address(&status.destination)) { (status.destination) } }
            td { (state(condition(status))) }
            td.number { (number(status.messages)) }
            td { (oldest) }
            td { (why(visitor, status)) }
        }
    }
}

fn why(visitor: &Visitor, status: &DestinationStatus) -> Markup {
    let t = visitor.language.texts();
    match (&status.hold, &status.breaker) {
        (Some(hold), _) => html! { (hold.reason) " (" (hold.by) ")" },
        (None, Some(open)) => html! {
            code { (open.reason.code) } ", " (open.reason.detail) "; " (t.next_probe) " " (time(open.next_probe))
        },
        (None, None) => html! {},
    }
}

pub(crate) async fn list(State(console): State<Arc<Console>>, visitor: Visitor) -> Markup {
    let (t, now) = (visitor.language.texts(), console.ports.clock.now());
    let content = match console.ports.vitals.counted() {
        None => html! { p { (t.not_counted) } },
        Some(counted) => {
            let Counted { at, overview } = counted.as_ref();
            let rows: Vec<_> = overview.destinations.iter().map(|one| row(&visitor, one, now)).collect();
            html! {
                (table(t, t.destinations, &heads(t), &rows))
                p.small { (t.counted_at) ": " (ago(*at, now, visitor.language)) }
            }
        }
    };
    page(&visitor, Place::Destinations, t.destinations, &live("destinations", &content))
}

pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Path((channel, organization)): Path<(String, String)>,
) -> Response {
    let unknown = || Failure::new(StatusCode::NOT_FOUND, visitor.language.texts().no_such_page);
    let Ok(destination) = format!("{channel}/{organization}").parse::<Destination>() else {
        return fail(&visitor, unknown());
    };
    match one(&console, &visitor, destination).await {
        Ok(shown) => shown.into_response(),
        Err(failure) => fail(&visitor, failure),
    }
}

async fn one(console: &Console, visitor: &Visitor, destination: Destination) -> Result<Markup, Failure> {
    let (t, now, operations) =
        (visitor.language.texts(), console.ports.clock.now(), &console.ports.operations);
    let key = HoldKey::Destination(destination.clone());
    let counted = console.ports.vitals.counted();
    let counted = counted.as_ref().and_then(|counted| {
        let all = &counted.overview.destinations;
        all.iter().find(|one| one.destination == destination)
    });
    // What stands in the way as it is now, whatever it was when it was counted.
    let status = DestinationStatus {
        messages: counted.map_or(0, |one| one.messages),
        oldest: counted.and_then(|one| one.oldest),
        hold: operations.holds().into_iter().find(|hold| hold.key == key),
        breaker: operations.breakers().await?.into_iter().find(|open| open.destination == destination),
        destination: destination.clone(),
    };
    let search = Search { destination: Some(destination.clone()), ..Search::default() };
    let found = operations.search(&search, None, LATEST).await?;
    let content = html! {
        (live("status", &html! {
            (facts(&[
                (t.state, Some(html! { (state(condition(&status))) " " (why(visitor, &status)) })),
                (t.queue, fact(number(status.messages))),
                (t.oldest, status.oldest.map(|oldest| ago(oldest, now, visitor.language))),
            ]))
        }))
        @if visitor.may_act() { (holds::form(visitor, &key, status.hold.as_ref(), &address(&destination))) }
        section { h2 { (t.policy) } (policy(t, operations.policies().of(&destination))) }
        section {
            h2 { (t.latest_messages) }
            (live("latest", &html! {
                (table(t, t.latest_messages, &messages::heads(t), &messages::rows(&found.messages)))
                (messages::lag(t, found.behind))
            }))
        }
    };
    Ok(page(visitor, Place::Destinations, &destination.to_string(), &content))
}

fn policy(t: &Texts, policy: &DestinationPolicy) -> Markup {
    facts(&[
        (t.concurrency, fact(policy.concurrency)),
        (t.rate, fact(policy.rate.map_or_else(|| t.unlimited.to_owned(), |rate| rate.to_string()))),
        (t.release_rate, fact(policy.release_rate)),
        (t.weight, fact(policy.weight)),
        (t.max_attempts, fact(policy.retry.max_attempts())),
        (t.failures_to_open, fact(policy.breaker.failures)),
    ])
}
