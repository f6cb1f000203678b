//! The console as operators use it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use amtsbote_it::endpoint::lab_with_endpoint;
use amtsbote_it::{Lab, METADATA, OFFICE, Options, part, soon, text};
use amtsbote_ui::{input, link, play};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use reqwest::Method;
use serde_json::json;

/// A gateway whose department has an endpoint that takes nothing until it is repaired.
struct Broken {
    lab: Lab,
    repaired: Arc<AtomicBool>,
}

async fn broken() -> Broken {
    let repaired = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&repaired);
    let router = axum::Router::new().fallback(move || {
        let works = works.load(Ordering::Relaxed);
        std::future::ready(answer(works))
    });
    let mut lab = lab_with_endpoint(router, Options::default(), "").await;
    lab.start_gateway().await;
    Broken { lab, repaired }
}

fn answer(works: bool) -> Response {
    match works {
        true => StatusCode::NO_CONTENT.into_response(),
        false => (StatusCode::UNPROCESSABLE_ENTITY, "<script>alert('body')</script>").into_response(),
    }
}

impl Broken {
    /// Hands something in and waits until it is a dead letter; the bare id.
    async fn dead(&self, key: &str) -> String {
        let id = self.lab.client("portal").submit(key, METADATA, b"<antrag/>").await;
        self.died(&id).await
    }

    async fn died(&self, id: &str) -> String {
        let path = format!("/v1/submissions/{id}");
        amtsbote_it::eventually(&self.lab, async || {
            let state = self.lab.client("portal").get(&path).await.json["state"].clone();
            (state == "dead").then_some(())
        })
        .await;
        id.strip_prefix("urn:uuid:").unwrap().to_owned()
    }

    async fn turn(&self, word: &str) {
        self.repaired.store(word == "repair", Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_stuck_message_is_found_explained_sent_again_and_delivered() {
    let broken = broken().await;
    let mut input = input(&broken.lab);
    input["another"] = link(&broken.lab, "operator").into();
    (input["first"], input["second"]) = (broken.dead("k1").await.into(), broken.dead("k2").await.into());
    play("stuck", &input, async |word| broken.turn(word).await).await;
}

#[tokio::test]
async fn every_page_is_accessible_in_every_size_language_and_light() {
    let broken = broken().await;
    let mut input = input(&broken.lab);
    input["dead"] = broken.dead("k1").await.into();
    let operator = broken.lab.operator("operator");
    let hold = format!("/admin/v1/holds/destination/{}", format!("webhook/{OFFICE}").replace('/', "%2F"));
    let why = json!({ "reason": "Das Fachverfahren wird gewartet" });
    assert_eq!(operator.send(operator.request(Method::PUT, &hold).json(&why)).await.status, 200);
    let metadata = METADATA.replace("\"4711\"", &format!("\"4712\",\"deadline\":\"{}\"", soon(3_600)));
    broken.lab.client("portal").submit("k2", &metadata, b"<antrag/>").await;
    play("pages", &input, async |_| {}).await;
}

#[tokio::test]
async fn everything_works_without_a_script() {
    let broken = broken().await;
    broken.dead("k1").await;
    play("no-script", &input(&broken.lab), async |_| {}).await;
}

#[tokio::test]
async fn hostile_text_stays_text() {
    let broken = broken().await;
    let portal = broken.lab.client("portal");
    let metadata = METADATA.replace("Wohngeld\"", "<script>alert('subject')</script> Betreff\"");
    let form = reqwest::multipart::Form::new()
        .part("metadata", text(&metadata))
        .part("document", part("<img src=x onerror=alert('name')>", "application/xml", b"<antrag/>"));
    let request =
        portal.request(Method::POST, "/v1/submissions").header("Idempotency-Key", "k").multipart(form);
    let accepted = portal.send(request).await;
    let id = accepted.json["id"].as_str().unwrap_or_else(|| panic!("{accepted:?}"));
    let mut input = input(&broken.lab);
    input["dead"] = broken.died(id).await.into();
    play("hostile", &input, async |_| {}).await;
}

#[tokio::test]
async fn many_dead_letters_are_previewed_confirmed_and_followed() {
    let broken = broken().await;
    // At one per second somebody has time to stop it.
    for key in 0..20 {
        broken.dead(&format!("k{key}")).await;
    }
    play("bulk", &input(&broken.lab), async |word| broken.turn(word).await).await;
}

#[tokio::test]
async fn pages_follow_what_happens() {
    let lab = Lab::start(Options::default()).await;
    let mut count = 0;
    play("live", &input(&lab), async |_| {
        count += 1;
        lab.client("portal").submit(&format!("k{count}"), METADATA, b"<antrag/>").await;
    })
    .await;
}
