//! A submission travels from portal to department and back.

use amtsbote_it::{Lab, METADATA, Options, part, run, sha256, soon, text, verifies};
use reqwest::Method;
use serde_json::{Value, json};

const DOCUMENT: &[u8] = b"<?xml version=\"1.0\"?>\n<antrag>\xc3\xa4</antrag>\n";

#[tokio::test]
async fn submit_lease_download_verify_acknowledge() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let pdf = [7_u8; 5000];
    let form = reqwest::multipart::Form::new()
        .part("attachment", part("../anlage.pdf", "application/pdf", &pdf))
        .part("document", part("antrag.xml", "application/xml", DOCUMENT))
        .part("metadata", text(METADATA));
    let request =
        portal.request(Method::POST, "/v1/submissions").header("Idempotency-Key", "k-1").multipart(form);
    let reply = request.send().await.unwrap();
    assert_eq!(reply.status(), 202);
    let location = reply.headers()["location"].to_str().unwrap().to_owned();
    let accepted: Value = reply.json().await.unwrap();
    let id = accepted["id"].as_str().unwrap();
    assert_eq!(location, format!("/v1/submissions/{id}"));
    assert_eq!(
        (accepted["state"].as_str(), accepted["route"]["channel"].as_str()),
        (Some("queued"), Some("mailbox"))
    );
    assert_eq!(accepted["route"]["organization"]["key"], "wgb:073150000000");
    assert_eq!(accepted["externalIds"], json!([{ "scheme": "client", "value": "k-1" }]));
    let parts = accepted["parts"].as_array().unwrap();
    assert_eq!((&parts[0]["sha256"], &parts[1]["name"]), (&json!(sha256(DOCUMENT)), &json!("anlage.pdf")));

    let (token, messages) = department.lease(5).await;
    let [message] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!(
        (&message["id"], &message["attempt"], &message["redelivered"]),
        (&json!(id), &json!(1), &json!(false))
    );
    assert_eq!((&message["caseId"], &message["service"]), (&json!("4711"), &json!("10092")));
    let document = department.bytes(message["document"]["href"].as_str().unwrap()).await;
    assert_eq!(document, DOCUMENT);
    let attachment = message["attachments"][0]["href"].as_str().unwrap();
    let range =
        department.request(Method::GET, attachment).header("Range", "bytes=4990-").send().await.unwrap();
    assert_eq!(
        (range.status().as_u16(), &range.headers()["content-range"]),
        (206, &"bytes 4990-4999/5000".parse().unwrap())
    );
    assert_eq!(range.bytes().await.unwrap().len(), 10);

    let signature = department.bytes(message["signature"].as_str().unwrap()).await;
    std::fs::write(lab.path("document"), &document).unwrap();
    std::fs::write(lab.path("signature"), signature).unwrap();
    std::fs::write(lab.path("changed"), &document[1..]).unwrap();
    assert!(verifies(&lab, "document") && !verifies(&lab, "changed"));

    let state = portal.get(&location).await;
    assert_eq!(state.json["state"], "fetched");
    let done = department.on_message(id, "acknowledge", Some(&token), None).await;
    assert_eq!((done.status, &done.json["state"]), (200, &json!("acknowledged")));
    assert_eq!(department.on_message(id, "acknowledge", Some(&token), None).await.status, 200, "repeated");
    assert_eq!(portal.get(&location).await.json["state"], "acknowledged");

    let card = portal.get(&format!("{location}/events")).await;
    let events: Vec<_> =
        card.json["events"].as_array().unwrap().iter().map(|event| event["event"].clone()).collect();
    assert_eq!(events, ["received", "routed", "sealed", "delivered", "leased", "acknowledged"]);
    let receipt = portal.bytes(&format!("{location}/receipt")).await;
    let claims = claims(&receipt);
    assert_eq!((&claims["id"], &claims["recipient"]), (&json!(id), &json!("wgb:073150000000")));
    assert_eq!(claims["parts"][0]["sha256"], sha256(DOCUMENT));
}

/// Payload of a compact JWS.
fn claims(token: &[u8]) -> Value {
    use base64::Engine as _;
    let token = std::str::from_utf8(token).unwrap();
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap())
        .unwrap()
}

