//! Amtsbote as a process with a mailbox destination, measured from outside.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use amtsbote_certs::{Folder, KeyKind, Purpose};
use amtsbote_http::{Client, ClientOptions, Reach};
use amtsbote_tls::Identity;
use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::load::{self, Target};
use crate::result::Outcome;

const AREAS: &str = include_str!("../../gateway/core/data/areas-sample.csv");
const SERVICES: &str = include_str!("../../dvdv-mock/data/services.csv");
const AUTHORITIES: &str = include_str!("../../dvdv-mock/data/authorities.csv");

/// CPU microseconds per message by stage.
pub type Stages = BTreeMap<String, f64>;

/// A running gateway with its directory.
pub struct Gateway {
    folder: PathBuf,
    directory: Child,
    process: Child,
    pid: u32,
    target: Target,
    osci: Option<SocketAddr>,
    operator: Option<SocketAddr>,
    department: Client,
    runs: usize,
}

/// A binary that was built with this one.
fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    found.with_context(|| {
        format!("{name} is missing; build it with `cargo build --release --workspace --bins`")
    })
}

async fn first_line(process: &mut Child) -> anyhow::Result<String> {
    let output = process.stdout.take().context("no output")?;
    let line = BufReader::new(output).lines().next_line().await?;
    line.context("the process ended at once")
}

#[expect(clippy::disallowed_methods, reason = "certificates must be valid now")]
fn now() -> SystemTime {
    SystemTime::now()
}

