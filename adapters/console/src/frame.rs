//! What pages have in common: the frame around them, and the small things they are made of.

use amtsbote_core::Timestamp;
use amtsbote_core::operations::OperationError;
use amtsbote_core::port::{InvalidSearch, StoreError};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use jiff::tz::TimeZone;
use maud::{DOCTYPE, Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::guard::Visitor;
use crate::texts::{Language, Texts};

/// Where a page belongs in the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Overview,
    Messages,
    Destinations,
    Holds,
    DeadLetters,
    Bulk,
    Routes,
    Setup,
    Audit,
}

const PLACES: [Place; 9] = [
    Place::Overview,
    Place::Messages,
    Place::Destinations,
    Place::Holds,
    Place::DeadLetters,
    Place::Bulk,
    Place::Routes,
    Place::Setup,
    Place::Audit,
];

impl Place {
    fn path(self) -> &'static str {
        match self {
            Self::Overview => "/console",
            Self::Messages => "/console/messages",
            Self::Destinations => "/console/destinations",
            Self::Holds => "/console/holds",
            Self::DeadLetters => "/console/dead-letters",
            Self::Bulk => "/console/bulk",
            Self::Routes => "/console/routes",
            Self::Setup => "/console/setup",
            Self::Audit => "/console/audit",
        }
    }

    fn name(self, t: &Texts) -> &'static str {
        match self {
            Self::Overview => t.overview,
            Self::Messages => t.messages,
            Self::Destinations => t.destinations,
            Self::Holds => t.holds,
            Self::DeadLetters => t.dead_letters,
            Self::Bulk => t.bulk,
            Self::Routes => t.routes,
            Self::Setup => t.setup,
            Self::Audit => t.audit,
        }
    }
}

/// The document around any page.
pub(crate) fn document(language: Language, title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang=(language.code()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " – Amtsbote" }
                link rel="icon" href="/console/assets/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/console/assets/console.css";
                script src="/console/assets/console.js" defer {}
            }
            body { (body) }
        }
    }
}

/// A page for somebody who is signed in.
pub(crate) fn page(visitor: &Visitor, place: Place, title: &str, content: &Markup) -> Markup {
    page_at(visitor, place, None, title, content)
}

/// The same in answer to a form; it is at home at another address.
pub(crate) fn page_at(
    visitor: &Visitor,
    place: Place,
    address: Option<&str>,
    title: &str,
    content: &Markup,
) -> Markup {
    let t = visitor.language.texts();
    let other = visitor.language.pick(Language::English, Language::German);
    document(
        visitor.language,
        title,
        &html! {
            a.skip href="#content" { (t.skip) }
            header {
                p.brand { a href="/console" { "Amtsbote" } }
                nav aria-label=(t.navigation) {
                    ul {
                        @for one in PLACES {
                            li { a href=(one.path()) aria-current=[(one == place).then_some("page")] { (one.name(t)) } }
                        }
                    }
                }
                div.visitor {
                    span { (t.signed_in_as) " " b { (visitor.name) } " (" (visitor.role_name()) ")" }
                    a href={ "/console/language/" (other.code()) } lang=(other.code()) { (t.other_language) }
                    @if visitor.by_link {
                        form method="post" action="/console/sign-out" { (token(visitor)) button.plain { (t.sign_out) } }
                    }
                }
            }
            main id="content" tabindex="-1" data-address=[address] {
                div.title {
                    h1 { (title) }
                    button.plain hidden data-pause=(t.pause) data-resume=(t.resume) { (t.pause) }
                }
                (content)
            }
        },
    )
}

/// The hidden field every form needs.
pub(crate) fn token(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name="token" value=(visitor.token); }
}

/// A part of a page that is kept up to date while it is looked at.
pub(crate) fn live(id: &str, content: &Markup) -> Markup {
    html! { div id=(id) data-live { (content) } }
}

/// A table that fits on small screens.
pub(crate) fn table(t: &Texts, caption: &str, heads: &[&str], rows: &[Markup]) -> Markup {
    if rows.is_empty() {
        return html! { p { (t.nothing) } };
    }
    html! {
        div.scroll tabindex="0" role="region" aria-label={ (caption) ": " (t.table_scrolls) } {
            table {
                caption.hidden { (caption) }
                thead { tr { @for head in heads { th scope="col" { (head) } } } }
                tbody { @for row in rows { (row) } }
            }
        }
    }
}

/// Terms with their meanings; those without are left out.
pub(crate) fn facts(pairs: &[(&str, Option<Markup>)]) -> Markup {
    html! {
        dl {
            @for (term, meaning) in pairs {
                @if let Some(meaning) = meaning { dt { (term) } dd { (meaning) } }
            }
        }
    }
}

/// A text as a fact.
pub(crate) fn fact(text: impl std::fmt::Display) -> Option<Markup> {
    let text = text.to_string();
    Some(html! { (text) })
}

