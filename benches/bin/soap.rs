//! How fast envelopes and packages are read, beside libxml2 (lxml) on the same bytes in the same run: `soap [--quick]`.
//!
//! Ours: packaging, well-formedness, limits, namespaces, trees of the headers, base64 decoded, SHA-256 over every content, the metadata
//! checked and mapped for core. libxml2: well-formedness and a tree; nothing is decoded, digested, checked or mapped.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use amtsbote_core::account::{Account, LocalChannel, Role};
use amtsbote_soap::{ContentSink, MessageReader, Name, Shape, Transport, XmlLimits};
use anyhow::{Context as _, bail};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Parser;
use sha2::{Digest as _, Sha256};

/// The same allocator as the gateway's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Reads envelopes and packages and reports MB/s as one line of JSON.
#[derive(Debug, Parser)]
struct Arguments {
    /// Small content and little time, for a look whether it works
    #[arg(long)]
    quick: bool,
}

/// Pieces as they come from a connection.
const PIECE: usize = 64 << 10;

/// Digests contents and lets them go.
#[derive(Default)]
struct Digests(Sha256);

#[async_trait]
impl ContentSink for Digests {
    type Error = std::convert::Infallible;

    async fn begin(&mut self) -> Result<usize, Self::Error> {
        self.0 = Sha256::new();
        Ok(0)
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Self::Error> {
        self.0.update(&bytes);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

fn shape(name: &Name) -> Shape {
    if name.local() == "Message" { Shape::Base64 } else { Shape::Tree }
}

fn envelope(content: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<env:Envelope xmlns:env="http://www.w3.org/2003/05/soap-envelope" xmlns:wsa="http://www.w3.org/2005/08/addressing" xmlns:xta="http://xoev.de/transport/xta/211" xmlns:meta="http://www.osci.eu/ws/2014/10/transport"><env:Header><wsa:Action>http://www.xta.de/XTA/SendMessage</wsa:Action><wsa:MessageID>urn:uuid:5f0c1d2e-7a41-4b0e-9c55-000000000026</wsa:MessageID><meta:MessageMetaData><meta:DeliveryAttributes><meta:Origin>2025-03-04T09:15:00Z</meta:Origin></meta:DeliveryAttributes><meta:Originators><meta:Author><meta:Identifier type="xoev" name="Stadt">ags:09999001</meta:Identifier></meta:Author></meta:Originators><meta:Destinations><meta:Reader><meta:Identifier type="xoev">wgb:073150000000</meta:Identifier></meta:Reader></meta:Destinations><meta:MsgIdentification><wsa:MessageID>urn:de:xta:messageid:bench:1</wsa:MessageID></meta:MsgIdentification><meta:Qualifier><meta:Subject>Antrag</meta:Subject><meta:Service>urn:de:amtsbote:bench</meta:Service><meta:BusinessScenario><meta:Undefined>unbekannt</meta:Undefined></meta:BusinessScenario><meta:MessageType listURI="urn:l" listVersionID="1" payloadSchema="urn:p"><code>antrag</code></meta:MessageType></meta:Qualifier></meta:MessageMetaData></env:Header><env:Body><xta:GenericContentContainer><xta:ContentContainer><xta:Message contentType="application/xml">{content}</xta:Message></xta:ContentContainer></xta:GenericContentContainer></env:Body></env:Envelope>
"#
    )
}

async fn read(content_type: &str, bytes: &Bytes, account: &Account) -> anyhow::Result<()> {
    let pieces = (0..bytes.len()).step_by(PIECE).map(|at| Ok(bytes.slice(at..bytes.len().min(at + PIECE))));
    let (transport, mut sink) = (Transport::of(content_type, None)?, Digests::default());
    let stream = futures::stream::iter(pieces);
    let mut reader = MessageReader::open(transport, stream, XmlLimits::default(), &mut sink).await?;
    let headers =
        reader.headers::<std::convert::Infallible>(|name| name.local() == "MessageMetaData").await?;
    let body = reader.body(shape, &mut sink).await?;
    let order = headers.iter().find(|one| one.element.name.local() == "MessageMetaData");
    let metadata = amtsbote_xta::metadata_of(&order.context("there is no order")?.element, account);
    let metadata = metadata.map_err(|code| anyhow::anyhow!("refused with {}", code.number()))?;
    anyhow::ensure!(metadata.recipient.is_some() && body.len() == 1, "something was not read");
    Ok(())
}

/// Megabytes per second of reading the same message again and again.
async fn rate(content_type: &str, bytes: &Bytes, account: &Account, time: Duration) -> anyhow::Result<f64> {
    let (began, mut rounds) = (Instant::now(), 0_u32);
    while began.elapsed() < time || rounds == 0 {
        read(content_type, bytes, account).await?;
        rounds += 1;
    }
    Ok(megabytes(bytes.len()) * f64::from(rounds) / began.elapsed().as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "sizes of messages are far below 2^52")]
fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

/// The same by libxml2; `None` if it is not here.
fn libxml2(bytes: &[u8], time: Duration) -> anyhow::Result<Option<f64>> {
    const SCRIPT: &str = "import sys, time\nfrom lxml import etree\ndata = sys.stdin.buffer.read()\nparser = etree.XMLParser(huge_tree=True, resolve_entities=False, no_network=True)\nbegan, rounds = time.perf_counter(), 0\nwhile rounds == 0 or time.perf_counter() - began < float(sys.argv[1]):\n    etree.fromstring(data, parser)\n    rounds += 1\nprint(len(data) * rounds / 1e6 / (time.perf_counter() - began))\n";
    let own = Path::new("target/python/bin/python");
    let python = if own.exists() { own } else { Path::new("python3") };
    let mut child = Command::new(python)
        .args(["-c", SCRIPT, &time.as_secs_f64().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting Python")?;
    // A script that ended early takes nothing more; its output tells.
    drop(child.stdin.take().map(|mut stdin| stdin.write_all(bytes)));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        eprintln!("lxml is not here; tests/run installs it");
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().parse() {
        Ok(rate) => Ok(Some(rate)),
        Err(_) => bail!("lxml said {text:?}"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let quick = Arguments::parse().quick;
    let (large, time) = if quick { (4 << 20, 0.2) } else { (100 << 20, 5.0) };
    let time = Duration::from_secs_f64(time);
    let account = Account {
        name: "bench".parse()?,
        roles: BTreeSet::from([Role::Author]),
        parties: vec!["ags:09999001".parse()?],
        serves: Vec::new(),
        channel: LocalChannel::Mailbox,
        credentials: Vec::new(),
        message_limit: None,
    };
    let content: Vec<u8> =
        (0..large).map(|n: usize| u8::try_from(n * 31 % 251).unwrap_or_default()).collect();
    let small = Bytes::from(envelope(&STANDARD.encode(&content[..10 << 10])));
    let inline = Bytes::from(envelope(&STANDARD.encode(&content)));
    let include = r#"<i:Include xmlns:i="http://www.w3.org/2004/08/xop/include" href="cid:c"/>"#;
    let head = "--B\r\nContent-Type: application/xop+xml\r\nContent-ID: <r>\r\n\r\n";
    let mut package = format!("{head}{}\r\n--B\r\nContent-ID: <c>\r\n\r\n", envelope(include)).into_bytes();
    package.extend_from_slice(&content);
    package.extend_from_slice(b"\r\n--B--\r\n");
    let plain = "application/soap+xml";
    let mut result = serde_json::Map::new();
    for (name, bytes) in [("envelope", &small), ("inline", &inline)] {
        let ours = rate(plain, bytes, &account, time).await?;
        result.insert(format!("{name}_mb_s"), rounded(ours));
        if let Some(theirs) = libxml2(bytes, time)? {
            result.insert(format!("{name}_libxml2_mb_s"), rounded(theirs));
            result.insert(format!("{name}_vs_libxml2"), rounded(ours / theirs));
        }
    }
    let packed =
        rate("multipart/related; boundary=B; start=\"<r>\"", &package.into(), &account, time).await?;
    result.insert("mtom_mb_s".to_owned(), rounded(packed));
    println!("{}", serde_json::Value::Object(result));
    Ok(())
}

fn rounded(number: f64) -> serde_json::Value {
    ((number * 100.0).round() / 100.0).into()
}
