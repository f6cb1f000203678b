//! One message: what is the matter, everything that happened, and what can be done.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{Delivery, Event, EventKind, State as MessageState};
use amtsbote_core::hold::HoldKey;
use amtsbote_core::id::MessageId;
use amtsbote_core::message::{IdScheme, PartNumber};
use amtsbote_core::operations::Action;
use amtsbote_core::port::{PartReader, StoredMessage};
use amtsbote_core::route::Route;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use futures::stream;
use maud::{Markup, html};
use serde_json::Value;

use super::{destinations, messages};
use crate::Console;
use crate::explain::{Obstacles, explain};
use crate::frame::{
    Failure, Place, ago, encode, fact, facts, fail, live, number, page_at, reason, state, table, time, token,
};
use crate::guard::{Sent, Visitor};
use crate::texts::Texts;

async fn load(console: &Console, visitor: &Visitor, id: &str) -> Result<StoredMessage, Failure> {
    let unknown = |_| Failure::new(StatusCode::NOT_FOUND, visitor.language.texts().no_such_page);
    let id: MessageId = id.parse().map_err(unknown)?;
    Ok(console.ports.operations.message(id).await?)
}

/// Shows a message without what people wrote.
pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Response {
    match whole(&console, &visitor, &id, false).await {
        Ok(shown) => shown.into_response(),
        Err(failure) => fail(&visitor, failure),
    }
}

/// Leads whoever loads the answer to a form again back to the message.
pub(crate) async fn without_contents(Path(id): Path<String>) -> Redirect {
    Redirect::to(&format!("/console/messages/{}", encode(&id)))
}

/// Shows it with what people wrote, after that was written into the audit trail.
pub(crate) async fn contents(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
    sent: Sent,
) -> Response {
    let shown = async {
        sent.must_act()?;
        let stored = load(&console, &sent.visitor, &id).await?;
        console.ports.operations.reading(stored.message.id, sent.visitor.name.clone()).await?;
        whole(&console, &sent.visitor, &id, true).await
    };
    match shown.await {
        Ok(shown) => shown.into_response(),
        Err(failure) => fail(&sent.visitor, failure),
    }
}

async fn whole(
    console: &Console,
    visitor: &Visitor,
    id: &str,
    with_contents: bool,
) -> Result<Markup, Failure> {
    let stored = load(console, visitor, id).await?;
    let operations = &console.ports.operations;
    let obstacles = Obstacles { holds: operations.holds(), breakers: operations.breakers().await? };
    let (t, now) = (visitor.language.texts(), console.ports.clock.now());
    let contents = html! {
        section id="contents" {
            h2 { (t.contents) }
            @if with_contents { (written(visitor, &stored)) } @else { (locked(visitor, stored.message.id)) }
        }
    };
    let content = html! {
        (live("verdict", &html! {
            section.verdict {
                h2 { (t.what_now) }
                @for sentence in explain(&stored, &obstacles, visitor.language) { p { (sentence) } }
            }
        }))
        (live("facts", &html! { section { h2 { (t.facts) } (known(visitor, &stored, now)) } }))
        @if visitor.may_act() {
            section { h2 { (t.actions) } (actions(visitor, &stored, &obstacles)) }
        }
        (live("attempts", &html! { section { h2 { (t.attempts_made) } (attempts(t, &stored)) } }))
        section { h2 { (t.route) } (route(t, stored.route())) }
        section { h2 { (t.seal) } (seal(t, &stored)) }
        (contents)
        (live("timeline", &html! { section { h2 { (t.timeline) } (timeline(t, &stored)) } }))
    };
    let (id, title) = (stored.message.id, format!("{} {}", t.message, stored.message.id.uuid()));
    let home = with_contents.then(|| messages::address(id));
    Ok(page_at(visitor, Place::Messages, home.as_deref(), &title, &content))
}

fn known(visitor: &Visitor, stored: &StoredMessage, now: Timestamp) -> Markup {
    let t = visitor.language.texts();
    let StoredMessage { message, delivery, .. } = stored;
    let others = message.external_ids.iter().filter(|id| id.scheme != IdScheme::Client).peekable();
    let others: Vec<_> = others.map(|id| id.value.clone()).collect();
    let metadata = &message.metadata;
    facts(&[
        (t.id, Some(html! { code { (message.id) } })),
        (
            t.state,
            Some(html! { (state(delivery.shown_state())) " " (ago(delivery.since, now, visitor.language)) }),
        ),
        (t.accepted_at, Some(ago(message.received_at, now, visitor.language))),
        (t.account, fact(&message.account)),
        (t.sender, fact(&message.sender)),
        (
            t.destination,
            delivery.destination.as_ref().map(|one| html! { a href=(destinations::address(one)) { (one) } }),
        ),
        (t.service, fact(&metadata.service)),
        (t.case_id, delivery.case_id.as_ref().and_then(fact)),
        (t.deadline, delivery.deadline.map(time)),
        (t.attempts, fact(delivery.attempts)),
        (t.external_ids, (!others.is_empty()).then(|| html! { @for id in others { code { (id) } " " } })),
    ])
}