impl Gateway {
    /// Starts a gateway in a folder; what is there already is used again. `hold` holds sealing and delivery while accepting;
    /// `extra` is more configuration.
    ///
    /// # Errors
    /// When a binary is missing or does not start.
    pub async fn start(folder: &Path, hold: bool, extra: &str) -> anyhow::Result<Self> {
        if !folder.join("pki").exists() {
            prepare(folder)?;
        }
        let mut directory = Command::new(binary("dvdv-mock")?)
            .args(["--listen", "127.0.0.1:0", "--client"])
            .arg(folder.join("pki/dvdv-client.pem"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let url = first_line(&mut directory).await?;
        write_configuration(folder, &url, hold, extra)?;
        let (process, ready) = launch(folder).await?;
        let file = |name: &str| folder.join("pki").join(name);
        let target = Target {
            address: ready["exchange"].as_str().context("no address")?.parse()?,
            authority: file("ca.pem"),
            certificate: file("portal.pem"),
            key: file("portal.key"),
            metadata: r#"{"service":{"ozg":"10092"},"area":{"ars":"073150000000"}}"#.to_owned(),
            prefix: String::new(),
        };
        Ok(Self {
            folder: folder.to_owned(),
            directory,
            process,
            pid: u32::try_from(ready["pid"].as_u64().context("no pid")?)?,
            target,
            osci: ready["osci"].as_str().map(str::parse).transpose()?,
            operator: ready["operator"].as_str().map(str::parse).transpose()?,
            department: client(folder, "department")?,
            runs: 0,
        })
    }

    /// Where the OSCI intermediary listens, if there is one.
    pub fn osci(&self) -> Option<SocketAddr> {
        self.osci
    }

    /// Address of the operator listener, if there is one.
    pub fn operator(&self) -> Option<url::Url> {
        format!("https://{}", self.operator?).parse().ok()
    }

    /// A client with the certificate of somebody.
    ///
    /// # Errors
    /// When there is no such certificate.
    pub fn client(&self, name: &str) -> anyhow::Result<Client> {
        client(&self.folder, name)
    }

    /// Kills the gateway and starts it again; the time until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> anyhow::Result<Duration> {
        self.process.kill().await?;
        let began = Instant::now();
        let (process, ready) = launch(&self.folder).await?;
        let taken = began.elapsed();
        self.process = process;
        self.pid = u32::try_from(ready["pid"].as_u64().context("no pid")?)?;
        self.target.address = ready["exchange"].as_str().context("no address")?.parse()?;
        Ok(taken)
    }

    /// Bytes of memory the gateway has now.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident(&self) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    }

    /// Stops the gateway where it stands, so that another has the machine for itself.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen gateway go on.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid)?).context("no pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until the gateway has done what it does after a start or a load, but not longer than so many seconds.
    ///
    /// # Errors
    /// When the process is gone.
    pub async fn until_calm(&self, longest: usize) -> anyhow::Result<()> {
        let (mut last, mut calm) = (cpu(self.pid)?.values().sum::<f64>(), 0);
        for _ in 0..longest {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = cpu(self.pid)?.values().sum::<f64>();
            calm = if now - last < 50_000.0 { calm + 1 } else { 0 };
            last = now;
            if calm == 3 {
                break;
            }
        }
        Ok(())
    }

    /// Accepts as fast as possible for a time; the outcome and where the time went.
    ///
    /// # Errors
    /// When the gateway refuses.
    pub async fn measure(
        &mut self,
        clients: usize,
        size: usize,
        duration: Duration,
    ) -> anyhow::Result<(Outcome, Stages)> {
        self.runs += 1;
        let target = Target { prefix: format!("run{}", self.runs), ..self.target.clone() };
        let before = cpu(self.pid)?;
        let own = cpu(std::process::id())?;
        let outcome = load::run(target, clients, size, duration).await?;
        let mut stages = Stages::new();
        for (name, micros) in cpu(self.pid)? {
            let spent = micros - before.get(&name).copied().unwrap_or_default();
            *stages.entry(name).or_default() += spent / outcome.done.max(1) as f64;
        }
        let client: f64 = cpu(std::process::id())?.values().sum::<f64>() - own.values().sum::<f64>();
        stages.insert("(load generator)".to_owned(), client / outcome.done.max(1) as f64);
        Ok((outcome, stages))
    }

    /// Releases everything and leases as fast as possible for a time; how many, and per second.
    ///
    /// # Errors
    /// When the gateway refuses.
    pub async fn drain(&mut self, duration: Duration) -> anyhow::Result<(u64, f64)> {
        let text = std::fs::read_to_string(self.folder.join("amtsbote.toml"))?;
        std::fs::write(self.folder.join("amtsbote.toml"), text.replace("hold = true", "hold = false"))?;
        self.signal(Signal::HUP)?;
        let url: String = format!("https://{}/v1/mailbox/leases", self.target.address);
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (started, mut leased) = (Instant::now(), 0);
        while started.elapsed() < duration {
            let body = Bytes::from(json!({ "max": 100, "seconds": 3600, "wait": 5 }).to_string());
            let reply = self.department.exchange(Method::POST, url.parse()?, headers.clone(), body).await?;
            let lease: Value = serde_json::from_slice(&reply.body)?;
            let count = lease["messages"].as_array().map_or(0, Vec::len) as u64;
            if count == 0 {
                break;
            }
            leased += count;
        }
        Ok((leased, leased as f64 / started.elapsed().as_secs_f64()))
    }

    /// Ends it and removes its store.
    ///
    /// # Errors
    /// When that fails.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.process.kill().await?;
        self.directory.kill().await?;
        std::fs::remove_dir_all(self.folder.join("store"))?;
        Ok(())
    }
}

fn client(folder: &Path, name: &str) -> anyhow::Result<Client> {
    let file = |name: &str| folder.join("pki").join(name);
    let identity = Identity::load(&file(&format!("{name}.pem")), &file(&format!("{name}.key")))?;
    let authorities = amtsbote_tls::load_certificates(&file("ca.pem"))?;
    let tls = amtsbote_tls::client_config(authorities, Some(identity))?;
    let total = Duration::from_secs(60);
    let options = ClientOptions { reach: Reach::Anywhere, connect: total, total, body: 64 << 20 };
    Ok(Client::new(tls, options)?)
}

