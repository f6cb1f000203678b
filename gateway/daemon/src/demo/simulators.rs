//! Portals and departments as clients of the gateway's interface.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use amtsbote_amqp::{BrokerOptions, Login, QueueReader, Secret};
use amtsbote_core::message::Sha256Digest;
use amtsbote_http::{Client, ClientOptions, Reach, Reply};
use amtsbote_osci::codec::algorithm::Policy;
use amtsbote_osci::codec::block::{CertificateRole, Certificates};
use amtsbote_osci::codec::content::{ContentPackage, Item, NewContainer, NewContent};
use amtsbote_osci::codec::order::{FetchRule, Request};
use amtsbote_osci::reception::Limits;
use amtsbote_osci::{Freight, OsciClient, Own, Peer, first_digits};
use amtsbote_soap::InMemory;
use amtsbote_tls::Identity;
use amtsbote_xta::{ContentStream, NewOrder, Urls, XtaClient, XtaOptions, container_of, document_of};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use url::Url;

use super::DemoError;
use super::documents;
use super::lab::{OSCI_AUTHOR, XTA_PORTAL, login, osci_identity, party_of};
use super::plan::{Application, Plan};
use crate::Gateway;
use crate::system::SystemEntropy;

const BOUNDARY: &str = "amtsbote-demo-boundary-7d1f";
const PORTALS: [&str; 2] = ["portal-a", "portal-b"];
/// Between two looks at mailboxes by OSCI, which knows no waiting either.
const OSCI_POLL: Duration = Duration::from_millis(500);
/// Between two looks at mailboxes by XTA, which knows no waiting.
const XTA_POLL: Duration = Duration::from_millis(100);

/// What was achieved.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) submitted: usize,
    pub(super) delivered: usize,
    pub(super) acknowledged: usize,
    /// Account and id of the first submission.
    pub(super) first: Option<(String, String)>,
}

/// The laboratory as its clients see it.
pub(super) struct World {
    base: Url,
    pki: PathBuf,
    clients: BTreeMap<String, Client>,
    expected: Mutex<BTreeMap<String, Vec<String>>>,
    first: std::sync::OnceLock<(String, String)>,
    submitted: AtomicUsize,
    delivered: AtomicUsize,
    acknowledged: AtomicUsize,
    total: usize,
    /// Identifier of the portal that speaks XTA.
    xta_author: String,
    /// The intermediary.
    osci: Peer,
    /// Accounts that fetch by OSCI.
    osci_readers: BTreeSet<String>,
}

/// Queues of departments that do not poll.
pub(super) struct Queues(Vec<(String, QueueReader)>);

impl Queues {
    pub(super) async fn open(plan: &Plan, rabbitmq: Option<&Url>) -> Result<Self, DemoError> {
        let Some(url) = rabbitmq else { return Ok(Self(Vec::new())) };
        let (username, password) = login(url);
        let vhost = url.path().strip_prefix('/').filter(|path| !path.is_empty()).unwrap_or("%2f");
        let vhost = percent_encoding::percent_decode_str(vhost).decode_utf8_lossy();
        let mut options =
            BrokerOptions::plain(url.host_str().unwrap_or("127.0.0.1"), url.port().unwrap_or(5672), &vhost);
        options.login = Login::Password { username, password: Secret::new(password) };
        let mut readers = Vec::new();
        for department in &plan.departments {
            if let Some(queue) = &department.queue {
                let reader = QueueReader::open(&options, queue).await;
                readers.push((department.account.clone(), reader.map_err(DemoError::Broker)?));
            }
        }
        Ok(Self(readers))
    }
}

fn problem(who: &str, what: impl Into<String>) -> DemoError {
    DemoError::Simulator { who: who.to_owned(), what: what.into() }
}

