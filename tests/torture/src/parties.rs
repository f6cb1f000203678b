//! Portals that never give up on a key, and departments that poll, read queues, and sometimes break down.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use amtsbote_it::{part, sha256, text};
use futures::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use crate::book::{Book, Fate, Taken};
use crate::node::Addresses;

/// Pause before a request is repeated.
const AGAIN: Duration = Duration::from_millis(20);
/// A request takes at most so long, then it is repeated.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where messages go: service, area, and the department's name in the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lane {
    /// Name in the book; of the queue, if it has one.
    pub(crate) name: &'static str,
    service: &'static str,
    area: &'static str,
}

/// A mailbox.
pub(crate) const MAILBOX: Lane = Lane { name: "mailbox", service: "10092", area: "073150000000" };
/// A queue.
pub(crate) const QUEUE: Lane = Lane { name: "torture.q", service: "10026", area: "073150000000" };
/// Another queue, for little traffic.
pub(crate) const QUIET: Lane = Lane { name: "quiet.q", service: "10092", area: "064110000000" };
/// A queue that does not exist.
pub(crate) const DOWN: Lane = Lane { name: "gone.q", service: "10119", area: "073150000000" };

/// What everybody outside the gateway shares.
pub(crate) struct Outside {
    /// The laboratory's journal.
    pub(crate) book: Book,
    /// Where the gateway is now, if anywhere.
    pub(crate) gateway: RwLock<Option<Addresses>>,
    /// Portals stop after their current key.
    pub(crate) closing: AtomicBool,
    /// Departments stop.
    pub(crate) ended: AtomicBool,
    /// Whether departments break down on poisoned documents, and how often they break down anyway, per mille.
    pub(crate) careless: u32,
    seed: u64,
}

/// Somebody with a certificate.
#[derive(Clone)]
pub(crate) struct Caller {
    client: Client,
    outside: Arc<Outside>,
}

impl Outside {
    /// Nobody has done anything yet.
    pub(crate) fn new(seed: u64, careless: u32) -> Arc<Self> {
        Arc::new(Self {
            book: Book::default(),
            gateway: RwLock::default(),
            closing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            careless,
            seed,
        })
    }
}

impl Caller {
    /// A caller with a client that has its certificate.
    pub(crate) fn new(client: Client, outside: &Arc<Outside>) -> Self {
        Self { client, outside: Arc::clone(outside) }
    }

    /// A request to where the gateway is now.
    fn request(&self, method: Method, path: &str) -> Option<RequestBuilder> {
        let exchange = (*self.outside.gateway.read().unwrap())?.exchange;
        Some(self.client.request(method, format!("https://{exchange}{path}")).timeout(PATIENCE))
    }

    /// Status and JSON; `None` if there was no answer.
    async fn ask(&self, request: Option<RequestBuilder>) -> Option<(u16, Value)> {
        let reply = request?.send().await.ok()?;
        let status = reply.status().as_u16();
        let body = reply.bytes().await.ok()?;
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let reply = self.request(Method::GET, path)?.send().await.ok()?;
        if !reply.status().is_success() {
            return None;
        }
        Some(reply.bytes().await.ok()?.to_vec())
    }

    /// What became of a message that is not settled.
    pub(crate) async fn fate(&self, id: &str, lane: Lane) -> Fate {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let asked = self.ask(self.request(Method::GET, &format!("/v1/submissions/{id}"))).await;
            let Some((200, answer)) = asked else {
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            return match answer["state"].as_str().unwrap_or_default() {
                "acknowledged" => Fate::Taken(Taken::Acknowledged),
                "rejected" => Fate::Taken(Taken::Refused),
                "dead" if answer["reason"]["last"]["code"] == "damaged" => Fate::Lost,
                "dead" => Fate::Dead,
                "delivered" | "fetched" if lane == MAILBOX => Fate::Parked,
                "delivered" | "fetched" | "cancelled" | "expired" => Fate::Lost,
                _ => Fate::Parked,
            };
        }
        Fate::Lost
    }

