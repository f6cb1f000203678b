//! An intermediary on memory ports with a real listener, and clients of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use amtsbote_core::account::{Account, AccountBook, Credential, LocalChannel, Role};
use amtsbote_core::control::Controls;
use amtsbote_core::delivery::{Proof, RetryPolicy, State};
use amtsbote_core::engine::{Engine, EngineOptions, EnginePorts};
use amtsbote_core::exchange::{ExchangePorts, Exchanges};
use amtsbote_core::id::MessageId;
use amtsbote_core::intake::Intake;
use amtsbote_core::key::{AccountName, PartyId};
use amtsbote_core::mailbox::Mailboxes;
use amtsbote_core::message::{Part, Sha256Digest};
use amtsbote_core::port::{
    Channel, Clock, Directory, Entropy, ExchangeOutcome, Exchanger, Handover, InstantAnswer, MessageStore,
    Silent, StoreError, StoredMessage,
};
use amtsbote_core::reservation::Reservations;
use amtsbote_core::route::{ChannelKind, Router};
use amtsbote_core::submissions::Submissions;
use amtsbote_core::wake::Wake;
use amtsbote_http::{
    Client as HttpClient, ClientOptions, InFlight, Limits as HttpLimits, Listener, Quotas, Reach, serve,
};
use amtsbote_osci::clients::{Trust, Unknown};
use amtsbote_osci::codec::algorithm::Policy;
use amtsbote_osci::codec::block::{CertificateRole, Certificates};
use amtsbote_osci::codec::certificate::{Certificate, Identity};
use amtsbote_osci::codec::content::{NewContainer, NewContent};
use amtsbote_osci::codec::order::{Answer, FetchRule, Request};
use amtsbote_osci::dialogs::Dialogs;
use amtsbote_osci::reception::Limits;
use amtsbote_osci::transfers::{TransferLimits, Transfers};
use amtsbote_osci::{
    Answered, DIALOG_IDLE, DeliveryIds, Freight, Inbound, MetadataCodec, OsciChannel, OsciClient, OsciKeys,
    OsciOptions, OsciPeer, OsciPusher, Own, Peer, Protection, PushPorts, Recipient, Said, Services, Session,
    router,
};
use amtsbote_testkit::channel::FakeChannel;
use amtsbote_testkit::directory::FakeDirectory;
use amtsbote_testkit::memory::MemoryStore;
use amtsbote_testkit::samples::tables;
use amtsbote_testkit::seal::FakeSealer;
use amtsbote_testkit::seeded::SeededEntropy;
use amtsbote_testkit::time::{ShiftableClock, noon};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::{X509, X509NameBuilder};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

/// Certificate and key with a name, valid from 2023 to 2033.
pub(crate) fn identity(name: &str) -> Identity {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(&subject).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(1_700_000_000).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(2_000_000_000).unwrap()).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let certificate = builder.build().to_pem().unwrap();
    Identity::from_pem(&certificate, &key.private_key_to_pem_pkcs8().unwrap()).unwrap()
}

/// Keys of everybody, made once.
pub(crate) static KEYS: LazyLock<BTreeMap<&'static str, Own>> = LazyLock::new(|| {
    let own = |name: &str| Own {
        cipher: identity(&format!("{name} cipher")),
        signature: identity(&format!("{name} sign")),
    };
    ["alice", "bob", "mallory", "intermediary"].into_iter().map(|name| (name, own(name))).collect()
});

pub(crate) struct NoMetadata;

#[async_trait]
impl MetadataCodec for NoMetadata {
    async fn read(&self, _: &str, _: &PartyId) -> Option<Said> {
        None
    }

    async fn write(&self, _: &StoredMessage) -> String {
        "<m:MessageMetaData xmlns:m=\"http://www.osci.eu/ws/2014/10/transport\"></m:MessageMetaData>"
            .to_owned()
    }
}

/// Whoever is asked answers with what was asked, in upper case; it plays AMQP.
struct Answering;

