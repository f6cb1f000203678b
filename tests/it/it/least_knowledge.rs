//! What people write stays where it belongs (promise P9): planted words appear in no log line, no metric and no error answer.

use amtsbote_it::endpoint::lab_with_endpoint;
use amtsbote_it::{Lab, Options, eventually, part, text};
use axum::http::StatusCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::xta::{Order, content};

/// Stands in everything that is planted.
const PLANTED: &str = "geheimvermerk";

fn metadata() -> Value {
    json!({
        "service": { "ozg": "10092" }, "area": { "ars": "073150000000" },
        "subject": format!("{PLANTED} subject"), "caseId": format!("{PLANTED}-case"),
        "orderingKey": format!("{PLANTED}-order"), "replyTo": format!("plan:{PLANTED}"),
        "businessScenario": format!("{PLANTED}-scenario"), "processRef": format!("{PLANTED}-process"),
    })
}

const VIEWER: &str = "format = \"multipart\"\n[[accounts]]\nname = \"viewer\"\nroles = [\"viewer\"]\ncertificates = [\"pki/nobody.pem\"]\n";

/// A gateway that logs everything it can, whose department refuses what it gets and says so with a planted word.
async fn talkative() -> Lab {
    let refuse = || std::future::ready((StatusCode::UNPROCESSABLE_ENTITY, format!("{PLANTED} in an answer")));
    let router = axum::Router::new().fallback(refuse);
    let mut lab = lab_with_endpoint(router, Options::default(), VIEWER).await;
    let text = std::fs::read_to_string(lab.path("amtsbote.toml")).unwrap();
    let text = text.replace("level = \"info\"", "level = \"debug\"");
    let text = text.replace("[\"ags:07315000\"]", &format!("[\"ags:07315000\", \"plan:{PLANTED}\"]"));
    std::fs::write(lab.path("amtsbote.toml"), text).unwrap();
    lab.start_gateway().await;
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_words_are_nowhere_they_do_not_belong() {
    let lab = talkative().await;
    let portal = lab.client("portal");
    let submit = |key: &str, metadata: &Value, document: &str| {
        let form = reqwest::multipart::Form::new()
            .part("metadata", text(&metadata.to_string()))
            .part("document", part(&format!("{PLANTED}.xml"), "application/xml", document.as_bytes()))
            .part("attachment", part(&format!("{PLANTED}.pdf"), "application/pdf", PLANTED.as_bytes()));
        portal.request(Method::POST, "/v1/submissions").header("Idempotency-Key", key).multipart(form)
    };
    let mut answers = Vec::new();
    let key = format!("{PLANTED}-key");
    let accepted = portal.send(submit(&key, &metadata(), PLANTED)).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let id = accepted.json["id"].as_str().unwrap().to_owned();

    // Everything that is refused, with planted words where they are wrong.
    let mut conflict = metadata();
    conflict["subject"] = json!(format!("another {PLANTED}"));
    answers.push(portal.send(submit(&key, &conflict, PLANTED)).await.json.to_string());
    for field in [
        "service",
        "area",
        "caseId",
        "priority",
        "notBefore",
        "deadline",
        "replyTo",
        "orderingKey",
        "messageType",
        "inReplyTo",
        "recipient",
    ] {
        let mut wrong = metadata();
        wrong[field] = json!(format!("{PLANTED}\n{}", "x".repeat(300)));
        let answer = portal.send(submit(&format!("wrong-{field}"), &wrong, PLANTED)).await;
        assert!((400..500).contains(&answer.status), "{field}: {answer:?}");
        answers.push(answer.json.to_string());
    }
    let mut foreign = metadata();
    foreign["replyTo"] = json!(format!("foreign:{PLANTED}"));
    answers.push(portal.send(submit("foreign", &foreign, PLANTED)).await.json.to_string());
    for path in [
        "/v1/submissions?caseId=%0A",
        "/v1/submissions?state=",
        "/v1/submissions?cursor=",
        "/v1/submissions/",
        "/v1/routes?service=ozg:10092&area=",
    ] {
        let answer = portal.get(&format!("{path}{PLANTED}")).await;
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
        answers.push(answer.json.to_string());
    }
    let order = format!("urn:de:xta:messageid:{PLANTED}:1");
    let header = Order::new(&order).header();
    let planted = header
        .replace("<meta:Subject>Wohngeld", &format!("<meta:Subject>{PLANTED}"))
        .replace("4711", &format!("{PLANTED}-requester"))
        .replace("</meta:Qualifier>", &format!("</meta:Qualifier><meta:MessageProperties><meta:Property><meta:Name>{PLANTED}</meta:Name><meta:Value>{PLANTED}</meta:Value></meta:Property></meta:MessageProperties>"));
    let body = content(PLANTED.as_bytes(), &[PLANTED.as_bytes()])
        .replace("antrag.xml", &format!("{PLANTED}.xml"))
        .replace("id=\"a1\"", &format!("id=\"{PLANTED}\""));
    for header in [
        planted.clone(),
        planted.replace("xoev", PLANTED),
        planted.replace("2025-03-04", PLANTED),
        planted.replace("<code>antrag", &format!("<{PLANTED}>")),
        header.replace(crate::xta::SERVICE, PLANTED),
    ] {
        answers.push(portal.soap("sendMessage", &header, &body).await.xml());
    }

    // It was refused by the department, which is written into the log.
    eventually(&lab, async || {
        let state = portal.get(&format!("/v1/submissions/{id}")).await.json["state"].clone();
        (state == "dead").then_some(())
    })
    .await;
    let log = lab.log();
    assert!(
        log.contains("An attempt failed.") && log.contains(&id) && log.contains("\"DEBUG\""),
        "it has logged"
    );
    for (number, line) in log.lines().enumerate() {
        assert!(!line.to_lowercase().contains(PLANTED), "line {number} of the log: {line}");
    }
    let (_, metrics) = lab.telemetry("/metrics").await;
    assert!(metrics.contains("amtsbote_submissions_total") && !metrics.contains(PLANTED), "{metrics}");
    for answer in answers {
        assert!(!answer.contains(PLANTED), "{answer}");
    }
    // Who may only look does not see it, whatever they ask.
    let viewer = lab.operator("nobody");
    let asked = ["destinations", "overview", "status", "audit", "accounts", &format!("messages/{id}")]
        .map(str::to_owned);
    for path in asked {
        let answer = viewer.get(&format!("/admin/v1/{path}")).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let shown = known(&answer.json.to_string());
        assert!(!shown.contains(PLANTED), "{path}: {shown}");
    }
    let page = format!("/console/messages/{}", id.strip_prefix("urn:uuid:").unwrap());
    let shown = viewer.request(Method::GET, &page).send().await.unwrap().text().await.unwrap();
    assert!(shown.contains("webhook-rejected") && !known(&shown).contains(PLANTED), "{shown}");
    let failed = viewer.get(&format!("/admin/v1/messages?text={PLANTED}")).await.json;
    assert_eq!(
        (&failed["messages"], &failed["behindBytes"]),
        (&json!([]), &json!(0)),
        "what others answered is no failure's text"
    );
}

/// What is shown without what everybody with a role may see: parties, cases, and ids that senders gave.
fn known(shown: &str) -> String {
    let ids = [format!("plan:{PLANTED}"), format!("{PLANTED}-case"), format!("{PLANTED}-key")];
    ids.iter().fold(shown.to_owned(), |shown, id| shown.replace(id, ""))
}
