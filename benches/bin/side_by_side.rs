//! One run, same disk, same cores: raw log, RabbitMQ, Postfix, and Amtsbote's durable, routed accept (design section 10).

#[path = "side_by_side/competitors.rs"]
mod competitors;

use std::path::PathBuf;
use std::time::Duration;

use amtsbote_benches::gateway::{self, Gateway};
use amtsbote_benches::result::Outcome;
use clap::Parser;
use serde_json::{Map, Value};

use competitors::{Postfix, Queue, RawLog};

/// The same allocator as the gateway's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bytes of a document.
const SIZE: usize = 10 << 10;
/// Client counts.
const CLIENTS: [usize; 2] = [64, 1];

/// Measures Amtsbote beside a raw log, a RabbitMQ quorum queue and Postfix. The last line is one JSON object of ratios.
#[derive(Debug, Parser)]
struct Arguments {
    /// End within five minutes
    #[arg(long)]
    quick: bool,
    /// Rounds; medians are taken over them
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each measurement
    #[arg(long)]
    seconds: Option<u64>,
    /// Folder on the disk to be measured
    #[arg(long, default_value = "target")]
    disk: PathBuf,
}

/// Rates of one competitor over the rounds.
#[derive(Default)]
struct Series {
    outcomes: Vec<Outcome>,
}

impl Series {
    fn median(&self, value: impl Fn(&Outcome) -> f64) -> Option<f64> {
        let mut values: Vec<f64> = self.outcomes.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    fn row(&self, name: &str) -> String {
        let median = |value: fn(&Outcome) -> f64| self.median(value).unwrap_or_default();
        let failed: u64 = self.outcomes.iter().map(|outcome| outcome.failed).sum();
        format!(
            "{name:<28} {:>10.0} {:>10.2} {:>10.2} {failed:>8}",
            median(|outcome| outcome.rate),
            median(|outcome| outcome.p50_ms),
            median(|outcome| outcome.p99_ms),
        )
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(compare(&arguments))
}

async fn compare(arguments: &Arguments) -> anyhow::Result<()> {
    let (rounds, seconds) = if arguments.quick { (3, 5) } else { (7, 10) };
    let rounds = arguments.rounds.unwrap_or(rounds);
    let duration = Duration::from_secs(arguments.seconds.unwrap_or(seconds));
    let folder = tempfile::Builder::new().prefix("side-by-side").tempdir_in(&arguments.disk)?;
    eprintln!("starting RabbitMQ, Postfix and Amtsbote on {}", arguments.disk.display());
    let queue = Queue::start().await;
    let postfix = Postfix::start(folder.path())?;
    if postfix.is_none() {
        eprintln!("Postfix is skipped: the Debian package `postfix` is not installed, or this is not root");
    }
    let mut gateway = Gateway::start(folder.path(), true, "").await?;
    let mut ratios = Map::new();
    for clients in CLIENTS {
        let (mut raw, mut rabbit, mut mail, mut ours) =
            (Series::default(), Series::default(), Series::default(), Series::default());
        let mut stages = Vec::new();
        for round in 0..rounds {
            eprintln!("{clients} clients, round {} of {rounds}", round + 1);
            raw.outcomes.push(RawLog::measure(folder.path(), clients, SIZE, duration).await?);
            rabbit.outcomes.push(queue.measure(clients, SIZE, duration).await?);
            if let Some(postfix) = &postfix {
                mail.outcomes.push(postfix.measure(clients, SIZE, duration).await?);
            }
            let (outcome, cpu) = gateway.measure(clients, SIZE, duration).await?;
            ours.outcomes.push(outcome);
            stages.push(cpu);
        }
        println!(
            "\n{clients} client(s), {SIZE} bytes, medians of {rounds} rounds of {} s",
            duration.as_secs()
        );
        println!("{:<28} {:>10} {:>10} {:>10} {:>8}", "", "per second", "p50 ms", "p99 ms", "failed");
        println!("{}", raw.row("raw log, fdatasync"));
        println!("{}", rabbit.row("RabbitMQ quorum, confirms"));
        if postfix.is_some() {
            println!("{}", mail.row("Postfix relay"));
        }
        println!("{}", ours.row("Amtsbote accept, mutual TLS"));
        gateway::print_stages(&stages);
        let suffix = if clients == 64 { String::new() } else { format!("_{clients}") };
        let rate = |series: &Series| series.median(|outcome| outcome.rate);
        if let Some(own) = rate(&ours) {
            for (name, series) in [("rabbitmq", &rabbit), ("postfix", &mail), ("rawlog", &raw)] {
                if let Some(other) = rate(series) {
                    let ratio = (own / other * 100.0).round() / 100.0;
                    ratios.insert(format!("accept_vs_{name}{suffix}"), Value::from(ratio));
                }
            }
        }
    }
    let (messages, rate) = gateway.drain(Duration::from_secs(if arguments.quick { 20 } else { 60 })).await?;
    println!("\ndrain after release (seal, deliver, lease): {messages} messages, {rate:.0} per second");
    gateway.stop().await?;
    let committer = competitors::committer(folder.path(), 64, SIZE, duration).await?;
    println!(
        "committer only (store, 64 callers): {:.0} per second, p50 {:.2} ms",
        committer.rate, committer.p50_ms
    );
    println!("{}", Value::Object(ratios));
    Ok(())
}
