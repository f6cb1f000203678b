//! Who did what.

use std::sync::Arc;

use amtsbote_core::audit::AuditEntry;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::messages::pager;
use crate::Console;
use crate::frame::{Place, fail, live, page, table, time};
use crate::guard::Visitor;

/// Lines of a page.
const LINES: usize = 100;

/// Where the page begins.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct At {
    cursor: String,
}

pub(crate) async fn list(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Query(at): Query<At>,
) -> Response {
    let t = visitor.language.texts();
    let after = Some(at.cursor.as_str()).filter(|cursor| !cursor.is_empty());
    let (entries, next) = match console.ports.operations.audit(after, LINES).await {
        Ok(found) => found,
        Err(error) => return fail(&visitor, error.into()),
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    let heads = [t.when, t.by, t.action, t.target, t.reason, t.before, t.after];
    let content = html! {
        (live("entries", &table(t, t.audit, &heads, &rows)))
        (pager(t, "/console/audit", &[], &at.cursor, next))
    };
    page(&visitor, Place::Audit, t.audit, &content).into_response()
}

fn row(entry: &AuditEntry) -> Markup {
    let value = |value: &Option<Value>| match value {
        None => html! {},
        Some(Value::String(text)) => html! { (text) },
        Some(other) => html! { code.long { (other) } },
    };
    html! {
        tr {
            td { (time(entry.at)) }
            td { (entry.by) }
            td { (entry.action) }
            td { code { (entry.target) } }
            td { (entry.reason.as_deref().unwrap_or_default()) }
            td { (value(&entry.before)) }
            td { (value(&entry.after)) }
        }
    }
}
