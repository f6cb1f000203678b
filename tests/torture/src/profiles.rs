//! What goes wrong, cycle by cycle.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::book::Verdict;
use crate::parties::{DOWN, Lane, MAILBOX, QUEUE, QUIET};
use crate::power;
use crate::world::{Setup, World, clear_log, shim};

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// SIGKILL of the gateway at random moments, also while it starts and ends.
    Kill,
    /// RabbitMQ killed, frozen, restarted, out of memory.
    Broker,
    /// SIGKILL, and what was not synced is lost, torn or reordered.
    Power,
    /// The disk of the store fills up and gets room again.
    DiskFull,
    /// Syncs take long, and now and then fail.
    SlowDisk,
    /// The wall clock jumps both ways.
    Clock,
    /// Messages that crash a department or cannot be parsed.
    Poison,
    /// One destination gets 50 times the others' traffic while another is down.
    Flood,
}

/// Result of a run.
pub(crate) struct Outcome {
    /// The counts.
    pub(crate) verdict: Verdict,
    /// Longest recovery.
    pub(crate) recovery: Duration,
    /// What only this profile has.
    pub(crate) more: Value,
}

/// Lanes that all profiles use.
const LANES: [Lane; 3] = [MAILBOX, QUEUE, QUIET];
/// Messages accepted in a cycle.
const PER_CYCLE: usize = 60;
/// A cycle ends after so long, however little was accepted.
const CYCLE: Duration = Duration::from_secs(5);

impl Profile {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Broker => "broker",
            Self::Power => "power",
            Self::DiskFull => "disk-full",
            Self::SlowDisk => "slow-disk",
            Self::Clock => "clock",
            Self::Poison => "poison",
            Self::Flood => "flood",
        }
    }

    /// Cycles unless told otherwise.
    pub(crate) fn usual_cycles(self) -> u32 {
        match self {
            Self::Kill | Self::Power => 50,
            Self::SlowDisk | Self::Clock => 60,
            Self::Broker | Self::DiskFull | Self::Poison => 10,
            Self::Flood => 3,
        }
    }

    /// Runs it.
    pub(crate) async fn run(self, seed: u64, cycles: u32) -> Outcome {
        let setup = Setup { seed, careless: 10, ..Setup::default() };
        match self {
            Self::Kill => run(setup, cycles, async |world, _| kill(world).await).await,
            Self::Power => {
                canary(seed).await;
                let setup = Setup { shim: true, ..setup };
                run(setup, cycles, async |world, _| power_fails(world).await).await
            }
            Self::Broker => {
                // Two of three messages go over the broker, which is away most of the time.
                let setup = Setup { pause: Some(Duration::from_millis(100)), ..setup };
                run(setup, cycles, async |world, cycle| broker(world, cycle).await).await
            }
            Self::SlowDisk => {
                let setup = Setup { shim: true, ..setup };
                run(setup, cycles, async |world, cycle| slow_disk(world, cycle).await).await
            }
            Self::Clock => {
                let setup = Setup { shim: true, ..setup };
                run(setup, cycles, async |world, _| clock(world).await).await
            }
            Self::Poison => {
                let setup = Setup { careless: 100, ..setup };
                let calm = async |world: &mut World, _| world.until_accepted(20 * PER_CYCLE, CYCLE).await;
                run(setup, cycles, calm).await
            }
            Self::DiskFull => disk_full(setup, cycles).await,
            Self::Flood => flood(setup, cycles).await,
        }
    }
}

/// Runs cycles under load, heals everything, and judges.
async fn run(setup: Setup, cycles: u32, mut cycle: impl AsyncFnMut(&mut World, u32)) -> Outcome {
    let mut world = World::start(setup).await;
    world.submit(&LANES);
    for number in 0..cycles {
        cycle(&mut world, number).await;
        progress(number + 1, cycles, &world);
    }
    if world.is_on_shim() {
        // What a clock that was ahead has put off has to come during the drain.
        world.control(JUMP * 1_000_000_000, 0, false);
    }
    finish(world, json!({})).await
}

async fn finish(world: World, more: Value) -> Outcome {
    let (recovery, loss) = (world.recovery, world.loss);
    let verdict = world.finish().await;
    let mut more = more;
    if loss != power::Loss::default() {
        more["undone_writes"] = loss.writes.into();
        more["undone_names"] = loss.names.into();
    }
    Outcome { verdict, recovery, more }
}

fn progress(done: u32, cycles: u32, world: &World) {
    let (accepted, open) = (world.outside.book.count(), world.outside.book.open().len());
    eprintln!("cycle {done} of {cycles}: {accepted} accepted, {open} under way");
}

