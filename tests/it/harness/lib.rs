//! A real gateway process with a real directory server and clients with real certificates, in a temp folder on free ports.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

pub mod endpoint;
pub mod soap;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

use amtsbote_certs::{Folder, KeyKind, Purpose};
use dvdv_mock::{Directory, Mock, MockOptions};
use reqwest::{Certificate, Client, Identity, Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Organisation that decides about Wohngeld in Mainz.
pub const OFFICE: &str = "wgb:073150000000";
/// Metadata of an application for [`OFFICE`].
pub const METADATA: &str =
    r#"{"service":{"ozg":"10092"},"area":{"ars":"073150000000"},"subject":"Wohngeld","caseId":"4711"}"#;

const AREAS: &str = include_str!("../../../gateway/core/data/areas-sample.csv");

#[expect(clippy::disallowed_methods, reason = "certificates must be valid now")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// A point in time so many seconds from now, as the gateway reads it.
pub fn soon(seconds: u64) -> String {
    jiff::Timestamp::try_from(now() + Duration::from_secs(seconds)).unwrap().to_string()
}

/// Where one of the workspace's binaries or libraries is: beside this program, or above it for a test.
pub fn binary(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let found =
        program.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is missing; run `cargo build --workspace` first"))
}

/// Lower-case hex of a SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Settings of a laboratory.
#[derive(Debug, Clone)]
pub struct Options {
    /// Appended to the configuration.
    pub extra: String,
    /// Channel of the department that serves [`OFFICE`].
    pub channel: String,
    /// Folder of the store, if not in the laboratory.
    pub store: Option<PathBuf>,
    /// Free bytes the store keeps.
    pub min_free: u64,
    /// Program that runs the gateway, such as strace.
    pub wrapper: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            extra: String::new(),
            channel: "mailbox".to_owned(),
            store: None,
            min_free: 1 << 20,
            wrapper: Vec::new(),
        }
    }
}

/// The laboratory.
pub struct Lab {
    folder: tempfile::TempDir,
    options: Options,
    /// Certificates.
    pub pki: Folder,
    /// The directory.
    pub directory: Arc<Mock>,
    directory_url: String,
    gateway: Option<Gateway>,
}

/// A running gateway process.
pub struct Gateway {
    process: Child,
    /// Process id of the gateway itself, also under a wrapper.
    pub pid: u32,
    /// Addresses.
    pub exchange: SocketAddr,
    /// Clients of OSCI, if there is an intermediary.
    pub osci: Option<SocketAddr>,
    /// Operators.
    pub operator: SocketAddr,
    /// Metrics and health.
    pub telemetry: SocketAddr,
}

/// A test that fails says what the gateway saw.
impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("The gateway's log:\n{}", self.log());
        }
    }
}

static PROVIDER: Once = Once::new();

impl Lab {
    /// Makes certificates, starts a directory and writes the configuration; the gateway is started separately.
    pub async fn prepare(options: Options) -> Self {
        PROVIDER.call_once(|| {
            rustls::crypto::aws_lc_rs::default_provider().install_default().expect("installed once");
        });
        let folder = tempfile::Builder::new().prefix("lab").tempdir().unwrap();
        let pki = Folder::create(&folder.path().join("pki"), now()).unwrap();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
        pki.add("server", &Purpose::Server(names), KeyKind::P256).unwrap();
        pki.add("seal", &Purpose::Seal, KeyKind::P256).unwrap();
        for client in ["portal", "portal-b", "department", "stranger", "operator", "nobody"] {
            pki.add(client, &Purpose::Client, KeyKind::P256).unwrap();
        }
        let registered = pki.add("dvdv-client", &Purpose::Client, KeyKind::Rsa3072).unwrap();
        let directory = Mock::new(Directory::example().unwrap(), MockOptions::default()).unwrap();
        directory.register_client(registered.der, "Vermittlungsstelle");
        let directory_url = serve_directory(&directory).await;
        let lab = Self { folder, options, pki, directory, directory_url, gateway: None };
        for (name, content) in [
            ("areas.csv", AREAS),
            ("services.csv", dvdv_mock::example::SERVICES),
            ("authorities.csv", dvdv_mock::example::AUTHORITIES),
        ] {
            std::fs::write(lab.path(name), content).unwrap();
        }
        lab.write_configuration("");
        lab
    }

    /// A laboratory with a running gateway.
    pub async fn start(options: Options) -> Self {
        let mut lab = Self::prepare(options).await;
        lab.start_gateway().await;
        lab
    }

    /// A path in the laboratory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Folder of the store.
    pub fn store(&self) -> PathBuf {
        self.options.store.clone().unwrap_or_else(|| self.path("store"))
    }

