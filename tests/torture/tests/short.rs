//! A few cycles of the laboratory in every run; `docs/proof.md` has the long ones.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;

fn profile(name: &str, cycles: &str) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_amtsbote-torture"))
        .args(["--profile", name, "--cycles", cycles])
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    let line: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let count = |name: &str| line[name].as_u64().unwrap();
    assert_eq!((count("lost"), count("unmarked_duplicates")), (0, 0), "{line}\n{stderr}");
    assert_eq!(count("accepted"), count("delivered") + count("dead") + count("parked"), "{line}");
    assert_eq!(count("parked"), 0, "{line}\n{stderr}");
    assert!(count("accepted") > 100, "too tame: {line}");
}

#[test]
fn killed_at_any_moment() {
    profile("kill", "6");
}

#[test]
fn the_power_fails() {
    profile("power", "8");
}

#[test]
fn syncs_are_slow_and_fail() {
    profile("slow-disk", "6");
}

#[test]
fn the_clock_jumps() {
    profile("clock", "6");
}

#[test]
fn the_broker_freezes_and_fills_up() {
    profile("broker", "2");
}
