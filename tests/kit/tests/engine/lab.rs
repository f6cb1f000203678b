//! Engine, mailboxes and operations over fakes. A restart keeps store, clock and what the channel has seen.

use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::account::{Account, AccountBook, LocalChannel};
use amtsbote_core::control::Controls;
use amtsbote_core::delivery::{Input, State};
use amtsbote_core::engine::{Engine, EngineOptions, EnginePorts};
use amtsbote_core::exchange::{EXCHANGE_WITHIN, ExchangePorts, Exchanges};
use amtsbote_core::id::MessageId;
use amtsbote_core::intake::Intake;
use amtsbote_core::mailbox::{LeaseRequest, Mailboxes};
use amtsbote_core::message::{Metadata, Priority};
use amtsbote_core::operations::{OperationPorts, Operations};
use amtsbote_core::port::{Change, Clock, Directory, Entropy, Exchanger, MessageStore, Sealer, Silent};
use amtsbote_core::route::{ChannelKind, Endpoint, Router};
use amtsbote_core::wake::Wake;
use amtsbote_testkit::channel::FakeChannel;
use amtsbote_testkit::directory::FakeDirectory;
use amtsbote_testkit::memory::MemoryStore;
use amtsbote_testkit::samples::{Acceptances, DEPARTMENT, OFFICE, accounts, metadata, route, seal, tables};
use amtsbote_testkit::seal::FakeSealer;
use amtsbote_testkit::seeded::SeededEntropy;
use amtsbote_testkit::time::{PausedClock, noon};
use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

/// Address of the office's queue.
const QUEUE: &str = "amqp://main?queue=q";

/// What outlives a process.
#[derive(Clone)]
struct Outside {
    store: MemoryStore,
    channel: Arc<FakeChannel>,
    directory: Arc<FakeDirectory>,
    sealer: Arc<dyn Sealer>,
    clock: Arc<dyn Clock>,
    book: Arc<ArcSwap<AccountBook>>,
    options: EngineOptions,
}

pub(crate) struct Lab {
    pub(crate) store: MemoryStore,
    pub(crate) channel: Arc<FakeChannel>,
    pub(crate) directory: Arc<FakeDirectory>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) operations: Arc<Operations>,
    pub(crate) wake: Arc<Wake>,
    pub(crate) department: Arc<Account>,
    pub(crate) samples: Acceptances,
    pub(crate) stop: CancellationToken,
    router: Arc<Router>,
    controls: Arc<Controls>,
    outside: Outside,
}

impl Lab {
    pub(crate) async fn new(channel: FakeChannel, sealer: Arc<dyn Sealer>, options: EngineOptions) -> Self {
        let directory = Arc::new(FakeDirectory::default());
        directory.list(OFFICE, endpoint(QUEUE));
        let outside = Outside {
            store: MemoryStore::default(),
            channel: Arc::new(channel),
            directory,
            sealer,
            clock: Arc::new(PausedClock::starting_at(noon())),
            book: Arc::new(ArcSwap::from_pointee(accounts(LocalChannel::Push(
                ChannelKind::Amqp,
                QUEUE.into(),
            )))),
            options,
        };
        Self::start(outside, Acceptances::default()).await
    }

    async fn start(outside: Outside, samples: Acceptances) -> Self {
        let Outside { store, channel, directory, sealer, clock, book, options } = outside.clone();
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        let wake = Arc::new(Wake::default());
        let channels = vec![Arc::clone(&channel) as _];
        let asked: Arc<dyn Directory> = Arc::clone(&directory) as _;
        let router = Arc::new(Router::new(tables(), Arc::clone(&book), asked, channels.clone()));
        let port: Arc<dyn MessageStore> = Arc::new(store.clone());
        let controls = Controls::load(Arc::clone(&port), Arc::clone(&entropy), Arc::clone(&wake));
        let controls = controls.await.unwrap();
        let operations = Operations::new(OperationPorts {
            store: Arc::clone(&port),
            controls: Arc::clone(&controls),
            router: Arc::clone(&router),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            wake: Arc::clone(&wake),
            policies: options.policies.clone(),
        });
        let ports = EnginePorts {
            store: Arc::clone(&port),
            router: Arc::clone(&router),
            sealer,
            controls: Arc::clone(&controls),
            channels,
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            observer: Arc::new(Silent),
            wake: Arc::clone(&wake),
        };
        let department = book.load().iter().find(|one| one.name.as_str() == DEPARTMENT).unwrap().clone();
        Self {
            store,
            channel,
            directory,
            engine: Engine::new(ports, options),
            mailboxes: Mailboxes::new(port, clock, entropy, Arc::clone(&controls), Arc::clone(&wake)),
            operations,
            wake,
            department,
            samples,
            stop: CancellationToken::new(),
            router,
            controls,
            outside,
        }
    }