    /// Writes the configuration, with more accounts at its end.
    pub fn write_configuration(&self, more: &str) {
        let text = format!(
            r#"
[store]
path = "{store}"
min_free_bytes = {min_free}
low_free_bytes = {min_free}
[exchange]
listen = "127.0.0.1:0"
certificate = "pki/server.pem"
key = "pki/server.key"
client_ca = ["pki/ca.pem"]
[operator]
listen = "127.0.0.1:0"
certificate = "pki/server.pem"
key = "pki/server.key"
client_ca = ["pki/ca.pem"]
[telemetry]
listen = "127.0.0.1:0"
[seal]
certificate = "pki/seal.pem"
key = "pki/seal.key"
[directory]
servers = ["{directory}"]
certificate = "pki/dvdv-client.pem"
key = "pki/dvdv-client.key"
attempt = "2s"
total = "3s"
retries = 0
[routing]
areas = "areas.csv"
services = "services.csv"
authorities = "authorities.csv"
retry = "1s"
[log]
level = "info"
format = "json"
{extra}
[[accounts]]
name = "portal"
roles = ["author"]
parties = ["ags:07315000"]
certificates = ["pki/portal.pem"]
[[accounts]]
name = "portal-b"
roles = ["author"]
parties = ["ags:02000000"]
subjects = ["CN=portal-b,O=Amtsbote laboratory,C=DE"]
[[accounts]]
name = "department"
roles = ["reader"]
parties = ["dept:mainz-01"]
serves = ["{OFFICE}", "vsb:146250000000"]
channel = "{channel}"
certificates = ["pki/department.pem"]
[[accounts]]
name = "stranger"
roles = ["reader"]
parties = ["dept:fremd-01"]
serves = ["wgb:064110000000"]
certificates = ["pki/stranger.pem"]
[[accounts]]
name = "operator"
roles = ["operator"]
certificates = ["pki/operator.pem"]
{more}
"#,
            store = self.store().display(),
            min_free = self.options.min_free,
            directory = self.directory_url,
            extra = self.options.extra,
            channel = self.options.channel,
        );
        std::fs::write(self.path("amtsbote.toml"), text).unwrap();
    }

    /// Starts the gateway and waits until it is ready.
    pub async fn start_gateway(&mut self) {
        let mut command = self.options.wrapper.clone();
        command.push(binary("amtsbote").display().to_string());
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut process = Command::new(&command[0])
            .args(&command[1..])
            .args(["serve", "--ready-file", "-", "--config"])
            .arg(self.path("amtsbote.toml"))
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            panic!("the gateway did not start:\n{}", self.log());
        };
        let ready: Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| ready[name].as_str().unwrap().parse().unwrap();
        self.gateway = Some(Gateway {
            process,
            pid: u32::try_from(ready["pid"].as_u64().unwrap()).unwrap(),
            exchange: address("exchange"),
            osci: ready["osci"].as_str().map(|text| text.parse().unwrap()),
            operator: address("operator"),
            telemetry: address("telemetry"),
        });
    }

    /// The running gateway.
    pub fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("the gateway runs")
    }

    /// Ends the gateway with SIGKILL.
    pub async fn kill_gateway(&mut self) {
        let mut gateway = self.gateway.take().expect("the gateway runs");
        signal(gateway.pid, "KILL");
        gateway.process.wait().await.unwrap();
    }

    /// Ends the gateway with SIGTERM; its exit code.
    pub async fn stop_gateway(&mut self) -> i32 {
        let mut gateway = self.gateway.take().expect("the gateway runs");
        signal(gateway.pid, "TERM");
        let ended = tokio::time::timeout(Duration::from_secs(60), gateway.process.wait()).await;
        ended.expect("the gateway ends in time").unwrap().code().unwrap_or(-1)
    }

    /// Sends a signal to the gateway.
    pub fn signal_gateway(&self, name: &str) {
        signal(self.gateway().pid, name);
    }

    /// Everything the gateway has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A client with a certificate of the laboratory.
    pub fn client(&self, name: &str) -> Party {
        let read = |file: String| std::fs::read_to_string(self.path(&file)).unwrap();
        let pem = read(format!("pki/{name}.pem")) + &read(format!("pki/{name}.key"));
        self.client_with(Some(Identity::from_pem(pem.as_bytes()).unwrap()))
    }

    /// The same towards the operator listener.
    pub fn operator(&self, name: &str) -> Party {
        Party { base: format!("https://{}", self.gateway().operator), ..self.client(name) }
    }

    /// A client with some certificate or none.
    pub fn client_with(&self, identity: Option<Identity>) -> Party {
        let ca = std::fs::read(self.path("pki/ca.pem")).unwrap();
        let mut builder = Client::builder()
            .tls_certs_only([Certificate::from_pem(&ca).unwrap()])
            .tcp_nodelay(true)
            .timeout(Duration::from_secs(120))
            .no_proxy();
        if let Some(identity) = identity {
            builder = builder.identity(identity);
        }
        let base = format!("https://{}", self.gateway().exchange);
        Party { client: builder.build().unwrap(), base, recorded: Some(self.path("soap")) }
    }

    /// Body of a page of the telemetry listener, with its status.
    pub async fn telemetry(&self, path: &str) -> (StatusCode, String) {
        let url = format!("http://{}{path}", self.gateway().telemetry);
        let reply = Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap();
        (reply.status(), reply.text().await.unwrap())
    }
}

