//! What is shipped for monitoring fits what the gateway says: metrics, alert rules, runbooks.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use amtsbote_it::endpoint::lab_with_endpoint;
use amtsbote_it::{Lab, METADATA, Options, run};
use axum::http::StatusCode;
use dvdv_mock::{Fault, FaultRule};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Words that begin like a metric of ours, without what histograms add to them.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        if let Some(name) = word.strip_prefix("amtsbote_") {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            found.insert(base.unwrap_or(name).to_owned());
        }
    }
    found
}

fn promtool(arguments: &[&str]) {
    let output = run(&root().join("docker/prometheus"), "promtool", arguments);
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn the_shipped_rules_do_what_they_say() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "--lint-fatal", "alerts.yml"]);
    promtool(&["test", "rules", "alerts.test.yml"]);
}

/// Values behind a key of the rules.
fn values(rules: &str, key: &str) -> Vec<String> {
    let lines = rules.lines().filter_map(|line| line.trim().strip_prefix(key));
    lines.map(|value| value.trim().to_owned()).collect()
}

#[test]
fn every_alert_has_a_test_and_a_runbook_and_uses_metrics_that_are_documented() {
    let (rules, tests) = (read("docker/prometheus/alerts.yml"), read("docker/prometheus/alerts.test.yml"));
    let alerts = values(&rules, "- alert:");
    assert!(alerts.len() >= 14);
    for alert in &alerts {
        assert!(tests.contains(&format!("- name: {alert}\n")), "{alert} has no unit test");
    }
    let books: BTreeSet<String> = values(&rules, "runbook:").into_iter().collect();
    for book in &books {
        assert!(root().join(book).exists(), "{book}");
    }
    let listed = std::fs::read_dir(root().join("docs/runbooks")).unwrap();
    for page in listed.map(|one| one.unwrap().file_name().into_string().unwrap()) {
        assert!(page == "README.md" || books.contains(&format!("docs/runbooks/{page}")), "{page}");
    }
    let documented = metrics_in(&read("docs/operate.md"));
    let dashboards = ["overview", "destination", "node"]
        .map(|name| read(&format!("docker/grafana/dashboards/{name}.json")));
    for text in dashboards.iter().chain([&rules]) {
        let used = metrics_in(text);
        assert!(!used.is_empty() && used.is_subset(&documented), "{:?}", used.difference(&documented));
    }
    for dashboard in &dashboards {
        let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
        assert!(dashboard["uid"].as_str().is_some_and(|uid| uid.starts_with("amtsbote-")), "{dashboard}");
    }
    let shown: BTreeSet<String> = dashboards.iter().flat_map(|text| metrics_in(text)).collect();
    let alerted = metrics_in(&rules);
    assert!(alerted.is_subset(&shown), "alerts on what no dashboard shows: {:?}", alerted.difference(&shown));
}

/// A lab whose department gets everything into a folder that is not there.
async fn without_folder() -> Lab {
    let extra = "[folders.dept]\npath = \"dept\"\n".to_owned();
    Lab::start(Options { extra, channel: "folder://dept".to_owned(), ..Options::default() }).await
}

/// The largest value of a metric with this beginning.
fn value(text: &str, begins: &str) -> Option<f64> {
    let lines = text.lines().filter(|line| line.starts_with(begins));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.max_by(f64::total_cmp)
}

/// Waits until a metric is what it has to be; it is counted every few seconds.
async fn until(lab: &Lab, begins: &str, fits: impl Fn(f64) -> bool) {
    let mut every = tokio::time::interval(Duration::from_millis(50));
    let waiting = async {
        loop {
            every.tick().await;
            let text = lab.telemetry("/metrics").await.1;
            if value(&text, begins).is_some_and(&fits) {
                return;
            }
        }
    };
    if tokio::time::timeout(Duration::from_secs(120), waiting).await.is_err() {
        panic!("{begins}: {}", lab.telemetry("/metrics").await.1);
    }
}

#[tokio::test]
async fn metrics_are_well_formed_and_documented() {
    let lab = without_folder().await;
    lab.client("portal").submit("1", METADATA, b"<antrag/>").await;
    until(&lab, "amtsbote_open_breakers", |open| open > 0.0).await;
    let (status, text) = lab.telemetry("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    std::fs::write(lab.path("metrics"), &text).unwrap();
    let checked = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::from(std::fs::File::open(lab.path("metrics")).unwrap()))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let (live, documented) = (metrics_in(&text), metrics_in(&read("docs/operate.md")));
    assert!(live.is_subset(&documented), "not documented: {:?}", live.difference(&documented));
    let silent: Vec<_> = documented.difference(&live).collect();
    // Counters with labels are there once there is something to count.
    assert_eq!(silent, ["deadlines_total"], "documented, but nowhere");
    assert_eq!(value(&text, "amtsbote_submissions_total{channel=\"rest\",outcome=\"accepted\"}"), Some(1.0));
    assert_eq!((value(&text, "amtsbote_ready"), value(&text, "amtsbote_store_full")), (Some(1.0), Some(0.0)));
}

