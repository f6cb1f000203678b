//! Two gateways that speak XTA to each other: one hands over to the other, one fetches from the other.

use amtsbote_it::{Lab, METADATA, OFFICE, Options, signal};
use serde_json::json;

/// The section of a configuration that names another gateway as an XTA server, with an account there.
fn server(other: &Lab, account: &str, identifier: &str, more: &str) -> String {
    let base = format!("https://{}", other.gateway().exchange);
    let path = |name: String| other.path(&name).display().to_string();
    format!(
        "[xta_servers.hub]\nsend = \"{base}/xta/send\"\nmanagement = \"{base}/xta/management\"\nmsgbox = \"{base}/xta/msgbox\"\n\
         certificate = \"{}\"\nkey = \"{}\"\nca = [\"{}\"]\nidentifier = \"{identifier}\"\n{more}\n",
        path(format!("pki/{account}.pem")),
        path(format!("pki/{account}.key")),
        path("pki/ca.pem".to_owned()),
    )
}

#[tokio::test]
async fn a_message_goes_on_to_a_remote_server() {
    let remote = Lab::start(Options::default()).await;
    let hub = server(&remote, "portal", "ags:07315000", "author = \"ags:07315000\"");
    let retry = "[retry]\nfirst = \"1s\"\nlongest = \"1s\"\n";
    let mut lab = Lab::prepare(Options {
        extra: format!("{hub}{retry}"),
        channel: "xta://hub".to_owned(),
        ..Options::default()
    })
    .await;
    lab.start_gateway().await;
    let portal = lab.client("portal");
    let id = portal.submit("one", METADATA, b"<antrag/>").await;
    let department = remote.client("department");
    let (token, messages) = department.lease(1).await;
    let message = &messages[0];
    assert_eq!((&message["caseId"], &message["attempt"]), (&json!("4711"), &json!(1)));
    let xta = format!("urn:de:xta:messageid:amtsbote:{}", id.strip_prefix("urn:uuid:").unwrap());
    assert_eq!(message["externalIds"], json!([{ "scheme": "xta", "value": xta }]));
    let arrived = message["id"].as_str().unwrap();
    assert_eq!(department.bytes(&format!("/v1/mailbox/messages/{arrived}/document")).await, b"<antrag/>");
    assert_eq!(department.on_message(arrived, "acknowledge", Some(&token), None).await.status, 200);
    while portal.get(&format!("/v1/submissions/{id}")).await.json["state"] != "delivered" {
        tokio::task::yield_now().await;
    }
    let card = portal.get(&format!("/v1/submissions/{id}/events")).await.json;
    let delivered =
        card["events"].as_array().unwrap().iter().find(|event| event["event"] == "delivered").unwrap();
    assert_eq!(delivered["proof"], "accepted by XTA server hub");

    // While the other one stands still nothing is lost, and afterwards nothing is there twice.
    signal(remote.gateway().pid, "STOP");
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(
            portal.submit(&format!("down-{n}"), METADATA, format!("<antrag n='{n}'/>").as_bytes()).await,
        );
    }
    signal(remote.gateway().pid, "CONT");
    let mut documents = Vec::new();
    while documents.len() < ids.len() {
        let (token, messages) = department.lease(5).await;
        for message in messages {
            let id = message["id"].as_str().unwrap();
            documents.push(department.bytes(&format!("/v1/mailbox/messages/{id}/document")).await);
            assert_eq!(department.on_message(id, "acknowledge", Some(&token), None).await.status, 200);
        }
    }
    documents.sort();
    documents.dedup();
    assert_eq!(documents.len(), ids.len());
}

#[tokio::test]
async fn a_remote_mailbox_is_fetched_and_only_then_closed() {
    let remote = Lab::start(Options::default()).await;
    let hub = server(&remote, "department", OFFICE, "poll = \"1s\"\naccount = \"portal\"");
    let mut lab = Lab::prepare(Options { extra: hub, ..Options::default() }).await;
    lab.start_gateway().await;
    let portal = remote.client("portal");
    let id = portal.submit("one", METADATA, b"<antrag/>").await;
    let department = lab.client("department");
    let (token, messages) = department.lease(1).await;
    let message = &messages[0];
    assert_eq!(message["caseId"], "4711");
    let xta = format!("urn:de:xta:messageid:amtsbote:{}", id.strip_prefix("urn:uuid:").unwrap());
    assert_eq!(message["externalIds"], json!([{ "scheme": "xta", "value": xta }]));
    let arrived = message["id"].as_str().unwrap();
    assert_eq!(department.bytes(&format!("/v1/mailbox/messages/{arrived}/document")).await, b"<antrag/>");
    assert_eq!(department.on_message(arrived, "acknowledge", Some(&token), None).await.status, 200);
    while portal.get(&format!("/v1/submissions/{id}")).await.json["state"] != "acknowledged" {
        tokio::task::yield_now().await;
    }
    let list = json!({ "max": 5, "seconds": 60, "wait": 0 });
    assert_eq!(
        department.post("/v1/mailbox/leases", &list).await.json["messages"],
        json!([]),
        "fetched once"
    );
}
