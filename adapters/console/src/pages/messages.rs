//! Messages by what is known of them.

use std::sync::Arc;

use amtsbote_core::delivery::SHOWN_STATES;
use amtsbote_core::id::MessageId;
use amtsbote_core::operations::FoundPage;
use amtsbote_core::port::{Cursor, InvalidSearch, SearchText, StoredMessage, last_failure};
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use crate::Console;
use crate::frame::{Failure, Place, fail, field, live, number, page, state, table, time, with_query};
use crate::guard::Visitor;
use crate::texts::Texts;

/// Lines of a page.
const LINES: usize = 50;

/// The filter as it stands in the address.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Filter {
    id: String,
    account: String,
    case_id: String,
    party: String,
    destination: String,
    service: String,
    state: String,
    code: String,
    text: String,
    at_risk: String,
    since: String,
    before: String,
    cursor: String,
}

impl Filter {
    fn pairs(&self) -> [(&'static str, &str); 12] {
        [
            ("id", &self.id),
            ("account", &self.account),
            ("caseId", &self.case_id),
            ("party", &self.party),
            ("destination", &self.destination),
            ("service", &self.service),
            ("state", &self.state),
            ("code", &self.code),
            ("text", &self.text),
            ("atRisk", &self.at_risk),
            ("since", &self.since),
            ("before", &self.before),
        ]
    }

    fn text(&self) -> SearchText {
        let said = |text: &String| Some(text.clone());
        SearchText {
            account: said(&self.account),
            case_id: said(&self.case_id),
            party: said(&self.party),
            destination: said(&self.destination),
            service: said(&self.service),
            state: said(&self.state),
            code: said(&self.code),
            text: said(&self.text),
            at_risk: said(&self.at_risk),
            since: said(&self.since),
            before: said(&self.before),
        }
    }
}

/// Heads of a list of messages.
pub(crate) fn heads(t: &Texts) -> [&str; 7] {
    [t.accepted_at, t.id, t.state, t.destination, t.account, t.attempts, t.last_failure]
}

/// Address of the page of a message.
pub(crate) fn address(id: MessageId) -> String {
    format!("/console/messages/{}", id.uuid())
}

/// Lines of a list of messages.
pub(crate) fn rows(messages: &[StoredMessage]) -> Vec<Markup> {
    messages.iter().map(row).collect()
}

fn row(StoredMessage { message, delivery, events }: &StoredMessage) -> Markup {
    html! {
        tr {
            td { (time(message.received_at)) }
            td { a href=(address(message.id)) { code { (message.id.uuid()) } } }
            td { (state(delivery.shown_state())) }
            td { @if let Some(destination) = &delivery.destination { (destination) } }
            td { (message.account) }
            td.number { (delivery.attempts) }
            td { @if let Some(failure) = last_failure(events) { code { (failure.code) } } }
        }
    }
}

pub(crate) async fn list(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Query(filter): Query<Filter>,
) -> Response {
    let found = match find(&console, &visitor, &filter).await {
        Ok(found) => found,
        Err(failure) => return fail(&visitor, failure),
    };
    // An id names one message, mostly; then there it is.
    if let ([one], false) = (found.messages.as_slice(), filter.id.trim().is_empty()) {
        return Redirect::to(&address(one.message.id)).into_response();
    }
    let t = visitor.language.texts();
    let content = html! {
        (form(t, &filter))
        (live("found", &html! {
            (table(t, t.messages, &heads(t), &rows(&found.messages)))
            (lag(t, found.behind))
            @if let Some(Cursor(id)) = found.next {
                @if let Some(at) = id.accepted_at() { p.small { (t.looked_back_to) " " (time(at)) } }
            }
        }))
        (pager(t, "/console/messages", &filter.pairs(), &filter.cursor, found.next.map(|Cursor(id)| id.uuid().to_string())))
    };
    page(&visitor, Place::Messages, t.messages, &content).into_response()
}

/// Says what the search does not know yet, if anything.
pub(crate) fn lag(t: &Texts, behind: u64) -> Markup {
    html! {
        @if behind > 0 { p.notice.doubt { (t.search_behind) " " (number(behind)) " " (t.of_journal) } }
    }
}

/// Leads to the next page and back to the first.
pub(crate) fn pager(
    t: &Texts,
    path: &str,
    pairs: &[(&str, &str)],
    cursor: &str,
    next: Option<String>,
) -> Markup {
    html! {
        p.pager {
            @if !cursor.is_empty() { a href=(with_query(path, pairs)) { (t.newest) } " " }
            @if let Some(next) = next {
                @let pairs = [pairs, &[("cursor", next.as_str())]].concat();
                a rel="next" href=(with_query(path, &pairs)) { (t.older) }
            }
        }
    }
}

async fn find(console: &Console, visitor: &Visitor, filter: &Filter) -> Result<FoundPage, Failure> {
    let wrong = |error| Failure::filter(visitor, error);
    let operations = &console.ports.operations;
    if !filter.id.trim().is_empty() {
        let messages = operations.find(&filter.id).await?;
        return Ok(FoundPage { messages, next: None, behind: 0 });
    }
    let after = match filter.cursor.as_str() {
        "" => None,
        text => Some(Cursor(text.parse().map_err(|_| wrong(InvalidSearch("cursor")))?)),
    };
    let search = filter.text().parse().map_err(wrong)?;
    Ok(operations.search(&search, after, LINES).await?)
}

fn form(t: &Texts, filter: &Filter) -> Markup {
    html! {
        form.filter method="get" action="/console/messages" role="search" {
            (field("id", t.any_id, &filter.id, None))
            details open[filter.pairs().iter().skip(1).any(|(_, value)| !value.is_empty())] {
                summary { (t.filter) }
                div.fields {
                    div.field {
                        label for="state" { (t.state) }
                        select id="state" name="state" {
                            option value="" { (t.all) }
                            @for one in SHOWN_STATES { option value=(one) selected[one == filter.state] { (one) } }
                        }
                    }
                    (field("destination", t.destination, &filter.destination, None))
                    (field("account", t.account, &filter.account, None))
                    (field("party", t.party, &filter.party, None))
                    (field("service", t.service, &filter.service, None))
                    (field("caseId", t.case_id, &filter.case_id, None))
                    (field("code", t.code, &filter.code, None))
                    (field("text", t.text, &filter.text, None))
                    (field("since", t.accepted_since, &filter.since, Some(t.time_hint)))
                    (field("before", t.accepted_before, &filter.before, Some(t.time_hint)))
                    div.field.check {
                        input id="atRisk" type="checkbox" name="atRisk" value="true" checked[filter.at_risk == "true"];
                        label for="atRisk" { (t.deadlines) }
                    }
                }
            }
            button { (t.find) }
        }
    }
}