#[async_trait]
impl Exchanger for Answering {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Amqp
    }

    async fn exchange(&self, handover: &Handover) -> ExchangeOutcome {
        let mut asked = handover.open(0).await.unwrap().unwrap().reader;
        let document = asked.next().await.unwrap().unwrap().to_ascii_uppercase();
        let part = Part {
            name: None,
            media_type: "application/octet-stream".to_owned(),
            size: document.len() as u64,
            sha256: Sha256Digest::of(&document),
            offset: 0,
            attributes: BTreeMap::new(),
        };
        let mut writer = handover.stage().await.unwrap();
        writer.write(document.into()).await.unwrap();
        ExchangeOutcome::Answered(Box::new(InstantAnswer {
            proof: Proof("answered".to_owned()),
            metadata: handover.message.metadata.clone(),
            parts: vec![part],
            payload: writer.finish().await.unwrap(),
            external_ids: Vec::new(),
            carried: Vec::new(),
        }))
    }
}

/// What outlives a process.
#[derive(Clone)]
pub(crate) struct Outside {
    pub(crate) store: MemoryStore,
    pub(crate) clock: Arc<ShiftableClock>,
    pub(crate) folder: Arc<tempfile::TempDir>,
}

/// How the intermediary is set up.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) unknown: Unknown,
    pub(crate) policy: Policy,
    pub(crate) unsigned_orders: bool,
    pub(crate) message_limit: u64,
    /// Ids that were given out before.
    pub(crate) ids: Option<BTreeMap<String, AccountName>>,
    pub(crate) keys: Option<OsciKeys>,
    /// Certificates of alice and bob.
    pub(crate) accounts: Option<(Own, Own)>,
    /// Another intermediary, to which everything for the account `office` goes on.
    pub(crate) hub: Option<Hub>,
    /// Bob is pushed to by whoever signs with this.
    pub(crate) pushed_by: Option<Certificate>,
    /// Addresses that are pushed to.
    pub(crate) push_to: Vec<Url>,
    /// Calls per second.
    pub(crate) quota: u32,
    /// Cards of one answer.
    pub(crate) cards: usize,
    /// Bob answers at once.
    pub(crate) answers: bool,
    /// What the directory knows of certificates; with one, it is asked about addressees.
    pub(crate) directory: Option<Arc<FakeDirectory>>,
}

/// How another intermediary is used.
#[derive(Clone)]
pub(crate) struct Hub {
    /// Where it pushes our deliveries to, if they do not go into a mailbox there.
    pub(crate) receiver: Option<Url>,
    pub(crate) peer: Peer,
    /// Whose keys we have there.
    pub(crate) own: &'static str,
    /// Who gets it there.
    pub(crate) recipient: &'static str,
    pub(crate) protection: Protection,
    /// Time for one exchange.
    pub(crate) patience: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            unknown: Unknown::Refuse,
            policy: Policy::default(),
            unsigned_orders: false,
            message_limit: 64 << 20,
            ids: None,
            keys: None,
            accounts: None,
            hub: None,
            pushed_by: None,
            push_to: Vec::new(),
            quota: 10_000,
            cards: 100,
            answers: false,
            directory: None,
        }
    }
}

struct KnownIds(BTreeMap<String, AccountName>);

#[async_trait]
impl DeliveryIds for KnownIds {
    async fn give(&self, _: &Account) -> Result<String, StoreError> {
        Ok(self.0.keys().next().cloned().unwrap_or_else(|| "an-id".to_owned()))
    }

    async fn holder(&self, id: &str) -> Result<Option<(AccountName, Option<MessageId>)>, StoreError> {
        Ok(self.0.get(id).map(|account| (account.clone(), None)))
    }
}

pub(crate) struct Lab {
    pub(crate) outside: Outside,
    pub(crate) services: Arc<Services>,
    pub(crate) address: SocketAddr,
    pub(crate) http: HttpClient,
    setup: Setup,
    _stop: DropGuard,
}

fn account(name: &str, roles: &[Role], serves: &[&str], own: &Own) -> Account {
    Account {
        name: name.parse().unwrap(),
        roles: roles.iter().copied().collect::<BTreeSet<_>>(),
        parties: vec![format!("dept:{name}").parse().unwrap()],
        serves: serves.iter().map(|key| key.parse().unwrap()).collect(),
        channel: LocalChannel::Mailbox,
        credentials: vec![
            Credential::OsciCipher(own.cipher.certificate().fingerprint()),
            Credential::OsciSignature(own.signature.certificate().fingerprint()),
        ],
        message_limit: None,
    }
}

