//! The gateway as a process that can be killed at any moment, also while it starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use amtsbote_it::binary;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Time a start may take.
const START: Duration = Duration::from_secs(120);

/// A process that may not be ready yet.
pub(crate) struct Node {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

/// Where a gateway listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// Portals and departments.
    pub(crate) exchange: SocketAddr,
    /// Metrics and health.
    pub(crate) telemetry: SocketAddr,
}

impl Node {
    /// Starts the gateway with a configuration and more environment.
    pub(crate) fn start(config: &Path, log: &Path, environment: &[(String, String)]) -> Self {
        let output = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut child = Command::new(binary("amtsbote"))
            .args(["serve", "--ready-file", "-", "--config"])
            .arg(config)
            .envs(environment.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, log: log.to_owned() }
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&mut self) -> Addresses {
        let line = tokio::time::timeout(START, self.lines.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let end = log.lines().rev().take(20).collect::<Vec<_>>();
            panic!("the gateway did not start; the end of its log, newest first:\n{}", end.join("\n"));
        };
        let ready: Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| ready[name].as_str().unwrap().parse().unwrap();
        Addresses { exchange: address("exchange"), telemetry: address("telemetry") }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        if let Some(pid) = self.child.id() {
            amtsbote_it::signal(pid, name);
        }
    }

    /// Ends it with SIGKILL.
    pub(crate) async fn kill(mut self) {
        // It may have ended already.
        drop(self.child.start_kill());
        self.child.wait().await.unwrap();
    }

    /// Ends it with SIGTERM and waits.
    pub(crate) async fn stop(mut self) {
        self.signal("TERM");
        if tokio::time::timeout(START, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }
}