/// What this message lets somebody do.
fn actions(visitor: &Visitor, stored: &StoredMessage, obstacles: &Obstacles) -> Markup {
    let (t, id) = (visitor.language.texts(), stored.message.id);
    let delivery = &stored.delivery;
    if delivery.is_finished() {
        return html! { p { (t.nothing) } };
    }
    let key = HoldKey::Message(id);
    let held = obstacles.holds.iter().any(|hold| hold.key == key);
    let form = |action: &str, label: &str| {
        html! {
            form.action method="post" action={ (messages::address(id)) "/" (action) } {
                (token(visitor))
                (reason(t, &format!("reason-{action}")))
                button { (label) }
            }
        }
    };
    html! {
        div.actions {
            @if matches!(delivery.state, MessageState::Dead { .. }) { (form("redrive", t.redrive)) }
            @if can_change(delivery) { (form("reroute", t.reroute)) (form("cancel", t.cancel)) }
            @if held { (form("release", t.release)) } @else { (form("hold", t.hold)) }
        }
    }
}

/// Whether it is with nobody else now.
fn can_change(delivery: &Delivery) -> bool {
    !matches!(delivery.state, MessageState::Attempting { .. })
}

/// Redrive, reroute, cancel, hold or release.
pub(crate) async fn act(
    State(console): State<Arc<Console>>,
    Path((id, action)): Path<(String, String)>,
    sent: Sent,
) -> Response {
    match carry_out(&console, &id, &action, &sent).await {
        Ok(id) => Redirect::to(&messages::address(id)).into_response(),
        Err(failure) => fail(&sent.visitor, failure),
    }
}

async fn carry_out(console: &Console, id: &str, action: &str, sent: &Sent) -> Result<MessageId, Failure> {
    let order = sent.order()?;
    let id = load(console, &sent.visitor, id).await?.message.id;
    let operations = &console.ports.operations;
    let key = HoldKey::Message(id);
    match action {
        "redrive" => drop(operations.act(Action::Redrive, id, order).await?),
        "reroute" => drop(operations.act(Action::Reroute, id, order).await?),
        "cancel" => drop(operations.act(Action::Cancel, id, order).await?),
        "hold" => drop(operations.hold(key, order, None).await?),
        "release" => drop(operations.release(&key, order.by, Some(order.reason)).await?),
        _ => return Err(Failure::new(StatusCode::NOT_FOUND, sent.visitor.language.texts().no_such_page)),
    }
    Ok(id)
}

fn attempts(t: &Texts, stored: &StoredMessage) -> Markup {
    let ended = |at: &Timestamp, attempt: u32, how: Markup| html! { tr { td.number { (attempt) } td { (time(*at)) } td { (how) } } };
    let row = |Event { at, kind }: &Event| match kind {
        EventKind::AttemptFailed { attempt, class, reason, retry_at } => {
            let class = serde_json::to_value(class).unwrap_or_default();
            Some(ended(
                at,
                *attempt,
                html! {
                    (class.as_str().unwrap_or_default()) ": " code { (reason.code) } ", " (reason.detail)
                    @if let Some(retry) = retry_at { " → " (time(*retry)) }
                },
            ))
        }
        EventKind::AttemptLost { attempt } => Some(ended(at, *attempt, html! { "lost" })),
        EventKind::Leased { attempt, account, until } => {
            Some(ended(at, *attempt, html! { "leased " (account) " → " (time(*until)) }))
        }
        EventKind::Taken { attempt, account, .. } => {
            Some(ended(at, *attempt, html! { "fetched " (account) }))
        }
        EventKind::Delivered { proof: Some(proof), .. } => {
            Some(ended(at, stored.delivery.attempts, html! { (state("delivered")) " " (proof.0) }))
        }
        _ => None,
    };
    let rows: Vec<_> = stored.events.iter().filter_map(row).collect();
    table(t, t.attempts_made, &[t.attempts, t.when, t.outcome], &rows)
}

fn route(t: &Texts, route: Option<&Route>) -> Markup {
    let Some(route) = route else { return html! { p { (t.nothing) } } };
    html! {
        (facts(&[
            (t.organization, Some(html! { (route.organization.name) " (" code { (route.organization.key) } ")" })),
            (t.service, fact(&route.service)),
            (t.channel, fact(route.endpoint.channel.as_str())),
            (t.decided_at, Some(time(route.decided_at))),
        ]))
        (trace(t, &route.trace))
    }
}