async fn kill(world: &mut World) {
    world.until_accepted(PER_CYCLE, CYCLE).await;
    world.a_moment(50).await;
    let fault = Instant::now();
    match world.random.random_range(0..10) {
        0..2 => world.kill_at_shutdown().await,
        2..4 => {
            world.kill().await;
            world.kill_at_start().await;
        }
        _ => world.kill().await,
    }
    world.up(fault).await;
}

async fn power_fails(world: &mut World) {
    world.until_accepted(PER_CYCLE, CYCLE).await;
    world.a_moment(50).await;
    let fault = Instant::now();
    if world.random.random_range(0..8) == 0 {
        // The disk goes first: syncs fail, then the power.
        world.control(0, 0, true);
        world.a_moment(300).await;
    }
    world.kill().await;
    world.control(0, 0, false);
    world.power_fails();
    if world.random.random_range(0..5) == 0 {
        world.kill_at_start().await;
        world.power_fails();
    }
    world.up(fault).await;
}

async fn broker(world: &mut World, cycle: u32) {
    world.until_accepted(PER_CYCLE, CYCLE).await;
    match cycle % 4 {
        0 => {
            world.broker.signal("STOP");
            world.until_accepted(PER_CYCLE, Duration::from_secs(3)).await;
            world.broker.signal("CONT");
        }
        1 => {
            world.broker.control(&["set_vm_memory_high_watermark", "0.00001"]).await;
            world.until_accepted(PER_CYCLE, Duration::from_secs(3)).await;
            world.broker.control(&["set_vm_memory_high_watermark", "0.6"]).await;
        }
        2 => {
            world.broker.kill();
            world.until_accepted(PER_CYCLE, Duration::from_secs(2)).await;
            world.broker.start_again().await;
        }
        _ => {
            world.broker.stop();
            world.until_accepted(PER_CYCLE, Duration::from_secs(2)).await;
            world.broker.start_again().await;
        }
    }
    // Long enough for the breaker to find out that it is back.
    world.until_accepted(20 * PER_CYCLE, Duration::from_secs(4)).await;
}

async fn slow_disk(world: &mut World, cycle: u32) {
    let slow = world.random.random_range(0..150_000);
    world.control(0, slow, false);
    world.until_accepted(PER_CYCLE, CYCLE).await;
    if cycle % 5 == 4 {
        // A sync fails: the store must stop, and open itself again once the disk works.
        let fault = Instant::now();
        world.control(0, 0, true);
        world.until_ready(false).await;
        world.a_moment(500).await;
        world.control(0, 0, false);
        world.until_ready(true).await;
        world.recovery = world.recovery.max(fault.elapsed());
    }
}

/// Seconds the wall clock jumps at most; the directory refuses who is further away from its own time.
const JUMP: i64 = 45;

async fn clock(world: &mut World) {
    let jump = world.random.random_range(-JUMP..JUMP) * 1_000_000_000;
    world.control(jump, 0, false);
    world.until_accepted(PER_CYCLE, CYCLE).await;
    if world.random.random_range(0..5) == 0 {
        let fault = Instant::now();
        world.kill().await;
        world.up(fault).await;
    }
}

/// A file system of its own for the store, in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(bytes: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("small-disk").tempdir().unwrap().keep();
        let size = format!("size={bytes}");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&folder)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("disk-full needs to mount a tmpfs; run it as root");
            std::process::exit(75);
        }
        Self(folder)
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.0).unwrap();
        disk.f_bavail * disk.f_frsize
    }
}

impl SmallDisk {
    /// Makes a file that leaves so many bytes free. It is closed: only then its room comes back when it is removed.
    fn fill(&self, ballast: &std::path::Path, left: u64) {
        let file = std::fs::File::create(ballast).unwrap();
        // The gateway takes room at the same time.
        loop {
            let size = self.free().saturating_sub(left);
            let taken = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size.max(1));
            if taken.is_ok() {
                return;
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("-l").arg(&self.0).status());
        drop(std::fs::remove_dir(&self.0));
    }
}

