//! What the OSCI intermediary does in a second: deliveries stored and fetched, and bytes of a large attachment.
//!
//! The limit of the machine stands beside it (`openssl speed` of the algorithms used), and with `OSCI_LIB` the official Java library
//! reading the same bytes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use amtsbote_benches::gateway::Gateway;
use amtsbote_certs::{Folder, KeyKind, Purpose};
use amtsbote_http::{Client as HttpClient, ClientOptions, Reach};
use amtsbote_osci::codec::algorithm::Policy;
use amtsbote_osci::codec::block::{CertificateRole, Certificates};
use amtsbote_osci::codec::certificate::Identity;
use amtsbote_osci::codec::content::{NewContainer, NewContent};
use amtsbote_osci::codec::encryption::find_key;
use amtsbote_osci::codec::order::{Answer, FetchRule, Request};
use amtsbote_osci::codec::signature::verify;
use amtsbote_osci::reception::{Incoming, Limits, Reception};
use amtsbote_osci::{Freight, OsciClient, Own, Peer};
use amtsbote_testkit::seeded::SeededEntropy;
use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The same allocator as the gateway's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bytes of a small content.
const SMALL: usize = 10 << 10;
/// Clients that store or fetch at once, each in a dialog of its own.
const CLIENTS: usize = 8;
/// Operations with a private key of one store or fetch within a dialog, on both sides: each decrypts once and signs once. A store has
/// asked for its id before.
const KEYS_OF_A_STORE: f64 = 8.0;
const KEYS_OF_A_FETCH: f64 = 4.0;
/// Password of the files the official library reads its keys from.
const PASSWORD: &str = "laboratory";

/// Stores and fetches by OSCI and reports rates as one line of JSON.
#[derive(Debug, Parser)]
struct Arguments {
    /// Small content and little time, for a look whether it works
    #[arg(long)]
    quick: bool,
    /// Folder on the disk to be measured
    #[arg(long, default_value = "target")]
    disk: PathBuf,
}

/// Makes the keys of the intermediary and its clients.
fn prepare(folder: &Path) -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "certificates must be valid now")]
    let pki = Folder::create(&folder.join("osci"), std::time::SystemTime::now())?;
    for name in ["intermediary", "alice", "bob"] {
        pki.add(&format!("{name}-cipher"), &Purpose::Cipher, KeyKind::Rsa3072)?;
        pki.add(&format!("{name}-sign"), &Purpose::Seal, KeyKind::Rsa3072)?;
    }
    Ok(())
}

fn configuration() -> String {
    let mut text = String::from("[osci]\nlisten = \"127.0.0.1:0\"\n");
    for (kind, file) in [("cipher", "cipher"), ("signature", "sign")] {
        text += &format!(
            "{kind}_certificate = \"osci/intermediary-{file}.pem\"\n{kind}_key = \"osci/intermediary-{file}.key\"\n"
        );
    }
    for name in ["alice", "bob"] {
        text += &format!(
            "[[accounts]]\nname = \"{name}\"\nroles = [\"author\", \"reader\"]\nparties = [\"dept:{name}\"]\n\
             serves = [\"osci:{name}\"]\nosci_cipher = [\"osci/{name}-cipher.pem\"]\nosci_signature = [\"osci/{name}-sign.pem\"]\n"
        );
    }
    text
}

fn own(folder: &Path, name: &str) -> anyhow::Result<Own> {
    let identity = |kind: &str| -> anyhow::Result<Identity> {
        let read = |end: &str| std::fs::read(folder.join(format!("osci/{name}-{kind}.{end}")));
        Ok(Identity::from_pem(&read("pem")?, &read("key")?)?)
    };
    Ok(Own { cipher: identity("cipher")?, signature: identity("sign")? })
}

fn limits() -> Limits {
    Limits { xml: 64 << 20, message: 1 << 30, policy: Policy::default(), folder: std::env::temp_dir() }
}

/// Everybody's keys, and where the intermediary is.
struct Lab {
    folder: PathBuf,
    peer: Peer,
    http: HttpClient,
}

impl Lab {
    fn new(folder: &Path, gateway: &Gateway) -> anyhow::Result<Self> {
        let keys = own(folder, "intermediary")?;
        let peer = Peer {
            url: format!("http://{}/", gateway.osci().context("there is no intermediary")?).parse()?,
            cipher: keys.cipher.certificate().clone(),
            signature: Some(keys.signature.certificate().clone()),
        };
        let time = Duration::from_secs(120);
        let options = ClientOptions { reach: Reach::Anywhere, connect: time, total: time, body: 1 << 30 };
        let http = HttpClient::new(amtsbote_tls::client_config(Vec::new(), None)?, options)?;
        Ok(Self { folder: folder.to_owned(), peer, http })
    }

