//! One action on many dead letters, and how far it is.

use std::sync::Arc;

use amtsbote_core::operations::{Action, Bulk, Job, JobState};
use amtsbote_core::port::parse;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use super::{dead_letters, messages};
use crate::Console;
use crate::frame::{
    Failure, Place, encode, fact, facts, fail, live, number, page, reason, state, table, time, token,
};
use crate::guard::{Sent, Visitor};
use crate::texts::Texts;

/// Actions with their names.
pub(crate) fn actions(t: &Texts) -> [(Action, &'static str); 3] {
    [(Action::Redrive, t.redrive), (Action::Reroute, t.reroute), (Action::Cancel, t.cancel)]
}

/// An action by its word.
pub(crate) fn action(visitor: &Visitor, word: &str) -> Result<(Action, &'static str), Failure> {
    let t = visitor.language.texts();
    let known = actions(t).into_iter().find(|(action, _)| action.as_str() == word);
    known.ok_or_else(|| Failure::new(StatusCode::BAD_REQUEST, t.form_unreadable))
}

fn address(job: &Job) -> String {
    format!("/console/bulk/{}", encode(&job.id))
}

fn word(t: &Texts, job: JobState) -> (&'static str, &'static str) {
    match job {
        JobState::Running => ("running", t.running),
        JobState::Done => ("done", t.finished),
        JobState::Stopped => ("stopped", t.stopped),
    }
}

fn condition(t: &Texts, job: &Job) -> Markup {
    let (name, word) = word(t, job.state);
    html! { (state(name)) " " (word) }
}

pub(crate) async fn list(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    let t = visitor.language.texts();
    let jobs = match console.ports.operations.jobs().await {
        Ok(jobs) => jobs,
        Err(error) => return fail(&visitor, error.into()),
    };
    let row = |job: &Job| {
        html! {
            tr {
                td { a href=(address(job)) { (time(job.created_at)) } }
                td { (job.action.as_str()) }
                td { (condition(t, job)) }
                td.number { (number(job.total)) }
                td.number { (number(job.done)) }
                td.number { (number(job.failed)) }
                td { (job.by) }
                td { (job.reason) }
            }
        }
    };
    let heads = [t.when, t.action, t.state, t.total, t.processed, t.failed, t.by, t.reason];
    let rows: Vec<_> = jobs.iter().map(row).collect();
    page(&visitor, Place::Bulk, t.bulk, &live("jobs", &table(t, t.bulk, &heads, &rows))).into_response()
}

/// Begins one.
pub(crate) async fn start(State(console): State<Arc<Console>>, sent: Sent) -> Response {
    let begun = async {
        let order = sent.order()?;
        let wrong = |error| Failure::filter(&sent.visitor, error);
        let filter = dead_letters::read(|name| sent.said(name)).map_err(wrong)?;
        let (action, _) = action(&sent.visitor, sent.text("action"))?;
        let rate = parse("rate", sent.said("rate")).map_err(wrong)?;
        let bulk = Bulk { action, filter, all: sent.text("all") == "true", rate };
        Ok::<_, Failure>(console.ports.operations.submit(bulk, order).await?)
    };
    match begun.await {
        Ok(job) => Redirect::to(&address(&job)).into_response(),
        Err(failure) => fail(&sent.visitor, failure),
    }
}

pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Response {
    match console.ports.operations.job(&name).await {
        Ok(job) => one(&visitor, &job).into_response(),
        Err(error) => fail(&visitor, error.into()),
    }
}

fn one(visitor: &Visitor, job: &Job) -> Markup {
    let t = visitor.language.texts();
    let seen = job.done + job.failed;
    let content = html! {
        (live("progress", &html! {
            p {
                label for="bar" { (t.progress) } " "
                progress id="bar" max=(job.total.max(1)) value=(seen) { (seen) }
                " " (number(seen)) " / " (number(job.total))
            }
            (facts(&[
                (t.state, Some(condition(t, job))),
                (t.action, fact(job.action.as_str())),
                (t.processed, fact(number(job.done))),
                (t.failed, fact(number(job.failed))),
                (t.by, fact(&job.by)),
                (t.reason, fact(&job.reason)),
                (t.when, Some(time(job.created_at))),
            ]))
            @if !job.failures.is_empty() {
                ul {
                    @for failure in &job.failures {
                        li { a href=(messages::address(failure.id)) { code { (failure.id.uuid()) } } ": " (failure.problem) }
                    }
                }
            }
        }))
        @if visitor.may_act() && job.state == JobState::Running {
            form.action method="post" action={ (address(job)) "/stop" } {
                (token(visitor))
                (reason(t, "reason"))
                button { (t.stop) }
            }
        }
        p { a href="/console/bulk" { (t.bulk) } }
    };
    page(visitor, Place::Bulk, t.bulk, &content)
}

/// Stops one; what it has done stays done.
pub(crate) async fn stop(
    State(console): State<Arc<Console>>,
    Path(name): Path<String>,
    sent: Sent,
) -> Response {
    let stopped = async { Ok::<_, Failure>(console.ports.operations.stop_job(&name, sent.order()?).await?) };
    match stopped.await {
        Ok(job) => Redirect::to(&address(&job)).into_response(),
        Err(failure) => fail(&sent.visitor, failure),
    }
}
