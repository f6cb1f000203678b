//! Fault laboratory (design section 10): drives the real gateway with a real broker and real pollers, breaks things, and compares what
//! arrived with what portals were told is safe. The last line is one JSON object; exit code 1 if anything was lost, came twice
//! without a mark or under two ids, or waits although nothing stands in the way.

#![expect(clippy::unwrap_used, reason = "a laboratory may panic")]

mod book;
mod node;
mod parties;
mod power;
mod profiles;
mod world;

use std::process::ExitCode;

use clap::Parser;

use profiles::{Outcome, Profile};

/// Breaks things around a real gateway and counts what is lost.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What goes wrong
    #[arg(long, value_enum)]
    profile: Profile,
    /// How often
    #[arg(long)]
    cycles: Option<u32>,
    /// Seed of everything chance decides
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { profile, cycles, seed } = Arguments::parse();
    let cycles = cycles.unwrap_or(profile.usual_cycles());
    let Outcome { verdict, recovery, more } = profile.run(seed, cycles).await;
    let mut line = verdict.json(profile.name(), seed, cycles, recovery);
    if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
        line.extend(more.clone());
    }
    println!("{line}");
    ExitCode::from(u8::from(!verdict.is_clean()))
}
