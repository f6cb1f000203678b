//! Delivery into hot folders.

use std::path::{Path, PathBuf};

use amtsbote_it::{Lab, METADATA, Options, part, sha256, text, verifies};
use reqwest::Method;
use serde_json::{Value, json};

use crate::xta::{Order, SERVICE, content};

/// A laboratory whose department gets everything into a folder, and the folder.
async fn lab(acknowledge: &str) -> (Lab, PathBuf) {
    let extra = format!(
        "[retry]\nfirst = \"100ms\"\nlongest = \"200ms\"\n[folders.dept]\npath = \"dept\"\nacknowledge = \"{acknowledge}\"\nlook = \"20ms\"\n"
    );
    let lab = Lab::start(Options { extra, channel: "folder://dept".to_owned(), ..Options::default() }).await;
    let folder = lab.path("dept");
    (lab, folder)
}

/// Events of a message, once one of a kind is among them.
async fn until(lab: &Lab, id: &str, event: &str) -> Vec<Value> {
    loop {
        let events = lab.client("portal").get(&format!("/v1/submissions/{id}/events")).await.json;
        let events = events["events"].as_array().unwrap().clone();
        if events.iter().any(|one| one["event"] == event) {
            return events;
        }
        tokio::task::yield_now().await;
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn in_folder(folder: &Path, id: &str) -> PathBuf {
    folder.join(id.strip_prefix("urn:uuid:").unwrap())
}

#[tokio::test]
async fn a_message_lies_in_its_folder_with_everything_that_belongs_to_it() {
    let (lab, folder) = lab("none").await;
    std::fs::create_dir(&folder).unwrap();
    let portal = lab.client("portal");
    let form = reqwest::multipart::Form::new()
        .part("metadata", text(METADATA))
        .part("document", part("../../antrag.xml", "application/xml", b"<antrag/>"))
        .part("attachment", part("/etc/passwd", "application/pdf", b"pdf"))
        .part("attachment", part("bild.gif", "image/gif", b"gif"));
    let request = portal.request(Method::POST, "/v1/submissions").header("Idempotency-Key", "1");
    let answer = portal.send(request.multipart(form)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.json["id"].as_str().unwrap().to_owned();
    until(&lab, &id, "delivered").await;
    let message = in_folder(&folder, &id);
    assert_eq!(
        names(&message),
        ["attachment-1.pdf", "attachment-2.bin", "document.xml", "message.json", "signature.p7s"]
    );
    assert_eq!(std::fs::read(message.join("attachment-2.bin")).unwrap(), b"gif");
    let described: Value =
        serde_json::from_slice(&std::fs::read(message.join("message.json")).unwrap()).unwrap();
    assert_eq!((&described["id"], &described["attempt"]), (&json!(id), &json!(1)));
    assert_eq!((&described["caseId"], &described["redelivered"]), (&json!("4711"), &json!(false)));
    assert_eq!(described["externalIds"], json!([{ "scheme": "client", "value": "1" }]));
    assert_eq!(described["document"]["sha256"], sha256(b"<antrag/>"));
    assert_eq!(described["document"]["file"], "document.xml");
    assert_eq!(described["attachments"][0]["file"], "attachment-1.pdf");
    std::fs::copy(message.join("document.xml"), lab.path("document")).unwrap();
    std::fs::copy(message.join("signature.p7s"), lab.path("signature")).unwrap();
    assert!(verifies(&lab, "document"));
}

#[tokio::test]
async fn what_came_by_xta_lies_in_its_folder() {
    let (lab, folder) = lab("none").await;
    std::fs::create_dir(&folder).unwrap();
    let portal = lab.client("portal");
    let order = Order::new("urn:de:xta:messageid:fachverfahren:1");
    drop(portal.soap("sendMessage", &order.header(), &content(b"<antrag/>", &[b"anlage"])).await.ok());
    let listed = portal.get("/v1/submissions").await.json;
    let id = listed["submissions"][0]["id"].as_str().unwrap().to_owned();
    until(&lab, &id, "delivered").await;
    let message = in_folder(&folder, &id);
    assert_eq!(std::fs::read(message.join("document.xml")).unwrap(), b"<antrag/>");
    assert_eq!(std::fs::read(message.join("attachment-1.txt")).unwrap(), b"anlage");
    let described: Value =
        serde_json::from_slice(&std::fs::read(message.join("message.json")).unwrap()).unwrap();
    assert_eq!(described["externalIds"], json!([{ "scheme": "xta", "value": order.id }]));
    assert_eq!(
        (&described["caseId"], &described["metadata"]["subject"]),
        (&json!("4711"), &json!("Wohngeld"))
    );
    assert_eq!(described["service"], format!("uri:{SERVICE}"));
}

#[tokio::test]
async fn what_a_department_takes_away_is_received() {
    let (lab, folder) = lab("removal").await;
    std::fs::create_dir(&folder).unwrap();
    let id = lab.client("portal").submit("1", METADATA, b"<antrag/>").await;
    until(&lab, &id, "delivered").await;
    // While the file system is not there nobody has taken anything.
    let away = lab.path("away");
    std::fs::rename(&folder, &away).unwrap();
    std::fs::create_dir(&folder).unwrap();
    while !lab.log().contains("is it mounted?") {
        tokio::task::yield_now().await;
    }
    let events = until(&lab, &id, "delivered").await;
    assert!(events.iter().all(|one| one["event"] != "remote"), "{events:?}");
    std::fs::remove_dir(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    std::fs::remove_dir_all(in_folder(&folder, &id)).unwrap();
    let events = until(&lab, &id, "remote").await;
    assert_eq!(events.last().unwrap()["stage"], "received");
}

#[tokio::test]
async fn a_department_can_acknowledge_by_a_file() {
    let (lab, folder) = lab("file").await;
    std::fs::create_dir(&folder).unwrap();
    let id = lab.client("portal").submit("1", METADATA, b"<antrag/>").await;
    until(&lab, &id, "delivered").await;
    std::fs::write(in_folder(&folder, &id).join("acknowledged"), b"").unwrap();
    until(&lab, &id, "remote").await;
    assert_eq!(names(&folder), [".amtsbote-folder"], "the gateway tidies up");
}

#[tokio::test]
async fn whatever_is_wrong_with_a_folder_messages_wait_for_it() {
    for (name, break_it) in [
        ("folder-missing", (|_, _| {}) as fn(&Path, &Path)),
        ("folder-refused", |folder, _| std::fs::write(folder, b"a file").unwrap()),
        ("folder-refused", |folder, elsewhere| std::os::unix::fs::symlink(elsewhere, folder).unwrap()),
    ] {
        let (lab, folder) = lab("none").await;
        let elsewhere = lab.path("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        break_it(&folder, &elsewhere);
        let id = lab.client("portal").submit("1", METADATA, b"<antrag/>").await;
        let events = until(&lab, &id, "attempt-failed").await;
        let failed = events.iter().find(|one| one["event"] == "attempt-failed").unwrap();
        assert_eq!((&failed["reason"]["code"], &failed["class"]), (&json!(name), &json!("destination")));
        if folder.symlink_metadata().is_ok() {
            std::fs::remove_file(&folder).unwrap();
        }
        std::fs::create_dir(&folder).unwrap();
        until(&lab, &id, "delivered").await;
        assert_eq!(names(&elsewhere), Vec::<String>::new());
        assert!(in_folder(&folder, &id).join("document.xml").exists());
    }
}