#[tokio::test]
async fn repeating_a_key_changes_nothing() {
    let lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let first = portal.submission("same", METADATA, DOCUMENT).send().await.unwrap();
    let original = first.bytes().await.unwrap();
    let again = portal.submission("same", METADATA, DOCUMENT).send().await.unwrap();
    assert_eq!(
        (again.status().as_u16(), &again.headers()["amtsbote-duplicate"]),
        (200, &"true".parse().unwrap())
    );
    assert_eq!(again.bytes().await.unwrap(), original, "byte for byte");
    let other = portal.send(portal.submission("same", METADATA, b"something else")).await;
    assert_eq!((other.status, other.problem()), (409, "idempotency-conflict"));
    let other = portal.send(portal.submission("same", &METADATA.replace("4711", "4712"), DOCUMENT)).await;
    assert_eq!(other.status, 409);
    let racers =
        futures::future::join_all((0..20).map(|_| portal.submission("race", METADATA, DOCUMENT).send()));
    let statuses: Vec<u16> = racers.await.into_iter().map(|reply| reply.unwrap().status().as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 202).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 19, "{statuses:?}");
    assert_eq!(portal.get("/v1/submissions").await.json["submissions"].as_array().unwrap().len(), 2);
    // Another account may use the same key.
    assert_eq!(
        lab.client("portal-b")
            .send(lab.client("portal-b").submission("same", METADATA, DOCUMENT))
            .await
            .status,
        202
    );
}

#[tokio::test]
async fn leases_are_exclusive_extendable_and_can_be_given_back() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let id = portal.submit("1", METADATA, DOCUMENT).await;
    let (token, _) = department.lease(5).await;
    let none = department.post("/v1/mailbox/leases", &json!({})).await;
    assert_eq!(none.json["messages"], json!([]));
    let extend = department
        .request(Method::PATCH, &format!("/v1/mailbox/leases/{token}"))
        .json(&json!({ "seconds": 700 }));
    let extended = department.send(extend).await;
    assert_eq!((extended.status, &extended.json["messages"]), (200, &json!([id])));
    assert_eq!(department.on_message(&id, "release", Some(&token), None).await.json["state"], "fetched");
    let (second, messages) = department.lease(5).await;
    assert_eq!((&messages[0]["attempt"], &messages[0]["redelivered"]), (&json!(2), &json!(true)));
    let late = department.on_message(&id, "acknowledge", Some(&token), None).await;
    assert_eq!((late.status, late.problem()), (409, "lease-lost"));
    let reject = json!({ "code": "unzustaendig", "detail": "Bitte an das Sozialamt." });
    let rejected = department.on_message(&id, "reject", Some(&second), Some(reject)).await;
    assert_eq!((rejected.status, &rejected.json["state"]), (200, &json!("rejected")));
    let state = portal.get(&format!("/v1/submissions/{id}")).await;
    assert_eq!(
        state.json["reason"],
        json!({ "by": "department", "code": "unzustaendig", "detail": "Bitte an das Sozialamt." })
    );
    let gone = department.on_message(&id, "acknowledge", Some(&second), None).await;
    assert_eq!((gone.status, gone.problem()), (409, "finished"));
    let lost = department
        .request(Method::PATCH, &format!("/v1/mailbox/leases/{second}"))
        .json(&json!({ "seconds": 60 }));
    assert_eq!(department.send(lost).await.problem(), "lease-lost");
}

