//! One simulated run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::account::{AccountBook, GATEWAY, LocalChannel};
use amtsbote_core::control::Controls;
use amtsbote_core::delivery::{DeadHead, Delivery, EventKind, Face, FailureClass, Order, RetryPolicy, State};
use amtsbote_core::engine::{DestinationPolicy, Engine, EngineOptions, EnginePorts, Policies, Retention};
use amtsbote_core::id::MessageId;
use amtsbote_core::intake::{Admission, Intake, Submission, Target, UnusableCertificate};
use amtsbote_core::key::OrderingKey;
use amtsbote_core::mailbox::{LeaseRequest, Mailboxes};
use amtsbote_core::message::{Part, Sha256Digest};
use amtsbote_core::operations::{
    Action, Bulk, BulkProblem, DeadFilter, JobState, OperationError, OperationPorts, Operations,
};
use amtsbote_core::port::{Clock, Directory, MessageStore, Silent, Staged};
use amtsbote_core::route::{ChannelKind, Endpoint, Router};
use amtsbote_core::wake::Wake;
use amtsbote_testkit::channel::{Act, FakeChannel};
use amtsbote_testkit::directory::FakeDirectory;
use amtsbote_testkit::memory::MemoryStore;
use amtsbote_testkit::samples::{DEPARTMENT, OFFICE, accounts, intake_key, metadata, tables};
use amtsbote_testkit::seal::FakeSealer;
use amtsbote_testkit::seeded::SeededEntropy;
use amtsbote_testkit::time::{PausedClock, noon};
use arc_swap::ArcSwap;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use crate::faults::{Breakage, FaultyStore};

const MESSAGES: usize = 60;

/// What a run showed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Acknowledged to the portal.
    pub accepted: usize,
    /// Handed over for good.
    pub delivered: usize,
    /// Dead-lettered with a reason.
    pub dead: usize,
    /// Over, because the sender said until when it is worth something.
    pub expired: usize,
    /// Acknowledged to the portal, but neither with the department nor dead.
    pub lost: usize,
    /// Arrived more than once, with no mark on any later copy.
    pub unmarked: usize,
    /// Not finished when everything was quiet.
    pub stuck: usize,
    /// Arrived with other content than submitted.
    pub altered: usize,
    /// Dead-lettered although the destination never refused them for good.
    pub given_up: usize,
    /// Hand-overs whose number the store did not know yet.
    pub undurable: usize,
    /// Messages whose ProcessCard counts its hand-overs wrongly: somebody overwrote somebody else's change.
    pub untrue: usize,
    /// Messages that were handed over before an earlier one with the same ordering key was done.
    pub disordered: usize,
    /// Messages whose sender was not told of their bad end, or was told wrongly or twice.
    pub untold: usize,
    /// Faults that happened.
    pub faults: u64,
    /// Times the process was killed.
    pub crashes: usize,
}

impl Outcome {
    /// What is wrong with the run, if anything.
    pub fn complaint(&self) -> Option<String> {
        let conserved = self.accepted == self.delivered + self.dead + self.expired + self.lost;
        let wrong = self.lost + self.unmarked + self.stuck + self.altered + self.given_up + self.undurable;
        let good = conserved && wrong + self.untrue + self.untold + self.disordered == 0;
        (!good).then(|| format!("{self:?}"))
    }
}

/// Everything that outlives a crash of the process, and what the outside has seen.
pub struct World {
    store: Arc<FaultyStore>,
    memory: MemoryStore,
    accounts: Arc<ArcSwap<AccountBook>>,
    directory: Arc<FakeDirectory>,
    channel: Arc<FakeChannel>,
    /// Messages the destination refused for good.
    refused: Arc<Mutex<BTreeSet<MessageId>>>,
    /// Goes on over all lives of the process.
    clock: Arc<PausedClock>,
    healed: Arc<AtomicBool>,
    /// Whether the destination is out of order.
    down: Arc<AtomicBool>,
    dead_head: DeadHead,
    random: StdRng,
    seed: u64,
    pull: bool,
    sent: BTreeMap<MessageId, Sha256Digest>,
    pulled: Vec<(MessageId, u32, Sha256Digest)>,
    crashes: usize,
    /// Processes that were thought dead but only hang, and go on later.
    zombies: Vec<tokio::task::JoinHandle<usize>>,
}

/// One life of the process.
struct Process {
    intake: Intake,
    mailboxes: Mailboxes,
    operations: Arc<Operations>,
    task: tokio::task::JoinHandle<usize>,
    jobs: tokio::task::JoinHandle<()>,
}