/// Certificates and tables.
fn prepare(folder: &Path) -> anyhow::Result<()> {
    let pki = Folder::create(&folder.join("pki"), now())?;
    pki.add("server", &Purpose::Server(vec!["127.0.0.1".to_owned()]), KeyKind::P256)?;
    pki.add("seal", &Purpose::Seal, KeyKind::P256)?;
    for client in ["portal", "department", "registry", "operator"] {
        pki.add(client, &Purpose::Client, KeyKind::P256)?;
    }
    pki.add("dvdv-client", &Purpose::Client, KeyKind::Rsa3072)?;
    for (name, content) in
        [("areas.csv", AREAS), ("services.csv", SERVICES), ("authorities.csv", AUTHORITIES)]
    {
        std::fs::write(folder.join(name), content)?;
    }
    Ok(())
}

/// Starts the gateway and waits until it is ready.
async fn launch(folder: &Path) -> anyhow::Result<(Child, Value)> {
    let mut process = Command::new(binary("amtsbote")?)
        .args(["serve", "--ready-file", "-", "--config"])
        .arg(folder.join("amtsbote.toml"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let ready = serde_json::from_str(&first_line(&mut process).await?)?;
    Ok((process, ready))
}

fn write_configuration(folder: &Path, directory: &str, hold: bool, extra: &str) -> anyhow::Result<()> {
    let text = format!(
        "[store]\npath = \"store\"\n[exchange]\nlisten = \"127.0.0.1:0\"\ncertificate = \"pki/server.pem\"\nkey = \"pki/server.key\"\n\
         client_ca = [\"pki/ca.pem\"]\n[seal]\ncertificate = \"pki/seal.pem\"\nkey = \"pki/seal.key\"\n\
         [directory]\nservers = [\"{directory}\"]\ncertificate = \"pki/dvdv-client.pem\"\nkey = \"pki/dvdv-client.key\"\n\
         fresh = \"1h\"\n\
         [routing]\nareas = \"areas.csv\"\nservices = \"services.csv\"\nauthorities = \"authorities.csv\"\n\
         [engine]\nhold = {hold}\n[log]\nlevel = \"error\"\n{extra}\
         [[accounts]]\nname = \"portal\"\nroles = [\"author\"]\nparties = [\"ags:07315000\"]\ncertificates = [\"pki/portal.pem\"]\n\
         [[accounts]]\nname = \"department\"\nroles = [\"reader\"]\nparties = [\"dept:mainz-01\"]\nserves = [\"wgb:073150000000\"]\n\
         certificates = [\"pki/department.pem\"]\n"
    );
    Ok(std::fs::write(folder.join("amtsbote.toml"), text)?)
}

/// CPU microseconds of a process by name of its threads; ended threads count as `(ended)`.
fn cpu(pid: u32) -> anyhow::Result<BTreeMap<String, f64>> {
    let ticks_to_micros = 1_000_000.0 / rustix::param::clock_ticks_per_second() as f64;
    let read = |path: PathBuf| -> Option<(String, f64)> {
        let text = std::fs::read_to_string(path).ok()?;
        let (open, close) = (text.find('(')?, text.rfind(')')?);
        let name =
            text[open + 1..close].trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
        let fields: Vec<&str> = text[close + 1..].split_whitespace().collect();
        let spent = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        Some((name, spent * ticks_to_micros))
    };
    let mut spent: BTreeMap<String, f64> = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        if let Some((name, micros)) = read(task?.path().join("stat")) {
            *spent.entry(name).or_default() += micros;
        }
    }
    let whole = read(PathBuf::from(format!("/proc/{pid}/stat"))).map_or(0.0, |(_, micros)| micros);
    let alive: f64 = spent.values().sum();
    spent.insert("(ended threads: index)".to_owned(), (whole - alive).max(0.0));
    Ok(spent)
}

/// Prints the mean over the rounds.
pub fn print_stages(rounds: &[Stages]) {
    let mut total = Stages::new();
    for round in rounds {
        for (name, micros) in round {
            *total.entry(name.clone()).or_default() += micros / rounds.len() as f64;
        }
    }
    println!("CPU microseconds per message by stage:");
    for (name, micros) in total.iter().filter(|(_, micros)| **micros >= 0.1) {
        println!("  {name:<26} {micros:>8.1}");
    }
    println!("  {:<26} {:>8.1}", "sum", total.values().sum::<f64>());
}