#[tokio::test]
async fn a_department_answers_into_the_senders_mailbox() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let id = portal.submit("1", METADATA, DOCUMENT).await;
    let (token, _) = department.lease(1).await;
    let reply = || {
        let form = reqwest::multipart::Form::new()
            .part("metadata", text(r#"{"subject":"Bescheid"}"#))
            .part("document", part("bescheid.pdf", "application/pdf", b"%PDF-bescheid"));
        let path = format!("/v1/mailbox/messages/{id}/replies");
        department.request(Method::POST, &path).header("Idempotency-Key", "r-1").multipart(form)
    };
    let answered = department.send(reply()).await;
    assert_eq!(answered.status, 202, "{answered:?}");
    assert_eq!(department.send(reply()).await.status, 200, "repeated");
    department.on_message(&id, "acknowledge", Some(&token), None).await;
    let (token, messages) = portal.lease(5).await;
    let message = &messages[0];
    assert_eq!((&message["id"], &message["caseId"]), (&answered.json["id"], &json!("4711")));
    assert_eq!(
        (&message["metadata"]["inReplyTo"], &message["sender"]),
        (&json!(id), &json!("wgb:073150000000"))
    );
    assert_eq!(portal.bytes(message["document"]["href"].as_str().unwrap()).await, b"%PDF-bescheid");
    let reply_id = message["id"].as_str().unwrap();
    assert_eq!(portal.on_message(reply_id, "acknowledge", Some(&token), None).await.status, 200);
    let card = portal.get(&format!("/v1/submissions/{id}/events")).await.json;
    assert!(card["events"].as_array().unwrap().iter().any(|event| event["reply"] == json!(reply_id)));
}

#[tokio::test]
async fn withdrawing_works_until_the_first_hand_over() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let id = portal.submit("1", METADATA, DOCUMENT).await;
    let withdraw = |id: &str| portal.send(portal.request(Method::DELETE, &format!("/v1/submissions/{id}")));
    assert_eq!(withdraw(&id).await.json["state"], "cancelled");
    assert_eq!(withdraw(&id).await.status, 200, "repeated");
    let second = portal.submit("2", METADATA, DOCUMENT).await;
    let (_, messages) = department.lease(5).await;
    assert_eq!(messages.len(), 1, "the withdrawn one is not offered");
    let late = withdraw(&second).await;
    assert_eq!((late.status, late.problem()), (409, "handed-out"));
    let cancelled = portal.get("/v1/submissions?state=cancelled&caseId=4711").await;
    assert_eq!(cancelled.json["submissions"][0]["id"], json!(id));
}

#[tokio::test]
async fn the_openapi_document_is_the_golden_file() {
    let lab = Lab::start(Options::default()).await;
    let served = lab.client("portal").get("/openapi.json").await;
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/openapi.json");
    let printed = run(&lab.path(""), amtsbote_it::binary("amtsbote").to_str().unwrap(), &["openapi"]).stdout;
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(golden, &printed).unwrap();
    }
    assert_eq!(
        String::from_utf8(printed).unwrap(),
        std::fs::read_to_string(golden).unwrap(),
        "BLESS=1 accepts the change"
    );
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    assert_eq!(served.json, expected);
    references(&expected, &expected);
}

/// Every `$ref` leads somewhere.
fn references(document: &Value, value: &Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                assert!(
                    document.pointer(reference.trim_start_matches('#')).is_some(),
                    "{reference} leads nowhere"
                );
            }
            members.values().for_each(|member| references(document, member));
        }
        Value::Array(list) => list.iter().for_each(|one| references(document, one)),
        _ => {}
    }
}

#[tokio::test]
async fn deadlines_are_spoken_of_and_what_is_worthless_expires() {
    let lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let mut metadata: serde_json::Value = serde_json::from_str(METADATA).unwrap();
    metadata["deadline"] = soon(3600).into();
    metadata["expiresAt"] = soon(3).into();
    let id = portal.submit("1", &metadata.to_string(), b"x").await;
    let events = async {
        let mut every = tokio::time::interval(std::time::Duration::from_millis(50));
        loop {
            every.tick().await;
            let card = portal.get(&format!("/v1/submissions/{id}/events")).await.json;
            let names: Vec<String> = card["events"]
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["event"].as_str().unwrap().to_owned())
                .collect();
            if names.last().is_some_and(|name| name == "expired") {
                return names;
            }
        }
    };
    let mut events = tokio::time::timeout(std::time::Duration::from_secs(60), events).await.unwrap();
    events.sort();
    assert_eq!(events, ["deadline-near", "delivered", "expired", "received", "routed", "sealed"]);
    let (_, metrics) = lab.telemetry("/metrics").await;
    assert!(metrics.contains("amtsbote_deadlines_total{event=\"near\"} 1"), "{metrics}");
    let none = lab.client("department").post("/v1/mailbox/leases", &json!({})).await;
    assert_eq!(none.json["messages"], json!([]));
}