    /// Exchanges with a recipient that answers at once.
    pub(crate) fn exchanges(&self, exchanger: Arc<impl Exchanger + 'static>) -> Arc<Exchanges> {
        let store: Arc<dyn MessageStore> = Arc::new(self.store.clone());
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(2));
        let clock = Arc::clone(&self.outside.clock);
        let intake = Intake::new(
            Arc::clone(&store),
            Arc::clone(&self.router),
            Arc::clone(&clock),
            Arc::clone(&entropy),
            Arc::new(Silent),
            Arc::clone(&self.wake),
        );
        let ports = ExchangePorts {
            intake: Arc::new(intake),
            store,
            sealer: Arc::clone(&self.outside.sealer),
            controls: Arc::clone(&self.controls),
            exchangers: vec![exchanger],
            clock,
            entropy,
            observer: Arc::new(Silent),
        };
        Exchanges::new(ports, EXCHANGE_WITHIN)
    }

    /// Another process on the same store.
    pub(crate) async fn restart(self) -> Self {
        Self::start(self.outside, self.samples).await
    }

    /// The office is served by a mailbox from now on.
    pub(crate) fn serve_by_mailbox(&self) {
        self.outside.book.store(Arc::new(accounts(LocalChannel::Mailbox)));
    }

    pub(crate) fn account(&self, name: &str) -> Arc<Account> {
        self.outside.book.load().iter().find(|one| one.name.as_str() == name).unwrap().clone()
    }

    /// Accepts messages for an organisation, sealed and ready.
    pub(crate) async fn queue(&self, organization: &str, priority: Priority, count: usize) -> Vec<MessageId> {
        let route = route(organization, ChannelKind::Amqp);
        let mut ids = Vec::new();
        for n in 0..count {
            let mut metadata = metadata();
            metadata.priority = priority;
            let key = format!("{organization}-{priority:?}-{n}");
            let acceptance = self.samples.make(&key, metadata, b"<antrag/>", Some(&route));
            let id = acceptance.message.id;
            drop(self.store.accept(acceptance).await.unwrap());
            let before = self.store.head(id).await.unwrap().unwrap();
            let next = before.apply(Input::Sealed(seal()), noon()).unwrap();
            let change =
                Change { id, expected: before.version, delivery: next.delivery, events: next.events };
            self.store.commit(vec![change]).await.unwrap();
            ids.push(id);
        }
        ids
    }

    /// Accepts a message for the office that the engine has to seal.
    pub(crate) async fn submit(&self, key: &str, metadata: Metadata, channel: ChannelKind) -> MessageId {
        let acceptance = self.samples.make(key, metadata, b"<antrag/>", Some(&route(OFFICE, channel)));
        let id = acceptance.message.id;
        drop(self.store.accept(acceptance).await.unwrap());
        id
    }

    pub(crate) async fn accept(&self, key: &str, channel: ChannelKind) -> MessageId {
        self.submit(key, metadata(), channel).await
    }

    pub(crate) async fn state(&self, id: MessageId) -> State {
        self.store.head(id).await.unwrap().unwrap().state
    }

    /// Lets the engine work for a simulated time.
    pub(crate) async fn run(&self, time: Duration) {
        self.run_while(tokio::time::sleep(time)).await;
    }

    /// Lets the engine work, as one process, until something is done.
    pub(crate) async fn run_while<T>(&self, something: impl Future<Output = T>) -> T {
        let stop = self.stop.child_token();
        let running = tokio::spawn(Arc::clone(&self.engine).run(stop.clone(), Duration::ZERO));
        let done = something.await;
        stop.cancel();
        running.await.unwrap();
        done
    }

    /// The same with bulk operations.
    pub(crate) async fn run_with_jobs(&self, time: Duration) {
        let stop = self.stop.child_token();
        let jobs = tokio::spawn(Arc::clone(&self.operations).run_jobs(stop.clone()));
        self.run(time).await;
        stop.cancel();
        jobs.await.unwrap();
    }

    pub(crate) async fn lease(&self) -> Vec<MessageId> {
        let request = LeaseRequest { max: 10, duration: Duration::from_secs(60), wait: Duration::ZERO };
        let lease = self.mailboxes.lease(&self.department, request).await.unwrap();
        lease.messages.iter().map(|leased| leased.message.id).collect()
    }
}

pub(crate) fn endpoint(address: &str) -> Endpoint {
    Endpoint::new(ChannelKind::Amqp, address.to_owned())
}

pub(crate) fn sealer() -> Arc<dyn Sealer> {
    Arc::new(FakeSealer::default())
}
