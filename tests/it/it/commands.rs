//! Commands of portals, departments and operators, as they are typed.

use std::path::Path;
use std::process::Output;

use amtsbote_it::{Lab, METADATA, Options, binary, eventually, run};
use serde_json::Value;

fn amtsbote(lab: &Lab, account: &str, arguments: &[&str]) -> Output {
    let (base, url) = match account {
        "operator" => (lab.gateway().operator, "--url"),
        _ => (lab.gateway().exchange, "--url"),
    };
    let (url, at) = (url.to_owned(), format!("https://{base}"));
    let (certificate, key) = (format!("pki/{account}.pem"), format!("pki/{account}.key"));
    let who = [&url, &at, "--ca", "pki/ca.pem", "--certificate", &certificate, "--key", &key];
    run(&lab.path(""), binary("amtsbote").to_str().unwrap(), &[arguments, &who].concat())
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_goes_in_and_comes_out_each_document_once() {
    let lab = Lab::start(Options::default()).await;
    let out = lab.path("out");
    write(&out, "a.xml", "<a/>");
    write(&out, "a.json", METADATA);
    write(&out, "a.attachments/2.txt", "second");
    write(&out, "a.attachments/1.pdf", "first");
    write(&out, "b.xml", "<b/>");
    write(&out, "c.xml", "<c/>");
    write(&out, "c.json", r#"{"service": {"ozg": "10092"}}"#);
    let submit = |more: &[&str]| amtsbote(&lab, "portal", &[&["submit", "out"], more].concat());

    let missing = submit(&[]);
    assert!(missing.status.code() == Some(70) && said(&missing).contains("b.json"), "{missing:?}");
    write(&lab.path(""), "usual.json", METADATA);
    let first = submit(&["--metadata", "usual.json"]);
    assert_eq!(first.status.code(), Some(1), "{first:?}");
    assert!(printed(&first).contains("a: accepted as urn:uuid:") && printed(&first).contains("c: refused:"));
    assert!(said(&first).contains("1 of 3 were refused"), "{}", said(&first));
    let accepted: Value =
        serde_json::from_slice(&std::fs::read(out.join("a.accepted.json")).unwrap()).unwrap();
    assert_eq!(accepted["parts"].as_array().unwrap().len(), 3);
    assert!(out.join("c.refused.json").exists());

    // What was cut off after the gateway had it is handed in again, and is no second message.
    std::fs::remove_file(out.join("a.accepted.json")).unwrap();
    write(&out, "c.json", METADATA);
    let again = submit(&["--metadata", "usual.json", "--json"]);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    let lines: Vec<Value> = printed(&again).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_a = lines.iter().find(|line| line["name"] == "a").unwrap();
    assert_eq!(of_a["accepted"]["id"], accepted["id"], "the same message");
    assert!(!out.join("c.refused.json").exists());
    assert_eq!(printed(&submit(&["--metadata", "usual.json"])), "", "nothing is left");

    becomes(&lab, 3, "delivered").await;
    let mailbox = |more: &[&str]| amtsbote(&lab, "department", &[&["mailbox", "in"], more].concat());
    let taken = mailbox(&["--max", "2"]);
    assert_eq!((taken.status.code(), printed(&taken).lines().count()), (Some(0), 3), "{taken:?}");
    let folder = lab.path("in").join(accepted["id"].as_str().unwrap().strip_prefix("urn:uuid:").unwrap());
    assert_eq!(names(&folder), ["attachment-1", "attachment-2", "document", "message.json", "signature.p7s"]);
    assert_eq!(std::fs::read(folder.join("document")).unwrap(), b"<a/>");
    assert_eq!(std::fs::read(folder.join("attachment-1")).unwrap(), b"first");
    assert_eq!(printed(&mailbox(&[])), "", "everything was acknowledged");

    // One that was cut off between the folder and its acknowledgement: the folder is complete, and stays as it is.
    let id = lab.client("portal").submit("k9", METADATA, b"<d/>").await;
    let uuid = id.strip_prefix("urn:uuid:").unwrap();
    write(&lab.path("in"), &format!("{uuid}/document"), "<d/>");
    // One that was cut off in between begins anew.
    let half = lab.client("portal").submit("k10", METADATA, b"<e/>").await;
    let half = half.strip_prefix("urn:uuid:").unwrap();
    write(&lab.path("in"), &format!("{half}.part/document"), "<");
    becomes(&lab, 2, "delivered").await;
    assert_eq!(mailbox(&[]).status.code(), Some(0));
    becomes(&lab, 5, "acknowledged").await;
    assert_eq!(names(&lab.path("in").join(uuid)), ["document"]);
    assert_eq!(std::fs::read(lab.path("in").join(half).join("document")).unwrap(), b"<e/>");

    // Where nothing can be written nothing is acknowledged, and others may have it at once.
    let id = lab.client("portal").submit("k11", METADATA, b"<f/>").await;
    becomes(&lab, 1, "delivered").await;
    let uuid = id.strip_prefix("urn:uuid:").unwrap();
    write(&lab.path("in"), &format!("{uuid}.part"), "in the way");
    let stopped = mailbox(&[]);
    assert_eq!(stopped.status.code(), Some(70), "{stopped:?}");
    std::fs::remove_file(lab.path("in").join(format!("{uuid}.part"))).unwrap();
    assert_eq!(printed(&mailbox(&[])).lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_stands_in_nobodys_way() {
    let lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let large = vec![b'x'; 3 << 20];
    for (key, document) in [("k1", b"<a/>".as_slice()), ("k2", &large), ("k3", b"<c/>")] {
        portal.submit(key, METADATA, document).await;
    }
    becomes(&lab, 3, "delivered").await;
    for entry in std::fs::read_dir(lab.store().join("payload")).unwrap() {
        let file = std::fs::OpenOptions::new().write(true).open(entry.unwrap().path()).unwrap();
        file.set_len(1 << 20).unwrap();
    }
    let taken = amtsbote(&lab, "department", &["mailbox", "in", "--max", "1"]);
    assert_eq!((taken.status.code(), printed(&taken).lines().count()), (Some(1), 2), "{taken:?}");
    assert!(said(&taken).contains("1 messages could not be taken"), "{taken:?}");
    becomes(&lab, 2, "acknowledged").await;
    assert_eq!(names(&lab.path("in")).iter().filter(|name| !name.ends_with(".part")).count(), 2);
}

/// Waits until so many of the portal's messages are in a state.
async fn becomes(lab: &Lab, count: usize, state: &str) {
    let look = async || {
        let path = format!("/v1/submissions?state={state}");
        let listed = lab.client("portal").get(&path).await.json["submissions"].as_array().unwrap().len();
        (listed == count).then_some(())
    };
    eventually(lab, look).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said_with_an_exit_code() {
    let lab = Lab::start(Options::default()).await;
    write(&lab.path("out"), "a.xml", "<a/>");
    write(&lab.path("out"), "a.pdf", "the same name");
    let twice = amtsbote(&lab, "portal", &["submit", "out"]);
    assert!(twice.status.code() == Some(64) && said(&twice).contains("have the same name"), "{twice:?}");
    std::fs::remove_file(lab.path("out/a.pdf")).unwrap();
    write(&lab.path("out"), "a.json", METADATA);
    // An account that may not: refused, and nothing is lost.
    assert_eq!(amtsbote(&lab, "department", &["submit", "out"]).status.code(), Some(1));
    assert_eq!(amtsbote(&lab, "operator", &["mailbox", "in"]).status.code(), Some(64));
    assert_eq!(amtsbote(&lab, "portal", &["submit", "nowhere"]).status.code(), Some(70));
    let program = binary("amtsbote");
    let program = program.to_str().unwrap();
    assert_eq!(run(&lab.path(""), program, &["submit", "out"]).status.code(), Some(64), "no certificate");
    let key = ["--ca", "pki/ca.pem", "--certificate", "pki/portal.pem", "--key", "pki/portal.key"];
    let nobody = run(
        &lab.path(""),
        program,
        &[["submit", "out", "--url", "https://127.0.0.1:1"].as_slice(), &key].concat(),
    );
    assert!(nobody.status.code() == Some(75) && said(&nobody).contains("cannot be reached"), "{nobody:?}");
    assert!(lab.path("out/a.xml").exists() && !lab.path("out/a.accepted.json").exists());
    let latin: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"Antr\xe4ge.xml");
    std::fs::write(lab.path("out").join(latin), "<a/>").unwrap();
    let unnamed = amtsbote(&lab, "portal", &["submit", "out"]);
    assert!(unnamed.status.code() == Some(64) && said(&unnamed).contains("not UTF-8"), "{unnamed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_list_messages_and_watch() {
    let lab = Lab::start(Options::default()).await;
    let id = lab.client("portal").submit("k1", METADATA, b"<antrag/>").await;
    becomes(&lab, 1, "delivered").await;
    let listed = amtsbote(&lab, "operator", &["messages", "--state", "delivered", "--service", "ozg:10092"]);
    assert!(listed.status.success() && printed(&listed).contains(&id), "{listed:?}");
    let none = amtsbote(&lab, "operator", &["messages", "--case", "other"]);
    assert_eq!(printed(&none), "nothing found\n");
    let wrong = amtsbote(&lab, "operator", &["messages", "--state", "lost"]);
    assert!(wrong.status.code() == Some(64) && said(&wrong).contains("state"), "{wrong:?}");
    let top = amtsbote(&lab, "operator", &["top"]);
    assert!(top.status.success() && printed(&top).starts_with("ready"), "{top:?}");
    assert!(!printed(&top).contains('\x1b'), "no colours and no jumps without a terminal");
    let json = amtsbote(&lab, "operator", &["top", "--json"]);
    let json: Value = serde_json::from_str(&printed(&json)).unwrap();
    assert_eq!(json["health"]["status"], "ready");
}
