//! Who looks, and from where a form came. Deny by default.

use std::collections::BTreeMap;
use std::sync::Arc;

use amtsbote_core::account::Role;
use amtsbote_core::delivery::Order;
use amtsbote_core::key::AccountName;
use amtsbote_http::Peer;
use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use axum::extract::{Form, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};

use crate::Console;
use crate::frame::{Failure, fail};
use crate::session::ROLES;
use crate::texts::Language;

/// Cookie of a session. The prefix makes browsers insist on Secure, on the path / and on this very host.
pub(crate) const COOKIE: &str = "__Host-amtsbote";
/// Cookie of the language.
pub(crate) const LANGUAGE: &str = "amtsbote-language";
/// Longest reason.
const REASON_MAX: usize = 500;

/// Somebody who may look.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) name: AccountName,
    pub(crate) role: Role,
    pub(crate) language: Language,
    /// Token for forms.
    pub(crate) token: String,
    /// Whether they signed in by a link and can leave.
    pub(crate) by_link: bool,
}

impl Visitor {
    pub(crate) fn may_act(&self) -> bool {
        matches!(self.role, Role::Operator | Role::Administrator)
    }

    pub(crate) fn role_name(&self) -> &'static str {
        ROLES.iter().find(|(role, _)| *role == self.role).map_or("", |(_, name)| name)
    }
}

/// A cookie of a request.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// The language somebody reads: what they chose, else what their browser prefers.
pub(crate) fn language(headers: &HeaderMap) -> Language {
    let chosen = cookie(headers, LANGUAGE).and_then(Language::of);
    let preferred = || headers.get(header::ACCEPT_LANGUAGE)?.to_str().ok().and_then(Language::preferred);
    chosen.or_else(preferred).unwrap_or(Language::German)
}

/// Why somebody is not let in.
pub(crate) enum Refusal {
    /// Nobody in particular.
    Unknown,
    /// The session is over.
    Expired,
    /// A certificate that may not look; why.
    Certificate(String),
}

/// Who sends a request.
pub(crate) fn identify(console: &Console, parts: &Parts) -> Result<Visitor, Refusal> {
    let headers = &parts.headers;
    let (language, now) = (language(headers), console.ports.clock.now());
    let visitor = |name: AccountName, role, secret: &str, by_link| {
        let token = form_token(&console.form_key, secret);
        Visitor { name, role, language, token, by_link }
    };
    let named = cookie(headers, COOKIE);
    if let Some(name) = named
        && let Some(session) = console.sessions.find(name, now)
    {
        return Ok(visitor(session.grant.name, session.grant.role, name, true));
    }
    let peer = parts.extensions.get::<Arc<Peer>>().map(Arc::as_ref);
    if peer.is_none() {
        return Err(if named.is_some() { Refusal::Expired } else { Refusal::Unknown });
    }
    let account =
        (console.ports.identify)(peer).map_err(|problem| Refusal::Certificate(problem.title().to_owned()))?;
    let role = ROLES.iter().rev().find(|(role, _)| account.has(*role));
    let (role, _) = role.ok_or_else(|| Refusal::Certificate("This account may not do that".to_owned()))?;
    Ok(visitor(account.name.clone(), *role, account.name.as_str(), false))
}

fn form_token(key: &[u8; 32], secret: &str) -> String {
    hex::encode(hmac::sign(&Key::new(HMAC_SHA256, key), secret.as_bytes()))
}

impl FromRequestParts<Arc<Console>> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Self, Response> {
        identify(console, parts).map_err(|refusal| {
            let to = match refusal {
                Refusal::Expired => "/console/sign-in?expired=1",
                Refusal::Unknown | Refusal::Certificate(_) => "/console/sign-in",
            };
            Redirect::to(to).into_response()
        })
    }
}

/// A form that somebody who may look has sent from a page of the console.
pub(crate) struct Sent {
    pub(crate) visitor: Visitor,
    fields: BTreeMap<String, String>,
}

impl Sent {
    /// A field without white space around it; empty if it was not sent.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", |value| value.trim())
    }

    /// A field that says something.
    pub(crate) fn said(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// An order of somebody who may act. Everybody who acts says why.
    pub(crate) fn order(&self) -> Result<Order, Failure> {
        self.must_act()?;
        let reason = self.text("reason");
        if reason.is_empty() || reason.len() > REASON_MAX {
            return Err(Failure::new(StatusCode::BAD_REQUEST, self.visitor.language.texts().reason_needed));
        }
        Ok(Order { by: self.visitor.name.clone(), reason: reason.to_owned() })
    }

    pub(crate) fn must_act(&self) -> Result<(), Failure> {
        match self.visitor.may_act() {
            true => Ok(()),
            false => Err(Failure::new(StatusCode::FORBIDDEN, self.visitor.language.texts().role_missing)),
        }
    }
}

impl FromRequest<Arc<Console>> for Sent {
    type Rejection = Response;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, console).await?;
        let texts = visitor.language.texts();
        let refused = |status, text: &str| fail(&visitor, Failure::new(status, text));
        let form =
            Form::<BTreeMap<String, String>>::from_request(Request::from_parts(parts, body), console).await;
        let Form(fields) = form.map_err(|_| refused(StatusCode::BAD_REQUEST, texts.form_unreadable))?;
        let sent = fields.get("token").map_or("", String::as_str);
        if !constant_time_eq(sent.as_bytes(), visitor.token.as_bytes()) {
            return Err(refused(StatusCode::FORBIDDEN, texts.form_stale));
        }
        Ok(Self { visitor, fields })
    }
}

fn constant_time_eq(one: &[u8], other: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// Lets forms through only from pages of this very server: browsers say where a form came from, and a certificate would be shown
/// to a form of any page.
pub(crate) async fn same_origin(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads || is_from_here(request.headers()) {
        return next.run(request).await;
    }
    let text = language(request.headers()).texts().foreign_origin;
    (StatusCode::FORBIDDEN, text).into_response()
}

fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(HeaderName::from_static("sec-fetch-site"))
        && site != "same-origin"
    {
        return false;
    }
    let host = text(header::HOST);
    text(header::ORIGIN)
        .and_then(|origin| origin.strip_prefix("https://"))
        .is_some_and(|from| Some(from) == host)
}

/// Nothing from elsewhere, nothing inside of pages of others, nothing kept.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Adds what every page says to the browser.
pub(crate) async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn forms_of_other_pages_are_not_from_here() {
        let host = ("host", "gate.example:9443");
        assert!(is_from_here(&headers(&[host, ("origin", "https://gate.example:9443")])));
        assert!(is_from_here(&headers(&[
            host,
            ("origin", "https://gate.example:9443"),
            ("sec-fetch-site", "same-origin")
        ])));
        for wrong in [
            vec![host],
            vec![host, ("origin", "null")],
            vec![host, ("origin", "https://gate.example")],
            vec![host, ("origin", "http://gate.example:9443")],
            vec![host, ("origin", "https://gate.example:9443.evil.example")],
            vec![host, ("origin", "https://gate.example:9443"), ("sec-fetch-site", "same-site")],
            vec![("origin", "https://gate.example:9443")],
        ] {
            assert!(!is_from_here(&headers(&wrong)), "{wrong:?}");
        }
    }

    #[test]
    fn cookies_are_found_among_others() {
        let headers = headers(&[("cookie", "a=1; __Host-amtsbote=x; b=2")]);
        assert_eq!(
            (cookie(&headers, COOKIE), cookie(&headers, "b"), cookie(&headers, "c")),
            (Some("x"), Some("2"), None)
        );
    }
}