impl World {
    pub(super) fn new(dir: &Path, gateway: &Gateway, plan: &Plan) -> Result<Self, DemoError> {
        let base: Result<Url, _> = format!("https://{}", gateway.exchange).parse();
        let address = gateway.osci.ok_or_else(|| problem("gateway", "is no intermediary"))?;
        let url = format!("http://{address}/").parse::<Url>();
        let pki = dir.join("pki");
        let certificate =
            |name: &str| osci_identity(&pki, name).map(|identity| identity.certificate().clone());
        let osci = Peer {
            url: url.map_err(|error| problem("gateway", error.to_string()))?,
            cipher: certificate("intermediary-cipher")?,
            signature: Some(certificate("intermediary-sign")?),
        };
        let osci_readers = plan.departments.iter().filter(|one| one.osci).map(|one| one.account.clone());
        let mut world = Self {
            osci,
            osci_readers: osci_readers.collect(),
            base: base.map_err(|error| problem("gateway", error.to_string()))?,
            pki: dir.join("pki"),
            clients: BTreeMap::new(),
            expected: Mutex::default(),
            first: std::sync::OnceLock::new(),
            submitted: AtomicUsize::new(0),
            delivered: AtomicUsize::new(0),
            acknowledged: AtomicUsize::new(0),
            total: plan.routes.len(),
            xta_author: party_of(XTA_PORTAL).to_owned(),
        };
        let accounts = PORTALS.iter().copied().chain(plan.departments.iter().map(|one| one.account.as_str()));
        for account in accounts {
            let client = world.client(account)?;
            world.clients.insert(account.to_owned(), client);
        }
        Ok(world)
    }

    fn client(&self, account: &str) -> Result<Client, DemoError> {
        let failed = |error: &dyn std::error::Error| problem(account, error.to_string());
        let file = |name: String| self.pki.join(name);
        let identity = Identity::load(&file(format!("{account}.pem")), &file(format!("{account}.key")));
        let authorities =
            amtsbote_tls::load_certificates(&file("ca.pem".to_owned())).map_err(|error| failed(&error))?;
        let tls = amtsbote_tls::client_config(authorities, Some(identity.map_err(|error| failed(&error))?));
        let options = ClientOptions {
            reach: Reach::Anywhere,
            connect: Duration::from_secs(5),
            total: Duration::from_secs(90),
            body: 8 << 20,
        };
        Client::new(tls.map_err(|error| failed(&error))?, options).map_err(|error| failed(&error))
    }

    pub(super) fn progress(&self) -> Progress {
        let read = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        Progress {
            submitted: read(&self.submitted),
            delivered: read(&self.delivered),
            acknowledged: read(&self.acknowledged),
            first: self.first.get().cloned(),
        }
    }

