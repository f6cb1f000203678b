//! Tells pages that are looked at when something has changed, by server-sent events. The page then asks for itself again, so
//! that there is one way in which pages are made.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::stream;

use crate::Console;
use crate::guard::{COOKIE, Visitor, cookie};

/// It is looked so often whether something has changed.
const LOOK: Duration = Duration::from_secs(2);
/// A page is told to look again at the latest after so many looks: ages grow although nothing happens.
const STILL: u32 = 8;

/// Follows what happens until the session ends, the browser leaves or the gateway does.
pub(crate) async fn follow(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    headers: HeaderMap,
) -> Response {
    let Ok(permit) = Arc::clone(&console.followers).try_acquire_owned() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let session = visitor.by_link.then(|| cookie(&headers, COOKIE).unwrap_or_default().to_owned());
    let seen = console.ports.vitals.store().journal_bytes;
    let events =
        stream::unfold((console, session, permit, seen), |(console, session, permit, mut seen)| async move {
            for _ in 0..STILL {
                tokio::select! {
                    () = console.ports.ending.cancelled() => return None,
                    () = console.ports.clock.sleep(LOOK) => {}
                }
                let now = console.ports.clock.now();
                if session.as_ref().is_some_and(|name| console.sessions.find(name, now).is_none()) {
                    return None;
                }
                let journal = console.ports.vitals.store().journal_bytes;
                if journal != seen {
                    seen = journal;
                    break;
                }
            }
            let event = Ok::<_, std::convert::Infallible>(Event::default().event("changed").data("page"));
            Some((event, (console, session, permit, seen)))
        });
    Sse::new(events).into_response()
}
