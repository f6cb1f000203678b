//! Delivery to HTTPS endpoints that answer whatever the test wants.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use amtsbote_it::endpoint::serve_tls;
use amtsbote_it::{Lab, METADATA, Options, Party, part, run, sha256, text, verifies};
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::xta::{Order, content};

const SECRET: [u8; 32] = [42; 32];

/// What the endpoint does with the next request.
enum Act {
    Say(u16, &'static [(&'static str, &'static str)], &'static str),
    Redirect(String),
    Hang,
}

/// Does what it is told, and takes everything after that.
#[derive(Default)]
struct Endpoint {
    acts: Mutex<VecDeque<Act>>,
    seen: Mutex<Vec<(HeaderMap, Bytes)>>,
}

impl Endpoint {
    fn that(acts: impl IntoIterator<Item = Act>) -> Arc<Self> {
        Arc::new(Self { acts: Mutex::new(acts.into_iter().collect()), seen: Mutex::default() })
    }

    async fn answer(&self, headers: HeaderMap, body: Bytes) -> Response {
        self.seen.lock().unwrap().push((headers, body));
        let act = self.acts.lock().unwrap().pop_front();
        match act {
            None => StatusCode::NO_CONTENT.into_response(),
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::Redirect(to)) => (StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response(),
            Some(Act::Say(status, headers, text)) => {
                let mut answer = (StatusCode::from_u16(status).unwrap(), text).into_response();
                for (name, value) in headers {
                    answer.headers_mut().insert(*name, value.parse().unwrap());
                }
                answer
            }
        }
    }

    async fn serve(self: &Arc<Self>, lab: &Lab) -> String {
        let endpoint = Arc::clone(self);
        let router = axum::Router::new().fallback(move |headers: HeaderMap, body: Bytes| {
            let endpoint = Arc::clone(&endpoint);
            async move { endpoint.answer(headers, body).await }
        });
        serve_tls(&lab.path("pki"), true, router).await + "/hooks/antrag"
    }

    fn seen(&self) -> Vec<(HeaderMap, Bytes)> {
        self.seen.lock().unwrap().clone()
    }
}

/// A gateway whose department has an endpoint. `more`: lines of its section.
async fn lab(endpoint: &Arc<Endpoint>, more: &str) -> Lab {
    let options = Options { channel: "webhook://office".to_owned(), ..Options::default() };
    let mut lab = Lab::prepare(options).await;
    let url = endpoint.serve(&lab).await;
    configure(&lab, &format!("url = \"{url}\"\n{more}"));
    lab.start_gateway().await;
    lab
}

fn configure(lab: &Lab, section: &str) {
    std::fs::write(lab.path("hook.secret"), format!("whsec_{}\n", STANDARD.encode(SECRET))).unwrap();
    lab.write_configuration(&format!(
        "[retry]\nfirst = \"100ms\"\nlongest = \"200ms\"\n[webhooks.office]\nsecret_file = \"hook.secret\"\nca = [\"pki/ca.pem\"]\ncertificate = \"pki/nobody.pem\"\nkey = \"pki/nobody.key\"\n{section}"
    ));
}

/// Events of a message, once one of a kind is among them.
async fn until(portal: &Party, id: &str, event: &str) -> Vec<Value> {
    loop {
        let events = portal.get(&format!("/v1/submissions/{id}/events")).await.json;
        let events = events["events"].as_array().unwrap().clone();
        if events.iter().any(|one| one["event"] == event) {
            return events;
        }
        tokio::task::yield_now().await;
    }
}

fn failures(events: &[Value]) -> Vec<(&str, &str)> {
    let failed = events.iter().filter(|one| one["event"] == "attempt-failed");
    failed.map(|one| (one["reason"]["code"].as_str().unwrap(), one["class"].as_str().unwrap())).collect()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).unwrap_or_else(|| panic!("{name} in {headers:?}")).to_str().unwrap()
}

/// Whether OpenSSL finds the same signature.
fn is_signed(lab: &Lab, headers: &HeaderMap, body: &[u8]) -> bool {
    let (id, seconds) = (header(headers, "webhook-id"), header(headers, "webhook-timestamp"));
    let signed = [format!("{id}.{seconds}.").as_bytes(), body].concat();
    std::fs::write(lab.path("signed"), signed).unwrap();
    let key = format!("hexkey:{}", hex::encode(SECRET));
    let arguments = ["dgst", "-sha256", "-mac", "HMAC", "-macopt", &key, "-binary", "signed"];
    let output = run(&lab.path(""), "openssl", &arguments);
    header(headers, "webhook-signature") == format!("v1,{}", STANDARD.encode(output.stdout))
}