    async fn call(
        &self,
        account: &str,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Reply, DemoError> {
        let client = self.clients.get(account).ok_or_else(|| problem(account, "has no client"))?;
        let url = self.base.join(path).map_err(|error| problem(account, error.to_string()))?;
        let reply = client.exchange(method, url, headers, body).await;
        let reply = reply.map_err(|error| problem(account, error.to_string()))?;
        if !reply.status.is_success() {
            let answer = String::from_utf8_lossy(&reply.body).into_owned();
            return Err(problem(account, format!("{path} answered {}: {answer}", reply.status)));
        }
        Ok(reply)
    }

    async fn json(
        &self,
        account: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, DemoError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let reply = self.call(account, method, path, headers, body).await?;
        serde_json::from_slice(&reply.body).map_err(|error| problem(account, error.to_string()))
    }

    async fn submit(&self, number: usize, application: &Application) -> Result<(), DemoError> {
        if self.osci_readers.contains(&application.account) {
            return self.submit_by_osci(number, application).await;
        }
        let portal = PORTALS[number % PORTALS.len()];
        if portal == XTA_PORTAL && number % 5 == 4 {
            return self.submit_by_xta(number, application).await;
        }
        let document = documents::xml(application, number + 1);
        let digest = Sha256Digest::of(&document).to_string();
        self.expected.lock().await.entry(application.account.clone()).or_default().push(digest);
        let metadata = json!({
            "service": { "ozg": application.service }, "area": { "ars": application.ars },
            "subject": format!("Antrag {}", application.title).chars().take(200).collect::<String>(),
            "caseId": format!("DEMO-{:05}", number + 1),
        });
        let parts = [
            ("metadata", None, "application/json", metadata.to_string().into_bytes()),
            ("document", Some("antrag.xml"), "application/xml", document),
            ("attachment", Some("anlage.pdf"), "application/pdf", documents::pdf(application)),
        ];
        let mut headers = HeaderMap::new();
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        let value =
            |text: &str| HeaderValue::from_str(text).map_err(|error| problem(portal, error.to_string()));
        headers.insert(header::CONTENT_TYPE, value(&content_type)?);
        headers.insert("idempotency-key", value(&format!("demo-{number}"))?);
        let reply = self.call(portal, Method::POST, "/v1/submissions", headers, multipart(&parts)).await?;
        let answer: Value =
            serde_json::from_slice(&reply.body).map_err(|error| problem(portal, error.to_string()))?;
        let id = answer["id"].as_str().unwrap_or_default().to_owned();
        if reply.status != StatusCode::ACCEPTED || id.is_empty() {
            return Err(problem(portal, format!("unexpected answer {}: {answer}", reply.status)));
        }
        if number == 0 {
            // Only the first submission sets it.
            drop(self.first.set((portal.to_owned(), id)));
        }
        self.tell(application, "");
        Ok(())
    }

    fn tell(&self, application: &Application, how: &str) {
        let count = self.submitted.fetch_add(1, Ordering::SeqCst) + 1;
        println!(
            "  {count:2}/{} ozg:{} -> {} ({}){how}",
            self.total, application.service, application.organization, application.place
        );
    }

    /// Hands in as a specialist system would that knows whom it writes to.
    async fn submit_by_xta(&self, number: usize, application: &Application) -> Result<(), DemoError> {
        let document = documents::xml(application, number + 1);
        let digest = Sha256Digest::of(&document).to_string();
        self.expected.lock().await.entry(application.account.clone()).or_default().push(digest);
        let order = NewOrder {
            id: format!("urn:de:xta:messageid:demo:{number}"),
            author: self.xta_author.clone(),
            reader: application.organization.to_string(),
            service: application.specification.clone(),
            subject: format!("Antrag {}", application.title),
            case: format!("DEMO-{:05}", number + 1),
            message_type: ("antrag".to_owned(), "urn:amtsbote:demo".to_owned()),
        };
        let container = container_of(&[("application/xml", "antrag.xml"), ("application/pdf", "anlage.pdf")]);
        let content = |media_type: &str, bytes: Vec<u8>| {
            let stream: ContentStream = Box::pin(futures::stream::iter([Ok(Bytes::from(bytes))]));
            (media_type.to_owned(), stream)
        };
        let contents = vec![
            content("application/xml", document),
            content("application/pdf", documents::pdf(application)),
        ];
        let client = self.xta_client(XTA_PORTAL, &self.xta_author)?;
        let sent = client.send(vec![order.metadata()], container, contents, &mut InMemory::new(0)).await;
        sent.map_err(|error| problem(XTA_PORTAL, error.to_string()))?;
        self.tell(application, " by XTA");
        Ok(())
    }

    fn xta_client(&self, account: &str, identifier: &str) -> Result<XtaClient, DemoError> {
        let http = self.clients.get(account).cloned().ok_or_else(|| problem(account, "has no client"))?;
        let paths = XtaOptions::default();
        let url = |path: &str| self.base.join(path).map_err(|error| problem(account, error.to_string()));
        let urls = Urls {
            send: url(&paths.send)?,
            management: url(&paths.management)?,
            msgbox: url(&paths.msgbox)?,
        };
        Ok(XtaClient::new(http, urls, identifier.to_owned(), Arc::new(SystemEntropy)))
    }

    fn osci_client(&self, name: &str) -> Result<OsciClient, DemoError> {
        let failed = |error: &dyn std::error::Error| problem(name, error.to_string());
        let options = ClientOptions {
            reach: Reach::Anywhere,
            connect: Duration::from_secs(5),
            total: Duration::from_secs(90),
            body: 8 << 20,
        };
        let tls = amtsbote_tls::client_config(Vec::new(), None).map_err(|error| failed(&error))?;
        let http = Client::new(tls, options).map_err(|error| failed(&error))?;
        let own = Own {
            cipher: osci_identity(&self.pki, &format!("{name}-cipher"))?,
            signature: osci_identity(&self.pki, &format!("{name}-sign"))?,
        };
        let limits =
            Limits { xml: 8 << 20, message: 8 << 20, policy: Policy::default(), folder: self.pki.clone() };
        Ok(OsciClient::new(http, Arc::new(SystemEntropy), limits, own))
    }

    /// Stores at the intermediary, for the certificate of the department.
    async fn submit_by_osci(&self, number: usize, application: &Application) -> Result<(), DemoError> {
        let failed = |error: &dyn std::error::Error| problem(OSCI_AUTHOR, error.to_string());
        let document = documents::xml(application, number + 1);
        let digest = Sha256Digest::of(&document).to_string();
        self.expected.lock().await.entry(application.account.clone()).or_default().push(digest);
        let addressee = osci_identity(&self.pki, &format!("{}-cipher", application.account))?;
        let certificates =
            Certificates::default().with(CertificateRole::CipherAddressee, addressee.certificate());
        let contents = vec![NewContent::Inline(document), NewContent::Inline(documents::pdf(application))];
        let package = NewContainer { contents }.finish(None).map_err(|error| failed(&error))?;
        let mut session =
            self.osci_client(OSCI_AUTHOR)?.open(self.osci.clone()).await.map_err(|error| failed(&error))?;
        let id = session.message_id().await.map_err(|error| failed(&error))?;
        let subject = Some(format!("Antrag {}", application.title));
        let order = Request::StoreDelivery { id: Some(id), subject };
        let stored = session.ask(&order, Freight::delivery(package, certificates)).await;
        let stored = stored.map_err(|error| failed(&error))?.response;
        if !stored.feedback.is_success() {
            return Err(problem(
                OSCI_AUTHOR,
                format!("the intermediary answered with code {}", first_digits(&stored)),
            ));
        }
        session.close().await.map_err(|error| failed(&error))?;
        self.tell(application, " by OSCI");
        Ok(())
    }

    /// Fetches by OSCI until everything expected was received.
    async fn fetch_by_osci(&self, account: &str, count: usize) -> Result<(), DemoError> {
        let failed = |error: &dyn std::error::Error| problem(account, error.to_string());
        let mut done = 0;
        while done < count {
            let client = self.osci_client(account)?;
            let mut session = client.open(self.osci.clone()).await.map_err(|error| failed(&error))?;
            let next = Request::FetchDelivery(FetchRule::Next);
            let fetched = session.ask(&next, Freight::default()).await.map_err(|error| failed(&error))?;
            if !fetched.response.feedback.is_success() {
                session.close().await.map_err(|error| failed(&error))?;
                tokio::time::sleep(OSCI_POLL).await;
                continue;
            }
            let document = {
                let package =
                    ContentPackage::of(&fetched.received.envelope).map_err(|error| failed(&error))?;
                package.items().map_err(|error| failed(&error))?.into_iter().find_map(|item| match item {
                    Item::Inline { bytes, .. } => Some(bytes),
                    Item::Part { .. } | Item::Sealed { .. } => None,
                })
            };
            let document = document.ok_or_else(|| problem(account, "fetched no document"))?;
            self.arrived(account, &document).await?;
            // Ending the dialog says that it arrived.
            session.close().await.map_err(|error| failed(&error))?;
            self.acknowledged.fetch_add(1, Ordering::SeqCst);
            done += 1;
        }
        Ok(())
    }

    /// Polls mailboxes by XTA until everything expected was closed.
    async fn poll_by_xta(&self, account: &str, mailboxes: &[String], count: usize) -> Result<(), DemoError> {
        let failed = |error: &dyn std::error::Error| problem(account, error.to_string());
        let mut done = 0;
        while done < count {
            for mailbox in mailboxes {
                let client = self.xta_client(account, mailbox)?;
                let listed = client.list(50, &mut InMemory::new(0)).await.map_err(|error| failed(&error))?;
                for id in listed.ids {
                    let mut contents = InMemory::new(8 << 20);
                    let fetched = client.fetch(&id, &mut contents).await.map_err(|error| failed(&error))?;
                    let document =
                        document_of(&fetched.container).and_then(|number| contents.content(number));
                    let document = document.ok_or_else(|| problem(account, "fetched no document"))?;
                    self.arrived(account, document).await?;
                    client.close(&[id], &mut InMemory::new(0)).await.map_err(|error| failed(&error))?;
                    self.acknowledged.fetch_add(1, Ordering::SeqCst);
                    done += 1;
                }
            }
            if done < count {
                tokio::time::sleep(XTA_POLL).await;
            }
        }
        Ok(())
    }

    /// Checks a document against what the portals sent to this department.
    async fn arrived(&self, account: &str, document: &[u8]) -> Result<(), DemoError> {
        let digest = Sha256Digest::of(document).to_string();
        let mut expected = self.expected.lock().await;
        let open = expected.get_mut(account);
        let place = open.as_ref().and_then(|open| open.iter().position(|one| *one == digest));
        match (open, place) {
            (Some(open), Some(place)) => {
                open.swap_remove(place);
                self.delivered.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            _ => Err(problem(account, "received a document nobody sent")),
        }
    }

    /// Polls a mailbox until everything expected has been acknowledged.
    async fn poll(&self, account: &str, count: usize) -> Result<(), DemoError> {
        let mut done = 0;
        while done < count {
            let request = json!({ "max": 10, "seconds": 60, "wait": 20 });
            let lease = self.json(account, Method::POST, "/v1/mailbox/leases", Some(request)).await?;
            let token = HeaderValue::from_str(lease["lease"].as_str().unwrap_or_default());
            let token = token.map_err(|error| problem(account, error.to_string()))?;
            for message in lease["messages"].as_array().into_iter().flatten() {
                let document = message["document"]["href"].as_str().unwrap_or_default();
                let document =
                    self.call(account, Method::GET, document, HeaderMap::new(), Bytes::new()).await?;
                self.arrived(account, &document.body).await?;
                let id = message["id"].as_str().unwrap_or_default();
                let path = format!("/v1/mailbox/messages/{id}/acknowledge");
                let headers =
                    HeaderMap::from_iter([(http::HeaderName::from_static("amtsbote-lease"), token.clone())]);
                self.call(account, Method::POST, &path, headers, Bytes::new()).await?;
                self.acknowledged.fetch_add(1, Ordering::SeqCst);
                done += 1;
            }
        }
        Ok(())
    }

    /// Reads a queue until everything expected has arrived; the queue's acknowledgement is the department's.
    async fn consume(&self, account: &str, mut reader: QueueReader, count: usize) -> Result<(), DemoError> {
        for _ in 0..count {
            let received = reader.next().await.map_err(|what| problem(account, what))?;
            self.arrived(account, &received.body).await?;
            self.acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    pub(super) async fn show_process_card(&self, (account, id): &(String, String)) -> Result<(), DemoError> {
        let card = self.json(account, Method::GET, &format!("/v1/submissions/{id}/events"), None).await?;
        println!("\nProcessCard of {id}");
        for event in card["events"].as_array().into_iter().flatten() {
            let (at, name) =
                (event["at"].as_str().unwrap_or_default(), event["event"].as_str().unwrap_or_default());
            let detail = match name {
                "received" => format!("from {}", event["account"].as_str().unwrap_or_default()),
                "routed" => format!(
                    "to {} over {}",
                    event["route"]["organization"]["name"].as_str().unwrap_or_default(),
                    event["route"]["channel"].as_str().unwrap_or_default()
                ),
                "sealed" => event["algorithm"].as_str().unwrap_or_default().to_owned(),
                "leased" => format!(
                    "by {}, attempt {}",
                    event["account"].as_str().unwrap_or_default(),
                    event["attempt"].as_u64().unwrap_or_default()
                ),
                "acknowledged" => format!("by {}", event["account"].as_str().unwrap_or_default()),
                _ => String::new(),
            };
            println!("  {at}  {name:<13} {detail}");
        }
        println!();
        Ok(())
    }
}

fn multipart(parts: &[(&str, Option<&str>, &str, Vec<u8>)]) -> Bytes {
    let mut body = Vec::new();
    for (name, file, media_type, content) in parts {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\nContent-Type: {media_type}\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body.into()
}

/// Lets everybody work at the same time; returns when everything was acknowledged.
pub(super) async fn play(world: &Arc<World>, plan: &Plan, queues: Queues) -> Result<Progress, DemoError> {
    let mut tasks = tokio::task::JoinSet::new();
    let count = |account: &str| plan.routes.iter().filter(|route| route.account == account).count();
    for department in plan.departments.iter().filter(|department| department.queue.is_none()) {
        let (world, account, count) =
            (Arc::clone(world), department.account.clone(), count(&department.account));
        if department.osci {
            tasks.spawn(async move { world.fetch_by_osci(&account, count).await });
        } else if department.xta {
            let mailboxes: Vec<String> = department.serves.iter().map(ToString::to_string).collect();
            tasks.spawn(async move { world.poll_by_xta(&account, &mailboxes, count).await });
        } else {
            tasks.spawn(async move { world.poll(&account, count).await });
        }
    }
    for (account, reader) in queues.0 {
        let (world, count) = (Arc::clone(world), count(&account));
        tasks.spawn(async move { world.consume(&account, reader, count).await });
    }
    for (number, application) in plan.routes.iter().enumerate() {
        world.submit(number, application).await?;
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| problem("simulator", error.to_string()))??;
    }
    Ok(world.progress())
}