    fn client(&self, name: &str, seed: u64) -> anyhow::Result<OsciClient> {
        let entropy = Arc::new(SeededEntropy::new(seed));
        Ok(OsciClient::new(self.http.clone(), entropy, limits(), own(&self.folder, name)?))
    }

    fn for_bob(&self) -> anyhow::Result<Certificates> {
        let bob = own(&self.folder, "bob")?;
        Ok(Certificates::default().with(CertificateRole::CipherAddressee, bob.cipher.certificate()))
    }

    /// Stores for a time, with one client; how many.
    async fn store(&self, seed: u64, time: Duration) -> anyhow::Result<u32> {
        let mut session = self.client("alice", seed)?.open(self.peer.clone()).await?;
        let (certificates, content) = (self.for_bob()?, vec![b'x'; SMALL]);
        let (began, mut stored) = (Instant::now(), 0);
        while began.elapsed() < time {
            let container = NewContainer { contents: vec![NewContent::Inline(content.clone())] };
            let freight = Freight::delivery(container.finish(None)?, certificates.clone());
            let id = session.message_id().await?;
            let order = Request::StoreDelivery { id: Some(id), subject: None };
            let answered = session.ask(&order, freight).await?;
            ensure!(answered.response.feedback.is_success(), "{:?}", answered.response.feedback);
            stored += 1;
        }
        session.close().await?;
        Ok(stored)
    }

    /// Fetches until nothing more is there or the time is over; how many.
    async fn fetch(&self, seed: u64, time: Duration) -> anyhow::Result<u32> {
        let mut session = self.client("bob", seed)?.open(self.peer.clone()).await?;
        let (began, mut fetched) = (Instant::now(), 0);
        while began.elapsed() < time {
            let answered = session.ask(&Request::FetchDelivery(FetchRule::Next), Freight::default()).await?;
            let Answer::FetchDelivery(_, Some(_)) = &answered.response.answer else { break };
            fetched += 1;
        }
        session.close().await?;
        Ok(fetched)
    }

    /// Stores one delivery with a large attachment and fetches it; the times.
    async fn large(&self, size: usize) -> anyhow::Result<(Duration, Duration)> {
        let content: Vec<u8> = (0..size).map(|n| u8::try_from(n * 31 % 251).unwrap_or_default()).collect();
        let mut file = tempfile::tempfile()?;
        std::io::Write::write_all(&mut file, &content)?;
        let digest = Sha256::digest(&content).into();
        drop(content);
        let mut session = self.client("alice", 900_001)?.open(self.peer.clone()).await?;
        let id = session.message_id().await?;
        let container = NewContainer { contents: vec![NewContent::Part("large".to_owned(), None)] };
        let freight = Freight::delivery(container.finish(None)?, self.for_bob()?);
        let freight = freight.with_file("large", Arc::new(file), size as u64, digest);
        let began = Instant::now();
        let order = Request::StoreDelivery { id: Some(id.clone()), subject: None };
        let answered = session.ask(&order, freight).await?;
        let stored = began.elapsed();
        ensure!(answered.response.feedback.is_success(), "{:?}", answered.response.feedback);
        session.close().await?;
        let mut session = self.client("bob", 900_002)?.open(self.peer.clone()).await?;
        let began = Instant::now();
        let rule = FetchRule::Id(id);
        let answered = session.ask(&Request::FetchDelivery(rule), Freight::default()).await?;
        let fetched = began.elapsed();
        ensure!(answered.received.part("large").is_some(), "the attachment did not come");
        session.close().await?;
        Ok((stored, fetched))
    }
}

/// Per second, over clients that work at once.
async fn rate<F, R>(work: F) -> anyhow::Result<f64>
where
    F: Fn(u64) -> R,
    R: Future<Output = anyhow::Result<u32>>,
{
    let began = Instant::now();
    let done = futures::future::try_join_all((0..CLIENTS as u64).map(work)).await?;
    Ok(f64::from(done.iter().sum::<u32>()) / began.elapsed().as_secs_f64())
}

