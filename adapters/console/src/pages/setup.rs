//! Who may talk to the gateway, and until when certificates are valid.

use std::sync::Arc;

use amtsbote_core::account::{Account, LocalChannel, Role};
use axum::extract::State;
use maud::{Markup, html};

use super::overview::days_until;
use crate::Console;
use crate::frame::{Place, page, state, table, time};
use crate::guard::Visitor;

fn role(role: Role) -> &'static str {
    match role {
        Role::Author => "author",
        Role::Reader => "reader",
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Administrator => "administrator",
    }
}

pub(crate) async fn show(State(console): State<Arc<Console>>, visitor: Visitor) -> Markup {
    let (t, now) = (visitor.language.texts(), console.ports.clock.now());
    let list = |words: Vec<String>| words.join(", ");
    let account = |one: &Arc<Account>| {
        let channel = match &one.channel {
            LocalChannel::Mailbox => "mailbox".to_owned(),
            LocalChannel::Push(_, address) => address.to_string(),
        };
        html! {
            tr {
                td { (one.name) }
                td { (list(one.roles.iter().map(|one| role(*one).to_owned()).collect())) }
                td { (list(one.parties.iter().map(ToString::to_string).collect())) }
                td { (list(one.serves.iter().map(ToString::to_string).collect())) }
                td { (channel) }
                td.number { (one.credentials.len()) }
            }
        }
    };
    let accounts: Vec<_> = (console.ports.accounts)().iter().map(account).collect();
    let mut certificates = console.ports.vitals.certificates();
    certificates.sort_by_key(|(_, expires)| *expires);
    let certificates: Vec<_> = certificates
        .iter()
        .map(|(role, expires)| {
            let days = days_until(*expires, now);
            let how = if days < 7 {
                "not-ready"
            } else if days < 30 {
                "degraded"
            } else {
                "ready"
            };
            html! { tr { td { (role) } td { (time(*expires)) } td.number { (days) } td { (state(how)) } } }
        })
        .collect();
    let content = html! {
        section {
            h2 { (t.certificates) }
            (table(t, t.certificates, &[t.purpose, t.expires, t.days_left, t.state], &certificates))
        }
        section {
            h2 { (t.accounts) }
            (table(t, t.accounts, &[t.account, t.roles, t.parties, t.serves, t.channel, t.credentials], &accounts))
        }
    };
    page(&visitor, Place::Setup, t.setup, &content)
}
