use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use super::{Config, schema};

/// The reference file with everything that is only shown in force.
static REFERENCE: LazyLock<String> = LazyLock::new(|| super::REFERENCE.replace("#: ", ""));

fn issues(text: &str) -> Vec<String> {
    let found = Config::parse(text, Path::new("/etc/amtsbote")).err().unwrap_or_default();
    found.iter().map(ToString::to_string).collect()
}

/// The reference file with one piece replaced.
fn changed(from: &str, to: &str) -> Vec<String> {
    assert!(REFERENCE.contains(from), "{from}");
    issues(&REFERENCE.replacen(from, to, 1))
}

#[test]
fn the_reference_file_is_valid_as_it_is_printed() {
    let printed = Config::parse(super::REFERENCE, Path::new("/etc/amtsbote")).unwrap();
    assert!(printed.brokers.is_empty());
}

#[test]
fn the_reference_file_is_valid_and_shows_the_defaults() {
    let reference = Config::parse(&REFERENCE, Path::new("/etc/amtsbote")).unwrap();
    assert_eq!(reference.store, Path::new("/etc/amtsbote/store"));
    // Without the optional sections everything optional has its default: the same values.
    let optional = ["[limits]", "[xta]", "[engine]", "[retry]", "[retention]", "[amqp]", "[log]"];
    let mut kept = true;
    let bare: String = REFERENCE
        .lines()
        .filter(|line| {
            if line.starts_with('[') {
                kept = !optional.iter().any(|section| line.starts_with(section));
            }
            kept
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let bare = Config::parse(&bare, Path::new("/etc/amtsbote")).unwrap();
    assert_eq!(bare, reference);
}

#[test]
fn the_reference_file_names_every_key() {
    let (_, asked) = schema::read(&REFERENCE, Path::new("/"));
    let mut section = String::new();
    let mut shown = BTreeSet::new();
    for line in REFERENCE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section =
                name.trim_start_matches('[').split(']').next().unwrap().split('.').next().unwrap().to_owned();
        } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") {
            shown.insert(format!("{section}.{key}"));
        }
    }
    let missing: Vec<_> = asked.difference(&shown).collect();
    assert!(missing.is_empty(), "not in the reference file: {missing:?}");
}

#[test]
fn every_problem_is_reported_at_once_with_its_remedy() {
    let broken = REFERENCE
        .replace("listen = \"0.0.0.0:8443\"", "listen = \"8443\"")
        .replace("first = \"10s\"", "first = \"2h\"")
        .replace("fresh = \"600s\"", "fresh = \"1m\"")
        .replace("format = \"text\"", "format = \"xml\"")
        .replace("[telemetry]", "[telemetrie]");
    let found = issues(&broken);
    for expected in [
        "exchange.listen: cannot be read; write an address such as",
        "retry.first: the first delay must be above zero and at most the longest delay;",
        "directory.negative: is longer than fresh;",
        "log.format: is unknown; write \"text\" or \"json\"",
        "telemetrie: is unknown;",
    ] {
        assert!(found.iter().any(|issue| issue.starts_with(expected)), "{expected} in {found:#?}");
    }
    assert_eq!(found.len(), 5, "{found:#?}");
}

#[test]
fn each_mistake_names_its_key() {
    for (from, to, key) in [
        ("path = \"store\"", "", "store.path: is missing"),
        ("connections = 4096", "connections = 0", "limits.connections"),
        (
            "connections = 4096",
            "connexions = 4096",
            "limits.connexions: is unknown; did you mean connections?",
        ),
        ("entry = \"standalone\"", "entry = \"public\"", "directory.entry"),
        ("entry = \"standalone\"", "entry = \"bundesmaster\"", "directory.token_file"),
        ("servers = [\"https://dvdv.example/dvdv2-backend\"]", "servers = []", "directory.servers"),
        ("record = \"180d\"", "record = \"1d\"", "retention.record"),
        ("hold = false", "hold = \"no\"", "engine.hold"),
        ("growth = 2.0", "growth = \"fast\"", "retry.growth"),
        ("amqps://broker.example", "amqps://me:secret@broker.example", "brokers.main.url: holds a password"),
        ("username = \"amtsbote\"", "", "brokers.main.username"),
        ("roles = [\"author\"]", "roles = [\"king\"]", "accounts[0].roles"),
        ("parties = [\"ags:07315000\"]", "parties = []", "accounts[0].parties"),
        ("parties = [\"ags:07315000\"]", "parties = [\"07315000\"]", "accounts[0].parties"),
        ("roles = [\"reader\"]", "roles = []", "accounts[1].serves"),
        ("channel = \"mailbox\"", "channel = \"amqp://other?queue=q\"", "accounts[1].channel: names no"),
        ("channel = \"mailbox\"", "channel = \"amqp://main\"", "accounts[1].channel: is no address"),
        ("channel = \"mailbox\"", "channel = \"amqp://main?queue=\"", "accounts[1].channel: is no address"),
        ("servers = [\"https:", "servers = [\"ftp:", "directory.servers"),
        ("ca = [\"pki/ca.pem\"]                 #", "# ca = []", "directory.ca"),
        ("destination = \"amqp/wgb:073150000000\"", "destination = \"fax/x\"", "destinations[0].destination"),
        ("concurrency = 16                   #", "concurrency = 0 #", "destinations[0].concurrency"),
        ("weight = 1 ", "rate = 0 ", "destinations[0].rate"),
        ("stall = \"30s\"", "stall = \"0s\"", "limits.stall: is zero"),
        ("level = \"info\"", "level = \"info,,=x=\"", "log.level"),
        ("certificates = [\"pki/portal.pem\"]", "", "accounts[0].certificates"),
        ("[log]", "[log", "file: is no TOML"),
    ] {
        let found = changed(from, to);
        assert!(found.iter().any(|issue| issue.starts_with(key)), "{key} in {found:#?}");
    }
}

#[test]
fn durations_have_units() {
    let config = Config::parse(&REFERENCE.replace("\"20s\"", "\"1500ms\""), Path::new("/")).unwrap();
    assert_eq!(config.drain, Duration::from_millis(1500));
    assert!(changed("\"20s\"", "\"20\"")[0].contains("such as \"30s\""));
}