impl Lab {
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let outside = Outside {
            store: MemoryStore::default(),
            clock: Arc::new(ShiftableClock::starting_at(noon())),
            folder: Arc::new(tempfile::tempdir().unwrap()),
        };
        Self::on(outside, setup).await
    }

    /// The same after a restart.
    pub(crate) async fn restart(self) -> Self {
        let (outside, setup) = (self.outside.clone(), self.setup.clone());
        drop(self);
        Self::on(outside, setup).await
    }

    async fn on(outside: Outside, setup: Setup) -> Self {
        let stop = CancellationToken::new();
        let store: Arc<dyn MessageStore> = Arc::new(outside.store.clone());
        let clock: Arc<dyn Clock> = Arc::clone(&outside.clock) as _;
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(rand_seed()));
        let (alice, bob) =
            setup.accounts.clone().unwrap_or_else(|| (KEYS["alice"].clone(), KEYS["bob"].clone()));
        let mut accounts = vec![
            account("alice", &[Role::Author, Role::Reader], &["osci:alice"], &alice),
            account("bob", &[Role::Author, Role::Reader], &["osci:bob"], &bob),
        ];
        if setup.unknown != Unknown::Refuse {
            let mut guests = account("guests", &[Role::Author], &[], &KEYS["intermediary"]);
            guests.credentials.clear();
            accounts.push(guests);
        }
        let mut channels: Vec<Arc<dyn Channel>> = Vec::new();
        let mut exchangers: Vec<Arc<dyn Exchanger>> = Vec::new();
        if setup.answers {
            let bob = accounts.last_mut().unwrap();
            bob.channel = LocalChannel::Push(ChannelKind::Amqp, "amqp://main?queue=bob".into());
            channels.push(Arc::new(FakeChannel::taking()));
            exchangers.push(Arc::new(Answering));
        }
        if let Some(hub) = &setup.hub {
            let mut office = account("office", &[Role::Reader], &["osci:office"], &KEYS["mallory"]);
            let address = match &hub.receiver {
                None => "osci://hub".to_owned(),
                Some(receiver) => format!("{}#{receiver}", hub.peer.url),
            };
            office.channel = LocalChannel::Push(ChannelKind::Osci, address.into());
            accounts.push(office);
            let limits = Limits {
                xml: 8 << 20,
                message: 64 << 20,
                policy: setup.policy,
                folder: std::env::temp_dir(),
            };
            let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(rand_seed()));
            let client = OsciClient::new(http(hub.patience), entropy, limits, KEYS[hub.own].clone());
            let peer = OsciPeer {
                client,
                peer: hub.peer.clone(),
                recipient: Some(KEYS[hub.recipient].cipher.certificate().clone()),
                protection: hub.protection.clone(),
            };
            let peers = BTreeMap::from([("hub".to_owned(), peer)]);
            let folder = outside.folder.path().to_owned();
            channels.push(Arc::new(OsciChannel::new(
                peers,
                Arc::clone(&store),
                Arc::new(NoMetadata),
                folder,
            )));
        }
        let accounts = Arc::new(ArcSwap::from_pointee(AccountBook::try_new(accounts).unwrap()));
        let wake = Arc::new(Wake::default());
        let directory: Arc<dyn Directory> = Arc::new(FakeDirectory::default());
        let router_ = Arc::new(Router::new(tables(), Arc::clone(&accounts), directory, channels.clone()));
        let controls =
            Controls::load(Arc::clone(&store), Arc::clone(&entropy), Arc::clone(&wake)).await.unwrap();
        let sealer = Arc::new(FakeSealer::default());
        let engine = Engine::new(
            EnginePorts {
                store: Arc::clone(&store),
                router: Arc::clone(&router_),
                sealer: Arc::clone(&sealer) as _,
                controls: Arc::clone(&controls),
                channels,
                clock: Arc::clone(&clock),
                entropy: Arc::clone(&entropy),
                observer: Arc::new(Silent),
                wake: Arc::clone(&wake),
            },
            options(),
        );
        tokio::spawn(engine.run(stop.clone(), Duration::ZERO));
        let intake = Arc::new(Intake::new(
            Arc::clone(&store),
            Arc::clone(&router_),
            Arc::clone(&clock),
            Arc::clone(&entropy),
            Arc::new(Silent),
            Arc::clone(&wake),
        ));
        let keys = setup.keys.clone().unwrap_or_else(|| {
            let own = KEYS["intermediary"].clone();
            OsciKeys { cipher: vec![own.cipher], signature: own.signature }
        });
        let ids: Arc<dyn DeliveryIds> = match &setup.ids {
            Some(known) => Arc::new(KnownIds(known.clone())),
            None => Arc::new(Reservations::new(Arc::clone(&store), Arc::clone(&clock), Arc::clone(&entropy))),
        };
        let limits = TransferLimits {
            max_chunk: 100,
            min_chunk: 2,
            max_message: 1_000,
            timeout: Duration::from_secs(3_600),
        };
        let options = OsciOptions {
            xml_limit: 64 << 20,
            message_limit: setup.message_limit,
            policy: setup.policy,
            unsigned_orders: setup.unsigned_orders,
            folder: outside.folder.path().to_owned(),
            directory_addressees: setup.directory.is_some(),
            cards: setup.cards,
        };
        let keys = Arc::new(keys);
        if !setup.push_to.is_empty() {
            let ports = PushPorts {
                http: http(PATIENCE),
                store: Arc::clone(&store),
                entropy: Arc::clone(&entropy),
                clock: Arc::clone(&clock),
                accounts: Arc::clone(&accounts),
                trust: Trust::default(),
                keys: Arc::clone(&keys),
                metadata: Arc::new(NoMetadata),
                limits: options.limits(),
            };
            exchangers.push(Arc::new(OsciPusher::new(ports, setup.push_to.clone())));
        }
        let recipients = setup.pushed_by.iter().map(|intermediary| Recipient {
            own: KEYS["bob"].clone(),
            intermediary: intermediary.clone(),
            inbound: Inbound {
                name: "hub".to_owned(),
                account: "bob".parse().unwrap(),
                sender: "dept:bob".parse().unwrap(),
                recipient: "osci:bob".parse().unwrap(),
                intake: Arc::clone(&intake),
                store: Arc::clone(&store),
                metadata: Arc::new(NoMetadata),
                trust: Trust::default(),
                clock: Arc::clone(&clock),
                entropy: Arc::clone(&entropy),
            },
        });
        let recipients = recipients.collect();
        let exchanges = ExchangePorts {
            intake: Arc::clone(&intake),
            store: Arc::clone(&store),
            sealer,
            controls: Arc::clone(&controls),
            exchangers,
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            observer: Arc::new(Silent),
        };
        let services = Arc::new(Services {
            intake,
            exchanges: Exchanges::new(exchanges, Duration::from_secs(5)),
            submissions: Arc::new(Submissions::new(
                Arc::clone(&store),
                Arc::clone(&clock),
                Arc::clone(&wake),
            )),
            mailboxes: Arc::new(Mailboxes::new(
                Arc::clone(&store),
                Arc::clone(&clock),
                Arc::clone(&entropy),
                controls,
                wake,
            )),
            ids,
            store: Arc::clone(&store),
            clock,
            entropy: Arc::clone(&entropy),
            accounts,
            directory: setup.directory.clone().unwrap_or_default(),
            trust: Trust { unknown: setup.unknown.clone(), authorities: Vec::new() },
            keys,
            metadata: Arc::new(NoMetadata),
            quotas: Arc::new(Quotas::new(NonZeroU32::new(setup.quota).unwrap())),
            in_flight: Arc::new(InFlight::new(256 << 20)),
            options,
            dialogs: Dialogs::new(DIALOG_IDLE),
            recipients,
            transfers: Arc::new(Transfers::open(&outside.folder.path().join("chunks"), limits).unwrap()),
            large: Arc::new(Semaphore::new(2)),
        });
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let router = router(Arc::clone(&services));
        let listener = Listener { name: "osci", socket, tls: None, router, limits: HttpLimits::default() };
        tokio::spawn(serve(listener, stop.clone()));
        Self { outside, services, address, http: http(PATIENCE), setup, _stop: stop.drop_guard() }
    }

    pub(crate) fn url(&self) -> Url {
        format!("http://{}/", self.address).parse().unwrap()
    }

    pub(crate) fn peer(&self) -> Peer {
        let keys = &self.services.keys;
        Peer {
            url: self.url(),
            cipher: keys.cipher[0].certificate().clone(),
            signature: Some(keys.signature.certificate().clone()),
        }
    }

    pub(crate) fn client(&self, name: &str) -> OsciClient {
        self.client_of(KEYS[name].clone())
    }

    pub(crate) fn client_of(&self, own: Own) -> OsciClient {
        self.client_with(own, self.services.options.limits())
    }

    pub(crate) fn client_with(&self, own: Own, limits: Limits) -> OsciClient {
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(rand_seed()));
        OsciClient::new(self.http.clone(), entropy, limits, own)
    }

    pub(crate) async fn dialog(&self, name: &str) -> Session {
        self.client(name).open(self.peer()).await.unwrap()
    }

    /// Stores a delivery in a dialog of its own; its id.
    pub(crate) async fn store(&self, from: &str, to: &str, subject: &str, content: &[u8]) -> String {
        let mut session = self.dialog(from).await;
        let id = session.message_id().await.unwrap();
        let answered = session.ask(&store_order(&id, subject), letter(to, content)).await.unwrap();
        assert!(answered.response.feedback.is_success(), "{:?}", answered.response.feedback);
        session.close().await.unwrap();
        self.settle().await;
        id
    }

    /// Everything that was stored lies in its mailbox.
    pub(crate) async fn settle(&self) {
        let on_its_way = |store: &MemoryStore| {
            store
                .deliveries()
                .iter()
                .any(|(_, delivery)| matches!(delivery.state, State::Accepted { .. } | State::Queued))
        };
        while on_its_way(&self.outside.store) {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn stored(&self) -> usize {
        self.outside.store.deliveries().len()
    }
}

/// Time for one exchange, if nobody is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

fn http(total: Duration) -> HttpClient {
    let options =
        ClientOptions { reach: Reach::Anywhere, connect: Duration::from_secs(5), total, body: 64 << 20 };
    HttpClient::new(amtsbote_tls::client_config(Vec::new(), None).unwrap(), options).unwrap()
}

/// Tries again at once.
fn options() -> EngineOptions {
    let millisecond = Duration::from_millis(1);
    let retry =
        RetryPolicy::try_new(millisecond, 1.0, millisecond, 0.0, 50, Duration::from_secs(3_600)).unwrap();
    let mut options = EngineOptions::default();
    options.policies.usual.retry = retry;
    options
}

/// Each client and each process has randomness of its own.
pub(crate) fn rand_seed() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
}

