//! Delivery to a real, private RabbitMQ.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use amtsbote_certs::{KeyKind, Purpose};
use amtsbote_it::{Lab, METADATA, Options, part, sha256, text, verifies};
use amtsbote_testkit::rabbitmq::{Rabbitmq, RabbitmqOptions};
use base64::Engine as _;
use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties, Consumer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn broker_section(url: &str) -> String {
    format!(
        "[retry]\nfirst = \"1s\"\nlongest = \"2s\"\n[brokers.main]\nurl = \"{url}\"\nusername = \"guest\"\npassword_file = \"password\"\n"
    )
}

/// A laboratory whose department reads a queue.
async fn lab(url: &str, channel: &str, extra: &str) -> Lab {
    let options = Options {
        extra: format!("{}{extra}", broker_section(url)),
        channel: channel.to_owned(),
        ..Options::default()
    };
    let mut lab = Lab::prepare(options).await;
    std::fs::write(lab.path("password"), "guest\n").unwrap();
    lab.start_gateway().await;
    lab
}

fn plain(broker: &Rabbitmq) -> String {
    format!("amqp://127.0.0.1:{}/%2f", broker.port)
}

/// A broker with the queue of the department.
async fn broker_with_queue() -> Rabbitmq {
    let queues = vec![("dept.q".to_owned(), false)];
    Rabbitmq::start(&RabbitmqOptions { queues, ..RabbitmqOptions::default() }).await
}

