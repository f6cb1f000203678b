//! What waits for somebody, and doing something with much of it: preview, then confirm.

use std::sync::Arc;

use amtsbote_core::delivery::State as MessageState;
use amtsbote_core::operations::{Bulk, DeadFilter};
use amtsbote_core::port::{DeadCursor, HeadEntry, InvalidSearch, parse};
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::{bulk, messages};
use crate::Console;
use crate::frame::{Failure, Place, fail, field, live, number, page, reason, table, time, token};
use crate::guard::Visitor;
use crate::texts::Texts;

/// Lines of a page.
const LINES: usize = 50;

/// The filter as it stands in the address.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Filter {
    destination: String,
    account: String,
    case_id: String,
    code: String,
    before: String,
    cursor: String,
    action: String,
}

impl Filter {
    pub(crate) fn pairs(&self) -> [(&'static str, &str); 5] {
        [
            ("destination", &self.destination),
            ("account", &self.account),
            ("caseId", &self.case_id),
            ("code", &self.code),
            ("before", &self.before),
        ]
    }

    fn parse(&self) -> Result<DeadFilter, InvalidSearch> {
        read(|name| {
            self.pairs().iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }
}

/// A filter from fields by their names.
pub(crate) fn read(field: impl Fn(&str) -> Option<String>) -> Result<DeadFilter, InvalidSearch> {
    Ok(DeadFilter {
        destination: parse("destination", field("destination"))?,
        account: parse("account", field("account"))?,
        case_id: parse("caseId", field("caseId"))?,
        code: parse("code", field("code"))?,
        before: parse("before", field("before"))?,
    })
}

fn read_cursor(text: &str) -> Result<Option<DeadCursor>, InvalidSearch> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = || {
        let (since, id) = text.split_once('~')?;
        let since = Timestamp::from_nanosecond(since.parse().ok()?).ok()?;
        Some(DeadCursor { since, id: id.parse().ok()? })
    };
    read().map(Some).ok_or(InvalidSearch("cursor"))
}

pub(crate) async fn list(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Query(filter): Query<Filter>,
) -> Response {
    match listed(&console, &visitor, &filter).await {
        Ok(shown) => shown.into_response(),
        Err(failure) => fail(&visitor, failure),
    }
}

async fn listed(console: &Console, visitor: &Visitor, filter: &Filter) -> Result<Markup, Failure> {
    let t = visitor.language.texts();
    let wrong = |error| Failure::filter(visitor, error);
    let (wanted, after) = (filter.parse().map_err(wrong)?, read_cursor(&filter.cursor).map_err(wrong)?);
    let (found, next) = console.ports.operations.dead_letters(&wanted, after, LINES).await?;
    let next = next.map(|DeadCursor { since, id }| format!("{}~{}", since.as_nanosecond(), id.uuid()));
    let heads = [t.died_at, t.id, t.code, t.details, t.destination, t.account, t.attempts];
    let rows: Vec<_> = found.iter().map(row).collect();
    let content = html! {
        form.filter method="get" action="/console/dead-letters" role="search" {
            div.fields { (fields(t, filter)) }
            button { (t.find) }
        }
        (live("found", &table(t, t.dead_letters, &heads, &rows)))
        (messages::pager(t, "/console/dead-letters", &filter.pairs(), &filter.cursor, next))
        @if visitor.may_act() && !found.is_empty() { (choose(t, filter)) }
    };
    Ok(page(visitor, Place::DeadLetters, t.dead_letters, &content))
}

fn row(HeadEntry { id, delivery }: &HeadEntry) -> Markup {
    let failure = match &delivery.state {
        MessageState::Dead { reason } => Some(reason.last()),
        _ => None,
    };
    html! {
        tr {
            td { (time(delivery.since)) }
            td { a href=(messages::address(*id)) { code { (id.uuid()) } } }
            td { @if let Some(failure) = failure { code { (failure.code) } } }
            td { @if let Some(failure) = failure { (failure.detail) } }
            td { @if let Some(destination) = &delivery.destination { (destination) } }
            td { (delivery.account) }
            td.number { (delivery.attempts) }
        }
    }
}

fn fields(t: &Texts, filter: &Filter) -> Markup {
    html! {
        (field("destination", t.destination, &filter.destination, None))
        (field("account", t.account, &filter.account, None))
        (field("caseId", t.case_id, &filter.case_id, None))
        (field("code", t.code, &filter.code, None))
        (field("before", t.died_before, &filter.before, Some(t.time_hint)))
    }
}

fn carried(filter: &Filter) -> Markup {
    html! { @for (name, value) in filter.pairs() { input type="hidden" name=(name) value=(value); } }
}

/// Something to do with all that the filter matches.
fn choose(t: &Texts, filter: &Filter) -> Markup {
    html! {
        section {
            h2 { (t.actions) }
            form.action method="get" action="/console/dead-letters/preview" {
                (carried(filter))
                div.field {
                    label for="action" { (t.with_all) }
                    select id="action" name="action" {
                        @for (action, label) in bulk::actions(t) { option value=(action.as_str()) { (label) } }
                    }
                }
                button { (t.preview) }
            }
        }
    }
}

/// What a bulk operation would touch, and the form that begins it.
pub(crate) async fn preview(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Query(filter): Query<Filter>,
) -> Response {
    match previewed(&console, &visitor, &filter).await {
        Ok(shown) => shown.into_response(),
        Err(failure) => fail(&visitor, failure),
    }
}

async fn previewed(console: &Console, visitor: &Visitor, filter: &Filter) -> Result<Markup, Failure> {
    let t = visitor.language.texts();
    let wanted = filter.parse().map_err(|error| Failure::filter(visitor, error))?;
    let (action, label) = bulk::action(visitor, &filter.action)?;
    let everything = wanted.is_empty();
    let bulk = Bulk { action, filter: wanted, all: true, rate: None };
    let count = console.ports.operations.preview(&bulk).await?;
    let content = html! {
        p { (t.action) ": " b { (label) } }
        ul { @for (name, value) in filter.pairs() { @if !value.is_empty() { li { (name) ": " code { (value) } } } } }
        p.notice.doubt { (t.preview_count) " " b { (number(count)) } }
        @if visitor.may_act() && count > 0 {
            form.action method="post" action="/console/bulk" {
                (token(visitor))
                (carried(filter))
                input type="hidden" name="action" value=(action.as_str());
                (field("rate", t.per_second, "", None))
                (reason(t, "reason"))
                @if everything {
                    div.field.check {
                        input id="all" type="checkbox" name="all" value="true" required;
                        label for="all" { (t.everything) }
                    }
                }
                button { (t.begin) }
            }
        }
        p { a href="/console/dead-letters" { (t.back) } }
    };
    Ok(page(visitor, Place::DeadLetters, t.preview, &content))
}
