//! Amtsbote as a process with a mailbox destination; sealing and delivery are held while accepting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use amtsbote_benches::load::{self, Target};
use amtsbote_benches::result::Outcome;
use amtsbote_certs::{Folder, KeyKind, Purpose};
use amtsbote_http::{Client, ClientOptions, Reach};
use amtsbote_tls::Identity;
use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

const AREAS: &str = include_str!("../../../gateway/core/data/areas-sample.csv");
const SERVICES: &str = include_str!("../../../dvdv-mock/data/services.csv");
const AUTHORITIES: &str = include_str!("../../../dvdv-mock/data/authorities.csv");

/// CPU microseconds per message by stage.
pub(crate) type Stages = BTreeMap<String, f64>;

pub(crate) struct Gateway {
    folder: PathBuf,
    directory: Child,
    process: Child,
    pid: u32,
    target: Target,
    department: Client,
    runs: usize,
}

/// A binary that was built with this one.
fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.parent().context("no folder")?.join(name);
    anyhow::ensure!(
        path.exists(),
        "{} is missing; build it with `cargo build --release --workspace --bins`",
        path.display()
    );
    Ok(path)
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
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let pki = Folder::create(&folder.join("pki"), now())?;
        pki.add("server", &Purpose::Server(vec!["127.0.0.1".to_owned()]), KeyKind::P256)?;
        pki.add("seal", &Purpose::Seal, KeyKind::P256)?;
        pki.add("portal", &Purpose::Client, KeyKind::P256)?;
        pki.add("department", &Purpose::Client, KeyKind::P256)?;
        pki.add("dvdv-client", &Purpose::Client, KeyKind::Rsa3072)?;
        for (name, content) in
            [("areas.csv", AREAS), ("services.csv", SERVICES), ("authorities.csv", AUTHORITIES)]
        {
            std::fs::write(folder.join(name), content)?;
        }
        let mut directory = Command::new(binary("dvdv-mock")?)
            .args(["--listen", "127.0.0.1:0", "--client"])
            .arg(folder.join("pki/dvdv-client.pem"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let url = first_line(&mut directory).await?;
        write_configuration(folder, &url, true)?;
        let mut process = Command::new(binary("amtsbote")?)
            .args(["serve", "--ready-file", "-", "--config"])
            .arg(folder.join("amtsbote.toml"))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let ready: Value = serde_json::from_str(&first_line(&mut process).await?)?;
        let address = ready["exchange"].as_str().context("no address")?.parse()?;
        let file = |name: &str| folder.join("pki").join(name);
        let target = Target {
            address,
            authority: file("ca.pem"),
            certificate: file("portal.pem"),
            key: file("portal.key"),
            metadata: r#"{"service":{"ozg":"10092"},"area":{"ars":"073150000000"}}"#.to_owned(),
            prefix: String::new(),
        };
        let identity = Identity::load(&file("department.pem"), &file("department.key"))?;
        let tls =
            amtsbote_tls::client_config(amtsbote_tls::load_certificates(&file("ca.pem"))?, Some(identity))?;
        let total = Duration::from_secs(60);
        let options = ClientOptions { reach: Reach::Anywhere, connect: total, total, body: 64 << 20 };
        Ok(Self {
            folder: folder.to_owned(),
            directory,
            process,
            pid: u32::try_from(ready["pid"].as_u64().context("no pid")?)?,
            target,
            department: Client::new(tls, options)?,
            runs: 0,
        })
    }

    pub(crate) async fn measure(
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

    /// Releases everything and leases as fast as possible for a time.
    pub(crate) async fn drain(&mut self, duration: Duration) -> anyhow::Result<(u64, f64)> {
        let text = std::fs::read_to_string(self.folder.join("amtsbote.toml"))?;
        std::fs::write(self.folder.join("amtsbote.toml"), text.replace("hold = true", "hold = false"))?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid)?).context("no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::HUP)?;
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

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.process.kill().await?;
        self.directory.kill().await?;
        std::fs::remove_dir_all(self.folder.join("store"))?;
        Ok(())
    }
}

fn write_configuration(folder: &Path, directory: &str, hold: bool) -> anyhow::Result<()> {
    let text = format!(
        "[store]\npath = \"store\"\n[exchange]\nlisten = \"127.0.0.1:0\"\ncertificate = \"pki/server.pem\"\nkey = \"pki/server.key\"\n\
         client_ca = [\"pki/ca.pem\"]\n[seal]\ncertificate = \"pki/seal.pem\"\nkey = \"pki/seal.key\"\n\
         [directory]\nservers = [\"{directory}\"]\ncertificate = \"pki/dvdv-client.pem\"\nkey = \"pki/dvdv-client.key\"\n\
         fresh = \"1h\"\n\
         [routing]\nareas = \"areas.csv\"\nservices = \"services.csv\"\nauthorities = \"authorities.csv\"\n\
         [engine]\nhold = {hold}\n[log]\nlevel = \"error\"\n\
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
pub(crate) fn print_stages(rounds: &[Stages]) {
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
