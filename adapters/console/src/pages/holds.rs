//! What is held back, by whom and why.

use std::sync::Arc;

use amtsbote_core::hold::{Hold, HoldKey};
use amtsbote_core::port::parse;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use crate::Console;
use crate::frame::{Failure, Place, fail, field, live, page, reason, table, time, token};
use crate::guard::{Sent, Visitor};

/// Scopes that people hold on this page; single messages have their own.
const SCOPES: [&str; 4] = ["destination", "service", "account", "message"];

pub(crate) async fn list(State(console): State<Arc<Console>>, visitor: Visitor) -> Markup {
    let t = visitor.language.texts();
    let row = |hold: &Hold| {
        html! {
            tr {
                td { (hold.key.scope()) }
                td { code { (hold.key.key()) } }
                td { (time(hold.since)) }
                td { @if let Some(until) = hold.until { (time(until)) } }
                td { (hold.by) }
                td { (hold.reason) }
            }
        }
    };
    let holds = console.ports.operations.holds();
    let rows: Vec<_> = holds.iter().map(row).collect();
    let content = html! {
        (live("holds", &table(t, t.holds, &[t.scope, t.key, t.since, t.until, t.by, t.reason], &rows)))
        @if visitor.may_act() {
            section {
                h2 { (t.hold) }
                form.action method="post" action="/console/holds/put" {
                    (token(&visitor))
                    div.field {
                        label for="scope" { (t.scope) }
                        select id="scope" name="scope" { @for scope in SCOPES { option value=(scope) { (scope) } } }
                    }
                    (field("key", t.key, "", Some("amqp/wgb:073150000000, ozg:10092, portal-a, urn:uuid:…")))
                    (field("until", t.until, "", Some(t.until_hint)))
                    (reason(t, "reason"))
                    button { (t.hold) }
                }
            }
            @for (number, hold) in holds.iter().enumerate() {
                form.action method="post" action="/console/holds/lift" {
                    (token(&visitor))
                    input type="hidden" name="scope" value=(hold.key.scope());
                    input type="hidden" name="key" value=(hold.key.key());
                    (reason(t, &format!("release-{number}")))
                    button { (t.release) ": " (hold.key) }
                }
            }
        }
    };
    page(&visitor, Place::Holds, t.holds, &content)
}

/// Holds something, or releases what is held.
pub(crate) fn form(visitor: &Visitor, key: &HoldKey, hold: Option<&Hold>, back: &str) -> Markup {
    let t = visitor.language.texts();
    let (action, label) = if hold.is_some() { ("lift", t.release) } else { ("put", t.hold) };
    html! {
        form.action method="post" action={ "/console/holds/" (action) } {
            (token(visitor))
            input type="hidden" name="scope" value=(key.scope());
            input type="hidden" name="key" value=(key.key());
            input type="hidden" name="back" value=(back);
            @if hold.is_none() { (field("until", t.until, "", Some(t.until_hint))) }
            (reason(t, "reason"))
            button { (label) }
        }
    }
}

pub(crate) async fn act(
    State(console): State<Arc<Console>>,
    Path(action): Path<String>,
    sent: Sent,
) -> Response {
    match carry_out(&console, &action, &sent).await {
        Ok(()) => {
            let back = sent.text("back");
            Redirect::to(if back.starts_with("/console/") { back } else { "/console/holds" }).into_response()
        }
        Err(failure) => fail(&sent.visitor, failure),
    }
}

async fn carry_out(console: &Console, action: &str, sent: &Sent) -> Result<(), Failure> {
    let order = sent.order()?;
    let bad = |error: &dyn std::fmt::Display| Failure::new(StatusCode::BAD_REQUEST, error.to_string());
    let key = HoldKey::of(sent.text("scope"), sent.text("key")).map_err(|error| bad(&error))?;
    let operations = &console.ports.operations;
    match action {
        "put" => {
            let until = parse("until", sent.said("until"));
            let until = until.map_err(|error| Failure::filter(&sent.visitor, error))?;
            operations.hold(key, order, until).await?;
        }
        "lift" => drop(operations.release(&key, order.by, Some(order.reason)).await?),
        _ => return Err(Failure::new(StatusCode::NOT_FOUND, sent.visitor.language.texts().no_such_page)),
    }
    Ok(())
}