#[tokio::test]
async fn what_alerts_watch_for_can_be_seen() {
    // Breakers, and messages that wait.
    let lab = without_folder().await;
    let portal = lab.client("portal");
    portal.submit("1", METADATA, b"<antrag/>").await;
    until(&lab, "amtsbote_open_breakers", |open| open > 0.0).await;
    until(&lab, "amtsbote_queue_oldest_seconds", |age| age > 0.0).await;
    // Deadlines.
    let soon = amtsbote_it::soon(2);
    let metadata = METADATA.replace("\"caseId\"", &format!("\"deadline\":\"{soon}\",\"caseId\""));
    portal.submit("2", &metadata, b"<antrag/>").await;
    until(&lab, "amtsbote_deadlines_total{event=\"near\"}", |near| near > 0.0).await;
    until(&lab, "amtsbote_deadlines_total{event=\"missed\"}", |missed| missed > 0.0).await;
    // The directory.
    let fault = Fault::Status { code: 503, retry_after: None };
    lab.directory.script(vec![FaultRule { function: None, after: 0, times: None, fault }]);
    let elsewhere = r#"{"service":{"ozg":"10519"},"area":{"ars":"073320024024"}}"#;
    portal.submit("3", elsewhere, b"<antrag/>").await;
    until(&lab, "amtsbote_directory_down", |down| down == 1.0).await;
    assert_eq!(value(&lab.telemetry("/metrics").await.1, "amtsbote_degraded"), Some(1.0));
}

#[tokio::test]
async fn a_full_disk_and_an_old_certificate_can_be_seen() {
    let lab = Lab::start(Options { min_free: 1 << 50, ..Options::default() }).await;
    until(&lab, "amtsbote_store_full", |full| full == 1.0).await;
    until(&lab, "amtsbote_ready", |ready| ready == 0.0).await;
    assert_eq!(lab.telemetry("/health/ready").await.0.as_u16(), 503);
    let mut lab = Lab::prepare(Options::default()).await;
    let new = ["req", "-x509", "-new", "-key", "pki/server.key", "-subj", "/CN=old", "-days", "5"];
    assert!(
        run(&lab.path(""), "openssl", &[&new[..], &["-out", "pki/server.pem"]].concat()).status.success()
    );
    lab.start_gateway().await;
    until(&lab, "amtsbote_certificate_expiry_seconds{role=\"server\"}", |left| left < 7.0 * 86_400.0).await;
}

/// What the shim does to a gateway: moves its clock, and makes each sync longer. The gateway has the file in memory, so it is written in place.
fn play(control: &Path, clock: Duration, sync: Duration) {
    let numbers = [clock.as_nanos(), sync.as_micros(), 0].map(|n| u64::try_from(n).unwrap().to_ne_bytes());
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(control).unwrap();
    file.write_all_at(&numbers.concat(), 0).unwrap();
}

#[tokio::test]
async fn great_ages_slow_commits_and_dead_letters_can_be_seen() {
    let refuse = || std::future::ready(StatusCode::UNPROCESSABLE_ENTITY);
    let router = axum::Router::new().fallback(refuse);
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let shim = |name: &str, value: &Path| format!("{name}={}", value.display());
    let wrapper = vec![
        "env".to_owned(),
        shim("LD_PRELOAD", &amtsbote_it::binary("libamtsbote_torture_shim.so")),
        shim("AMTSBOTE_SHIM_ROOT", folder.path()),
        shim("AMTSBOTE_SHIM_LOG", &folder.path().join("shim.log")),
        shim("AMTSBOTE_SHIM_CONTROL", &control),
    ];
    let options = Options { wrapper, store: Some(folder.path().join("store")), ..Options::default() };
    let mut lab = lab_with_endpoint(router, options, "").await;
    play(&control, Duration::ZERO, Duration::ZERO);
    lab.start_gateway().await;
    let portal = lab.client("portal");
    portal.submit("1", METADATA, b"<antrag/>").await;
    until(&lab, "amtsbote_dead_lettered_total", |dead| dead > 0.0).await;
    // The notice to the sender lies in a mailbox, and nobody comes for a day.
    until(&lab, "amtsbote_queue_oldest_seconds", |age| age > 0.0).await;
    play(&control, Duration::from_secs(25 * 3600), Duration::ZERO);
    until(&lab, "amtsbote_queue_oldest_seconds", |age| age > 86_400.0).await;
    play(&control, Duration::from_secs(25 * 3600), Duration::from_millis(600));
    for key in ["2", "3", "4"] {
        portal.submit(key, METADATA, b"<antrag/>").await;
    }
    let (_, text) = lab.telemetry("/metrics").await;
    let commits = |begins: &str| value(&text, &format!("amtsbote_store_commit_seconds_{begins}")).unwrap();
    let slow = commits("count") - commits("bucket{le=\"0.5\"}");
    assert!(slow >= 3.0, "{text}");
}
