//! The laboratory: directory, broker, gateway, portals and departments, and the hands that break things.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use amtsbote_it::{Lab, Options, binary};
use amtsbote_testkit::rabbitmq::{Rabbitmq, RabbitmqOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::{Certificate, Client, Identity};
use tokio::task::JoinHandle;

use crate::book::{Fate, Verdict};
use crate::node::Node;
use crate::parties::{Caller, DOWN, Lane, Outside, QUEUE, QUIET};
use crate::power::{self, Loss};

/// After so long without any progress the drain ends.
const NO_PROGRESS: Duration = Duration::from_secs(90);
/// Leases have ended after so long; what is still open then may have been answered for.
const UNHEARD: Duration = Duration::from_secs(12);
/// Portals at work.
const PORTALS: usize = 12;
/// Pause of a portal after each message, so that departments keep up.
const PAUSE: Duration = Duration::from_millis(20);
/// Pollers of the mailbox.
const POLLERS: u64 = 3;

/// How a laboratory is set up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    /// Seed of everything.
    pub(crate) seed: u64,
    /// Break-downs of departments, per mille of the messages.
    pub(crate) careless: u32,
    /// Run the gateway on the shim.
    pub(crate) shim: bool,
    /// Where the store is, if not beside the rest.
    pub(crate) store: Option<PathBuf>,
    /// Free bytes the store keeps.
    pub(crate) min_free: u64,
    /// More configuration.
    pub(crate) extra: String,
    /// Pause of a portal after each message, if not the usual one.
    pub(crate) pause: Option<Duration>,
}

/// The laboratory.
pub(crate) struct World {
    /// Files and certificates.
    pub(crate) lab: Lab,
    /// The broker.
    pub(crate) broker: Rabbitmq,
    /// Everybody else.
    pub(crate) outside: Arc<Outside>,
    /// What chance decides.
    pub(crate) random: StdRng,
    node: Option<Node>,
    shim: bool,
    pause: Duration,
    portals: Vec<JoinHandle<()>>,
    departments: Vec<JoinHandle<()>>,
    /// Longest time from a fault to a gateway that is ready.
    pub(crate) recovery: Duration,
    /// What power failures took.
    pub(crate) loss: Loss,
}

impl World {
    /// Sets everything up and starts the gateway; nobody submits yet.
    pub(crate) async fn start(setup: Setup) -> Self {
        let queues = [QUEUE.name, QUIET.name].map(|name| (name.to_owned(), false)).to_vec();
        let broker = Rabbitmq::start(&RabbitmqOptions { queues, ..RabbitmqOptions::default() }).await;
        let extra = format!(
            "[retry]\nfirst = \"1s\"\nlongest = \"5s\"\nmax_attempts = 1000\n\
             [breaker]\nprobe_first = \"1s\"\nprobe_longest = \"2s\"\n\
             [engine]\nattempt_lease = \"20s\"\nrelease_rate = 2000\n\
             [brokers.main]\nurl = \"amqp://127.0.0.1:{}/%2f\"\nusername = \"guest\"\npassword_file = \"password\"\n{}",
            broker.port, setup.extra
        );
        let options = Options {
            extra,
            store: setup.store,
            min_free: setup.min_free.max(1 << 20),
            ..Options::default()
        };
        let lab = Lab::prepare(options).await;
        std::fs::write(lab.path("password"), "guest\n").unwrap();
        configure(&lab);
        std::fs::write(lab.path("control"), [0; 24]).unwrap();
        let mut world = Self {
            lab,
            broker,
            outside: Outside::new(setup.seed, setup.careless),
            random: StdRng::seed_from_u64(setup.seed),
            node: None,
            shim: setup.shim,
            pause: setup.pause.unwrap_or(PAUSE),
            portals: Vec::new(),
            departments: Vec::new(),
            recovery: Duration::ZERO,
            loss: Loss::default(),
        };
        world.up(Instant::now()).await;
        world.recovery = Duration::ZERO;
        world.staff();
        world
    }

    fn caller(&self, name: &str) -> Caller {
        let read = |file: String| std::fs::read(self.lab.path(&file)).unwrap();
        let pem = [read(format!("pki/{name}.pem")), read(format!("pki/{name}.key"))].concat();
        let client = Client::builder()
            .tls_certs_only([Certificate::from_pem(&read("pki/ca.pem".to_owned())).unwrap()])
            .identity(Identity::from_pem(&pem).unwrap())
            .tcp_nodelay(true)
            .no_proxy()
            .build();
        Caller::new(client.unwrap(), &self.outside)
    }

