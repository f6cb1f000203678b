//! The gateway as a client of servers that answer whatever the test wants: sendMessageSync, and a mailbox that lies.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use amtsbote_it::endpoint::serve_tls;
use amtsbote_it::soap::{NAMESPACES, SoapAnswer, operation};
use amtsbote_it::{Lab, Options, Party};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Notify;

use crate::xta::{Order, content};

/// What the reader does with the next request.
#[derive(Debug, Clone)]
enum Act {
    /// Answers with this document.
    Answer(&'static str),
    /// Refuses with this number and exception.
    Fault(u16, &'static str),
    /// Answers with something else.
    Nonsense,
    /// Answers with an envelope.
    Say(String),
    /// Answers when it is told to.
    Wait(Arc<Notify>),
}

/// A reader that answers orders at once.
#[derive(Default)]
struct Reader {
    acts: Mutex<VecDeque<Act>>,
    /// Action and envelope of every request.
    asked: Mutex<Vec<(String, String)>>,
}

impl Reader {
    fn will(&self, act: Act) {
        self.acts.lock().unwrap().push_back(act);
    }

    fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().unwrap().clone()
    }

    async fn answer(&self, headers: HeaderMap, body: String) -> axum::response::Response {
        let content_type = headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let id = body.split_once("<wsa:MessageID>urn:de:").map(|(_, rest)| rest.split_once('<').unwrap().0);
        let id = id.unwrap_or_default().to_owned();
        self.asked.lock().unwrap().push((content_type, body));
        let act = self.acts.lock().unwrap().pop_front().unwrap_or(Act::Nonsense);
        let (status, text) = match act {
            Act::Answer(document) => (StatusCode::OK, answer(&id, document)),
            Act::Wait(go) => {
                go.notified().await;
                (StatusCode::OK, answer(&id, "<late/>"))
            }
            Act::Say(text) => (StatusCode::OK, text),
            Act::Nonsense => (StatusCode::OK, "<html/>".to_owned()),
            Act::Fault(number, exception) => (StatusCode::INTERNAL_SERVER_ERROR, fault(number, exception)),
        };
        (status, [(header::CONTENT_TYPE, "application/soap+xml; charset=utf-8")], text).into_response()
    }

    /// Serves until the test ends; the base address.
    async fn serve(self: &Arc<Self>, pki: &Path) -> String {
        let reader = Arc::clone(self);
        let router = axum::Router::new().fallback(move |headers: HeaderMap, body: String| {
            let reader = Arc::clone(&reader);
            async move { reader.answer(headers, body).await }
        });
        serve_tls(pki, false, router).await
    }
}

/// The answer of a reader to an order.
fn answer(id: &str, document: &str) -> String {
    let order = Order::new("urn:de:xta:messageid:leser:1").header();
    let related = format!("</wsa:MessageID><meta:In-Reply-To>urn:de:{id}</meta:In-Reply-To>");
    let order = order.replace("</wsa:MessageID>", &related);
    let body = content(document.as_bytes(), &[b"bescheid.pdf"]);
    format!(
        "<env:Envelope {NAMESPACES}><env:Header>{order}</env:Header><env:Body>{body}</env:Body></env:Envelope>"
    )
}

fn fault(number: u16, exception: &str) -> String {
    format!(
        "<env:Envelope {NAMESPACES}><env:Body><env:Fault><env:Code><env:Value>env:Receiver</env:Value></env:Code><env:Reason><env:Text xml:lang=\"de\">Nein</env:Text></env:Reason><env:Detail><xta:{exception}><xta:errorCode><code>{number}</code></xta:errorCode></xta:{exception}></env:Detail></env:Fault></env:Body></env:Envelope>"
    )
}

/// A gateway in front of a reader that answers at once.
async fn lab(reader: &Arc<Reader>, more: &str) -> Lab {
    let mut lab = Lab::prepare(Options { channel: "xta://office".to_owned(), ..Options::default() }).await;
    let server = server(&lab, reader, "").await;
    lab.write_configuration(&format!("{more}\n{server}"));
    lab.start_gateway().await;
    lab
}

/// The section of a configuration that names the reader as a server.
async fn server(lab: &Lab, reader: &Arc<Reader>, more: &str) -> String {
    let base = reader.serve(&lab.path("pki")).await;
    format!(
        "[xta_servers.office]\nsend = \"{base}/send\"\nmanagement = \"{base}/management\"\nmsgbox = \"{base}/msgbox\"\n\
         certificate = \"pki/portal.pem\"\nkey = \"pki/portal.key\"\nca = [\"pki/ca.pem\"]\nidentifier = \"ags:07315000\"\n{more}"
    )
}

async fn ask(portal: &Party, id: &str, document: &[u8]) -> SoapAnswer {
    portal.soap("sendMessageSync", &Order::new(id).header(), &content(document, &[b"anlage"])).await
}

/// Status in the report of the newest order, and its state by REST.
async fn state(portal: &Party, id: &str) -> (String, String) {
    let xta =
        portal.soap("getTransportReport", "", &format!("<wsa:MessageID>{id}</wsa:MessageID>")).await.ok();
    let list = portal.get("/v1/submissions").await.json;
    let entries = list["submissions"].as_array().unwrap();
    let newest = entries.iter().max_by_key(|one| one["id"].as_str()).unwrap();
    (xta.text("Status"), newest["state"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_synchronous_order_brings_the_answer_of_the_reader() {
    let reader = Arc::new(Reader::default());
    let lab = lab(&reader, "").await;
    let portal = lab.client("portal");
    reader.will(Act::Answer("<bescheid/>"));
    let id = "urn:de:xta:messageid:fv:sync";
    for answer in [
        ask(&portal, id, b"<anfrage/>").await.ok(),
        // Asked again, the same answer; the reader is not asked again.
        ask(&portal, id, b"<anfrage/>").await.ok(),
    ] {
        assert_eq!(STANDARD.decode(answer.text("Message")).unwrap(), b"<bescheid/>");
        assert_eq!(STANDARD.decode(answer.text("Attachment")).unwrap(), b"bescheid.pdf");
        assert_eq!(answer.text("In-Reply-To"), id);
        assert!(answer.texts("MessageID").contains(&"urn:de:xta:messageid:leser:1".to_owned()));
    }
    let asked = reader.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].0.contains(&operation("sendMessageSync").1), "{}", asked[0].0);
    assert!(asked[0].1.contains(id) && asked[0].1.contains("<anfrage/>"));
    assert_eq!(state(&portal, id).await, ("1".to_owned(), "delivered".to_owned()));
    assert_eq!(ask(&portal, id, b"<andere/>").await.fault_code(), "9024");
    // In a package the answer is a package.
    reader.will(Act::Answer("<bescheid n='2'/>"));
    let order = Order::new("urn:de:xta:messageid:fv:sync2").header();
    let packed = portal.soap_mtom("sendMessageSync", &order, &content(b"<anfrage/>", &[]), &[]).await.ok();
    assert!(String::from_utf8_lossy(&packed.bytes).contains("<bescheid n='2'/>"));
    lab.recorded_answers_are_valid();
}

#[tokio::test]
async fn a_reader_that_does_not_answer_is_a_fault_and_not_asked_again() {
    let reader = Arc::new(Reader::default());
    let mut lab = lab(&reader, "").await;
    let portal = lab.client("portal");
    for (number, exception, expected) in [
        (9080, "SyncAsyncException", "9080"),
        (9022, "ParameterIsNotValidException", "9032"),
        (9030, "XTAWSTechnicalProblemException", "9032"),
    ] {
        reader.will(Act::Fault(number, exception));
        let id = format!("urn:de:xta:messageid:fv:fault-{number}");
        for _ in 0..2 {
            assert_eq!(ask(&portal, &id, b"<anfrage/>").await.fault_code(), expected, "{number}");
        }
        assert_eq!(state(&portal, &id).await, ("3".to_owned(), "dead".to_owned()));
    }
    reader.will(Act::Nonsense);
    assert_eq!(ask(&portal, "urn:de:xta:messageid:fv:nonsense", b"<anfrage/>").await.fault_code(), "9032");
    assert_eq!(reader.asked().len(), 4);

    // A gateway that is killed meanwhile does not ask again either.
    reader.will(Act::Wait(Arc::new(Notify::new())));
    let id = "urn:de:xta:messageid:fv:killed";
    let waiting = tokio::spawn({
        let portal = lab.client("portal");
        async move {
            let header = Order::new(id).header();
            let (path, action) = operation("sendMessageSync");
            let text = amtsbote_it::soap::envelope(&action, &header, &content(b"<anfrage/>", &[]));
            let content_type = format!("application/soap+xml; charset=utf-8; action=\"{action}\"");
            let request = portal.request(reqwest::Method::POST, path).header("Content-Type", content_type);
            request.body(text).send().await.map(drop)
        }
    });
    while reader.asked().len() < 5 {
        tokio::task::yield_now().await;
    }
    lab.kill_gateway().await;
    assert!(waiting.await.unwrap().is_err());
    lab.start_gateway().await;
    let portal = lab.client("portal");
    assert_eq!(state(&portal, id).await, ("0".to_owned(), "attempting".to_owned()));
    assert_eq!(reader.asked().len(), 5);
    lab.recorded_answers_are_valid();
}

#[tokio::test]
async fn an_author_waits_no_longer_than_configured() {
    let reader = Arc::new(Reader::default());
    let lab = lab(&reader, "[xta]\nanswer_within = \"1s\"\n").await;
    let portal = lab.client("portal");
    reader.will(Act::Wait(Arc::new(Notify::new())));
    let id = "urn:de:xta:messageid:fv:slow";
    assert_eq!(ask(&portal, id, b"<anfrage/>").await.fault_code(), "9032");
    assert_eq!(state(&portal, id).await, ("3".to_owned(), "dead".to_owned()));
    lab.recorded_answers_are_valid();
}

#[tokio::test]
async fn another_order_than_was_asked_for_is_not_taken() {
    let reader = Arc::new(Reader::default());
    let [listed, sent] = [Order::new("urn:de:xta:messageid:hub:a"), Order::new("urn:de:xta:messageid:hub:b")];
    let say = |headers: &str, body: &str| {
        Act::Say(amtsbote_it::soap::envelope("urn:x", headers, body).replace("urn:uuid:1", "urn:uuid:2"))
    };
    for order in [&sent, &listed] {
        reader.will(say("", &format!("<osci:MsgStatusList>{}</osci:MsgStatusList>", listed.header())));
        reader.will(say(&order.header(), &content(b"<antrag/>", &[])));
    }
    let mut lab = Lab::prepare(Options::default()).await;
    let server = server(&lab, &reader, "poll = \"1s\"\naccount = \"portal\"\n").await;
    lab.write_configuration(&server);
    lab.start_gateway().await;
    // The second time it is the right one.
    let department = lab.client("department");
    let (_, messages) = department.lease(1).await;
    let id = &messages[0]["externalIds"][0]["value"];
    assert_eq!(id, listed.id);
    while reader.asked().len() < 5 {
        tokio::task::yield_now().await;
    }
    let closes =
        reader.asked().iter().map(|(action, _)| action.contains("MsgBoxCloseRequest")).collect::<Vec<_>>();
    assert_eq!(closes[..5], [false, false, false, false, true]);
}
