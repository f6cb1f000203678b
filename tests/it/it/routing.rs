//! Routes as portals see them, in good times and while the directory is down.

use amtsbote_it::{Lab, METADATA, Options};
use dvdv_mock::{Fault, FaultRule};
use serde_json::json;

fn outage() -> Vec<FaultRule> {
    vec![FaultRule {
        function: None,
        after: 0,
        times: None,
        fault: Fault::Status { code: 503, retry_after: None },
    }]
}

#[tokio::test]
async fn a_route_is_explained_without_sending() {
    let lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let explained = portal.get("/v1/routes?service=leika:99107023037000&area=ags:07315000").await;
    assert_eq!((explained.status, &explained.json["outcome"]), (200, &json!("RESOLVED")));
    assert_eq!(explained.json["organization"]["key"], amtsbote_it::OFFICE);
    assert_eq!(
        (&explained.json["servedHere"], &explained.json["channel"]),
        (&json!({ "type": "mailbox" }), &json!({ "type": "mailbox" }))
    );
    assert_eq!(explained.json["listed"][0]["type"], "xta", "the directory's own channel is shown too");
    let by_postcode = portal.get("/v1/routes?service=ozg:10144&area=plz:15320").await;
    assert_eq!((by_postcode.status, &by_postcode.json["outcome"]), (200, &json!("AREA_AMBIGUOUS")));
    assert_eq!(by_postcode.json["areas"], json!(["120645410340", "120645414365"]));
    let nobody = portal.get("/v1/routes?service=ozg:10257&area=ars:073150000000").await;
    assert_eq!((nobody.status, &nobody.json["outcome"]), (200, &json!("NOT_RESPONSIBLE")));
    for wrong in [
        "",
        "?service=ozg:10092",
        "?service=ozg:1&area=ars:07",
        "?service=ozg:10092&area=ags:7315000",
        "?service=ozg:10092&area=ars:07&x=1",
    ] {
        let refused = portal.get(&format!("/v1/routes{wrong}")).await;
        assert_eq!((refused.status, &refused.json["outcome"]), (400, &json!("BAD_REQUEST")), "{wrong}");
    }
    lab.directory.script(outage());
    let down = portal.get("/v1/routes?service=ozg:10092&area=ars:064110000000").await;
    assert_eq!((down.status, &down.json["outcome"]), (503, &json!("DIRECTORY_UNAVAILABLE")));
}

#[tokio::test]
async fn an_outage_of_the_directory_stops_nobody() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    portal.submit("cached", METADATA, b"1").await;
    lab.directory.script(outage());
    let cached = portal.send(portal.submission("still", METADATA, b"2")).await;
    assert_eq!((cached.status, &cached.json["state"]), (202, &json!("queued")), "the cache answers");
    let elsewhere = r#"{"service":{"ozg":"10142"},"area":{"ars":"146250040040"}}"#;
    let elsewhere = if portal.get("/v1/routes?service=ozg:10142&area=ars:14625").await.status == 503 {
        r#"{"service":{"ozg":"10142"},"area":{"ars":"14625"}}"#
    } else {
        elsewhere
    };
    let open = portal.send(portal.submission("open", elsewhere, b"3")).await;
    assert_eq!(
        (open.status, &open.json["state"], &open.json["route"]),
        (202, &json!("accepted"), &json!(null))
    );
    let id = open.json["id"].as_str().unwrap();
    let (status, ready) = lab.telemetry("/health/ready").await;
    assert!(status == 200 && ready.contains("degraded"), "{status} {ready}");

    lab.directory.script(Vec::new());
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let (token, messages) = department.lease(5).await;
        for message in messages {
            let one = message["id"].as_str().unwrap().to_owned();
            assert_eq!(department.on_message(&one, "acknowledge", Some(&token), None).await.status, 200);
            seen.push(one);
        }
    }
    assert!(seen.contains(&id.to_owned()), "routed once the directory is back");
    let card = portal.get(&format!("/v1/submissions/{id}/events")).await.json;
    let events: Vec<_> =
        card["events"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(&events[..2], ["received", "route-open"]);
    assert!(events.contains(&"routed"));
}

#[tokio::test]
async fn a_named_recipient_replaces_resolution() {
    let lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let named =
        |recipient: &str| json!({ "service": { "ozg": "10092" }, "recipient": recipient }).to_string();
    let accepted = portal.send(portal.submission("1", &named(amtsbote_it::OFFICE), b"x")).await;
    assert_eq!((accepted.status, &accepted.json["route"]["channel"]), (202, &json!("mailbox")));
    assert_eq!(accepted.json["route"]["matchedArea"], json!(null));
    let unknown = portal.send(portal.submission("2", &named("wgb:999999999999"), b"x")).await;
    assert_eq!((unknown.status, &unknown.json["outcome"]), (422, &json!("NO_CHANNEL")));
}
