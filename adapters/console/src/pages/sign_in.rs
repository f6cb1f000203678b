//! Signing in and out, and choosing a language.

use std::sync::Arc;

use amtsbote_core::account::Role;
use axum::extract::{Form, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use url::Url;

use crate::Console;
use crate::frame::document;
use crate::guard::{self, COOKIE, LANGUAGE, Refusal, Sent, cookie, identify};
use crate::session::{LinkError, ROLES, SESSION};
use crate::texts::Language;

#[derive(Deserialize)]
pub(crate) struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    expired: String,
}

fn problem(error: LinkError, language: Language) -> &'static str {
    let t = language.texts();
    match error {
        LinkError::Foreign => t.link_foreign,
        LinkError::Expired => t.link_expired,
        LinkError::Used => t.link_used,
    }
}

fn plain(language: Language, content: &Markup) -> Markup {
    let t = language.texts();
    document(
        language,
        t.sign_in,
        &html! {
            main.plain id="content" {
                p.brand { "Amtsbote" }
                h1 { (t.sign_in) }
                (content)
            }
        },
    )
}

fn how(language: Language) -> Markup {
    html! {
        p { (language.texts().sign_in_how) }
        pre { "amtsbote console-link --config /etc/amtsbote/amtsbote.toml" }
    }
}

/// Says how to sign in. A link leads here; only pressing the button uses it up, so that whatever fetches addresses does not.
pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    Query(Token { token, expired }): Query<Token>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let language = guard::language(&parts.headers);
    let t = language.texts();
    if !token.is_empty() {
        return match console.ports.links.read(&token, console.ports.clock.now()) {
            Ok(grant) => {
                let role = ROLES.iter().find(|(role, _)| *role == grant.role).map_or("", |(_, name)| name);
                let content = html! {
                    p { (t.link_good) }
                    form method="post" action="/console/sign-in" {
                        input type="hidden" name="token" value=(token);
                        button autofocus { (t.sign_in) " (" (role) ")" }
                    }
                };
                plain(language, &content).into_response()
            }
            Err(error) => refuse(language, error),
        };
    }
    let notice = match identify(&console, &parts) {
        Ok(_) => return Redirect::to("/console").into_response(),
        Err(Refusal::Certificate(why)) => Some(format!("{} {why}", t.sign_in_certificate)),
        Err(Refusal::Expired) => Some(t.sign_in_expired.to_owned()),
        Err(Refusal::Unknown) => (!expired.is_empty()).then(|| t.sign_in_expired.to_owned()),
    };
    let content = html! {
        @if let Some(notice) = notice { p.notice.doubt role="alert" { (notice) } }
        (how(language))
    };
    (StatusCode::UNAUTHORIZED, plain(language, &content)).into_response()
}

fn refuse(language: Language, error: LinkError) -> Response {
    let content = html! { p.notice.bad role="alert" { (problem(error, language)) } (how(language)) };
    (StatusCode::FORBIDDEN, plain(language, &content)).into_response()
}

/// Uses a link up and opens a session.
pub(crate) async fn enter(
    State(console): State<Arc<Console>>,
    headers: HeaderMap,
    Form(Token { token, .. }): Form<Token>,
) -> Response {
    let now = console.ports.clock.now();
    let grant = match console.ports.links.redeem(&token, now) {
        Ok(grant) => grant,
        Err(error) => return refuse(guard::language(&headers), error),
    };
    tracing::info!(name = %grant.name, role = role_name(grant.role), "Somebody signed in to the console by a link.");
    // A store that does not work must not keep out whoever comes to look after it.
    if let Err(error) = console.ports.operations.signed_in(grant.name.clone(), role_name(grant.role)).await {
        let error = &error as &dyn std::error::Error;
        tracing::error!(error, "That somebody signed in is not in the audit trail.");
    }
    let name = console.sessions.open(grant, now, console.ports.entropy.as_ref());
    let seconds = SESSION.as_secs();
    let cookie = format!("{COOKIE}={name}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Strict");
    to("/console", &cookie)
}

fn role_name(role: Role) -> &'static str {
    ROLES.iter().find(|(known, _)| *known == role).map_or("", |(_, name)| name)
}

fn to(path: &str, cookie: &str) -> Response {
    let mut response = Redirect::to(path).into_response();
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    response
}

/// Ends a session.
pub(crate) async fn leave(State(console): State<Arc<Console>>, headers: HeaderMap, _sent: Sent) -> Response {
    if let Some(name) = cookie(&headers, COOKIE) {
        console.sessions.close(name);
    }
    to("/console/sign-in", &format!("{COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict"))
}

/// Chooses a language and goes back to where somebody was.
pub(crate) async fn language(Path(code): Path<String>, headers: HeaderMap) -> Response {
    let Some(language) = Language::of(&code) else { return StatusCode::NOT_FOUND.into_response() };
    let year = 365 * 24 * 3600;
    let cookie =
        format!("{LANGUAGE}={}; Path=/console; Max-Age={year}; Secure; SameSite=Strict", language.code());
    to(&back(&headers), &cookie)
}

/// The page of the console somebody came from.
fn back(headers: &HeaderMap) -> String {
    let from = || {
        let url: Url = headers.get(header::REFERER)?.to_str().ok()?.parse().ok()?;
        let path = url.path().to_owned();
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        (path == "/console" || path.starts_with("/console/")).then(|| path + &query)
    };
    from().unwrap_or_else(|| "/console".to_owned())
}