fn is_sealed(lab: &Lab, headers: &HeaderMap, document: &[u8]) -> bool {
    std::fs::write(lab.path("document"), document).unwrap();
    let signature = STANDARD.decode(header(headers, "amtsbote-signature")).unwrap();
    std::fs::write(lab.path("signature"), signature).unwrap();
    verifies(lab, "document")
}

async fn submit_with_attachment(portal: &Party) -> String {
    let metadata = METADATA.replace("Wohngeld", "Wohngeld für Köln");
    let form = reqwest::multipart::Form::new()
        .part("metadata", text(&metadata))
        .part("document", part("antrag.xml", "application/xml", "<antrag>ä</antrag>".as_bytes()))
        .part("attachment", part("an\"lage.pdf", "application/pdf", b"pdf\r\n--"));
    let request = portal.request(Method::POST, "/v1/submissions").header("Idempotency-Key", "1");
    let answer = portal.send(request.multipart(form)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_document_is_posted_signed_and_sealed() {
    let endpoint = Endpoint::that([]);
    let lab = lab(&endpoint, "").await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let id = submit_with_attachment(&portal).await;
    until(&portal, &id, "delivered").await;
    let (headers, body) = endpoint.seen().pop().unwrap();
    assert_eq!(body, "<antrag>ä</antrag>".as_bytes());
    assert_eq!(
        (header(&headers, "content-type"), header(&headers, "webhook-id")),
        ("application/xml", id.as_str())
    );
    assert_eq!(
        (header(&headers, "amtsbote-attempt"), header(&headers, "amtsbote-redelivered")),
        ("1", "false")
    );
    assert!(is_signed(&lab, &headers, &body) && is_sealed(&lab, &headers, &body));
    let message: Value = serde_json::from_str(header(&headers, "amtsbote-message")).unwrap();
    assert_eq!(message["metadata"]["subject"], "Wohngeld für Köln");
    assert_eq!((&message["caseId"], &message["externalIds"][0]["value"]), (&json!("4711"), &json!("1")));
    let attachment = &message["attachments"][0];
    assert_eq!(
        (&attachment["name"], &attachment["sha256"]),
        (&json!("an\"lage.pdf"), &json!(sha256(b"pdf\r\n--")))
    );
    assert_eq!(department.bytes(attachment["href"].as_str().unwrap()).await, b"pdf\r\n--");
}

#[tokio::test]
async fn a_form_holds_everything() {
    let endpoint = Endpoint::that([]);
    let lab = lab(&endpoint, "format = \"multipart\"").await;
    let portal = lab.client("portal");
    let id = submit_with_attachment(&portal).await;
    until(&portal, &id, "delivered").await;
    let (headers, body) = endpoint.seen().pop().unwrap();
    assert!(is_signed(&lab, &headers, &body));
    assert_eq!(header(&headers, "content-length"), body.len().to_string());
    let boundary = header(&headers, "content-type").strip_prefix("multipart/form-data; boundary=").unwrap();
    // Read by somebody else.
    let script = "import sys, email.parser, email.policy\nhead = ('Content-Type: ' + sys.argv[1] + '\\r\\n\\r\\n').encode()\nmessage = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + open('body', 'rb').read())\nfor one in message.iter_parts():\n    print(one.get_param('name', header='content-disposition'), one.get_content_type(), one.get_payload(decode=True).hex())\n";
    std::fs::write(lab.path("body"), &body).unwrap();
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let read = run(&lab.path(""), "python3", &["-c", script, &content_type]);
    let lines = String::from_utf8(read.stdout).unwrap();
    let parts: Vec<Vec<&str>> = lines.lines().map(|line| line.split(' ').collect()).collect();
    let names: Vec<_> = parts.iter().map(|one| (one[0], one[1])).collect();
    assert_eq!(
        names,
        [
            ("metadata", "application/json"),
            ("document", "application/xml"),
            ("attachment", "application/pdf"),
            ("signature", "application/pkcs7-signature")
        ],
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
    let content = |number: usize| hex::decode(parts[number][2]).unwrap();
    assert_eq!(content(1), "<antrag>ä</antrag>".as_bytes());
    assert_eq!(content(2), b"pdf\r\n--");
    let message: Value = serde_json::from_slice(&content(0)).unwrap();
    assert_eq!((&message["id"], &message["attachments"][0]["file"]), (&json!(id), &json!("attachment-1")));
    assert_eq!(content(3), STANDARD.decode(header(&headers, "amtsbote-signature")).unwrap());
}

#[tokio::test]
async fn whatever_an_endpoint_answers_has_its_class_and_repetitions_are_marked() {
    let elsewhere = Endpoint::that([]);
    let endpoint = Endpoint::that([
        Act::Say(503, &[("retry-after", "1")], "later"),
        Act::Say(500, &[], "<html>"),
        Act::Hang,
        Act::Say(401, &[], ""),
    ]);
    let lab = lab(&endpoint, "attempt = \"1s\"").await;
    let portal = lab.client("portal");
    let redirect = Act::Redirect(elsewhere.serve(&lab).await);
    endpoint.acts.lock().unwrap().push_back(redirect);
    let id = portal.submit("1", METADATA, b"<antrag/>").await;
    let events = until(&portal, &id, "delivered").await;
    assert_eq!(
        failures(&events),
        [
            ("webhook-overloaded", "destination"),
            ("webhook-failed", "transient"),
            ("outcome-unknown", "transient"),
            ("webhook-refuses", "destination"),
            ("webhook-redirects", "destination"),
        ]
    );
    assert!(elsewhere.seen().is_empty(), "nobody goes where a redirect leads");
    let seen = endpoint.seen();
    let marks: Vec<_> = seen
        .iter()
        .map(|(headers, _)| (header(headers, "webhook-id"), header(headers, "amtsbote-redelivered")))
        .collect();
    assert_eq!(marks[0], (id.as_str(), "false"));
    assert!(marks[1..].iter().all(|mark| *mark == (id.as_str(), "true")), "{marks:?}");
    let rejected = Endpoint::that([Act::Say(422, &[], "no")]);
    let lab = self::lab(&rejected, "").await;
    let id = lab.client("portal").submit("1", METADATA, b"<antrag/>").await;
    let events = until(&lab.client("portal"), &id, "dead").await;
    assert_eq!(failures(&events), [("webhook-rejected", "permanent")]);
}

#[tokio::test]
async fn addresses_of_the_directory_are_called_if_they_are_public() {
    let endpoint = Endpoint::that([]);
    let mut lab = Lab::prepare(Options::default()).await;
    let url = endpoint.serve(&lab).await;
    let listed = "https://fv-gruenstadt-untere-bauaufsichtsbehoerde.amtsbote.example/hooks/antrag";
    let authorities = dvdv_mock::example::AUTHORITIES.replace(listed, &url);
    assert!(authorities.contains(&url));
    let directory = dvdv_mock::Directory::load(
        &authorities,
        dvdv_mock::example::SERVICES,
        dvdv_mock::example::CATEGORIES,
    );
    lab.directory.replace_directory(directory.unwrap());
    configure(&lab, "from_directory = true");
    lab.start_gateway().await;
    let metadata = r#"{"service":{"ozg":"10519"},"area":{"ars":"073320024024"}}"#;
    let id = lab.client("portal").submit("1", metadata, b"<antrag/>").await;
    let events = until(&lab.client("portal"), &id, "attempt-failed").await;
    assert_eq!(failures(&events)[0], ("webhook-forbidden", "destination"));
    assert!(endpoint.seen().is_empty(), "an internal address was not called");
    // An operator who knows better says so.
    lab.stop_gateway().await;
    configure(&lab, "from_directory = true\nreach = \"anywhere\"");
    lab.start_gateway().await;
    until(&lab.client("portal"), &id, "delivered").await;
    assert_eq!(endpoint.seen().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_answers_at_once_can_be_asked() {
    let xml = [("content-type", "application/xml")];
    let answer = Act::Say(200, Box::leak(Box::new(xml)), "<bescheid/>");
    let endpoint = Endpoint::that([answer, Act::Say(202, &[], ""), Act::Say(422, &[], "no")]);
    let lab = lab(&endpoint, "").await;
    let portal = lab.client("portal");
    let ask = async |id: &str| {
        portal.soap("sendMessageSync", &Order::new(id).header(), &content(b"<frage/>", &[b"anlage"])).await
    };
    let answered = ask("urn:de:xta:messageid:fv:1").await.ok();
    assert_eq!(STANDARD.decode(answered.text("Message")).unwrap(), b"<bescheid/>");
    assert_eq!(answered.attributes("Message", "contentType"), ["application/xml"]);
    for id in ["urn:de:xta:messageid:fv:2", "urn:de:xta:messageid:fv:3"] {
        assert!(ask(id).await.fault().is_some(), "{id}");
    }
    assert_eq!(endpoint.seen().len(), 3, "each is asked once");
    lab.recorded_answers_are_valid();
}
