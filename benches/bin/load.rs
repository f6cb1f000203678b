//! Load generator for a running laboratory: `load --lab amtsbote-demo/lab.json --clients 64`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// The same allocator as the gateway's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Submits to a running gateway over mutual TLS and reports rate and latencies as one line of JSON.
#[derive(Debug, Parser)]
struct Arguments {
    /// Description of the laboratory
    #[arg(long, default_value = "amtsbote-demo/lab.json")]
    lab: PathBuf,
    /// Connections, one outstanding request each
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Bytes of a document
    #[arg(long, default_value_t = 10 << 10)]
    size: usize,
    /// Seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let prefix = format!("load-{}", std::process::id());
    let target = amtsbote_benches::load::from_lab(&arguments.lab, &prefix)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let duration = Duration::from_secs(arguments.seconds);
    let outcome =
        runtime.block_on(amtsbote_benches::load::run(target, arguments.clients, arguments.size, duration))?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
