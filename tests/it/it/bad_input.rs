//! Every refusal has its status and its type, and leaves nothing behind.

use std::time::{Duration, SystemTime};

use amtsbote_certs::{Authority, KeyKind, Purpose};
use amtsbote_it::{Lab, METADATA, Options, Party, part, text};
use futures::StreamExt as _;
use reqwest::{Identity, Method};
use serde_json::json;

async fn nothing_is_stored(portal: &Party) {
    assert_eq!(portal.get("/v1/submissions").await.json["submissions"], json!([]));
}

#[tokio::test]
async fn metadata_is_refused_with_every_problem_and_without_values() {
    let lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let place = r#""area":{"ars":"073150000000"}"#;
    for (metadata, status, problem, field) in [
        (format!("{{{place}}}"), 400, "metadata-invalid", "service"),
        (r#"{"service":{"ozg":"10092"}}"#.to_owned(), 400, "metadata-invalid", "area"),
        (
            format!(r#"{{"service":{{"ozg":"10092"}},{place},"recipient":"{}"}}"#, amtsbote_it::OFFICE),
            400,
            "metadata-invalid",
            "area",
        ),
        (
            format!(r#"{{"service":{{"ozg":"10092"}},{place},"vorname":"Erika"}}"#),
            400,
            "metadata-invalid",
            "vorname",
        ),
        (
            r#"{"service":{"ozg":"10092"},"area":{"ags":"7315000"}}"#.to_owned(),
            400,
            "metadata-invalid",
            "area.ags",
        ),
        (
            r#"{"service":{"ozg":"10092"},"area":{"ars":"07315000000"}}"#.to_owned(),
            400,
            "metadata-invalid",
            "area.ars",
        ),
        (
            format!(r#"{{"service":{{"leika":"9910702303700"}},{place}}}"#),
            400,
            "metadata-invalid",
            "service.leika",
        ),
        (
            format!(r#"{{"service":{{"ozg":"10092"}},{place},"expiresAt":"2020-01-01T00:00:00Z"}}"#),
            400,
            "metadata-invalid",
            "expiresAt",
        ),
        (
            format!(r#"{{"service":{{"ozg":"10092"}},{place},"replyTo":"ags:02000000"}}"#),
            400,
            "metadata-invalid",
            "replyTo",
        ),
        ("no json".to_owned(), 400, "metadata-invalid", "metadata"),
    ] {
        let refused = portal.send(portal.submission("k", &metadata, b"x")).await;
        assert_eq!((refused.status, refused.problem()), (status, problem), "{metadata}: {refused:?}");
        let fields: Vec<_> =
            refused.json["errors"].as_array().unwrap().iter().map(|one| one["field"].clone()).collect();
        assert!(fields.contains(&json!(field)), "{metadata}: {fields:?}");
        assert!(!refused.json.to_string().contains("Erika"));
    }
    nothing_is_stored(&portal).await;
    // A refusal does not use up the key.
    portal.submit("k", METADATA, b"x").await;
}

#[tokio::test]
async fn routes_that_do_not_exist_are_explained() {
    let lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let metadata = |service: &str, ars: &str| {
        let (kind, key) = service.split_once(':').unwrap();
        json!({ "service": { kind: key }, "area": { "ars": ars } }).to_string()
    };
    for (service, ars, outcome) in [
        ("leika:99999999999999", "073150000000", "SERVICE_UNKNOWN"),
        ("ozg:10092", "079990000000", "AREA_UNKNOWN"),
        ("ozg:10257", "073150000000", "NOT_RESPONSIBLE"),
        ("ozg:10142", "064120000000", "AMBIGUOUS"),
        ("ozg:10124", "160560000000", "NOT_VALID"),
        ("ozg:10092", "07", "AREA_TOO_COARSE"),
        // Listed in the directory, but over a channel without an adapter here.
        ("ozg:10092", "010020000000", "NO_CHANNEL"),
    ] {
        let refused = portal.send(portal.submission("k", &metadata(service, ars), b"x")).await;
        assert_eq!((refused.status, refused.problem()), (422, "no-route"), "{service} {ars}: {refused:?}");
        assert_eq!(refused.json["outcome"], outcome);
        assert!(!refused.json["trace"].as_array().unwrap().is_empty());
        if outcome == "AMBIGUOUS" {
            assert_eq!(refused.json["candidates"], json!(["vsb:064120000000", "vsb:064120000001"]));
        }
    }
    nothing_is_stored(&portal).await;
}

#[tokio::test]
async fn bodies_that_are_wrong_or_too_large_are_refused() {
    let limits = "[limits]\nmetadata_bytes = 2048\nbody_bytes = 100000\nattachments = 2\n";
    let lab = Lab::start(Options { extra: limits.to_owned(), ..Options::default() }).await;
    let portal = lab.client("portal");
    let post = || portal.request(Method::POST, "/v1/submissions").header("Idempotency-Key", "k");
    let form = reqwest::multipart::Form::new;
    let file = || part("a.xml", "application/xml", b"x");
    let many = (0..3).fold(form().part("document", file()), |form, _| form.part("attachment", file()));
    let cases = [
        (portal.request(Method::POST, "/v1/submissions").multipart(form()), 400, "idempotency-key"),
        (portal.submission("ä", METADATA, b"x"), 400, "idempotency-key"),
        (portal.submission(&"k".repeat(256), METADATA, b"x"), 400, "idempotency-key"),
        (post().body("x"), 415, "multipart-required"),
        (post().multipart(form().part("metadata", text(METADATA))), 400, "part-missing"),
        (post().multipart(form().part("document", file())), 400, "part-missing"),
        (post().multipart(form().part("document", file()).part("document", file())), 400, "part-repeated"),
        (post().multipart(form().part("virus", file())), 400, "part-unknown"),
        (post().multipart(form().part("metadata", text(&" ".repeat(3000)))), 413, "metadata-too-large"),
        (portal.submission("k", METADATA, &[0; 200_000]), 413, "body-too-large"),
        (portal.submission("k", METADATA, &[0; 100_001]), 413, "body-too-large"),
        (post().multipart(many), 413, "too-many-attachments"),
    ];
    for (request, status, problem) in cases {
        let refused = portal.send(request).await;
        assert_eq!((refused.status, refused.problem()), (status, problem), "{refused:?}");
    }
    let largest = portal.send(portal.submission("largest", METADATA, &[0; 100_000])).await;
    assert_eq!(largest.status, 202, "exactly the limit");
    let withdrawn = format!("/v1/submissions/{}", largest.json["id"].as_str().unwrap());
    assert_eq!(portal.send(portal.request(Method::DELETE, &withdrawn)).await.status, 200);
    let truncated = "--b\r\nContent-Disposition: form-data; name=\"document\"\r\n\r\nhalf a docu";
    let request = post().header("Content-Type", "multipart/form-data; boundary=b").body(truncated);
    assert_eq!(portal.send(request).await.problem(), "body-incomplete");
    let stored = portal.get("/v1/submissions").await.json["submissions"].as_array().unwrap().len();
    assert_eq!(stored, 1, "only the largest");
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_nothing() {
    let lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let head = format!(
        "--b\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\r\n{METADATA}\r\n--b\r\nContent-Disposition: form-data; name=\"document\"\r\n\r\n"
    );
    // Three megabytes, enough for a file of its own, then the connection breaks.
    let pieces = std::iter::once(Ok(head.into_bytes()))
        .chain((0..3).map(|_| Ok(vec![b'x'; 1 << 20])))
        .chain(std::iter::once(Err(std::io::Error::other("gone"))));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let request = portal.request(Method::POST, "/v1/submissions").header("Idempotency-Key", "k");
    let sent = request.header("Content-Type", "multipart/form-data; boundary=b").body(body).send().await;
    assert!(sent.is_err());
    nothing_is_stored(&portal).await;
    // The same key still works, and after it the staging folder is empty again.
    portal.submit("k", METADATA, b"x").await;
    let staged = || std::fs::read_dir(lab.store().join("staging")).unwrap().count();
    let empty = async {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        while staged() > 0 {
            every.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), empty).await.unwrap();
}

#[tokio::test]
async fn strangers_are_told_apart_from_the_expired_and_the_unknown() {
    let lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let anonymous = lab.client_with(None);
    assert!(
        anonymous.request(Method::GET, "/v1/submissions").send().await.is_err(),
        "no certificate, no connection"
    );
    let foreign = Authority::new("foreign", SystemTime::from(amtsbote_testkit::time::noon())).unwrap();
    let issued = foreign.issue("portal", &Purpose::Client, KeyKind::P256).unwrap();
    let foreign =
        lab.client_with(Some(Identity::from_pem((issued.chain_pem + &issued.key_pem).as_bytes()).unwrap()));
    assert!(foreign.request(Method::GET, "/v1/submissions").send().await.is_err(), "a foreign authority");
    let unknown = lab.client("nobody").get("/v1/submissions").await;
    assert_eq!((unknown.status, unknown.problem()), (403, "unknown-account"));
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let expired = lab.pki.parties.issue_for(
        "portal-b",
        &Purpose::Client,
        KeyKind::P256,
        long_ago,
        Duration::from_secs(3600),
    );
    let expired = expired.unwrap();
    let expired =
        lab.client_with(Some(Identity::from_pem((expired.chain_pem + &expired.key_pem).as_bytes()).unwrap()));
    let refused = expired.get("/v1/submissions").await;
    assert_eq!((refused.status, refused.problem()), (403, "certificate-expired"));
    assert_eq!(lab.client("portal-b").get("/v1/submissions").await.status, 200, "by authority and subject");
    let department = lab.client("department");
    let wrong_role = department.send(department.submission("k", METADATA, b"x")).await;
    assert_eq!((wrong_role.status, wrong_role.problem()), (403, "role-missing"));
    nothing_is_stored(&portal).await;
}

#[tokio::test]
async fn what_belongs_to_others_is_like_what_does_not_exist() {
    let lab = Lab::start(Options::default()).await;
    let (portal, other) = (lab.client("portal"), lab.client("portal-b"));
    let (department, stranger) = (lab.client("department"), lab.client("stranger"));
    let id = portal.submit("1", METADATA, b"x").await;
    let (token, _) = department.lease(1).await;
    let unknown = "urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057";
    for suffix in ["", "/events", "/receipt"] {
        let foreign = other.get(&format!("/v1/submissions/{id}{suffix}")).await;
        let missing = other.get(&format!("/v1/submissions/{unknown}{suffix}")).await;
        assert_eq!(foreign, missing, "{suffix}");
        assert_eq!(foreign.status, 404);
    }
    for suffix in ["", "/document", "/attachments/1", "/signature"] {
        let foreign = stranger.get(&format!("/v1/mailbox/messages/{id}{suffix}")).await;
        let missing = stranger.get(&format!("/v1/mailbox/messages/{unknown}{suffix}")).await;
        assert_eq!(foreign, missing, "{suffix}");
    }
    let longer = stranger.request(Method::PATCH, &format!("/v1/mailbox/leases/{token}"));
    let foreign = stranger.send(longer.json(&json!({ "seconds": 60 }))).await;
    assert_eq!((foreign.status, foreign.problem()), (409, "lease-lost"));
    let reject = Some(json!({ "code": "x" }));
    let foreign = stranger.on_message(&id, "reject", Some(&token), reject.clone()).await;
    assert_eq!(foreign, stranger.on_message(unknown, "reject", Some(&token), reject).await);
    assert_eq!(foreign.status, 404);
    for action in ["acknowledge", "release"] {
        let foreign = stranger.on_message(&id, action, Some(&token), None).await;
        assert_eq!(foreign, stranger.on_message(unknown, action, Some(&token), None).await);
        assert_eq!(foreign.status, 404);
        let without = stranger.on_message(&id, action, None, None).await;
        assert_eq!(without, stranger.on_message(unknown, action, None, None).await, "{action} without token");
        let garbage = stranger.on_message(&id, action, Some("garbage"), None).await;
        assert_eq!((garbage.status, garbage.problem()), (404, "not-found"));
    }
    assert_eq!(other.send(other.request(Method::DELETE, &format!("/v1/submissions/{id}"))).await.status, 404);
    assert_eq!(stranger.post("/v1/mailbox/leases", &json!({})).await.json["messages"], json!([]));
    for wrong in ["not-an-id", "urn:uuid:x"] {
        assert_eq!(portal.get(&format!("/v1/submissions/{wrong}")).await.status, 404);
    }
}

#[tokio::test]
async fn leases_and_tokens_are_checked() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let id = portal.submit("1", METADATA, b"x").await;
    for body in [
        json!({ "max": 0 }),
        json!({ "max": 101 }),
        json!({ "seconds": 9 }),
        json!({ "seconds": 3601 }),
        json!({ "wait": 61 }),
        json!({ "lang": 1 }),
    ] {
        let refused = department.post("/v1/mailbox/leases", &body).await;
        assert_eq!((refused.status, refused.problem()), (400, "body-invalid"), "{body}");
    }
    let (token, _) = department.lease(1).await;
    assert_eq!(department.on_message(&id, "acknowledge", None, None).await.problem(), "lease-required");
    for wrong in ["nonsense", "01890a5d-ac96-774b-bcce-b302099a8057"] {
        let refused = department.on_message(&id, "acknowledge", Some(wrong), None).await;
        assert_eq!((refused.status, refused.problem()), (403, "lease-wrong"));
    }
    let unread = department.on_message(&id, "reject", Some(&token), Some(json!({ "code": "" }))).await;
    assert_eq!((unread.status, unread.problem()), (400, "body-invalid"));
    assert_eq!(department.on_message(&id, "acknowledge", Some(&token), None).await.status, 200);
    let range = department
        .request(Method::GET, &format!("/v1/mailbox/messages/{id}/document"))
        .header("Range", "bytes=5-");
    assert_eq!(department.send(range).await.status, 416);
    assert_eq!(portal.get("/v1/nothing").await.problem(), "not-found");
    let method = portal.send(portal.request(Method::PUT, "/v1/submissions")).await;
    assert_eq!((method.status, method.problem()), (405, "method-not-allowed"));
    for query in ["limit=0", "cursor=x", "wrong=1", "limit=many"] {
        assert_eq!(portal.get(&format!("/v1/submissions?{query}")).await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn a_lease_that_ran_out_is_refused_and_the_message_goes_to_the_next_worker() {
    let lab = Lab::start(Options::default()).await;
    let department = lab.client("department");
    let id = lab.client("portal").submit("1", METADATA, b"x").await;
    let shortest = json!({ "max": 1, "seconds": 10, "wait": 30 });
    let lost =
        department.post("/v1/mailbox/leases", &shortest).await.json["lease"].as_str().unwrap().to_owned();
    // Answered as soon as the first lease has run out.
    let (token, messages) = department.lease(1).await;
    assert_eq!(
        (&messages[0]["id"], &messages[0]["attempt"], &messages[0]["redelivered"]),
        (&json!(id), &json!(2), &json!(true))
    );
    let late = department.on_message(&id, "acknowledge", Some(&lost), None).await;
    assert_eq!((late.status, late.problem()), (409, "lease-lost"));
    let longer = department
        .request(Method::PATCH, &format!("/v1/mailbox/leases/{lost}"))
        .json(&json!({ "seconds": 60 }));
    let late = department.send(longer).await;
    assert_eq!((late.status, late.problem()), (409, "lease-lost"));
    assert_eq!(department.on_message(&id, "release", Some(&token), None).await.status, 200);
    for token in [&lost, &token] {
        let late = department.on_message(&id, "acknowledge", Some(token), None).await;
        assert_eq!((late.status, late.problem()), (409, "lease-lost"));
    }
    let (token, _) = department.lease(1).await;
    assert_eq!(department.on_message(&id, "acknowledge", Some(&token), None).await.status, 200);
}

#[tokio::test]
async fn an_account_that_calls_too_often_is_slowed_down() {
    let limits = "[limits]\nrequests_per_second = 1\n";
    let lab = Lab::start(Options { extra: limits.to_owned(), ..Options::default() }).await;
    let (portal, other) = (lab.client("portal"), lab.client("portal-b"));
    // Eight calls within one second are too many, however slow the machine is.
    let replies =
        futures::future::join_all((0..8).map(|_| portal.request(Method::GET, "/v1/submissions").send()));
    let replies: Vec<_> = replies.await.into_iter().map(Result::unwrap).collect();
    let header = |reply: &reqwest::Response, name: &str| {
        reply.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
    };
    for reply in &replies {
        assert_eq!(header(reply, "ratelimit-policy").as_deref(), Some("\"account\";q=1;w=1"));
        assert_eq!(header(reply, "ratelimit").as_deref(), Some("\"account\";r=0;t=1"));
    }
    assert!(replies.iter().any(|reply| reply.status() == 200));
    let refused = replies.into_iter().find(|reply| reply.status() == 429).unwrap();
    assert_eq!(header(&refused, "retry-after").as_deref(), Some("1"));
    assert_eq!(amtsbote_it::answer(refused).await.problem(), "too-many-requests");
    assert_eq!(other.get("/v1/submissions").await.status, 200);
}

#[tokio::test]
async fn bodies_that_stop_or_never_come_to_the_point_are_cut_off() {
    let lab =
        Lab::start(Options { extra: "[limits]\nstall = \"1s\"\n".to_owned(), ..Options::default() }).await;
    let portal = lab.client("portal");
    let post = |body: reqwest::Body| {
        let request = portal.request(Method::POST, "/v1/submissions").header("Idempotency-Key", "k");
        request.header("Content-Type", "multipart/form-data; boundary=b").body(body)
    };
    let beginning =
        futures::stream::iter([Ok::<_, std::io::Error>("--b\r\nContent-Disposition: form-data; name=")]);
    let stops = beginning.chain(futures::stream::pending());
    let stopped = portal.send(post(reqwest::Body::wrap_stream(stops))).await;
    assert_eq!((stopped.status, stopped.problem()), (408, "body-stalled"));
    let mut endless = b"--b\r\nX: ".to_vec();
    endless.resize(40 << 20, b'a');
    let refused = portal.send(post(endless.into())).await;
    assert_eq!((refused.status, refused.problem()), (400, "part-head-too-large"));
    nothing_is_stored(&portal).await;
    // JSON that never ends.
    let department = lab.client("department");
    let stops =
        futures::stream::iter([Ok::<_, std::io::Error>("{\"max\":")]).chain(futures::stream::pending());
    let request = department.request(Method::POST, "/v1/mailbox/leases");
    let request = request.header("Content-Type", "application/json").body(reqwest::Body::wrap_stream(stops));
    let cut = department.send(request).await;
    assert_eq!((cut.status, cut.problem()), (400, "body-invalid"));
}

#[tokio::test]
async fn what_is_no_id_names_nothing_and_operators_have_no_mailbox() {
    let lab = Lab::start(Options::default()).await;
    let (portal, operator) = (lab.client("portal"), lab.client("operator"));
    for path in ["/v1/submissions/%FF", "/v1/submissions/4711/events", "/v1/mailbox/messages/x/attachments/y"]
    {
        let answer = portal.get(path).await;
        assert_eq!((answer.status, answer.problem()), (404, "not-found"), "{path}");
    }
    let refused = operator.get("/v1/mailbox/messages").await;
    assert_eq!((refused.status, refused.problem()), (403, "role-missing"));
}

#[tokio::test]
async fn a_withdrawn_message_cannot_be_read_any_more() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let id = portal.submit("1", METADATA, b"x").await;
    // Seen without a lease; then the sender takes it back.
    let seen = async {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        while department.get("/v1/mailbox/messages").await.json["messages"] == json!([]) {
            every.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap();
    let withdrawn = portal.send(portal.request(Method::DELETE, &format!("/v1/submissions/{id}"))).await;
    assert_eq!(withdrawn.json["state"], "cancelled");
    for path in ["", "/document", "/signature"] {
        assert_eq!(department.get(&format!("/v1/mailbox/messages/{id}{path}")).await.status, 404);
    }
    let card = portal.get(&format!("/v1/submissions/{id}/events")).await.json;
    assert_eq!(card["events"].as_array().unwrap().last().unwrap()["event"], "cancelled");
}

/// Submits with a body that does not end before it is told to; again as long as it is refused for want of room.
async fn slow(portal: Party, key: String, end: tokio::sync::watch::Receiver<bool>) -> u16 {
    loop {
        let end = end.clone();
        let body = futures::stream::unfold(0, move |step| {
            let mut end = end.clone();
            async move {
                let piece = match step {
                    0 => format!(
                        "--b\r\ncontent-disposition: form-data; name=\"metadata\"\r\ncontent-type: application/json\r\n\r\n\
                         {METADATA}\r\n--b\r\ncontent-disposition: form-data; name=\"document\"\r\n\r\n"
                    ),
                    1 => {
                        drop(end.wait_for(|end| *end).await);
                        "x\r\n--b--\r\n".to_owned()
                    }
                    _ => return None,
                };
                Some((Ok::<_, std::io::Error>(piece.into_bytes()), step + 1))
            }
        });
        let request = portal
            .request(Method::POST, "/v1/submissions")
            .header("Idempotency-Key", &key)
            .header("Content-Type", "multipart/form-data; boundary=b")
            .body(reqwest::Body::wrap_stream(body));
        let answer = portal.send(request).await;
        if answer.status != 503 {
            return answer.status;
        }
    }
}

#[tokio::test]
async fn bodies_beyond_the_memory_for_them_are_refused_and_welcome_later() {
    let extra = "[limits]\nin_flight_bytes = 16777216\n".to_owned();
    let lab = Lab::start(Options { extra, ..Options::default() }).await;
    let portal = lab.client("portal");
    // Bodies that have begun and do not end: each reserves three MiB.
    let (end, ended) = tokio::sync::watch::channel(false);
    let senders: Vec<_> =
        (0..4).map(|n| tokio::spawn(slow(portal.clone(), format!("slow-{n}"), ended.clone()))).collect();
    // As soon as all four are being received, another large one is refused, a small one is not.
    let refused = async {
        let mut every = tokio::time::interval(std::time::Duration::from_millis(20));
        let mut n = 0;
        loop {
            every.tick().await;
            n += 1;
            let large = portal.submission(&format!("large-{n}"), METADATA, &vec![0; 2 << 20]);
            let answer = portal.send(large).await;
            if answer.status == 503 {
                return answer;
            }
        }
    };
    let refused = tokio::time::timeout(std::time::Duration::from_secs(60), refused).await.unwrap();
    assert_eq!(refused.problem(), "overloaded");
    portal.submit("small", METADATA, b"<antrag/>").await;
    end.send(true).unwrap();
    for sender in senders {
        assert_eq!(sender.await.unwrap(), 202);
    }
    portal.submit("later", METADATA, &vec![0; 2 << 20]).await;
}

#[tokio::test]
async fn what_people_wrote_reaches_neither_log_nor_metrics() {
    let lab = Lab::prepare(Options::default()).await;
    // Everything the gateway could say.
    let path = lab.path("amtsbote.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, after) = text.split_once("[log]\n").unwrap();
    let after: Vec<&str> = after.lines().filter(|line| !line.starts_with("level")).collect();
    let text = format!("{before}[log]\nlevel = \"trace\"\n{}\n", after.join("\n"));
    std::fs::write(&path, text).unwrap();
    let mut lab = lab;
    lab.start_gateway().await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let metadata = r#"{"service":{"ozg":"10092"},"area":{"ars":"073150000000"},"subject":"Mustermann-subject","caseId":"Mustermann-case"}"#;
    for n in 0..3 {
        portal
            .submit(&format!("Mustermann-key-{n}"), metadata, b"<antrag>Mustermann-document</antrag>")
            .await;
    }
    let refused =
        portal.submission("Mustermann-key-9", r#"{"subject":"Mustermann-subject"}"#, b"Mustermann-document");
    assert_eq!(portal.send(refused).await.status, 400);
    let conflict = portal.submission("Mustermann-key-0", metadata, b"Mustermann-other");
    assert_eq!(portal.send(conflict).await.status, 409);
    let reason = serde_json::json!({ "code": "unreadable", "detail": "Mustermann-detail" });
    let mut ids = Vec::new();
    // One by one: each of them takes its own time to get there.
    for (action, reason) in [("acknowledge", None), ("reject", Some(reason)), ("release", None)] {
        let (token, leased) = department.lease(1).await;
        department.bytes(leased[0]["document"]["href"].as_str().unwrap()).await;
        let id = leased[0]["id"].as_str().unwrap().to_owned();
        assert_eq!(department.on_message(&id, action, Some(&token), reason).await.status, 200);
        ids.push(id);
    }
    let metrics = lab.telemetry("/metrics").await.1;
    lab.stop_gateway().await;
    let log = lab.log();
    assert!(log.contains(&ids[0]) || log.len() > 1_000, "the log says something: {log}");
    for said in [log, metrics] {
        let leaks: Vec<&str> = said.lines().filter(|line| line.contains("Mustermann")).collect();
        assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    }
}
