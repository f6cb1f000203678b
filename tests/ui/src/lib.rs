//! Runs scenarios of the console in a real browser (Chromium, driven by `playwright-core`) against a real gateway.
//!
//! With `BLESS` set, pictures of pages are written into the handbook.
//!
//! A scenario is a script in `scenarios/`. It gets addresses and links as JSON in `UI_INPUT`. When the world has to change, it
//! writes a line `@word` and waits for an empty line; the test does what the word means in between.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use amtsbote_it::{Lab, binary, run};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

/// Where the modules of node are; `tests/run` installs them.
const MODULES: &str = "target/ui/node_modules";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A link that signs in with a role.
pub fn link(lab: &Lab, role: &str) -> String {
    let program = binary("amtsbote");
    let arguments = ["console-link", "--config", "amtsbote.toml", "--role", role];
    let made = run(&lab.path(""), program.to_str().unwrap(), &arguments);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// What scenarios need to know of a laboratory.
pub fn input(lab: &Lab) -> Value {
    json!({
        "base": format!("https://{}", lab.gateway().operator),
        "operator": link(lab, "operator"),
        "viewer": link(lab, "viewer"),
        "pki": lab.path("pki"),
    })
}

/// Plays a scenario to its end. `turn` is called for every word the scenario waits for.
///
/// # Panics
/// When the scenario fails.
pub async fn play(name: &str, input: &Value, mut turn: impl AsyncFnMut(&str)) {
    let root = root();
    let modules = root.join(MODULES);
    assert!(modules.exists(), "{} is missing; tests/run installs it", modules.display());
    let blessed = std::env::var_os("BLESS").is_some();
    // Modules are looked for above the script.
    let scripts = tempfile::Builder::new().prefix("run-").tempdir_in(root.join("target/ui")).unwrap();
    for script in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")).unwrap() {
        let script = script.unwrap();
        std::fs::copy(script.path(), scripts.path().join(script.file_name())).unwrap();
    }
    let mut script = Command::new("node")
        .arg(scripts.path().join(format!("{name}.mjs")))
        .env("UI_INPUT", input.to_string())
        .env("UI_SHOTS", root.join(if blessed { "docs/console" } else { "target/ui/screenshots" }))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node is there; tests/run installs it");
    let (mut talk, mut lines) =
        (script.stdin.take().unwrap(), BufReader::new(script.stdout.take().unwrap()).lines());
    while let Some(line) = lines.next_line().await.unwrap() {
        match line.strip_prefix('@') {
            Some(word) => {
                turn(word).await;
                talk.write_all(b"\n").await.unwrap();
            }
            None => println!("{line}"),
        }
    }
    let ended = script.wait().await.unwrap();
    assert!(ended.success(), "scenario {name} failed: {ended}");
}