async fn consumer(broker: &Rabbitmq, queue: &str) -> (Connection, Consumer) {
    let connection = Connection::connect(&broker.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let consumer = channel
        .basic_consume(queue.into(), "test".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .unwrap();
    (connection, consumer)
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let delivery = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await;
    let delivery = delivery.unwrap().unwrap().unwrap();
    delivery.ack(BasicAckOptions::default()).await.unwrap();
    delivery
}

fn header(delivery: &Delivery, name: &str) -> Value {
    let headers = delivery.properties.headers().as_ref().unwrap();
    match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => json!(text.to_string()),
        Some(AMQPValue::LongInt(number)) => json!(number),
        Some(AMQPValue::Boolean(flag)) => json!(flag),
        other => panic!("{name}: {other:?}"),
    }
}

/// Polls a submission until it is in a state, bounded.
async fn reaches(lab: &Lab, id: &str, wanted: &str) -> Value {
    let portal = lab.client("portal");
    let reached = async {
        let mut every = tokio::time::interval(Duration::from_millis(50));
        loop {
            every.tick().await;
            let state = portal.get(&format!("/v1/submissions/{id}")).await.json;
            if state["state"] == wanted {
                return;
            }
        }
    };
    if tokio::time::timeout(Duration::from_secs(180), reached).await.is_err() {
        let card = portal.get(&format!("/v1/submissions/{id}/events")).await.json;
        panic!("{id} did not become {wanted}: {card:#}");
    }
    portal.get(&format!("/v1/submissions/{id}/events")).await.json["events"].clone()
}

fn last_failure(events: &Value) -> String {
    let failed =
        events.as_array().unwrap().iter().rev().find(|event| event["event"] == "attempt-failed").unwrap();
    failed["reason"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_message_reaches_a_queue_with_everything_a_department_needs() {
    let broker = broker_with_queue().await;
    let lab = lab(&plain(&broker), "amqp://main?queue=dept.q", "[amqp]\ninline_max_bytes = 1000\n").await;
    let (_connection, mut consumer) = consumer(&broker, "dept.q").await;
    let id = lab.client("portal").submit("1", METADATA, b"<antrag/>").await;
    let delivery = next(&mut consumer).await;
    let properties = &delivery.properties;
    assert_eq!(delivery.data, b"<antrag/>");
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id);
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "4711");
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/xml");
    assert_eq!(*properties.delivery_mode(), Some(2), "persistent");
    assert_eq!(
        (header(&delivery, "amtsbote-attempt"), header(&delivery, "amtsbote-redelivered")),
        (json!(1), json!(false))
    );
    assert_eq!(header(&delivery, "amtsbote-parts"), json!("[]"));
    let signature = header(&delivery, "amtsbote-signature");
    let signature = base64::engine::general_purpose::STANDARD.decode(signature.as_str().unwrap()).unwrap();
    std::fs::write(lab.path("document"), &delivery.data).unwrap();
    std::fs::write(lab.path("signature"), signature).unwrap();
    assert!(verifies(&lab, "document"));
    let events = reaches(&lab, &id, "delivered").await;
    assert!(
        events.as_array().unwrap().iter().any(|event| event["proof"] == "confirmed by broker main"),
        "{events:#}"
    );

    // A larger document and all attachments are references that the department may fetch.
    let large = vec![b'x'; 5000];
    let second = lab.client("portal").submit("2", METADATA, &large).await;
    let delivery = next(&mut consumer).await;
    assert_eq!((delivery.data.len(), header(&delivery, "amtsbote-document")), (0, json!("referenced")));
    let parts: Value = serde_json::from_str(header(&delivery, "amtsbote-parts").as_str().unwrap()).unwrap();
    assert_eq!((&parts[0]["sha256"], &parts[0]["size"]), (&json!(sha256(&large)), &json!(5000)));
    let href = parts[0]["href"].as_str().unwrap();
    assert!(href.contains(&second));
    assert_eq!(lab.client("department").bytes(href).await, large);
    assert_eq!(lab.client("stranger").get(href).await.status, 404);
}

#[tokio::test]
async fn returned_refused_and_oversized_messages_are_failures_with_reasons() {
    let options = RabbitmqOptions {
        queues: vec![("full.q".to_owned(), true), ("dept.q".to_owned(), false)],
        max_message_size: Some(200_000),
        ..RabbitmqOptions::default()
    };
    let broker = Rabbitmq::start(&options).await;
    for (channel, document, state, code) in [
        ("amqp://main?queue=missing.q", 10, "waiting", "returned"),
        ("amqp://main?queue=full.q", 10, "waiting", "nacked"),
        ("amqp://main?exchange=missing&key=k", 10, "waiting", "broker-refuses"),
        ("amqp://main?queue=dept.q", 300_000, "dead", "too-large-for-broker"),
    ] {
        let lab = lab(&plain(&broker), channel, "").await;
        let id = lab.client("portal").submit("1", METADATA, &vec![b'x'; document]).await;
        let events = reaches(&lab, &id, state).await;
        assert_eq!(last_failure(&events), code, "{channel}: {events:#}");
        if state == "dead" {
            let shown = lab.client("portal").get(&format!("/v1/submissions/{id}")).await.json;
            assert_eq!(shown["reason"]["cause"], "permanent");
        }
    }
}

#[tokio::test]
async fn a_broker_that_goes_down_gets_everything_once_it_is_back() {
    let mut broker = broker_with_queue().await;
    let lab = lab(&plain(&broker), "amqp://main?queue=dept.q", "").await;
    let first = lab.client("portal").submit("1", METADATA, b"before").await;
    reaches(&lab, &first, "delivered").await;
    broker.stop();
    let second = lab.client("portal").submit("2", METADATA, b"during").await;
    let events = reaches(&lab, &second, "waiting").await;
    assert!(
        ["broker-unreachable", "outcome-unknown"].contains(&last_failure(&events).as_str()),
        "{events:#}"
    );
    broker.start_again().await;
    reaches(&lab, &second, "delivered").await;
    let (_connection, mut consumer) = consumer(&broker, "dept.q").await;
    let mut arrived = std::collections::BTreeMap::new();
    while arrived.len() < 2 {
        let delivery = next(&mut consumer).await;
        arrived.insert(delivery.data.clone(), header(&delivery, "amtsbote-redelivered"));
    }
    assert_eq!(arrived[b"during".as_slice()], json!(true), "a repeated hand-over is marked");
}

#[tokio::test]
async fn a_queue_is_declared_where_the_operator_wants_it() {
    let broker = Rabbitmq::start(&RabbitmqOptions::default()).await;
    let lab = lab(&plain(&broker), "amqp://main?queue=new.q", "declare_queues = true\n").await;
    for n in 0..3 {
        let id = lab.client("portal").submit(&n.to_string(), METADATA, b"<antrag/>").await;
        reaches(&lab, &id, "delivered").await;
    }
    let queues = broker.control(&["list_queues", "name", "type"]).await;
    assert!(queues.contains("new.q\tquorum"), "{queues}");
    let (_connection, mut consumer) = consumer(&broker, "new.q").await;
    for _ in 0..3 {
        next(&mut consumer).await;
    }
}

#[tokio::test]
async fn a_blocked_broker_is_left_alone_until_it_recovers() {
    let broker = broker_with_queue().await;
    let lab = lab(&plain(&broker), "amqp://main?queue=dept.q", "[engine]\nattempt_lease = \"4s\"\n").await;
    let first = lab.client("portal").submit("1", METADATA, b"1").await;
    reaches(&lab, &first, "delivered").await;
    broker.control(&["set_vm_memory_high_watermark", "0"]).await;
    let second = lab.client("portal").submit("2", METADATA, b"2").await;
    let events = reaches(&lab, &second, "waiting").await;
    assert!(["broker-blocked", "timeout"].contains(&last_failure(&events).as_str()), "{events:#}");
    broker.control(&["set_vm_memory_high_watermark", "0.4"]).await;
    reaches(&lab, &second, "delivered").await;
}

#[tokio::test]
async fn brokers_are_reached_over_mutual_tls() {
    let mut lab = Lab::prepare(Options::default()).await;
    lab.pki.add("gateway", &Purpose::Client, KeyKind::P256).unwrap();
    let pki = |name: &str| lab.path("pki").join(name);
    let tls = Some((pki("server.pem"), pki("server.key"), pki("ca.pem")));
    let queues = vec![("dept.q".to_owned(), false)];
    let broker = Rabbitmq::start(&RabbitmqOptions { tls, queues, ..RabbitmqOptions::default() }).await;
    let section = |authority: &str| {
        format!(
            "[retry]\nfirst = \"1s\"\nlongest = \"2s\"\n[brokers.main]\nurl = \"amqps://127.0.0.1:{}/%2f\"\nca = \"pki/{authority}\"\n\
             certificate = \"pki/gateway.pem\"\nkey = \"pki/gateway.key\"\n",
            broker.tls_port
        )
    };
    let configuration = std::fs::read_to_string(lab.path("amtsbote.toml")).unwrap();
    let write = |path: &Path, authority: &str| {
        let text = configuration.replace("channel = \"mailbox\"", "channel = \"amqp://main?queue=dept.q\"");
        std::fs::write(path, section(authority) + &text).unwrap();
    };
    // A broker with a certificate of another authority gets nothing.
    write(&lab.path("amtsbote.toml"), "seal-ca.pem");
    lab.start_gateway().await;
    let id = lab.client("portal").submit("1", METADATA, b"secret").await;
    let events = reaches(&lab, &id, "waiting").await;
    assert_eq!(last_failure(&events), "broker-unreachable");
    lab.stop_gateway().await;
    write(&lab.path("amtsbote.toml"), "ca.pem");
    lab.start_gateway().await;
    reaches(&lab, &id, "delivered").await;
    let (_connection, mut consumer) = consumer(&broker, "dept.q").await;
    assert_eq!(next(&mut consumer).await.data, b"secret");
}

/// Stands between gateway and broker; breaks the connection as soon as some bytes have passed on to the broker.
async fn breaking_proxy(broker: u16, at: &'static [u8]) -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let broken = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        loop {
            let (mut near, _) = socket.accept().await.unwrap();
            let mut far = TcpStream::connect(("127.0.0.1", broker)).await.unwrap();
            let broken = Arc::clone(&broken);
            tokio::spawn(async move {
                let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
                loop {
                    tokio::select! {
                        read = near.read(&mut up) => {
                            let Ok(read @ 1..) = read else { return };
                            far.write_all(&up[..read]).await.unwrap();
                            if up[..read].windows(at.len()).any(|window| window == at) && !broken.swap(true, Ordering::SeqCst) {
                                // The broker reads what was written before it notices the end; no confirm comes back.
                                far.shutdown().await.unwrap();
                                while far.read(&mut down).await.is_ok_and(|read| read > 0) {}
                                return;
                            }
                        }
                        read = far.read(&mut down) => {
                            let Ok(read @ 1..) = read else { return };
                            near.write_all(&down[..read]).await.unwrap();
                        }
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_confirm_that_is_lost_leads_to_a_marked_repetition() {
    let broker = broker_with_queue().await;
    let proxy = breaking_proxy(broker.port, b"<lost-confirm/>").await;
    let lab = lab(&format!("amqp://127.0.0.1:{proxy}/%2f"), "amqp://main?queue=dept.q", "").await;
    let id = lab.client("portal").submit("1", METADATA, b"<lost-confirm/>").await;
    let events = reaches(&lab, &id, "delivered").await;
    assert_eq!(last_failure(&events), "outcome-unknown");
    let (_connection, mut consumer) = consumer(&broker, "dept.q").await;
    let mut marks = Vec::new();
    while marks.last() != Some(&json!(true)) {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.data, b"<lost-confirm/>");
        marks.push(header(&delivery, "amtsbote-redelivered"));
    }
    assert!(marks == [json!(true)] || marks == [json!(false), json!(true)], "{marks:?}");
}

#[tokio::test]
async fn a_message_whose_references_fit_no_frame_is_dead_lettered_and_hurts_nobody() {
    let broker = broker_with_queue().await;
    let lab = lab(&plain(&broker), "amqp://main?queue=dept.q", "").await;
    let portal = lab.client("portal");
    let mut form = reqwest::multipart::Form::new()
        .part("metadata", text(METADATA))
        .part("document", part("a", "a/b", b"x"));
    for n in 0..700 {
        form = form.part("attachment", part(&format!("{n}{}", "x".repeat(100)), "application/pdf", b"x"));
    }
    let request = portal.request(reqwest::Method::POST, "/v1/submissions").header("Idempotency-Key", "many");
    let many = portal.send(request.multipart(form)).await;
    assert_eq!(many.status, 202, "{many:?}");
    let events = reaches(&lab, many.json["id"].as_str().unwrap(), "dead").await;
    assert_eq!(last_failure(&events), "too-large-for-broker");
    let good = portal.submit("good", METADATA, b"good").await;
    let events = reaches(&lab, &good, "delivered").await;
    assert!(events.as_array().unwrap().iter().all(|event| event["event"] != "attempt-failed"), "{events:#}");
}
