//! Submits over mutual TLS with keep-alive, one outstanding request per connection. Written by hand over a raw connection, so that
//! the client takes as little of the shared cores as it can.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use amtsbote_tls::Identity;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::result::{Outcome, Recorder};

const BOUNDARY: &str = "amtsbote-load-1f6c2a";

/// What to send where.
#[derive(Debug, Clone)]
pub struct Target {
    /// Exchange listener.
    pub address: SocketAddr,
    /// Authority of the server's certificate.
    pub authority: std::path::PathBuf,
    /// Client certificate.
    pub certificate: std::path::PathBuf,
    /// Its key.
    pub key: std::path::PathBuf,
    /// JSON of the metadata part.
    pub metadata: String,
    /// Prefix of the idempotency keys, unique per run.
    pub prefix: String,
}

fn tls(target: &Target) -> anyhow::Result<TlsConnector> {
    let authorities = amtsbote_tls::load_certificates(&target.authority)?;
    let identity = Identity::load(&target.certificate, &target.key)?;
    Ok(TlsConnector::from(Arc::new(amtsbote_tls::client_config(authorities, Some(identity))?)))
}

async fn connect(target: &Target, tls: &TlsConnector) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(target.address).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let name = ServerName::IpAddress(target.address.ip().into());
    let stream = tls.connect(name, stream).await.context("TLS")?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // The sender sees why a connection ended.
        drop(connection.await);
    });
    Ok(sender)
}

/// The body of a submission; the same for all, so that building it costs nothing while measuring.
fn body(metadata: &str, size: usize) -> Bytes {
    let mut body = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"metadata\"\r\nContent-Type: application/json\r\n\r\n{metadata}\r\n\
         --{BOUNDARY}\r\nContent-Disposition: form-data; name=\"document\"; filename=\"antrag.xml\"\r\n\
         Content-Type: application/xml\r\n\r\n"
    )
    .into_bytes();
    body.extend((0..size).map(|n| b'a' + u8::try_from(n % 23).unwrap_or_default()));
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    body.into()
}

async fn client(
    target: Arc<Target>,
    tls: TlsConnector,
    number: usize,
    body: Bytes,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Recorder> {
    let mut sender = connect(&target, &tls).await?;
    let mut recorder = Recorder::default();
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    let mut count = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let request = http::Request::post("/v1/submissions")
            .header("host", "localhost")
            .header("content-type", &content_type)
            .header("idempotency-key", format!("{}-{number}-{count}", target.prefix))
            .body(Full::new(body.clone()))?;
        let started = Instant::now();
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        if status == http::StatusCode::ACCEPTED {
            recorder.success(started.elapsed());
        } else {
            recorder.failure();
            if count == 1 {
                bail!("the gateway answered {status}: {}", String::from_utf8_lossy(&answer));
            }
        }
    }
    Ok(recorder)
}

/// Loads for a time with some clients.
///
/// # Errors
/// When a client cannot connect or its connection breaks.
pub async fn run(target: Target, clients: usize, size: usize, duration: Duration) -> anyhow::Result<Outcome> {
    let (target, body) = (Arc::new(target.clone()), body(&target.metadata, size));
    let tls = tls(&target)?;
    crowd(clients, size, duration, |number, stop| {
        client(Arc::clone(&target), tls.clone(), number, body.clone(), stop)
    })
    .await
}

/// Lets some clients work for a time. Each gets its number and a flag that tells it to stop.
///
/// # Errors
/// The first error of a client.
pub async fn crowd<F, W>(clients: usize, size: usize, duration: Duration, work: F) -> anyhow::Result<Outcome>
where
    F: Fn(usize, Arc<AtomicBool>) -> W,
    W: Future<Output = anyhow::Result<Recorder>> + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let tasks: Vec<_> = (0..clients).map(|number| tokio::spawn(work(number, Arc::clone(&stop)))).collect();
    tokio::time::sleep(duration).await;
    stop.store(true, Ordering::Relaxed);
    let elapsed = started.elapsed();
    let mut recorder = Recorder::default();
    for task in tasks {
        recorder.merge(&task.await??);
    }
    Ok(recorder.outcome(clients, size, elapsed))
}

/// Target of a portal in a laboratory made by `amtsbote demo`.
///
/// # Errors
/// When `lab.json` cannot be read.
pub fn from_lab(path: &Path, prefix: &str) -> anyhow::Result<Target> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let lab: serde_json::Value = serde_json::from_str(&text)?;
    let base = path.parent().unwrap_or(Path::new("."));
    let field =
        |value: &serde_json::Value| value.as_str().map(str::to_owned).context("lab.json is incomplete");
    let account = lab["accounts"].as_array().into_iter().flatten().find(|account| {
        account["roles"].as_array().is_some_and(|roles| roles.iter().any(|role| role == "author"))
    });
    let account = account.context("lab.json names no author")?;
    let (service, area) = (field(&lab["routes"][0]["service"])?, field(&lab["routes"][0]["area"])?);
    let (ozg, ars) = (service.trim_start_matches("ozg:"), area.trim_start_matches("ars:"));
    Ok(Target {
        address: field(&lab["exchange"])?.trim_start_matches("https://").parse()?,
        authority: base.join(field(&lab["ca"])?),
        certificate: base.join(field(&account["certificate"])?),
        key: base.join(field(&account["key"])?),
        metadata: serde_json::json!({ "service": { "ozg": ozg }, "area": { "ars": ars } }).to_string(),
        prefix: prefix.to_owned(),
    })
}