async fn disk_full(setup: Setup, cycles: u32) -> Outcome {
    let disk = SmallDisk::mount(2 << 30);
    let store = Some(disk.0.join("store"));
    let mut world = World::start(Setup { store, min_free: 64 << 20, ..setup }).await;
    world.submit(&LANES);
    for number in 0..cycles {
        world.until_accepted(PER_CYCLE, CYCLE).await;
        // Sometimes only what the store keeps for itself is left, sometimes nothing at all.
        let left = if number % 2 == 0 { 32 << 20 } else { 0 };
        let ballast = disk.0.join("ballast");
        disk.fill(&ballast, left);
        world.until_ready(false).await;
        world.a_moment(1_500).await;
        let fault = Instant::now();
        if number % 3 == 2 {
            world.kill().await;
            std::fs::remove_file(&ballast).unwrap();
            world.up(fault).await;
        } else {
            std::fs::remove_file(&ballast).unwrap();
        }
        world.until_ready(true).await;
        world.recovery = world.recovery.max(fault.elapsed());
        progress(number + 1, cycles, &world);
    }
    let outcome = finish(world, json!({})).await;
    drop(disk);
    outcome
}

/// Traffic for the quiet lanes alone, then with the flood and an outage beside it; the ratio of their delays.
async fn flood(setup: Setup, cycles: u32) -> Outcome {
    let mut world = World::start(Setup { careless: 0, ..setup }).await;
    let (mut ratios, mut delays, mut multiples) = (Vec::new(), Vec::new(), Vec::new());
    let quiet_pause = Duration::from_millis(120);
    for number in 0..cycles {
        let (mut phase, mut traffic) = (Vec::new(), Vec::new());
        for flooded in [false, true] {
            // One message for the quiet lane for every fifty of the flood.
            world.submit_as(&format!("quiet-{number}-{flooded}"), 1, &[QUIET], quiet_pause);
            if flooded {
                world.submit_as(&format!("down-{number}"), 1, &[DOWN], quiet_pause);
                world.submit_as(&format!("flood-{number}"), 8, &[QUEUE], Duration::from_millis(15));
            }
            tokio::time::sleep(Duration::from_secs(12)).await;
            world.close().await;
            let (quiet, flood) =
                (world.outside.book.take_latencies(QUIET), world.outside.book.take_latencies(QUEUE));
            eprintln!(
                "round {number}, flood {flooded}: {} quiet, {} of the flood, median {:?}",
                quiet.len(),
                flood.len(),
                quiet[quiet.len() / 2]
            );
            phase.push(quiet[quiet.len() / 2]);
            traffic.push(flood.len() as f64 / quiet.len() as f64);
        }
        multiples.push(traffic[1]);
        ratios.push(phase[1].as_secs_f64() / phase[0].as_secs_f64());
        delays.push(phase[1].saturating_sub(phase[0]).as_secs_f64() * 1_000.0);
    }
    let median = |mut numbers: Vec<f64>| {
        numbers.sort_by(f64::total_cmp);
        (numbers[numbers.len() / 2] * 100.0).round() / 100.0
    };
    let more = json!({ "quiet_delay_ratio": median(ratios), "quiet_added_ms": median(delays), "flood_multiple": median(multiples) });
    finish(world, more).await
}

/// The shim must find a program that acknowledges before it syncs losing, and one that syncs first not.
async fn canary(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut careless, mut careful) = (0, 0);
    for round in 0..20 {
        for sync in [false, true] {
            let lost = canary_round(sync, &mut random).await;
            match sync {
                true => careful += lost,
                false => careless += lost,
            }
        }
        eprintln!("canary {}: {careless} lost without sync, {careful} with", round + 1);
    }
    if careless == 0 || careful > 0 {
        eprintln!("the shim cannot be trusted: {careless} lost without sync, {careful} with");
        std::process::exit(70);
    }
}

/// Acknowledged records that are gone after a power failure.
async fn canary_round(sync: bool, random: &mut StdRng) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let (file, log, control) =
        (root.join("records"), folder.path().join("shim.log"), folder.path().join("control"));
    std::fs::write(&control, [0; 24]).unwrap();
    let mut command = tokio::process::Command::new(amtsbote_it::binary("amtsbote-canary"));
    command.arg(&file).envs(shim(&root, &log, &control)).stdout(Stdio::piped()).kill_on_drop(true);
    if sync {
        command.arg("--sync");
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (enough, mut acknowledged) = (random.random_range(50..500_u64), 0);
    while acknowledged < enough {
        let line = lines.next_line().await.unwrap().unwrap();
        acknowledged = line.parse::<u64>().unwrap() + 1;
    }
    child.kill().await.unwrap();
    power::fail(&log, &root, random).unwrap();
    clear_log(&log);
    let kept = std::fs::read(&file).unwrap_or_default();
    let whole = (0..acknowledged).take_while(|number| {
        let place = usize::try_from(*number).unwrap() * 16;
        kept.get(place..place + 16) == Some(format!("{number:015}\n").as_bytes())
    });
    acknowledged - whole.count() as u64
}