    fn staff(&mut self) {
        let department = self.caller("department");
        for number in 0..POLLERS {
            self.departments.push(tokio::spawn(department.clone().department(number)));
        }
        for (account, queue) in [("registry", QUEUE.name), ("stranger", QUIET.name)] {
            let reader = self.caller(account);
            self.departments.push(tokio::spawn(reader.reader(self.broker.url(), queue)));
        }
    }

    /// Portals begin to submit, as many at a time as usual.
    pub(crate) fn submit(&mut self, lanes: &[Lane]) {
        self.submit_as("portal", PORTALS, lanes, self.pause);
    }

    /// Some portals begin to submit, with a pause after each message.
    pub(crate) fn submit_as(&mut self, name: &str, count: usize, lanes: &[Lane], pause: Duration) {
        let portal = self.caller("portal");
        for number in 0..count {
            let work = portal.clone().portal(format!("{name}-{number}"), lanes.to_vec(), pause);
            self.portals.push(tokio::spawn(work));
        }
    }

    /// Whether the gateway runs on the shim.
    pub(crate) fn is_on_shim(&self) -> bool {
        self.shim
    }

    fn log_of_writes(&self) -> PathBuf {
        self.lab.path("shim.log")
    }

    fn environment(&self) -> Vec<(String, String)> {
        if !self.shim {
            return Vec::new();
        }
        shim(&self.lab.store(), &self.log_of_writes(), &self.lab.path("control"))
    }

    fn spawn(&self) -> Node {
        Node::start(&self.lab.path("amtsbote.toml"), &self.lab.path("log"), &self.environment())
    }

    /// Starts the gateway and waits until it is ready; the time since the fault counts.
    pub(crate) async fn up(&mut self, fault: Instant) {
        let mut node = self.spawn();
        *self.outside.gateway.write().unwrap() = Some(node.ready().await);
        self.node = Some(node);
        self.recovery = self.recovery.max(fault.elapsed());
    }

    /// Kills the gateway.
    pub(crate) async fn kill(&mut self) {
        *self.outside.gateway.write().unwrap() = None;
        if let Some(node) = self.node.take() {
            node.kill().await;
        }
    }

    /// Asks the gateway to end and kills it in the midst of that.
    pub(crate) async fn kill_at_shutdown(&mut self) {
        if let Some(node) = &self.node {
            node.signal("TERM");
        }
        self.a_moment(300).await;
        self.kill().await;
    }

    /// Starts the gateway and kills it before it is ready.
    pub(crate) async fn kill_at_start(&mut self) {
        let node = self.spawn();
        self.a_moment(250).await;
        node.kill().await;
    }

    /// The power fails after a kill: what was not synced is lost in part.
    pub(crate) fn power_fails(&mut self) {
        let loss = power::fail(&self.log_of_writes(), &self.lab.store(), &mut self.random).unwrap();
        self.loss = Loss { writes: self.loss.writes + loss.writes, names: self.loss.names + loss.names };
        clear_log(&self.log_of_writes());
    }