pub(crate) fn store_order(id: &str, subject: &str) -> Request {
    Request::StoreDelivery { id: Some(id.to_owned()), subject: Some(subject.to_owned()) }
}

pub(crate) fn certificates_for(to: &str) -> Certificates {
    Certificates::default().with(CertificateRole::CipherAddressee, KEYS[to].cipher.certificate())
}

/// A delivery with one content inside of the XML.
pub(crate) fn letter(to: &str, content: &[u8]) -> Freight {
    Freight::delivery(package(content), certificates_for(to))
}

pub(crate) fn package(content: &[u8]) -> String {
    NewContainer { contents: vec![NewContent::Inline(content.to_vec())] }.finish(None).unwrap()
}

pub(crate) fn digits(answered: &Answered) -> Vec<&str> {
    answered.response.feedback.0.iter().map(|entry| entry.digits.as_str()).collect()
}

/// Asks for a delivery; its id, if there is one.
pub(crate) async fn fetch(session: &mut Session, rule: FetchRule) -> (Option<String>, Answered) {
    let answered = session.ask(&Request::FetchDelivery(rule), Freight::default()).await.unwrap();
    let id = match &answered.response.answer {
        Answer::FetchDelivery(_, card) => card.as_ref().map(|card| card.message_id.clone()),
        other => panic!("{other:?}"),
    };
    (id, answered)
}

pub(crate) fn folder(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
