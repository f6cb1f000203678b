//! Thousands of simulated runs. A failing seed is printed with the command that replays it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use amtsbote_sim::{Breakage, Outcome, World};

fn run(seed: u64, breakage: Breakage) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(World::run(seed, breakage))
}

/// Schedules of one shard; eight of them run beside each other.
const SHARD: u64 = 1_250;

fn nothing_is_lost(shard: u64) {
    let (from, count) = match std::env::var("AMTSBOTE_SIM_SEED") {
        Ok(seed) => (seed.parse().unwrap(), 1),
        Err(_) => (shard * SHARD, SHARD),
    };
    let (mut faults, mut crashes, mut expired) = (0, 0, 0);
    for seed in from..from + count {
        let outcome = run(seed, Breakage::None);
        assert!(outcome.accepted >= 50, "seed {seed}: {outcome:?}");
        if let Some(complaint) = outcome.complaint() {
            panic!(
                "{complaint}\nreplay: AMTSBOTE_SIM_SEED={seed} cargo nextest run -p amtsbote-sim schedules_0"
            );
        }
        faults += outcome.faults;
        crashes += outcome.crashes;
        expired += outcome.expired;
    }
    assert!(
        count == 1 || (faults > 3 * count && crashes > 1_000 && expired > 100),
        "too tame: {faults} faults, {crashes} crashes, {expired} expired"
    );
}

macro_rules! shards {
    ($($name:ident $number:literal),*) => {
        $(
            #[test]
            fn $name() {
                nothing_is_lost($number);
            }
        )*
    };
}

shards!(
    schedules_0 0,
    schedules_1 1,
    schedules_2 2,
    schedules_3 3,
    schedules_4 4,
    schedules_5 5,
    schedules_6 6,
    schedules_7 7
);

#[test]
fn a_run_repeats_exactly() {
    assert_eq!(run(42, Breakage::None), run(42, Breakage::None));
}

#[test]
fn broken_engines_are_caught() {
    for breakage in [
        Breakage::ForgetsAttempts,
        Breakage::DeliversBeforeCommitting,
        Breakage::GivesUpEarly,
        Breakage::IgnoresVersions,
        Breakage::TakesFailureForSuccess,
        Breakage::ForgetsLines,
        Breakage::ChargesOutages,
        Breakage::ForgetsNotices,
    ] {
        let caught = (0..200).find(|seed| run(*seed, breakage).complaint().is_some());
        assert!(caught.is_some(), "{breakage:?} went unnoticed in 200 runs");
    }
}
