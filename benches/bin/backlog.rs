//! What a very long queue for a destination that is down costs the others: accept rate and latency beside an empty store, memory,
//! time to ready after a kill, and the same while the queue drains (promises P5 and P8).

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use amtsbote_benches::fill::fill;
use amtsbote_benches::gateway::Gateway;
use amtsbote_benches::result::Outcome;
use amtsbote_core::delivery::Input;
use amtsbote_core::message::{Metadata, Priority};
use amtsbote_core::port::Acceptance;
use amtsbote_core::route::ChannelKind;
use amtsbote_testkit::rabbitmq::{Rabbitmq, RabbitmqOptions};
use amtsbote_testkit::samples::{Acceptances, route, seal};
use amtsbote_testkit::time::noon;
use clap::Parser;
use serde_json::json;

/// The same allocator as the gateway's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bytes of a document that is accepted while measuring.
const SIZE: usize = 10 << 10;
/// Clients that submit.
const CLIENTS: usize = 64;
/// Seconds a gateway gets to do what is left of the round before.
const CALM: usize = 30;
/// The office that is down.
const OFFICE: &str = "sta:073150000000";

/// Measures the others beside a long queue for a destination that is down. The last line is one JSON object of ratios to an
/// empty store in the same run.
#[derive(Debug, Parser)]
struct Arguments {
    /// Messages that wait
    #[arg(long, default_value = "1000000")]
    messages: NonZeroUsize,
    /// Rounds; medians are taken over them
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Folder on the disk to be measured
    #[arg(long, default_value = "target")]
    disk: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { messages, rounds, seconds, disk } = Arguments::parse();
    let duration = Duration::from_secs(seconds);
    let queues = vec![("q".to_owned(), false)];
    let mut broker = Rabbitmq::start(&RabbitmqOptions { queues, ..RabbitmqOptions::default() }).await;
    broker.stop();
    let folder = |name| tempfile::Builder::new().prefix(name).tempdir_in(&disk);
    let (empty, full) = (folder("backlog-empty")?, folder("backlog-full")?);
    for folder in [&empty, &full] {
        std::fs::write(folder.path().join("password"), "guest\n")?;
    }
    let extra = configuration(broker.port);
    fill(&full.path().join("store"), messages.get(), waiting_message).await?;

    let mut alone = Gateway::start(empty.path(), false, &extra).await?;
    let mut beside = Gateway::start(full.path(), false, &extra).await?;
    let ready = beside.restart().await?;
    println!("ready {:.2} s after a kill with {messages} messages waiting", ready.as_secs_f64());
    let (reference, down) = alternate(&mut alone, &mut beside, rounds, duration).await?;
    let resident = beside.resident()?;
    print("empty store", &reference);
    print("destination down", &down);

    broker.start_again().await;
    until_draining(&broker).await?;
    let (again, draining) = alternate(&mut alone, &mut beside, rounds, duration).await?;
    let drained = waiting(&broker).await;
    print("empty store", &again);
    print("draining", &draining);
    let afterwards = beside.resident()?;
    println!(
        "{drained} messages were drained; {} MiB resident before, {} MiB after",
        resident >> 20,
        afterwards >> 20
    );
    let ratio = |one: f64, other: f64| (one / other * 100.0).round() / 100.0;
    let line = json!({
        "messages": messages,
        "rate_down": ratio(median(&reference, |one| one.rate), median(&down, |one| one.rate)),
        "p99_down": ratio(median(&down, |one| one.p99_ms), median(&reference, |one| one.p99_ms)),
        "p99_draining": ratio(median(&draining, |one| one.p99_ms), median(&again, |one| one.p99_ms)),
        "resident_mib": resident.max(afterwards) >> 20,
        "ready_s": (ready.as_secs_f64() * 100.0).round() / 100.0,
        "drained": drained,
    });
    println!("{line}");
    alone.stop().await?;
    beside.stop().await
}

/// Measures both in turns; while one has the machine the other stands still.
async fn alternate(
    alone: &mut Gateway,
    beside: &mut Gateway,
    rounds: usize,
    duration: Duration,
) -> anyhow::Result<(Vec<Outcome>, Vec<Outcome>)> {
    let (mut reference, mut loaded) = (Vec::new(), Vec::new());
    beside.freeze()?;
    for _ in 0..rounds {
        alone.until_calm(CALM).await?;
        reference.push(alone.measure(CLIENTS, SIZE, duration).await?.0);
        alone.freeze()?;
        beside.thaw()?;
        beside.until_calm(CALM).await?;
        loaded.push(beside.measure(CLIENTS, SIZE, duration).await?.0);
        beside.freeze()?;
        alone.thaw()?;
    }
    beside.thaw()?;
    Ok((reference, loaded))
}

fn configuration(port: u16) -> String {
    format!(
        "[retry]\nfirst = \"1s\"\n[breaker]\nprobe_first = \"1s\"\nprobe_longest = \"2s\"\n\
         [brokers.main]\nurl = \"amqp://127.0.0.1:{port}/%2f\"\nusername = \"guest\"\npassword_file = \"password\"\n\
         [[accounts]]\nname = \"registry\"\nroles = [\"reader\"]\nserves = [\"{OFFICE}\"]\n\
         channel = \"amqp://main?queue=q\"\ncertificates = [\"pki/registry.pem\"]\n"
    )
}

/// Sealed messages for the office, as if they had been accepted and sealed while it was down.
fn waiting_message(samples: &Acceptances, number: usize) -> anyhow::Result<Acceptance> {
    let mut way = route(OFFICE, ChannelKind::Amqp);
    way.service = "10026".to_owned();
    way.endpoint.address = "amqp://main?queue=q".to_owned();
    let metadata: Metadata = serde_json::from_value(
        json!({ "service": { "ozg": "10026" }, "area": { "ars": "073150000000" }, "priority": Priority::Normal }),
    )?;
    let mut acceptance = samples.make(&format!("waiting-{number}"), metadata, b"<antrag/>", Some(&way));
    let sealed = acceptance.delivery.apply(Input::Sealed(seal()), noon())?;
    acceptance.delivery = sealed.delivery;
    acceptance.events.extend(sealed.events);
    Ok(acceptance)
}

/// Waits until the gateway has found out that the broker is back.
async fn until_draining(broker: &Rabbitmq) -> anyhow::Result<()> {
    for _ in 0..120 {
        if waiting(broker).await > 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    anyhow::bail!("the queue does not drain although the broker is back")
}

/// Messages in the broker's queue.
async fn waiting(broker: &Rabbitmq) -> i64 {
    let listed = broker.control(&["list_queues", "messages"]).await;
    let numbers = listed.lines().filter_map(|line| line.trim().parse::<i64>().ok());
    numbers.sum()
}

fn median(outcomes: &[Outcome], value: impl Fn(&Outcome) -> f64) -> f64 {
    let mut values: Vec<f64> = outcomes.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn print(name: &str, outcomes: &[Outcome]) {
    let (rate, p50, p99) = (
        median(outcomes, |one| one.rate),
        median(outcomes, |one| one.p50_ms),
        median(outcomes, |one| one.p99_ms),
    );
    println!("{name:<18} {rate:>8.0}/s  p50 {p50:>7.2} ms  p99 {p99:>7.2} ms");
}