/// The steps of a decision.
pub(crate) fn trace(t: &Texts, steps: &[String]) -> Markup {
    html! { h3 { (t.trace) } ol { @for step in steps { li { (step) } } } }
}

fn seal(t: &Texts, stored: &StoredMessage) -> Markup {
    match stored.seal() {
        None => html! { p { (t.seal_none) } },
        Some(seal) => facts(&[
            (t.algorithm, fact(&seal.algorithm)),
            (t.certificate, Some(html! { code.long { (seal.certificate) } })),
        ]),
    }
}

fn locked(visitor: &Visitor, id: MessageId) -> Markup {
    let t = visitor.language.texts();
    html! {
        p { (t.contents_hint) }
        @if visitor.may_act() {
            form method="post" action={ (messages::address(id)) "/contents#contents" } {
                (token(visitor))
                button { (t.contents_show) }
            }
        } @else {
            p { (t.contents_missing) }
        }
    }
}

fn written(visitor: &Visitor, stored: &StoredMessage) -> Markup {
    let (t, message) = (visitor.language.texts(), &stored.message);
    let metadata = serde_json::to_string_pretty(&message.metadata).unwrap_or_default();
    let rows = message.parts.iter().enumerate().map(|(place, part)| {
        html! {
            tr {
                td { (part.name.as_deref().unwrap_or("–")) }
                td { (part.media_type) }
                td.number { (number(part.size)) }
                td { code.long { (part.sha256) } }
                td {
                    @if !stored.delivery.stripped {
                        form method="post" action={ (messages::address(message.id)) "/parts/" (place) } {
                            (token(visitor))
                            button { (t.download) }
                        }
                    }
                }
            }
        }
    });
    html! {
        h3 { (t.parts) }
        (table(t, t.parts, &[t.name, t.media_type, t.size, "SHA-256", t.download], &rows.collect::<Vec<_>>()))
        h3 { (t.metadata) }
        pre tabindex="0" { (metadata) }
    }
}

/// Hands a part out, after that was written into the audit trail.
pub(crate) async fn download(
    State(console): State<Arc<Console>>,
    Path((id, place)): Path<(String, PartNumber)>,
    sent: Sent,
) -> Response {
    let opened = async {
        sent.must_act()?;
        let stored = load(&console, &sent.visitor, &id).await?;
        let id = stored.message.id;
        let unknown = || Failure::new(StatusCode::NOT_FOUND, sent.visitor.language.texts().no_such_page);
        let part = stored.message.parts.get(usize::from(place)).ok_or_else(unknown)?;
        console.ports.operations.reading(id, sent.visitor.name.clone()).await?;
        let reader = console.ports.store.open_part(id, place, 0).await?.ok_or_else(unknown)?;
        let name = part.name.clone().unwrap_or_else(|| format!("part-{place}"));
        Ok::<_, Failure>((reader, name, part.size))
    };
    match opened.await {
        Ok((reader, name, size)) => attachment(reader, &name, size),
        Err(failure) => fail(&sent.visitor, failure),
    }
}

/// Never shown by the browser itself, whatever it is.
fn attachment(reader: Box<dyn PartReader>, name: &str, size: u64) -> Response {
    let pieces = stream::try_unfold(reader, |mut reader| async move {
        Ok::<_, amtsbote_core::port::StoreError>(reader.next().await?.map(|bytes| (bytes, reader)))
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    // Percent-encoded text is visible ASCII.
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename*=UTF-8''{}", encode(name))) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

/// Everything on the process card; long things are left to the interface for programs.
fn timeline(t: &Texts, stored: &StoredMessage) -> Markup {
    let row = |event: &Event| {
        let mut rest = serde_json::to_value(event).unwrap_or_default();
        let name = rest["event"].as_str().unwrap_or_default().to_owned();
        if let Some(members) = rest.as_object_mut() {
            for shown_elsewhere in ["at", "event", "signature", "route"] {
                members.remove(shown_elsewhere);
            }
        }
        html! { tr { td { (time(event.at)) } td { (name) } td { (members(&rest)) } } }
    };
    let rows: Vec<_> = stored.events.iter().map(row).collect();
    table(t, t.timeline, &[t.when, t.what, t.details], &rows)
}

fn members(object: &Value) -> Markup {
    html! {
        @for (name, value) in object.as_object().into_iter().flatten() {
            span.member {
                b { (name) } " "
                @match value {
                    Value::String(text) => (text),
                    other => code { (other) },
                }
            }
            " "
        }
    }
}
