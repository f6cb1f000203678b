//! The operators' interface and the commands that use it, from outside.

use amtsbote_it::{Lab, METADATA, OFFICE, Options, Party, binary, eventually, run};
use reqwest::Method;
use serde_json::{Value, json};

/// Options of a gateway that delivers to a broker nobody runs.
async fn to_nobody() -> Options {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    Options {
        channel: "amqp://main?queue=q".to_owned(),
        extra: format!(
            "[brokers.main]\nurl = \"amqp://127.0.0.1:{port}/%2f\"\nusername = \"guest\"\npassword_file = \"broker.password\"\n\
             [breaker]\nout_of_order_after = 1\n"
        ),
        ..Options::default()
    }
}

fn command(lab: &Lab, arguments: &[&str]) -> (i32, String, String) {
    let url = format!("https://{}", lab.gateway().operator);
    let mut all = arguments.to_vec();
    all.extend(["--url", &url, "--ca", "pki/ca.pem"]);
    if !arguments.contains(&"--certificate") {
        all.extend(["--certificate", "pki/operator.pem", "--key", "pki/operator.key"]);
    }
    let output = run(&lab.path(""), binary("amtsbote").to_str().unwrap(), &all);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json_of(lab: &Lab, arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.push("--json");
    let (code, stdout, stderr) = command(lab, &all);
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// The first destination, once it is in a state.
async fn destination(lab: &Lab, state: &str) -> Value {
    let operator = lab.operator("operator");
    let look = async || {
        let shown = operator.get("/admin/v1/destinations").await.json["destinations"][0].clone();
        (shown["state"] == state && shown["messages"] == 1).then_some(shown)
    };
    eventually(lab, look).await
}

/// A look at a mailbox that does not wait.
async fn lease(party: &Party) -> Vec<Value> {
    let body = json!({ "max": 5, "seconds": 600, "wait": 0 });
    party.post("/v1/mailbox/leases", &body).await.json["messages"].as_array().unwrap().clone()
}

#[tokio::test]
async fn an_operator_holds_and_releases() {
    let lab = Lab::start(Options::default()).await;
    let office = format!("mailbox/{OFFICE}");
    let (code, stdout, _) =
        command(&lab, &["hold", "destination", &office, "--reason", "Umzug der Server", "--for", "3d"]);
    assert_eq!((code, stdout.starts_with("held: destination mailbox/")), (0, true), "{stdout}");
    let id = lab.client("portal").submit("k1", METADATA, b"<antrag/>").await;
    destination(&lab, "held").await;
    let (_, queues, _) = command(&lab, &["queues"]);
    assert!(queues.contains("held") && queues.contains("Umzug der Server (operator)"), "{queues}");
    assert!(lease(&lab.client("department")).await.is_empty());
    // A hold outlives the process.
    let mut lab = lab;
    lab.kill_gateway().await;
    lab.start_gateway().await;
    assert!(lease(&lab.client("department")).await.is_empty());
    assert_eq!(json_of(&lab, &["hold"])["holds"][0]["key"], office);
    let (code, stdout, _) =
        command(&lab, &["release", "destination", &office, "--reason", "Server stehen wieder"]);
    assert_eq!((code, stdout.starts_with("released: ")), (0, true), "{stdout}");
    let (_, leased) = lab.client("department").lease(5).await;
    assert_eq!(leased[0]["id"], id);
    assert_eq!(leased[0]["attempt"], 1, "a hold is no attempt");
    let trail = json_of(&lab, &["audit"]);
    let actions: Vec<_> = trail["entries"].as_array().unwrap().iter().map(|one| &one["action"]).collect();
    assert_eq!(actions, ["release", "hold"]);
    assert_eq!(trail["entries"][0]["reason"], "Server stehen wieder");
}

#[tokio::test]
async fn senders_do_not_read_what_operators_write() {
    let lab = Lab::start(Options::default()).await;
    let (portal, operator) = (lab.client("portal"), lab.operator("operator"));
    let held = operator.request(Method::PUT, "/admin/v1/holds/account/portal");
    assert_eq!(operator.send(held.json(&json!({ "reason": "intern: Herr Meier" }))).await.status, 200);
    let id = portal.submit("k1", METADATA, b"<antrag/>").await;
    let department = lab.client("department");
    eventually(&lab, async || {
        assert!(lease(&department).await.is_empty());
        let card = portal.get(&format!("/v1/submissions/{id}/events")).await.json.to_string();
        card.contains("\"held\"").then_some(())
    })
    .await;
    let given_up = json!({ "reason": "intern: Frau Schulz" });
    let cancelled = operator.post(&format!("/admin/v1/dead-letters/{id}/cancel"), &given_up).await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.json);
    let card = portal.get(&format!("/v1/submissions/{id}/events")).await.json.to_string();
    assert!(card.contains("\"held\"") && card.contains("\"cancelled\""), "{card}");
    assert!(!card.contains("intern") && !card.contains("operator"), "{card}");
    let seen = operator.get(&format!("/admin/v1/dead-letters/{id}")).await.json.to_string();
    assert!(seen.contains("Herr Meier") && seen.contains("Frau Schulz"), "{seen}");
}

#[tokio::test]
async fn what_an_operator_gets_wrong_is_said() {
    let lab = Lab::start(Options::default()).await;
    let operator = lab.operator("operator");
    let hold = |scope: &str, key: &str| format!("/admin/v1/holds/{scope}/{key}");
    let body = json!({ "reason": "x" });
    for (path, body, status, problem) in [
        (hold("planet", "earth"), body.clone(), 400, "hold-invalid"),
        (hold("destination", "mars"), body.clone(), 400, "hold-invalid"),
        (hold("destination", "mailbox%2Fwgb:999999999991"), body.clone(), 404, "unknown-target"),
        (hold("account", "nobody"), body.clone(), 404, "unknown-target"),
        (hold("account", "portal"), json!({}), 400, "body-invalid"),
        (hold("account", "portal"), json!({ "reason": " " }), 400, "reason-invalid"),
        (
            hold("account", "portal"),
            json!({ "reason": "x", "until": "2020-01-01T00:00:00Z" }),
            400,
            "hold-invalid",
        ),
        (hold("account", "portal"), json!({ "reason": "x", "typo": 1 }), 400, "body-invalid"),
    ] {
        let answer = operator.send(operator.request(Method::PUT, &path).json(&body)).await;
        assert_eq!((answer.status, answer.problem()), (status, problem), "{path} {body}");
    }
    let gone = operator.send(operator.request(Method::DELETE, &hold("account", "portal"))).await;
    assert_eq!((gone.status, gone.problem()), (404, "not-held"));
    for (path, body, status, problem) in [
        ("/admin/v1/bulk", json!({ "action": "redrive", "reason": "x" }), 422, "bulk-refused"),
        ("/admin/v1/bulk", json!({ "action": "redrive", "all": true, "reason": "x" }), 422, "bulk-refused"),
        ("/admin/v1/bulk", json!({ "action": "explode", "all": true, "reason": "x" }), 400, "body-invalid"),
        (
            "/admin/v1/bulk",
            json!({ "action": "redrive", "all": true, "rate": 0, "reason": "x" }),
            422,
            "bulk-refused",
        ),
        (
            "/admin/v1/bulk",
            json!({ "action": "redrive", "filter": { "destination": "mars" }, "reason": "x" }),
            400,
            "filter-invalid",
        ),
        (
            "/admin/v1/dead-letters/urn:uuid:01976c6e-7a00-7000-8000-000000000001/redrive",
            body.clone(),
            404,
            "not-found",
        ),
    ] {
        let answer = operator.post(path, &body).await;
        assert_eq!((answer.status, answer.problem()), (status, problem), "{path} {body}");
    }
    let id = lab.client("portal").submit("k1", METADATA, b"<antrag/>").await;
    let path = format!("/admin/v1/dead-letters/{id}/redrive");
    let answer = operator.post(&path, &body).await;
    assert_eq!((answer.status, answer.problem()), (409, "not-dead"));
    for path in
        ["/admin/v1/dead-letters?limit=0", "/admin/v1/dead-letters?cursor=x", "/admin/v1/audit?limit=9999"]
    {
        assert_eq!(operator.get(path).await.problem(), "query-invalid", "{path}");
    }
    assert_eq!(operator.get("/admin/v1/bulk/none").await.status, 404);
    // The field is named, what stands in it is not.
    let answer = operator.post("/admin/v1/bulk", &json!({ "action": "redrive", "rate": "Mustermann" })).await;
    assert_eq!((&answer.json["field"], answer.problem()), (&json!("rate"), "body-invalid"));
    assert!(!answer.json.to_string().contains("Mustermann"), "{}", answer.json);
    let answer = operator.get("/admin/v1/audit?limit=Mustermann").await;
    assert_eq!((&answer.json["field"], answer.problem()), (&json!("limit"), "query-invalid"));
    assert!(!answer.json.to_string().contains("Mustermann"), "{}", answer.json);
    // The commands say the same, with exit codes.
    let (code, _, stderr) = command(&lab, &["hold", "account", "nobody", "--reason", "x"]);
    assert_eq!(code, 64);
    assert!(stderr.contains("no account of that name is known here"), "{stderr}");
    let (code, _, stderr) = command(&lab, &["hold", "account", "portal"]);
    assert_eq!(code, 64, "{stderr}");
    for usage in [
        &["bulk", "start", "redrive", "--reason", "x"][..],
        &["hold", "--reason", "x"],
        &["hold", "account", "portal", "--reason", "x", "--for", "9999999d"],
        &["hold", "account", "portal", "--reason", "x", "--for", "99999999999999999d"],
    ] {
        let (code, _, stderr) = command(&lab, usage);
        assert_eq!(code, 64, "{usage:?}: {stderr}");
    }
    assert_eq!(json_of(&lab, &["hold"])["holds"], json!([]), "nothing of that is in force");
}

#[tokio::test]
async fn roles_decide_who_may_look_and_who_may_act() {
    let lab = Lab::prepare(Options::default()).await;
    lab.write_configuration(
        "[[accounts]]\nname = \"viewer\"\nroles = [\"viewer\"]\ncertificates = [\"pki/nobody.pem\"]\n",
    );
    let mut lab = lab;
    lab.start_gateway().await;
    let (viewer, portal) = (lab.operator("nobody"), lab.operator("portal"));
    assert_eq!(viewer.get("/admin/v1/destinations").await.status, 200);
    let body = json!({ "reason": "x" });
    let put = viewer.request(Method::PUT, "/admin/v1/holds/account/portal").json(&body);
    assert_eq!(viewer.send(put).await.problem(), "role-missing");
    assert_eq!(portal.get("/admin/v1/destinations").await.problem(), "role-missing");
    let stranger = Party { base: viewer.base.clone(), ..lab.client_with(None) };
    for path in ["/admin/v1/destinations", "/admin/v1/openapi.json"] {
        assert_eq!(stranger.get(path).await.problem(), "certificate-required", "{path}");
    }
    let unknown = ["queues", "--certificate", "pki/department.pem", "--key", "pki/department.key"];
    assert_eq!(command(&lab, &unknown).0, 64);
}

#[tokio::test]
async fn a_destination_that_is_down_is_shown_and_its_messages_can_be_sent_another_way() {
    let lab = Lab::prepare(to_nobody().await).await;
    std::fs::write(lab.path("broker.password"), "guest").unwrap();
    let mut lab = lab;
    lab.start_gateway().await;
    let id = lab.client("portal").submit("k1", METADATA, b"<antrag/>").await;
    destination(&lab, "out-of-order").await;
    // The state is stored, not only remembered.
    lab.kill_gateway().await;
    lab.start_gateway().await;
    let operator = lab.operator("operator");
    let shown = operator.get("/admin/v1/destinations").await.json;
    assert_eq!(shown["destinations"][0]["state"], "out-of-order");
    assert_eq!(operator.get(&format!("/admin/v1/dead-letters/{id}")).await.json["id"], id);
    // The operator gives the department a mailbox and has the message routed anew.
    let text = std::fs::read_to_string(lab.path("amtsbote.toml")).unwrap();
    std::fs::write(lab.path("amtsbote.toml"), text.replace("amqp://main?queue=q", "mailbox")).unwrap();
    lab.signal_gateway("HUP");
    let reroute = format!("/admin/v1/dead-letters/{id}/reroute");
    let department = lab.client("department");
    let leased = eventually(&lab, async || {
        operator.post(&reroute, &json!({ "reason": "the broker is gone" })).await;
        lease(&department).await.pop()
    });
    assert_eq!(leased.await["id"], id);
}

#[tokio::test]
async fn a_sender_is_told_of_a_rejection_in_its_own_mailbox() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let id = portal.submit("k1", METADATA, b"<antrag/>").await;
    let (lease, _) = department.lease(1).await;
    let body = json!({ "code": "wrong-form", "detail": "Bitte Formular 7 verwenden" });
    department.on_message(&id, "reject", Some(&lease), Some(body.clone())).await;
    let (lease, notices) = portal.lease(5).await;
    assert_eq!(notices.len(), 1, "{}", lab.log());
    let notice = &notices[0];
    assert_eq!(notice["sender"], "amtsbote:gateway");
    let content = portal.bytes(notice["document"]["href"].as_str().unwrap()).await;
    let content: Value = serde_json::from_slice(&content).unwrap();
    assert_eq!((&content["message"], &content["state"]), (&json!(id), &json!("rejected")));
    assert_eq!(content["reason"], body);
    let notice = notice["id"].as_str().unwrap().to_owned();
    portal.on_message(&notice, "acknowledge", Some(&lease), None).await;
    let card = portal.get(&format!("/v1/submissions/{id}/events")).await.json;
    let told = card["events"]
        .as_array()
        .unwrap()
        .iter()
        .any(|event| event["event"] == "sender-notified" && event["notice"] == notice);
    assert!(told, "{card}");
}

