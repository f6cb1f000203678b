//! What pages of the console cost with many stored messages, beside the same pages with few.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use amtsbote_benches::fill::fill;
use amtsbote_benches::gateway::Gateway;
use amtsbote_core::delivery::{DeadReason, FailureClass, FailureReason, Input, State};
use amtsbote_core::port::Acceptance;
use amtsbote_core::route::ChannelKind;
use amtsbote_http::Client;
use amtsbote_testkit::samples::{Acceptances, metadata, route, seal};
use amtsbote_testkit::time::noon;
use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use url::Url;

/// The same allocator as the gateway's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The office all messages go to; its broker is down, so that they stay.
const OFFICE: &str = "sta:073150000000";
/// One of so many is a dead letter.
const DEAD: usize = 10;
/// The pages.
const PAGES: [&str; 10] = [
    "/console",
    "/console/destinations",
    "/console/dead-letters",
    "/console/messages",
    "/console/messages?state=dead",
    "/console/messages?state=queued&account=portal",
    "/console/messages?caseId=case-500",
    "/console/messages?code=refused&service=ozg:10092",
    "/console/messages?code=unknown",
    "/console/messages?party=sta:073150000000&since=2026-07-01T00:00:00Z",
];
/// Not by an index: words in failures are looked for a tenth of a second at most.
const WORDS: &str = "/console/messages?text=nowhere";

/// Measures pages of the console. The last line is one JSON object: the slowest median, and the worst ratio to a small store.
#[derive(Debug, Parser)]
struct Arguments {
    /// Stored messages
    #[arg(long, default_value = "1000000")]
    messages: NonZeroUsize,
    /// Stored messages of the gateway it is compared with
    #[arg(long, default_value = "1000")]
    few: NonZeroUsize,
    /// Requests for each page and gateway
    #[arg(long, default_value_t = 41)]
    requests: usize,
    /// Folder on the disk to be measured
    #[arg(long, default_value = "target")]
    disk: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { messages, few, requests, disk } = Arguments::parse();
    let folder = |name| tempfile::Builder::new().prefix(name).tempdir_in(&disk);
    let (small, large) = (folder("console-few")?, folder("console-many")?);
    let mut gateways = Vec::new();
    for (folder, messages) in [(&small, few), (&large, messages)] {
        fill(&folder.path().join("store"), messages.get(), make).await?;
        std::fs::write(folder.path().join("password"), "guest\n")?;
        let gateway = Gateway::start(folder.path(), false, CONFIGURATION).await?;
        let operator = Operator {
            client: gateway.client("operator")?,
            base: gateway.operator().context("no operator")?,
        };
        let began = Instant::now();
        operator.until_it_knows_everything().await?;
        println!(
            "{messages} messages: known to the search {:.1} s after the start",
            began.elapsed().as_secs_f64()
        );
        gateways.push((gateway, operator));
    }
    let [(few_gateway, few), (many_gateway, many)] =
        <[_; 2]>::try_from(gateways).ok().context("two gateways")?;
    let (mut slowest, mut worst) = (0.0_f64, 0.0_f64);
    for page in PAGES.into_iter().chain([WORDS]) {
        let (mut reference, mut measured) = (Vec::new(), Vec::new());
        for _ in 0..requests {
            reference.push(few.time(page).await?);
            measured.push(many.time(page).await?);
        }
        let (reference, measured) = (median(&mut reference), median(&mut measured));
        let ratio = measured / reference;
        println!("{page:<75} {reference:>7.2} ms  {measured:>7.2} ms  {ratio:>5.2}");
        if page != WORDS {
            (slowest, worst) = (slowest.max(measured), worst.max(ratio));
        }
    }
    let resident = many_gateway.resident()? >> 20;
    let round = |value: f64| (value * 100.0).round() / 100.0;
    println!(
        "{}",
        json!({ "slowest_ms": round(slowest), "worst_ratio": round(worst), "resident_mib": resident })
    );
    few_gateway.stop().await?;
    many_gateway.stop().await
}

const CONFIGURATION: &str = "[operator]\nlisten = \"127.0.0.1:0\"\ncertificate = \"pki/server.pem\"\nkey = \"pki/server.key\"\n\
    client_ca = [\"pki/ca.pem\"]\n\
    [brokers.main]\nurl = \"amqp://127.0.0.1:1/%2f\"\nusername = \"guest\"\npassword_file = \"password\"\n\
    [[accounts]]\nname = \"registry\"\nroles = [\"reader\"]\nserves = [\"sta:073150000000\"]\n\
    channel = \"amqp://main?queue=q\"\ncertificates = [\"pki/registry.pem\"]\n\
    [[accounts]]\nname = \"operator\"\nroles = [\"operator\"]\ncertificates = [\"pki/operator.pem\"]\n";

/// A message that waits, or is a dead letter.
fn make(samples: &Acceptances, number: usize) -> anyhow::Result<Acceptance> {
    let mut metadata = metadata();
    metadata.case_id = Some(format!("case-{number}").parse()?);
    let mut way = route(OFFICE, ChannelKind::Amqp);
    way.endpoint.address = "amqp://main?queue=q".to_owned();
    let mut acceptance = samples.make(&format!("stored-{number}"), metadata, b"<antrag/>", Some(&way));
    let mut inputs = vec![Input::Sealed(seal())];
    if number.is_multiple_of(DEAD) {
        inputs.push(Input::StartAttempt { until: noon().checked_add(Duration::from_secs(60))? });
    }
    for input in inputs {
        let next = acceptance.delivery.apply(input, noon())?;
        acceptance.delivery = next.delivery;
        acceptance.events.extend(next.events);
    }
    if let State::Attempting { token, .. } = acceptance.delivery.state {
        let reason = FailureReason {
            code: "refused".to_owned(),
            detail: "the endpoint answered with status 422".to_owned(),
        };
        let next = Err(DeadReason::Permanent { last: reason.clone() });
        let failed = Input::Failed { token, class: FailureClass::Permanent, reason, next };
        let next = acceptance.delivery.apply(failed, noon())?;
        acceptance.delivery = next.delivery;
        acceptance.events.extend(next.events);
    }
    Ok(acceptance)
}

struct Operator {
    client: Client,
    base: Url,
}

impl Operator {
    async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        let reply =
            self.client.exchange(Method::GET, self.base.join(path)?, HeaderMap::new(), Bytes::new()).await?;
        anyhow::ensure!(reply.status == 200, "{path}: {}", reply.status);
        Ok(reply.body)
    }

    async fn json(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.get(path).await?)?)
    }

    /// Waits until the search is up to date and what waits was counted.
    async fn until_it_knows_everything(&self) -> anyhow::Result<()> {
        loop {
            let behind = self.json("/admin/v1/messages?limit=1").await?["behindBytes"].as_u64();
            let counted = self.json("/admin/v1/overview").await?["countedAt"].is_string();
            if behind == Some(0) && counted {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Milliseconds for a page.
    async fn time(&self, page: &str) -> anyhow::Result<f64> {
        let began = Instant::now();
        self.get(page).await?;
        Ok(began.elapsed().as_secs_f64() * 1_000.0)
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
