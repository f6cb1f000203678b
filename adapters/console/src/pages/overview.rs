//! The whole gateway on one page. Needs nothing of the store but the deadlines, so that it is there when the store is sick.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::operations::DestinationStatus;
use amtsbote_core::port::Search;
use amtsbote_core::vitals::{Counted, Sample};
use axum::extract::State;
use maud::{Markup, html};

use super::destinations;
use super::messages::{lag, rows};
use crate::Console;
use crate::chart::{Line, chart};
use crate::frame::{Place, age, ago, fact, live, number, page, state, table, time};
use crate::guard::Visitor;
use crate::texts::Texts;

/// Destinations and deadlines shown at most.
const SHOWN: usize = 10;
/// Seconds after which what waits counts as a back-log worth looking at.
const BEHIND: i64 = 3600;
/// Days before its end at which a certificate is spoken of.
const SOON: i64 = 30;

pub(crate) async fn show(State(console): State<Arc<Console>>, visitor: Visitor) -> Markup {
    let (t, vitals, now) = (visitor.language.texts(), &console.ports.vitals, console.ports.clock.now());
    let counted = vitals.counted();
    let risks = Search { at_risk: true, ..Search::default() };
    let deadlines = match console.ports.operations.search(&risks, None, SHOWN).await {
        // Only a search that knows everything may say that there is none.
        Ok(page) if page.messages.is_empty() && page.behind == 0 && page.next.is_none() => {
            html! { p { (t.deadlines_none) } }
        }
        Ok(page) => html! {
            (table(t, t.deadlines, &super::messages::heads(t), &rows(&page.messages)))
            (lag(t, page.behind))
        },
        Err(error) => html! { p.notice.bad { (error) } },
    };
    let content = html! {
        (live("condition", &condition(&console, t)))
        (live("numbers", &numbers(&visitor, counted.as_deref(), now)))
        section { h2 { (t.trouble) } (live("trouble", &trouble(&visitor, counted.as_deref(), now))) }
        section { h2 { (t.deadlines) } (live("deadlines", &deadlines)) }
        section { h2 { (t.traffic) } (live("traffic", &traffic(t, &vitals.history()))) }
        section { h2 { (t.certificates_soon) } (live("certificates", &certificates(t, vitals.certificates(), now))) }
    };
    page(&visitor, Place::Overview, t.overview, &content)
}

fn condition(console: &Console, t: &Texts) -> Markup {
    let condition = console.ports.vitals.condition();
    let (class, word) = match condition.status {
        "ready" => ("good", t.ready),
        "degraded" => ("doubt", t.degraded),
        _ => ("bad", t.not_ready),
    };
    html! {
        div class={ "notice " (class) } {
            p { b { (t.condition) ": " (word) } }
            @if !condition.reasons.is_empty() {
                ul { @for reason in &condition.reasons { li { (reason) } } }
            }
        }
    }
}

fn numbers(visitor: &Visitor, counted: Option<&Counted>, now: Timestamp) -> Markup {
    let t = visitor.language.texts();
    let Some(Counted { at, overview }) = counted else { return html! { p { (t.not_counted) } } };
    let all = &overview.destinations;
    let oldest = all.iter().filter_map(|one| one.oldest).min();
    let count = |test: fn(&&DestinationStatus) -> bool| number(all.iter().filter(test).count() as u64);
    html! {
        dl.tiles {
            @for (term, value) in [
                (t.waiting, fact(number(all.iter().map(|one| one.messages).sum()))),
                (t.oldest, fact(oldest.map_or("–".to_owned(), |oldest| age(now.duration_since(oldest).as_secs())))),
                (t.dead_letters, Some(html! { a href="/console/dead-letters" { (number(overview.dead)) } })),
                (t.out_of_order_count, fact(count(|one| one.breaker.is_some()))),
                (t.held_destinations, fact(count(|one| one.hold.is_some()))),
            ] {
                div { dt { (term) } dd { (value.unwrap_or_default()) } }
            }
        }
        p.small { (t.counted_at) ": " (ago(*at, now, visitor.language)) }
    }
}

/// How bad a destination is off; the worst come first.
fn badness(one: &DestinationStatus, now: Timestamp) -> (bool, bool, i64) {
    let waits = one.oldest.map_or(0, |oldest| now.duration_since(oldest).as_secs());
    (one.breaker.is_some(), one.hold.is_some(), waits)
}

fn trouble(visitor: &Visitor, counted: Option<&Counted>, now: Timestamp) -> Markup {
    let t = visitor.language.texts();
    let all = counted.map_or(&[][..], |counted| &counted.overview.destinations);
    let in_trouble = |one: &&DestinationStatus| {
        let (broken, held, waits) = badness(one, now);
        broken || held || waits >= BEHIND
    };
    let mut worst: Vec<_> = all.iter().filter(in_trouble).collect();
    worst.sort_by_key(|one| std::cmp::Reverse(badness(one, now)));
    if worst.is_empty() {
        return html! { p { (t.trouble_none) } };
    }
    let rows: Vec<_> = worst.iter().take(SHOWN).map(|one| destinations::row(visitor, one, now)).collect();
    table(t, t.trouble, &destinations::heads(t), &rows)
}

fn traffic(t: &Texts, history: &[Sample]) -> Markup {
    if history.is_empty() {
        return html! { p { (t.chart_none) } };
    }
    let times: Vec<Timestamp> = history.iter().map(|sample| sample.at).collect();
    let line = |name, value: &dyn Fn(&Sample) -> Option<f64>| Line {
        name,
        values: history.iter().map(value).collect(),
    };
    let rate = |count: u64, sample: &Sample| Some(count as f64 / sample.seconds.max(0.001));
    let throughput = [
        line(t.chart_accepted, &|sample| rate(sample.accepted, sample)),
        line(t.chart_delivered, &|sample| rate(sample.delivered, sample)),
        line(t.chart_failed, &|sample| rate(sample.failed, sample)),
    ];
    let latency = [
        line(t.chart_half, &|sample| Some(sample.answered?.0 * 1_000.0)),
        line(t.chart_most, &|sample| Some(sample.answered?.1 * 1_000.0)),
    ];
    let oldest = [line(t.chart_oldest, &|sample| Some(sample.oldest))];
    html! {
        div.charts {
            (chart(t, t.chart_throughput, &times, &throughput))
            (chart(t, t.chart_latency, &times, &latency))
            (chart(t, t.chart_age, &times, &oldest))
        }
    }
}

/// Days from now, rounded down; negative for what is over.
pub(crate) fn days_until(at: Timestamp, now: Timestamp) -> i64 {
    at.duration_since(now).as_secs().div_euclid(86_400)
}

fn certificates(t: &Texts, mut all: Vec<(&'static str, Timestamp)>, now: Timestamp) -> Markup {
    all.retain(|(_, expires)| days_until(*expires, now) < SOON);
    all.sort_by_key(|(_, expires)| *expires);
    if all.is_empty() {
        return html! { p { (t.certificates_none) } };
    }
    let rows: Vec<_> = all.iter().map(|(role, expires)| {
        let days = days_until(*expires, now);
        html! { tr { td { (role) } td { (time(*expires)) } td.number { (days) } td { @if days < 7 { (state("expired")) } } } }
    }).collect();
    table(t, t.certificates_soon, &[t.purpose, t.expires, t.days_left, ""], &rows)
}
