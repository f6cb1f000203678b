//! Who would be responsible, and why; nothing is sent.

use std::sync::Arc;

use amtsbote_core::route::{LookupRequest, Resolution, RouteRequest};
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;

use super::message::trace;
use crate::Console;
use crate::frame::{Place, fact, facts, field, page};
use crate::guard::Visitor;
use crate::texts::Texts;

/// The question.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Question {
    service: String,
    area: String,
}

pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Query(question): Query<Question>,
) -> Markup {
    let t = visitor.language.texts();
    let asked = !(question.service.is_empty() && question.area.is_empty());
    let answer = match (question.service.trim().parse(), question.area.trim().parse()) {
        (Ok(service), Ok(area)) => {
            let request = LookupRequest::Responsible(RouteRequest { service, area });
            let now = console.ports.clock.now();
            answer(t, &console.ports.operations.router().resolve(&request, now).await)
        }
        _ if asked => html! { p.notice.bad role="alert" { (t.question_unreadable) } },
        _ => html! {},
    };
    let content = html! {
        form.filter method="get" action="/console/routes" {
            div.fields {
                (field("service", t.service, &question.service, Some(t.service_hint)))
                (field("area", t.area, &question.area, Some(t.area_hint)))
            }
            button { (t.ask) }
        }
        (answer)
    };
    page(&visitor, Place::Routes, t.routes, &content)
}

fn answer(t: &Texts, resolution: &Resolution) -> Markup {
    let organization = resolution.organization.as_ref();
    let listed: Vec<_> =
        resolution.listed.iter().map(|one| format!("{} {}", one.channel.as_str(), one.address)).collect();
    html! {
        section id="answer" {
            h2 { (t.outcome) }
            (facts(&[
                (t.outcome, Some(html! { b { (resolution.outcome.as_str()) } })),
                (t.organization, organization.map(|one| html! { (one.name) " (" code { (one.key) } ")" })),
                (t.channel, resolution.route.as_ref().and_then(|route| fact(route.endpoint.channel.as_str()))),
                ("DVDV", (!listed.is_empty()).then(|| html! { @for one in &listed { code.long { (one) } " " } })),
                (t.error, resolution.unavailable.as_ref().and_then(fact)),
            ]))
            (trace(t, &resolution.trace))
        }
    }
}
