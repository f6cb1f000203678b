//! Benchmarks, small, in every run. What they measure is not judged here except memory; `docs/proof.md` has the long runs.

use serde_json::Value;

#[test]
fn a_queue_for_a_destination_that_is_down_is_measured_and_drains() {
    let disk = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_backlog"))
        .args(["--messages", "5000", "--rounds", "1", "--seconds", "3", "--disk"])
        .arg(disk.path())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    let line: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    for ratio in ["rate_down", "p99_down", "p99_draining", "ready_s"] {
        assert!(line[ratio].as_f64().unwrap() > 0.0, "{line}");
    }
    let count = |name: &str| line[name].as_u64().unwrap();
    assert_eq!(count("messages"), 5000);
    assert!(count("drained") > 0, "{line}\n{stderr}");
    assert!(count("resident_mib") < 300, "{line}");
}

#[test]
fn envelopes_and_packages_are_read_beside_libxml2() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_soap")).arg("--quick").output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    let line: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    for rate in ["envelope_mb_s", "inline_mb_s", "mtom_mb_s"] {
        assert!(line[rate].as_f64().unwrap() > 0.0, "{line}");
    }
}

#[test]
fn deliveries_are_stored_and_fetched_by_osci() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_osci"))
        .args(["--quick", "--disk"])
        .arg(std::env::temp_dir())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    let line: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    for rate in ["store_s", "fetch_s", "store_mb_s", "fetch_mb_s"] {
        assert!(line[rate].as_f64().unwrap() > 0.0, "{line}");
    }
}

#[test]
fn pages_of_the_console_are_measured_beside_a_small_store() {
    let disk = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_console"))
        .args(["--messages", "6000", "--few", "600", "--requests", "3", "--disk"])
        .arg(disk.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    let line: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    for figure in ["slowest_ms", "worst_ratio"] {
        assert!(line[figure].as_f64().unwrap() > 0.0, "{line}");
    }
}