impl World {
    /// Runs a seed to its end.
    pub async fn run(seed: u64, breakage: Breakage) -> Outcome {
        let mut random = StdRng::seed_from_u64(seed);
        let pull = random.random_bool(0.4);
        let local = if pull {
            LocalChannel::Mailbox
        } else {
            LocalChannel::Push(ChannelKind::Amqp, "amqp://main?queue=q".into())
        };
        let memory = MemoryStore::default();
        let healed = Arc::new(AtomicBool::new(false));
        let directory = Arc::new(FakeDirectory::default());
        directory.list(OFFICE, Endpoint::new(ChannelKind::Amqp, "amqp://main?queue=q".to_owned()));
        let refused = Arc::new(Mutex::default());
        let down = Arc::new(AtomicBool::new(false));
        let dead_head = if random.random_bool(0.5) { DeadHead::Block } else { DeadHead::Skip };
        let world = Self {
            store: FaultyStore::new(memory.clone(), seed, random.random_range(10..120), breakage),
            accounts: Arc::new(ArcSwap::from_pointee(accounts(local))),
            directory,
            channel: Arc::new(
                channel(seed, Arc::clone(&healed), Arc::clone(&down), Arc::clone(&refused))
                    .witnessed_by(Arc::new(memory.clone())),
            ),
            memory,
            refused,
            clock: Arc::new(PausedClock::starting_at(noon())),
            healed,
            down,
            dead_head,
            random,
            seed,
            pull,
            sent: BTreeMap::new(),
            pulled: Vec::new(),
            crashes: 0,
            zombies: Vec::new(),
        };
        world.play().await
    }