/// How a state looks: its name, and whether it is good, in doubt or bad. Never by colour alone.
pub(crate) fn state(name: &str) -> Markup {
    let class = match name {
        "acknowledged" | "delivered" | "fetched" | "open" | "ready" | "done" => "good",
        "dead" | "rejected" | "expired" | "out-of-order" | "not-ready" => "bad",
        "waiting" | "held" | "degraded" | "cancelled" | "stopped" => "doubt",
        _ => "plain",
    };
    html! { span class={ "state " (class) } { (name) } }
}

/// A time to the second, where people here live.
pub(crate) fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (clock_time(at)) } }
}

fn clock_time(at: Timestamp) -> String {
    let zone = TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC);
    at.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// A time and how long ago that is.
pub(crate) fn ago(at: Timestamp, now: Timestamp, language: Language) -> Markup {
    let age = age(now.duration_since(at).as_secs());
    html! { (time(at)) " (" (language.pick(format!("vor {age}"), format!("{age} ago"))) ")" }
}

/// Seconds in the two largest units.
pub(crate) fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds @ 3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A number with its thousands apart.
pub(crate) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A text as part of an address.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// An address with a query of what is not empty.
pub(crate) fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut address = path.to_owned();
    let said = pairs.iter().filter(|(_, value)| !value.is_empty());
    for (number, (name, value)) in said.enumerate() {
        let mark = if number == 0 { '?' } else { '&' };
        address.extend([mark.to_string().as_str(), name, "=", &encode(value)]);
    }
    address
}

/// A field of a form.
pub(crate) fn field(name: &str, label: &str, value: &str, hint: Option<&str>) -> Markup {
    let described = hint.map(|_| format!("{name}-hint"));
    html! {
        div.field {
            label for=(name) { (label) }
            input id=(name) name=(name) value=(value) autocomplete="off" spellcheck="false" aria-describedby=[described.as_deref()];
            @if let Some(hint) = hint { small id=[described.as_deref()] { (hint) } }
        }
    }
}

/// The field for the reason of whoever acts; several forms of a page need several ids.
pub(crate) fn reason(t: &Texts, id: &str) -> Markup {
    html! {
        div.field {
            label for=(id) { (t.reason) }
            input id=(id) name="reason" required maxlength="500" autocomplete="off" aria-describedby={ (id) "-hint" };
            small id={ (id) "-hint" } { (t.reason_hint) }
        }
    }
}

/// Why there is no page.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    text: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        let status = match &error {
            OperationError::UnknownTarget(_)
            | OperationError::NotHeld
            | OperationError::UnknownMessage
            | OperationError::UnknownJob => StatusCode::NOT_FOUND,
            OperationError::EndsInThePast => StatusCode::BAD_REQUEST,
            OperationError::Refused(_) => StatusCode::CONFLICT,
            OperationError::NoRoute(_) | OperationError::Bulk(_) => StatusCode::UNPROCESSABLE_ENTITY,
            OperationError::Store(StoreError::Damaged { .. }) => StatusCode::INTERNAL_SERVER_ERROR,
            OperationError::Store(StoreError::Removed { .. }) => StatusCode::GONE,
            OperationError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, text: error.to_string() }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        OperationError::from(error).into()
    }
}

impl Failure {
    pub(crate) fn filter(visitor: &Visitor, InvalidSearch(field): InvalidSearch) -> Self {
        let text = visitor.language.texts().filter_unreadable;
        Self::new(StatusCode::BAD_REQUEST, format!("{text} {field}"))
    }
}

/// A failure as a page that leads back.
pub(crate) fn fail(visitor: &Visitor, failure: Failure) -> Response {
    let t = visitor.language.texts();
    let content = html! {
        p.notice.bad role="alert" { (failure.text) }
        p { a href="/console" { (t.overview) } }
    };
    (failure.status, page(visitor, Place::Overview, t.error, &content)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_text() {
        let text = "<script>alert(1)</script>\"'&";
        let shown =
            table(Language::English.texts(), text, &[text], &[html! { tr { td { (text) } } }]).into_string();
        assert!(
            !shown.contains("<script") && shown.contains("&lt;script&gt;") && shown.contains("&quot;"),
            "{shown}"
        );
        assert_eq!(
            with_query("/x", &[("a", text), ("b", ""), ("c", "ä")]),
            format!("/x?a={}&c=%C3%A4", encode(text))
        );
        assert!(!encode(text).contains(['<', '"', '&']));
    }

    #[test]
    fn numbers_and_ages_are_readable() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(number),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]
        );
        assert_eq!(
            [-5, 59, 61, 3_700, 90_000].map(age),
            ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]
        );
        assert_eq!(clock_time(Timestamp::UNIX_EPOCH), "1970-01-01 01:00:00 CET");
    }
}