/// One figure of `openssl speed` with one thread.
fn openssl(seconds: u32, arguments: &[&str], figure: impl Fn(&str) -> Option<f64>) -> anyhow::Result<f64> {
    let output = Command::new("openssl")
        .args(["speed", "-mr", "-seconds", &seconds.to_string()])
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .context("starting openssl")?;
    let text = String::from_utf8(output.stdout)?;
    text.lines().find_map(figure).with_context(|| format!("openssl speed {arguments:?} said {text:?}"))
}

/// Bytes per second of an algorithm on blocks of 16 KiB.
fn bytes_per_second(seconds: u32, algorithm: &str) -> anyhow::Result<f64> {
    openssl(seconds, &["-bytes", "16384", "-evp", algorithm], |line| {
        line.strip_prefix("+F:")?.rsplit(':').next()?.parse().ok()
    })
}

/// Signatures with a key of 3072 bits per second.
fn signatures_per_second(seconds: u32) -> anyhow::Result<f64> {
    // `+F2:number:bits:signatures per second:verifications per second`
    openssl(seconds, &["rsa3072"], |line| line.strip_prefix("+F2:")?.split(':').nth(2)?.parse().ok())
}

/// Reads a response as a client does: decrypts, digests and verifies.
fn read(bytes: &[u8], keys: &[Identity]) -> anyhow::Result<()> {
    let mut reception = Reception::new(limits());
    for piece in bytes.chunks(64 << 10) {
        reception.feed(piece)?;
        if let Some(data) = reception.locked() {
            let decryptor = data.open(find_key(data, keys)?, Policy::default())?;
            reception.unlock(decryptor)?;
        }
    }
    let Incoming::Message(received) = reception.finish()? else { bail!("a fault was recorded") };
    let certificates = Certificates::read(&received.envelope)?;
    let role = CertificateRole::SignatureIntermediary;
    verify(&received.envelope, &certificates, role, &received.part_ids(), &*received)?;
    Ok(())
}

/// The official library fetches a delivery of this size, and both read the response again and again; seconds here and there.
fn beside_library(lab: &Lab, library: &Path, content: &str, rounds: u32) -> anyhow::Result<(f64, f64)> {
    let (keys, records) = (lab.folder.join("probe"), tempfile::tempdir_in(&lab.folder)?);
    let url = lab.peer.url.to_string();
    let run = |commands: &str| -> anyhow::Result<Vec<Value>> {
        let mut process = Command::new("java")
            .arg("-cp")
            .arg(format!("{}/*:{}", library.display(), lab.folder.join("classes").display()))
            .arg("OsciProbe")
            .arg(&keys)
            .args([PASSWORD, &url])
            .arg(keys.join("intermediary-cipher.crt"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting java")?;
        // A process that ended early takes nothing more; its output tells.
        drop(
            process.stdin.take().map(|mut input| std::io::Write::write_all(&mut input, commands.as_bytes())),
        );
        let output = process.wait_with_output()?.stdout;
        output
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| Ok(serde_json::from_slice(line)?))
            .collect()
    };
    let folder = records.path().display();
    let commands = format!("store {content}\nfetch client=bob mode=explicit record={folder}\n");
    let answers = run(&commands)?;
    let largest = |entry: &std::fs::DirEntry| entry.metadata().map_or(0, |file| file.len());
    let entries = std::fs::read_dir(records.path())?.collect::<Result<Vec<_>, _>>()?;
    let responses = entries.iter().filter(|entry| entry.path().to_string_lossy().ends_with("-response.bin"));
    let Some(response) = responses.max_by_key(|entry| largest(entry)) else {
        bail!("nothing was recorded: {answers:?}")
    };
    let response = response.path();
    let answers =
        run(&format!("bench what=parse content=false rounds={rounds} file={}\n", response.display()))?;
    let there = answers.first().and_then(|answer| answer["secondsPerMessage"].as_f64());
    let there = there.with_context(|| format!("the library said {answers:?}"))?;
    let (bytes, bob) = (std::fs::read(&response)?, own(&lab.folder, "bob")?);
    let began = Instant::now();
    for _ in 0..rounds {
        read(&bytes, std::slice::from_ref(&bob.cipher))?;
    }
    Ok((began.elapsed().as_secs_f64() / f64::from(rounds), there))
}

/// Compiles what drives the library and puts all keys into files it reads.
fn export(folder: &Path, library: &Path) -> anyhow::Result<()> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adapters/osci/tests/java");
    let files =
        std::fs::read_dir(sources)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    let compiled = Command::new("javac")
        .args(["-nowarn", "-cp", &format!("{}/*", library.display()), "-d"])
        .arg(folder.join("classes"))
        .args(files.iter().filter(|path| path.extension().is_some_and(|end| end == "java")))
        .stderr(Stdio::null())
        .status()?;
    ensure!(compiled.success(), "the probe does not compile");
    std::fs::create_dir_all(folder.join("probe"))?;
    for name in ["intermediary", "alice", "bob"] {
        let Own { cipher, signature } = own(folder, name)?;
        for (kind, identity) in [("cipher", cipher), ("sign", signature)] {
            let target = |end: &str| folder.join(format!("probe/{name}-{kind}.{end}"));
            std::fs::copy(folder.join(format!("osci/{name}-{kind}.pem")), target("crt"))?;
            std::fs::write(target("p12"), identity.to_p12(name, PASSWORD)?)?;
        }
    }
    Ok(())
}

fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { quick, disk } = Arguments::parse();
    let (large, seconds, speed, rounds) = if quick { (4 << 20, 1, 1, 2) } else { (100 << 20, 10, 3, 200) };
    let time = Duration::from_secs(seconds);
    let folder = tempfile::Builder::new().prefix("osci").tempdir_in(disk)?;
    let folder = folder.path().canonicalize()?;
    prepare(&folder)?;
    let gateway = Gateway::start(&folder, false, &configuration()).await?;
    let lab = Lab::new(&folder, &gateway)?;

    let store = rate(|seed| lab.store(seed, time)).await?;
    let fetch = rate(|seed| lab.fetch(1_000 + seed, time)).await?;
    while lab.fetch(5_000, time).await? > 0 {}
    println!("10 KiB, {CLIENTS} dialogs: {store:.0} stores and {fetch:.0} fetches per second");
    let (stored, fetched) = lab.large(large).await?;
    let megabytes = |taken: Duration| large as f64 / 1e6 / taken.as_secs_f64();
    println!(
        "{} MiB: stored at {:.0}, fetched at {:.0} MB/s",
        large >> 20,
        megabytes(stored),
        megabytes(fetched)
    );

    let cores = std::thread::available_parallelism()?.get() as f64;
    let signatures = signatures_per_second(speed)? * cores;
    let (gcm, sha) =
        (bytes_per_second(speed, "aes-256-gcm")? / 1e6, bytes_per_second(speed, "sha256")? / 1e6);
    println!(
        "openssl speed: {signatures:.0} signatures per second on {cores} cores, AES-256-GCM {gcm:.0} and SHA-256 {sha:.0} MB/s"
    );
    // Each side encrypts or decrypts once and digests at least once, one after the other.
    let stream = 1.0 / (2.0 / gcm + 2.0 / sha);
    let mut line = Map::from_iter([
        ("store_s".to_owned(), json!(rounded(store))),
        ("fetch_s".to_owned(), json!(rounded(fetch))),
        ("store_of_keys".to_owned(), json!(rounded(store * KEYS_OF_A_STORE / signatures))),
        ("fetch_of_keys".to_owned(), json!(rounded(fetch * KEYS_OF_A_FETCH / signatures))),
        ("store_mb_s".to_owned(), json!(rounded(megabytes(stored)))),
        ("fetch_mb_s".to_owned(), json!(rounded(megabytes(fetched)))),
        ("store_of_stream".to_owned(), json!(rounded(megabytes(stored) / stream))),
        ("fetch_of_stream".to_owned(), json!(rounded(megabytes(fetched) / stream))),
    ]);
    if let Some(library) = std::env::var_os("OSCI_LIB").map(PathBuf::from).filter(|path| path.is_dir()) {
        export(&folder, &library)?;
        let sizes = [("small", "mode=explicit size=10240".to_owned(), rounds)];
        let sizes = sizes.into_iter().chain([(
            "large",
            format!("mode=explicit content=attachment size={large}"),
            rounds.min(5),
        )]);
        for (name, content, rounds) in sizes {
            let (here, there) = beside_library(&lab, &library, &content, rounds)?;
            println!(
                "reading a {name} response: {:.2} ms here, {:.2} ms by the library",
                here * 1e3,
                there * 1e3
            );
            line.insert(format!("{name}_vs_library"), json!(rounded(there / here)));
        }
    } else {
        eprintln!("OSCI_LIB names no folder with the jars of the official library: not compared");
    }
    println!("{}", Value::Object(line));
    gateway.stop().await
}