    /// What happened to a message last, as its sender is told.
    pub(crate) async fn card(&self, id: &str) -> String {
        let asked = self.ask(self.request(Method::GET, &format!("/v1/submissions/{id}/events"))).await;
        let Some((_, card)) = asked else { return "no answer".to_owned() };
        let events = card["events"].as_array().map_or(&[][..], Vec::as_slice);
        let last: Vec<String> = events.iter().rev().take(5).map(Value::to_string).collect();
        last.join(", before that ")
    }

    /// Submits one message and repeats it until there is an answer or the laboratory ends; whether it was accepted.
    async fn submit(&self, lane: Lane, key: &str, document: &[u8]) -> bool {
        let metadata =
            json!({ "service": { "ozg": lane.service }, "area": { "ars": lane.area } }).to_string();
        while !self.outside.ended.load(Ordering::Relaxed) {
            let sent = Instant::now();
            let form = reqwest::multipart::Form::new()
                .part("metadata", text(&metadata))
                .part("document", part("antrag.bin", "application/octet-stream", document));
            let request = self.request(Method::POST, "/v1/submissions");
            let request = request.map(|request| request.header("Idempotency-Key", key).multipart(form));
            match self.ask(request).await {
                Some((200 | 202, answer)) => {
                    let id = answer["id"].as_str().unwrap_or_default().to_owned();
                    self.outside.book.accepted(id, sha256(document), lane, sent);
                    return true;
                }
                Some((status, answer)) if !matches!(status, 429 | 500..=599) => {
                    panic!("{key} was refused with {status}: {answer}");
                }
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
        false
    }

    /// A portal: one message after the other, until it is closed.
    pub(crate) async fn portal(self, name: String, lanes: Vec<Lane>, pause: Duration) {
        let seed = name.bytes().fold(self.outside.seed, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
        let mut random = StdRng::seed_from_u64(seed);
        for number in 0.. {
            if self.outside.closing.load(Ordering::Relaxed) {
                return;
            }
            let lane = lanes[random.random_range(0..lanes.len())];
            let document = document(&mut random, self.outside.careless);
            self.submit(lane, &format!("{name}-{number}"), &document).await;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// A department that polls its mailbox.
    pub(crate) async fn department(self, name: u64) {
        let mut random = StdRng::seed_from_u64(self.outside.seed ^ name);
        while !self.outside.ended.load(Ordering::Relaxed) {
            let body = json!({ "max": 50, "seconds": 10, "wait": 1 });
            let request = self.request(Method::POST, "/v1/mailbox/leases").map(|request| request.json(&body));
            let Some((201, lease)) = self.ask(request).await else {
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            let token = lease["lease"].as_str().unwrap_or_default();
            for message in lease["messages"].as_array().map_or(&[][..], Vec::as_slice) {
                self.take(message, token, &mut random).await;
            }
        }
    }

    async fn take(&self, message: &Value, token: &str, random: &mut StdRng) {
        let (Some(id), Some(href)) = (message["id"].as_str(), message["document"]["href"].as_str()) else {
            return;
        };
        let Some(content) = self.bytes(href).await else { return };
        let attempt = message["attempt"].as_u64().unwrap_or(0);
        let marked = message["redelivered"].as_bool().unwrap_or(false);
        self.outside.book.arrived(id.to_owned(), sha256(&content), marked);
        let poisoned = content.starts_with(POISON);
        let action = match () {
            // It crashes on it twice, then it refuses it.
            () if poisoned && attempt < 3 => return,
            () if poisoned => "reject",
            () if random.random_range(0..1000) < self.outside.careless => return,
            () if random.random_range(0..1000) < self.outside.careless => "release",
            () => "acknowledge",
        };
        let path = format!("/v1/mailbox/messages/{id}/{action}");
        let request =
            self.request(Method::POST, &path).map(|request| request.header("Amtsbote-Lease", token));
        let body = json!({ "code": "unreadable", "detail": "cannot be parsed" });
        let request = request.map(|request| if poisoned { request.json(&body) } else { request });
        // Without an answer the lease runs out and the message comes again, marked.
        let taken = match (self.ask(request).await, action) {
            (Some((200, _)), "reject") => Taken::Refused,
            (Some((200, _)), "acknowledge") => Taken::Acknowledged,
            _ => return,
        };
        self.outside.book.taken(id.to_owned(), taken);
    }
}

/// How a document begins that a department cannot read.
const POISON: &[u8] = b"\0poison";

/// Mostly small, sometimes too large for the journal, now and then poisoned.
fn document(random: &mut StdRng, careless: u32) -> Vec<u8> {
    let size = match random.random_range(0..100) {
        0 => random.random_range(1_100_000..1_600_000),
        1..10 => random.random_range(20_000..80_000),
        _ => random.random_range(10..4_000),
    };
    let mut content = vec![0; size];
    random.fill(&mut content[..]);
    if careless > 0 && size < 4_000 && random.random_range(0..100) == 0 {
        content.splice(..0, POISON.iter().copied());
    }
    content
}

impl Caller {
    /// A department that reads a queue, again and again connecting to its broker.
    pub(crate) async fn reader(self, url: String, queue: &'static str) {
        while !self.outside.ended.load(Ordering::Relaxed) {
            if self.read_queue(&url, queue).await.is_err() {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    async fn read_queue(&self, url: &str, queue: &'static str) -> lapin::Result<()> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(100, lapin::options::BasicQosOptions::default()).await?;
        let consume = BasicConsumeOptions::default();
        let mut consumer =
            channel.basic_consume(queue.into(), "torture".into(), consume, FieldTable::default()).await?;
        while !self.outside.ended.load(Ordering::Relaxed) {
            let next = tokio::time::timeout(Duration::from_millis(500), consumer.next()).await;
            let delivery = match next {
                Ok(Some(delivery)) => delivery?,
                Ok(None) => return Ok(()),
                Err(_) if connection.status().connected() => continue,
                Err(_) => return Ok(()),
            };
            let properties = &delivery.properties;
            let attempt = properties
                .headers()
                .as_ref()
                .and_then(|headers| headers.inner().get("amtsbote-attempt").cloned());
            let marked =
                delivery.redelivered || matches!(attempt, Some(AMQPValue::LongInt(attempt)) if attempt > 1);
            let id = properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
            let content = match referenced(properties) {
                Some(href) => self.fetch(&href).await,
                None => Some(delivery.data.clone()),
            };
            // Without an end of the laboratory there is content.
            let Some(content) = content else { return Ok(()) };
            self.outside.book.arrived(id, sha256(&content), marked);
            // It crashes on what it cannot parse; the second time it puts that aside.
            if content.starts_with(POISON) && !delivery.redelivered {
                return Ok(());
            }
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    /// A document that is not in the message, asked for until the gateway has an answer. What it says it does not have is empty.
    async fn fetch(&self, href: &str) -> Option<Vec<u8>> {
        while !self.outside.ended.load(Ordering::Relaxed) {
            let asked = self.request(Method::GET, href).map(RequestBuilder::send);
            let reply = match asked {
                Some(asked) => asked.await.ok(),
                None => None,
            };
            match reply.map(|reply| (reply.status(), reply)) {
                Some((status, reply)) if status.is_success() => {
                    if let Ok(bytes) = reply.bytes().await {
                        return Some(bytes.to_vec());
                    }
                }
                Some((status, reply)) if status.is_client_error() && status.as_u16() != 429 => {
                    eprintln!("{href} was refused: {:?}", reply.text().await);
                    return Some(Vec::new());
                }
                _ => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
        None
    }
}

/// Where a document is that is not in the message.
fn referenced(properties: &lapin::BasicProperties) -> Option<String> {
    let headers = properties.headers().as_ref()?.inner();
    let text = |name: &str| match headers.get(name) {
        Some(AMQPValue::LongString(text)) => Some(text.to_string()),
        _ => None,
    };
    let parts: Value = serde_json::from_str(&text("amtsbote-parts")?).ok()?;
    let document = parts.as_array()?.iter().find(|part| part["n"] == 0)?;
    (text("amtsbote-document")? == "referenced").then(|| document["href"].as_str().map(str::to_owned))?
}