    /// Lets things go on for a seeded time.
    pub(crate) async fn a_moment(&mut self, most: u64) {
        let micros = self.random.random_range(0..most * 1_000);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    /// Changes what the shim does: nanoseconds added to the clock, microseconds per sync, whether syncs fail.
    pub(crate) fn control(&self, clock: i64, slow: u64, failing: bool) {
        let numbers = [clock.cast_unsigned(), slow, u64::from(failing)];
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let file = std::fs::OpenOptions::new().write(true).open(self.lab.path("control")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    }

    /// Whether the gateway says it is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        let Some(addresses) = *self.outside.gateway.read().unwrap() else { return false };
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
        let asked = client.get(format!("http://{}/health/ready", addresses.telemetry)).send().await;
        asked.is_ok_and(|reply| reply.status().is_success())
    }

    /// Waits until the gateway is ready, or is not; at most a minute.
    pub(crate) async fn until_ready(&self, ready: bool) {
        let begun = Instant::now();
        while self.is_ready().await != ready {
            if begun.elapsed() > Duration::from_secs(60) {
                let log = std::fs::read_to_string(self.lab.path("log")).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(20).collect();
                panic!("ready did not become {ready}; the end of the log, newest first:\n{}", end.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many messages have been accepted since, or a time is over.
    pub(crate) async fn until_accepted(&self, more: usize, most: Duration) {
        let (begun, before) = (Instant::now(), self.outside.book.count());
        while self.outside.book.count() < before + more && begun.elapsed() < most {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Portals finish the keys they have begun.
    pub(crate) async fn close(&mut self) {
        self.outside.closing.store(true, Ordering::Relaxed);
        for portal in self.portals.drain(..) {
            portal.await.unwrap();
        }
        self.outside.closing.store(false, Ordering::Relaxed);
    }

    /// Everything works again: waits until all has arrived or nothing moves any more, and judges.
    pub(crate) async fn finish(mut self) -> Verdict {
        self.close().await;
        let portal = self.caller("portal");
        let (mut last, mut moved, mut asked) = (usize::MAX, Instant::now(), false);
        loop {
            let open = self.outside.book.open();
            if open.is_empty() {
                break;
            }
            if open.len() != last {
                (last, moved, asked) = (open.len(), Instant::now(), false);
            }
            // What a department said may have arrived without its hearing of it.
            if moved.elapsed() > UNHEARD && !asked {
                asked = true;
                for (id, lane) in open {
                    if let Fate::Taken(taken) = portal.fate(&id, lane).await {
                        self.outside.book.taken(id, taken);
                    }
                }
            }
            if moved.elapsed() > NO_PROGRESS {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut fates = std::collections::HashMap::new();
        for (id, lane) in self.outside.book.open() {
            let fate = portal.fate(&id, lane).await;
            if matches!(fate, Fate::Lost | Fate::Parked)
                && lane != DOWN
                && fates.values().filter(|one| **one == fate).count() < 5
            {
                eprintln!("{id} is not settled: {fate:?}; {}", portal.card(&id).await);
            }
            fates.insert(id, fate);
        }
        self.outside.ended.store(true, Ordering::Relaxed);
        for department in self.departments.drain(..) {
            department.await.unwrap();
        }
        let verdict = self.outside.book.verdict(&fates);
        if let Some(node) = self.node.take() {
            node.stop().await;
        }
        if !verdict.is_clean() || std::env::var_os("AMTSBOTE_TORTURE_KEEP").is_some() {
            let kept = std::env::temp_dir().join(format!("amtsbote-torture-{}", std::process::id()));
            let copied =
                std::process::Command::new("cp").arg("-r").arg(self.lab.path("")).arg(&kept).status();
            eprintln!("the laboratory was kept in {} ({copied:?})", kept.display());
        }
        verdict
    }
}

/// Environment that puts the shim under a program.
pub(crate) fn shim(root: &Path, log: &Path, control: &Path) -> Vec<(String, String)> {
    let text = |path: &Path| path.display().to_string();
    [
        ("LD_PRELOAD", text(&binary("libamtsbote_torture_shim.so"))),
        ("AMTSBOTE_SHIM_ROOT", text(root)),
        ("AMTSBOTE_SHIM_LOG", text(log)),
        ("AMTSBOTE_SHIM_CONTROL", text(control)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// Removes the shim's log with everything it kept.
pub(crate) fn clear_log(log: &Path) {
    let name = log.file_stem().unwrap().to_string_lossy().into_owned();
    for entry in std::fs::read_dir(log.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with(&name) {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// Accounts for the queues beside the one with the mailbox.
fn configure(lab: &Lab) {
    use amtsbote_certs::{KeyKind, Purpose};
    for name in ["registry", "town"] {
        lab.pki.add(name, &Purpose::Client, KeyKind::P256).unwrap();
    }
    let account = |name: &str, serves: &str, queue: &str| {
        format!(
            "[[accounts]]\nname = \"{name}\"\nroles = [\"reader\"]\nserves = [\"{serves}\"]\n\
             channel = \"amqp://main?queue={queue}\"\ncertificates = [\"pki/{name}.pem\"]\n"
        )
    };
    lab.write_configuration(&format!(
        "{}{}",
        account("registry", "sta:073150000000", QUEUE.name),
        account("town", "psb:07315000_00", crate::parties::DOWN.name)
    ));
    let path = lab.path("amtsbote.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let mailbox = "serves = [\"wgb:064110000000\"]";
    let queue = format!("{mailbox}\nchannel = \"amqp://main?queue={}\"", QUIET.name);
    std::fs::write(path, text.replace(mailbox, &queue)).unwrap();
}