    async fn start(&mut self) -> Process {
        let store: Arc<dyn MessageStore> = Arc::clone(&self.store) as _;
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        let entropy = Arc::new(SeededEntropy::new(self.random.random()));
        let wake = Arc::new(Wake::default());
        let directory: Arc<dyn Directory> = Arc::clone(&self.directory) as _;
        let channels = vec![Arc::clone(&self.channel) as _];
        let router = Arc::new(Router::new(tables(), Arc::clone(&self.accounts), directory, channels.clone()));
        let intake = Intake::new(
            Arc::clone(&store),
            Arc::clone(&router),
            Arc::clone(&clock),
            Arc::clone(&entropy) as _,
            Arc::new(Silent),
            Arc::clone(&wake),
        );
        let controls =
            Controls::load(Arc::clone(&store), Arc::clone(&entropy) as _, Arc::clone(&wake)).await.unwrap();
        let mailboxes = Mailboxes::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            Arc::clone(&entropy) as _,
            Arc::clone(&controls),
            Arc::clone(&wake),
        );
        let options = options(self.dead_head);
        let operations = Operations::new(OperationPorts {
            store: Arc::clone(&store),
            controls: Arc::clone(&controls),
            router: Arc::clone(&router),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy) as _,
            wake: Arc::clone(&wake),
            policies: options.policies.clone(),
        });
        let sealer = Arc::new(FakeSealer::failing(self.random.random_range(0..3)));
        let ports = EnginePorts {
            store,
            router,
            sealer,
            controls,
            channels,
            clock,
            entropy,
            observer: Arc::new(Silent),
            wake,
        };
        let engine = Engine::new(ports, options);
        let task = tokio::spawn(engine.run(CancellationToken::new(), Duration::from_secs(5)));
        let jobs = tokio::spawn(Arc::clone(&operations).run_jobs(CancellationToken::new()));
        Process { intake, mailboxes, operations, task, jobs }
    }

    async fn play(mut self) -> Outcome {
        let mut process = self.start().await;
        for number in 0..MESSAGES {
            self.submit(&process, number).await;
            if self.random.random_bool(0.05) {
                self.directory.set_down(self.random.random_bool(0.5));
            }
            if self.random.random_bool(0.06) {
                let dead = std::mem::replace(&mut process, self.start().await);
                dead.jobs.abort();
                self.crashes += 1;
                if self.random.random_bool(0.5) {
                    dead.task.abort();
                } else {
                    self.zombies.push(dead.task);
                }
            }
            if self.random.random_bool(0.05) {
                self.down.store(self.random.random_bool(0.5), Ordering::Relaxed);
            }
            if self.random.random_bool(0.05) {
                self.hold(&process).await;
            }
            if self.random.random_bool(0.1) {
                self.release(&process).await;
            }
            if self.pull && self.random.random_bool(0.3) {
                self.poll(&process, false).await;
            }
            let pause = self.random.random_range(0..40_u64);
            tokio::time::sleep(Duration::from_millis(pause * pause)).await;
        }
        self.directory.set_down(false);
        self.healed.store(true, Ordering::Relaxed);
        self.store.heal();
        // A hold whose setting seemed to fail may have been stored; every process reads them again after a while.
        tokio::time::sleep(Duration::from_secs(120)).await;
        self.release(&process).await;
        self.settle(&process).await;
        self.redrive(&process).await;
        self.settle(&process).await;
        process.jobs.abort();
        for task in std::iter::once(&process.task).chain(&self.zombies) {
            task.abort();
        }
        self.outcome().await
    }

    /// Submits like a careful portal: the same key again until there is an answer.
    async fn submit(&mut self, process: &Process, number: usize) {
        let document = format!("<antrag nummer='{number}' seed='{}'/>", self.seed);
        let begun = self.clock.now();
        for _ in 0..20 {
            let answer = process.intake.accept(submission(number, &document, begun), &render).await;
            if let Ok(Admission::New(proof) | Admission::Repeated(proof)) = answer {
                self.sent.insert(proof.id(), Sha256Digest::of(document.as_bytes()));
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// An operator holds something.
    async fn hold(&mut self, process: &Process) {
        let channel = if self.pull { "mailbox" } else { "amqp" };
        let office = format!("destination/{channel}/{OFFICE}");
        let targets = [office.as_str(), "account/portal", "service/ozg:10092"];
        let key = targets[self.random.random_range(0..targets.len())].parse().unwrap();
        let until = self.random.random_bool(0.5).then(|| self.clock.now() + Duration::from_secs(5));
        // A store with a fault refuses; nothing is held then.
        drop(process.operations.hold(key, order(), until).await);
    }

    /// An operator releases everything.
    async fn release(&mut self, process: &Process) {
        for hold in process.operations.holds() {
            while let Err(OperationError::Store(_)) =
                process.operations.release(&hold.key, order().by, None).await
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// An operator sends all dead letters on their way again.
    async fn redrive(&mut self, process: &Process) {
        let bulk = Bulk { action: Action::Redrive, filter: DeadFilter::default(), all: true, rate: Some(50) };
        let job = match process.operations.submit(bulk, order()).await {
            Ok(job) => job,
            Err(OperationError::Bulk(BulkProblem::Nothing)) => return,
            Err(error) => panic!("{error}"),
        };
        while process.operations.job(&job.id).await.unwrap().state == JobState::Running {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Leases, reads and usually acknowledges; a careless department sometimes dies in between.
    async fn poll(&mut self, process: &Process, careful: bool) -> bool {
        let book = self.accounts.load_full();
        let department = book.iter().find(|account| account.name.as_str() == DEPARTMENT).unwrap();
        let request = LeaseRequest { max: 7, duration: Duration::from_secs(30), wait: Duration::ZERO };
        let Ok(lease) = process.mailboxes.lease(department, request).await else { return true };
        for leased in &lease.messages {
            let id = leased.message.id;
            let mut content = Vec::new();
            let Ok(mut reader) = process.mailboxes.read(department, id, 0, 0).await else { continue };
            while let Ok(Some(bytes)) = reader.next().await {
                content.extend_from_slice(&bytes);
            }
            self.pulled.push((id, leased.delivery.attempts, Sha256Digest::of(&content)));
            if careful || self.random.random_bool(0.7) {
                // A lost answer is repeated by the next lease, marked.
                drop(process.mailboxes.acknowledge(department, id, lease.id, Face::Rest).await);
            }
        }
        !lease.messages.is_empty()
    }

    /// Lets time pass until nothing moves any more, at most some simulated days.
    async fn settle(&mut self, process: &Process) {
        for _ in 0..60 {
            if self.pull {
                while self.poll(process, true).await {}
            }
            let deliveries = self.memory.deliveries();
            let dead: BTreeSet<&str> = deliveries.iter().filter_map(|(_, one)| blocked_by(one)).collect();
            let quiet = |(_, delivery): &(MessageId, Delivery)| {
                let waits_for_dead =
                    delivery.line.as_ref().is_some_and(|line| dead.contains(line.key.as_str()));
                delivery.account.as_str() == GATEWAY
                    || (ended(&delivery.state, self.pull) || waits_for_dead) && delivery.notice_due.is_none()
            };
            if deliveries.iter().all(quiet) {
                return;
            }
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
    }

    /// Senders of messages that ended badly without exactly one notice about that end in their mailbox.
    async fn untold(
        &self,
        states: &BTreeMap<MessageId, Delivery>,
        notices: &BTreeMap<MessageId, Delivery>,
    ) -> usize {
        let mut told: BTreeMap<MessageId, usize> = BTreeMap::new();
        for id in notices.keys() {
            let notice = self.memory.load(*id).await.unwrap().unwrap();
            *told.entry(notice.message.metadata.in_reply_to.unwrap()).or_default() += 1;
        }
        let mut wrong = 0;
        for id in states.keys() {
            let card = self.memory.load(*id).await.unwrap().unwrap().events;
            let count = |wanted: fn(&EventKind) -> bool| card.iter().filter(|one| wanted(&one.kind)).count();
            let ends = count(|kind| matches!(kind, EventKind::Dead { .. } | EventKind::Expired));
            let said = count(|kind| matches!(kind, EventKind::SenderNotified { .. }));
            wrong += usize::from(said != ends || told.get(id).copied().unwrap_or(0) != ends);
        }
        wrong
    }

    /// Messages that were handed over before one with the same ordering key that was accepted earlier was done.
    async fn disordered(&self, states: &BTreeMap<MessageId, Delivery>) -> usize {
        let mut lines: BTreeMap<OrderingKey, Option<Timestamp>> = BTreeMap::new();
        let mut wrong = 0;
        for id in states.keys() {
            let stored = self.memory.load(*id).await.unwrap().unwrap();
            let Some(key) = stored.message.metadata.ordering_key.clone() else { continue };
            // A line begins when the destination is known.
            if stored.events.iter().any(|event| matches!(event.kind, EventKind::RouteOpen { .. })) {
                continue;
            }
            let first = stored.events.iter().find(|event| hand_over(&event.kind).is_some());
            let done = stored.events.iter().find(|event| self.leaves_line(&event.kind));
            if let (Some(first), Some(before)) = (first, lines.get(&key)) {
                wrong += usize::from(before.is_none_or(|before| first.at < before));
            }
            lines.insert(key, done.map(|event| event.at));
        }
        wrong
    }

    /// Whether those behind may go on.
    fn leaves_line(&self, event: &EventKind) -> bool {
        match event {
            EventKind::Delivered { proof, .. } => !self.pull && proof.is_some(),
            EventKind::Dead { .. } => self.dead_head == DeadHead::Skip,
            EventKind::Acknowledged { .. } | EventKind::Expired | EventKind::Cancelled { .. } => true,
            _ => false,
        }
    }

    async fn outcome(&self) -> Outcome {
        let mut arrivals: BTreeMap<MessageId, Vec<u32>> = BTreeMap::new();
        let mut altered = BTreeSet::new();
        let undurable = self.channel.seen().iter().filter(|seen| !seen.durable).count();
        let pushed = self.channel.seen().into_iter().map(|seen| (seen.id, seen.attempt, seen.document));
        for (id, attempt, digest) in pushed.chain(self.pulled.iter().copied()) {
            arrivals.entry(id).or_default().push(attempt);
            if self.sent.get(&id).is_some_and(|sent| *sent != digest) {
                altered.insert(id);
            }
        }
        let mut outcome = Outcome {
            accepted: self.sent.len(),
            altered: altered.len(),
            undurable,
            faults: self.store.faults(),
            crashes: self.crashes,
            ..Outcome::default()
        };
        let unmarked =
            |attempts: &&Vec<u32>| attempts.len() > 1 && attempts[1..].iter().all(|attempt| *attempt == 1);
        outcome.unmarked = arrivals.values().filter(unmarked).count();
        let (notices, states): (BTreeMap<_, _>, BTreeMap<_, _>) = self
            .memory
            .deliveries()
            .into_iter()
            .partition(|(_, delivery)| delivery.account.as_str() == GATEWAY);
        outcome.untold = self.untold(&states, &notices).await;
        outcome.disordered = self.disordered(&states).await;
        outcome.stuck = states.values().filter(|delivery| !ended(&delivery.state, self.pull)).count();
        for (id, delivery) in &states {
            let card = self.memory.load(*id).await.unwrap().unwrap().events;
            let counted: Vec<u32> = card.iter().filter_map(|event| hand_over(&event.kind)).collect();
            if !counted.iter().copied().eq(1..=delivery.attempts) {
                outcome.untrue += 1;
            }
            let died = card.iter().any(|event| matches!(event.kind, EventKind::Dead { .. }));
            outcome.given_up += usize::from(died && !self.refused.lock().unwrap().contains(id));
        }
        for id in self.sent.keys() {
            match states.get(id).map(|delivery| &delivery.state) {
                Some(State::Dead { .. }) => outcome.dead += 1,
                Some(State::Expired) if states[id].expires_at.is_some() => outcome.expired += 1,
                Some(State::Delivered | State::Acknowledged) if arrivals.contains_key(id) => {
                    outcome.delivered += 1
                }
                _ => outcome.lost += 1,
            }
        }
        outcome
    }
}

/// Number of the hand-over an event begins.
fn hand_over(event: &EventKind) -> Option<u32> {
    match event {
        EventKind::AttemptStarted { attempt } | EventKind::Leased { attempt, .. } => Some(*attempt),
        _ => None,
    }
}

/// The ordering key a dead message blocks.
fn blocked_by(delivery: &Delivery) -> Option<&str> {
    let (_, key) = delivery.line_key()?;
    matches!(delivery.state, State::Dead { .. }).then(|| key.as_str())
}

fn order() -> Order {
    Order { by: "operator".parse().unwrap(), reason: "simulated".to_owned() }
}

fn ended(state: &State, pull: bool) -> bool {
    match state {
        State::Acknowledged | State::Dead { .. } | State::Expired => true,
        State::Delivered => !pull,
        _ => false,
    }
}

fn options(dead_head: DeadHead) -> EngineOptions {
    let seconds = Duration::from_secs;
    let days = |days: u64| seconds(days * 24 * 3600);
    let retry = RetryPolicy::try_new(seconds(1), 2.0, seconds(60), 0.5, 60, days(3)).expect("a valid policy");
    EngineOptions {
        prepare_concurrency: 4,
        attempt_concurrency: 6,
        attempt_lease: seconds(20),
        policies: Policies {
            usual: DestinationPolicy { concurrency: 4, retry, dead_head, ..DestinationPolicy::default() },
            ..Policies::default()
        },
        route_retry: seconds(5),
        route_max_wait: days(1),
        recheck_after: seconds(600),
        retention: Retention { payload: days(30), record: days(60), interval: days(1) },
    }
}

fn channel(
    seed: u64,
    healed: Arc<AtomicBool>,
    down: Arc<AtomicBool>,
    refused: Arc<Mutex<BTreeSet<MessageId>>>,
) -> FakeChannel {
    let random = Mutex::new(StdRng::seed_from_u64(seed ^ 0x5eed));
    FakeChannel::scripted(move |id, _| {
        if healed.load(Ordering::Relaxed) {
            return Act::Take;
        }
        if down.load(Ordering::Relaxed) {
            return Act::Fail(FailureClass::Destination);
        }
        match random.lock().unwrap().random_range(0..100) {
            0..20 => Act::Fail(FailureClass::Transient),
            20..28 => Act::Fail(FailureClass::Destination),
            28..30 => {
                refused.lock().unwrap().insert(id);
                Act::Fail(FailureClass::Permanent)
            }
            30..40 => Act::TakeSilently,
            40..45 => Act::Hang,
            _ => Act::Take,
        }
    })
}

/// Some are worth something for a minute only, some have a deadline.
fn submission(number: usize, document: &str, begin: Timestamp) -> Submission {
    let mut metadata = metadata();
    metadata.expires_at = (number % 10 == 3).then(|| begin + Duration::from_secs(60));
    metadata.ordering_key = (number % 4 == 1).then(|| format!("line-{}", number % 3).parse().unwrap());
    metadata.deadline = (number % 7 == 3).then(|| begin + Duration::from_secs(7200));
    let part = Part {
        name: None,
        media_type: "application/xml".to_owned(),
        size: document.len() as u64,
        sha256: Sha256Digest::of(document.as_bytes()),
        offset: 0,
        attributes: BTreeMap::new(),
    };
    Submission {
        key: intake_key(&format!("key-{number}")),
        sender: "ags:07315000".parse().unwrap(),
        metadata,
        parts: vec![part],
        payload: Staged::Inline(vec![document.as_bytes().to_vec().into()]),
        external_ids: Vec::new(),
        carried: Vec::new(),
        canonical: Vec::new(),
        target: Target::Resolved,
        reserved: None,
        unusable_certificate: UnusableCertificate::Refuse,
    }
}

fn render(
    message: &amtsbote_core::message::Message,
    _: &amtsbote_core::delivery::Delivery,
    _: Option<&amtsbote_core::route::Route>,
) -> bytes::Bytes {
    message.id.to_string().into()
}