#[tokio::test]
async fn the_operators_openapi_document_is_the_golden_file() {
    let lab = Lab::start(Options::default()).await;
    let served = lab.operator("operator").get("/admin/v1/openapi.json").await;
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/openapi-operator.json");
    let printed = run(&lab.path(""), binary("amtsbote").to_str().unwrap(), &["openapi", "--operator"]).stdout;
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(golden, &printed).unwrap();
    }
    let expected: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&printed).unwrap(), expected, "BLESS=1 writes it anew");
    assert_eq!(served.json, expected);
}

/// A gateway with somebody who may only look.
async fn with_viewer() -> Lab {
    let mut lab = Lab::prepare(Options::default()).await;
    lab.write_configuration(
        "[[accounts]]\nname = \"watcher\"\nroles = [\"viewer\"]\ncertificates = [\"pki/nobody.pem\"]\n",
    );
    lab.start_gateway().await;
    lab
}

#[tokio::test]
async fn any_message_is_found_by_any_id_it_has() {
    let lab = with_viewer().await;
    let (portal, operator, viewer) = (lab.client("portal"), lab.operator("operator"), lab.operator("nobody"));
    let order = crate::xta::Order::new("urn:de:xta:messageid:fachverfahren:1");
    let body = crate::xta::content(b"<antrag/>", &[b"anlage"]);
    drop(portal.soap("sendMessage", &order.header(), &body).await.ok());
    let id = portal.get("/v1/submissions").await.json["submissions"][0]["id"].as_str().unwrap().to_owned();
    let uuid = id.strip_prefix("urn:uuid:").unwrap();
    for known in [order.id, "URN:DE:XTA:messageid:fachverfahren:1", &id, uuid] {
        let found = viewer.get(&format!("/admin/v1/messages?id={known}")).await;
        assert_eq!(found.json["messages"][0]["id"], id, "{known}: {found:?}");
    }
    let nothing = viewer.get("/admin/v1/messages?id=urn:de:xta:messageid:fachverfahren:2").await;
    assert_eq!((nothing.status, &nothing.json["messages"]), (200, &json!([])));
    // What people wrote is for those who act, and that they read it is written down.
    let path = format!("/admin/v1/messages/{id}");
    let seen = viewer.get(&path).await;
    assert_eq!(seen.status, 200);
    assert!(!seen.json.to_string().contains("antrag.xml") && seen.json.get("contents").is_none(), "{seen:?}");
    assert_eq!(seen.json["events"][0]["event"], "received");
    let entries = |answer: &Value| answer["entries"].as_array().unwrap().len();
    let before = entries(&operator.get("/admin/v1/audit").await.json);
    let read = operator.get(&path).await.json;
    assert_eq!(read["contents"]["metadata"]["subject"], "Wohngeld");
    assert_eq!(read["contents"]["parts"][1]["name"], "anlage.txt");
    let audit = operator.get("/admin/v1/audit").await.json;
    assert_eq!(entries(&audit), before + 1);
    let entry = &audit["entries"][0];
    assert_eq!(
        (&entry["action"], &entry["target"], &entry["by"]),
        (&json!("read"), &json!(id), &json!("operator"))
    );
    assert_eq!(
        viewer.get("/admin/v1/messages/urn:uuid:01a20594-8b30-7000-b57f-31631e71333b").await.status,
        404
    );
    assert_eq!(
        lab.client("portal").get(&path).await.status,
        404,
        "nothing of this is on the exchange listener"
    );
    let (code, shown, _) = command(&lab, &["trace", order.id]);
    assert_eq!(code, 0);
    for part in [id.as_str(), order.id, "subject Wohngeld", "anlage.txt", "received"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let (code, _, said) = command(&lab, &["trace", "nobody-has-this"]);
    assert!(code == 64 && said.contains("no message has the id"), "{code} {said}");
}

#[tokio::test]
async fn messages_are_found_by_what_is_known_of_them() {
    let lab = with_viewer().await;
    let (portal, viewer) = (lab.client("portal"), lab.operator("nobody"));
    let first = portal.submit("k1", METADATA, b"<antrag/>").await;
    let second = portal.submit("k2", &METADATA.replace("4711", "4712"), b"<antrag/>").await;
    let (lease, _) = lab.client("department").lease(1).await;
    lab.client("department").on_message(&first, "acknowledge", Some(&lease), None).await;
    let find = async |query: &str| {
        let answer = viewer.get(&format!("/admin/v1/messages?{query}")).await;
        assert_eq!((answer.status, &answer.json["behindBytes"]), (200, &json!(0)), "{query}: {answer:?}");
        let ids = answer.json["messages"].as_array().unwrap().iter().map(|one| one["id"].clone());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(find("").await, [json!(second), json!(first)]);
    for (query, wanted) in [
        ("caseId=4712", vec![&second]),
        ("state=acknowledged", vec![&first]),
        ("state=delivered&account=portal", vec![&second]),
        ("service=ozg:10092&party=ags:07315000", vec![&second, &first]),
        ("destination=mailbox/wgb:073150000000&limit=1", vec![&second]),
        ("code=refused", vec![]),
        ("text=refused", vec![]),
        ("since=2099-01-01T00:00:00Z", vec![]),
    ] {
        let wanted: Vec<_> = wanted.into_iter().map(|id| json!(id)).collect();
        assert_eq!(find(query).await, wanted, "{query}");
    }
    let page = viewer.get("/admin/v1/messages?limit=1").await.json;
    let next = page["next"].as_str().unwrap();
    assert!(page["lookedBackTo"].is_string());
    assert_eq!(find(&format!("limit=1&cursor={next}")).await, [json!(first)]);
    for (query, kind) in [
        ("state=lost", "filter-invalid"),
        ("account=%00", "filter-invalid"),
        ("destination=pigeon", "filter-invalid"),
        ("party=nonsense", "filter-invalid"),
        ("service=10092", "filter-invalid"),
        (&format!("text={}", "x".repeat(201)), "filter-invalid"),
        ("id=x&state=dead", "filter-invalid"),
        ("since=yesterday", "query-invalid"),
        ("cursor=x", "query-invalid"),
        ("limit=0", "query-invalid"),
        ("limit=1001", "query-invalid"),
        ("unknown=1", "query-invalid"),
    ] {
        let refused = viewer.get(&format!("/admin/v1/messages?{query}")).await;
        assert_eq!((refused.status, refused.problem()), (400, kind), "{query}");
    }
}

#[tokio::test]
async fn accounts_certificates_and_routes_are_shown() {
    let lab = with_viewer().await;
    let viewer = lab.operator("nobody");
    let accounts = viewer.get("/admin/v1/accounts").await.json;
    let named = |name: &str| {
        accounts["accounts"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone()
    };
    assert_eq!(named("watcher")["roles"], json!(["viewer"]));
    assert_eq!(
        (&named("department")["channel"], &named("department")["serves"][0]),
        (&json!("mailbox"), &json!(OFFICE))
    );
    assert_eq!(named("portal-b")["credentials"][0]["kind"], "subject");
    let certificates = viewer.get("/admin/v1/certificates").await.json;
    let listed = certificates["certificates"].as_array().unwrap();
    let roles: Vec<_> = listed.iter().map(|one| one["role"].as_str().unwrap()).collect();
    assert!(["server", "seal", "directory-client"].iter().all(|role| roles.contains(role)), "{roles:?}");
    assert!(listed.iter().all(|one| one["daysLeft"].as_i64().unwrap() > 30), "{certificates}");
    let route = viewer.get("/admin/v1/routes?service=ozg:10092&area=ars:073150000000").await.json;
    assert_eq!((&route["outcome"], &route["organization"]["key"]), (&json!("RESOLVED"), &json!(OFFICE)));
    assert_eq!(viewer.get("/admin/v1/routes?service=nonsense&area=ars:07").await.status, 400);
    let (code, shown, _) = command(&lab, &["routes", "ozg:10092", "ars:073150000000"]);
    assert!(code == 0 && shown.contains("RESOLVED") && shown.contains(OFFICE), "{shown}");
    let (code, shown, _) = command(&lab, &["accounts"]);
    assert!(code == 0 && shown.contains("watcher") && shown.contains(OFFICE), "{shown}");
    let (code, shown, _) = command(&lab, &["certificates"]);
    assert!(code == 0 && shown.contains("seal"), "{shown}");
    for path in
        ["accounts", "certificates", "routes?service=ozg:10092&area=ars:073150000000", "messages?id=x"]
    {
        let refused = lab.operator("portal").get(&format!("/admin/v1/{path}")).await;
        assert_eq!(refused.status, 403, "{path}");
    }
}