async fn serve_directory(mock: &Arc<Mock>) -> String {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let router = mock.router();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = socket.accept().await else { return };
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    format!("http://{address}{}", mock.options_prefix())
}

/// Looks again and again until something is there, bounded.
pub async fn eventually<T>(lab: &Lab, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        let mut every = tokio::time::interval(Duration::from_millis(50));
        loop {
            every.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), looking).await;
    found.unwrap_or_else(|_| panic!("never seen:\n{}", lab.log()))
}

/// Sends a signal to a process.
pub fn signal(pid: u32, name: &str) {
    let sent =
        std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A portal or department.
#[derive(Debug, Clone)]
pub struct Party {
    /// Its HTTP client.
    pub client: Client,
    /// Where the gateway is.
    pub base: String,
    /// Folder for what it is answered in SOAP, if that is kept.
    pub recorded: Option<PathBuf>,
}

/// A status with a JSON body.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Body; null if it is no JSON.
    pub json: Value,
}

impl Answer {
    /// Kebab-case name of the problem.
    pub fn problem(&self) -> &str {
        self.json["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default()
    }
}

impl Party {
    /// A request to a path.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// Sends a request and reads JSON.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        answer(request.send().await.unwrap()).await
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// A submission ready to be sent.
    pub fn submission(&self, key: &str, metadata: &str, document: &[u8]) -> RequestBuilder {
        let form = reqwest::multipart::Form::new()
            .part("metadata", text(metadata))
            .part("document", part("antrag.xml", "application/xml", document));
        self.request(Method::POST, "/v1/submissions").header("Idempotency-Key", key).multipart(form)
    }

    /// Submits; panics unless it is accepted as new. Returns the id.
    pub async fn submit(&self, key: &str, metadata: &str, document: &[u8]) -> String {
        let answer = self.send(self.submission(key, metadata, document)).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json["id"].as_str().unwrap().to_owned()
    }

    /// Leases up to `max` messages, waiting up to 30 s for the first. Returns the token and the messages.
    pub async fn lease(&self, max: usize) -> (String, Vec<Value>) {
        let body = serde_json::json!({ "max": max, "seconds": 600, "wait": 30 });
        let answer = self.post("/v1/mailbox/leases", &body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        (
            answer.json["lease"].as_str().unwrap().to_owned(),
            answer.json["messages"].as_array().unwrap().clone(),
        )
    }

    /// POST on a leased message with a token.
    pub async fn on_message(
        &self,
        id: &str,
        action: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self.request(Method::POST, &format!("/v1/mailbox/messages/{id}/{action}"));
        if let Some(token) = token {
            request = request.header("Amtsbote-Lease", token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(request).await
    }

    /// Downloads bytes.
    pub async fn bytes(&self, path: &str) -> Vec<u8> {
        let reply = self.request(Method::GET, path).send().await.unwrap();
        assert!(reply.status().is_success(), "{path}: {}", reply.status());
        reply.bytes().await.unwrap().to_vec()
    }
}

/// A multipart text part with JSON.
pub fn text(json: &str) -> reqwest::multipart::Part {
    reqwest::multipart::Part::text(json.to_owned()).mime_str("application/json").unwrap()
}

/// A multipart file part.
pub fn part(name: &str, media_type: &str, content: &[u8]) -> reqwest::multipart::Part {
    reqwest::multipart::Part::bytes(content.to_vec()).file_name(name.to_owned()).mime_str(media_type).unwrap()
}

/// Status and JSON of a reply.
pub async fn answer(reply: Response) -> Answer {
    let status = reply.status().as_u16();
    let body = reply.bytes().await.unwrap();
    Answer { status, json: serde_json::from_slice(&body).unwrap_or_default() }
}

/// Whether OpenSSL takes the file `signature` for a CAdES signature of the laboratory's seal over a file.
pub fn verifies(lab: &Lab, content: &str) -> bool {
    let arguments = ["cms", "-verify", "-cades", "-binary", "-inform", "DER", "-content", content];
    let files = ["-in", "signature", "-CAfile", "pki/seal-ca.pem", "-out", "/dev/null"];
    run(&lab.path(""), "openssl", &[arguments.as_slice(), &files].concat()).status.success()
}

/// Runs a program to its end in a folder.
pub fn run(folder: &Path, program: &str, arguments: &[&str]) -> std::process::Output {
    std::process::Command::new(program).args(arguments).current_dir(folder).output().unwrap()
}
