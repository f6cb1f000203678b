//! Start, reload, stop, and everything that keeps a gateway from starting.

use amtsbote_certs::{KeyKind, Purpose};
use amtsbote_it::{Lab, METADATA, Options, binary, run};
use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncBufReadExt as _;

#[tokio::test]
async fn health_status_and_metrics_tell_the_truth() {
    let lab = Lab::start(Options::default()).await;
    lab.client("portal").submit("1", METADATA, b"x").await;
    assert_eq!(lab.telemetry("/health/live").await.0, 200);
    let (status, ready) = lab.telemetry("/health/ready").await;
    assert!(status == 200 && ready.contains("\"ready\""), "{ready}");
    let (_, metrics) = lab.telemetry("/metrics").await;
    for line in [
        "amtsbote_submissions_total{channel=\"rest\",outcome=\"accepted\"} 1",
        "amtsbote_build_info{version=",
        "amtsbote_store_commit_seconds_count",
        "amtsbote_certificate_expiry_seconds{role=\"seal\"}",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    let operator = lab.client("operator");
    let url = format!("https://{}/admin/v1/status", lab.gateway().operator);
    let status = operator.send(operator.client.request(Method::GET, &url)).await;
    assert_eq!((status.status, &status.json["health"]["status"]), (200, &json!("ready")));
    let portal = lab.client("portal");
    let refused = portal.send(portal.client.request(Method::GET, &url)).await;
    assert_eq!((refused.status, refused.problem()), (403, "role-missing"));
    let anonymous = lab.client_with(None);
    let nobody = anonymous.send(anonymous.client.request(Method::GET, &url)).await;
    assert_eq!((nobody.status, nobody.problem()), (401, "certificate-required"));
}

#[tokio::test]
async fn logs_hold_no_payload_and_no_personal_data() {
    let mut lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let metadata = METADATA.replace("Wohngeld\"", "SECRETSUBJECT\"").replace("4711", "SECRETCASE");
    portal.submit("1", &metadata, b"SECRETCONTENT").await;
    let (token, messages) = lab.client("department").lease(1).await;
    let id = messages[0]["id"].as_str().unwrap();
    lab.client("department").on_message(id, "acknowledge", Some(&token), None).await;
    portal.send(portal.submission("2", "{\"SECRETFIELD\u{e4}\":1}", b"SECRETCONTENT")).await;
    let (_, metrics) = lab.telemetry("/metrics").await;
    assert_eq!(lab.stop_gateway().await, 0);
    let log = lab.log();
    assert!(log.contains("The gateway is running.") && log.contains("The gateway has ended."), "{log}");
    assert!(
        log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "JSON per line: {log}"
    );
    assert!(!log.contains("SECRET") && !metrics.contains("SECRET"), "{log}");
}

#[tokio::test]
async fn a_hangup_reads_accounts_again_and_a_broken_file_changes_nothing() {
    let lab = Lab::start(Options::default()).await;
    let nobody = lab.client("nobody");
    assert_eq!(nobody.get("/v1/submissions").await.problem(), "unknown-account");
    lab.write_configuration("[[accounts]]\nname = \"nobody\"\nroles = [\"author\"]\nparties = [\"ags:01001000\"]\ncertificates = [\"pki/nobody.pem\"]\n");
    lab.signal_gateway("HUP");
    wait_for(&lab, "were read again").await;
    assert_eq!(nobody.get("/v1/submissions").await.status, 200);
    std::fs::write(lab.path("amtsbote.toml"), "[exchange]\nlisten = 1\n").unwrap();
    lab.signal_gateway("HUP");
    wait_for(&lab, "nothing was changed").await;
    assert_eq!(nobody.get("/v1/submissions").await.status, 200);
}

/// Waits for a line in the log, bounded.
async fn wait_for(lab: &Lab, text: &str) {
    let seen = async {
        let mut every = tokio::time::interval(std::time::Duration::from_millis(20));
        while !lab.log().contains(text) {
            every.tick().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), seen).await.unwrap();
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let mut lab = Lab::start(Options::default()).await;
    let id = lab.client("portal").submit("1", METADATA, b"before").await;
    assert_eq!(lab.stop_gateway().await, 0);
    lab.start_gateway().await;
    let again = lab.client("portal").send(lab.client("portal").submission("1", METADATA, b"before")).await;
    assert_eq!((again.status, &again.json["id"]), (200, &json!(id)));
    let (token, messages) = lab.client("department").lease(5).await;
    assert_eq!(messages.len(), 1);
    assert_eq!(lab.stop_gateway().await, 0);
    lab.start_gateway().await;
    let done = lab.client("department").on_message(&id, "acknowledge", Some(&token), None).await;
    assert_eq!(done.status, 200, "a lease survives too");
}

#[tokio::test]
async fn held_messages_are_accepted_and_wait() {
    let lab = Lab::start(Options { extra: "[engine]\nhold = true\n".to_owned(), ..Options::default() }).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let id = portal.submit("1", METADATA, b"x").await;
    // Longer than anything takes that is not held.
    let patient = department.post("/v1/mailbox/leases", &json!({ "wait": 2 })).await;
    assert_eq!(patient.json["messages"], json!([]));
    let card = portal.get(&format!("/v1/submissions/{id}/events")).await.json;
    let events: Vec<_> =
        card["events"].as_array().unwrap().iter().map(|event| event["event"].clone()).collect();
    assert_eq!(events, ["received", "routed"]);
    let text = std::fs::read_to_string(lab.path("amtsbote.toml")).unwrap();
    std::fs::write(lab.path("amtsbote.toml"), text.replace("hold = true", "hold = false")).unwrap();
    lab.signal_gateway("HUP");
    let (_, messages) = department.lease(1).await;
    assert_eq!(messages[0]["id"], json!(id));
}

#[tokio::test]
async fn whatever_keeps_it_from_starting_is_said_with_an_exit_code() {
    let lab = Lab::start(Options::default()).await;
    let program = binary("amtsbote");
    let program = program.to_str().unwrap();
    let file = lab.path("amtsbote.toml");
    let file = file.to_str().unwrap();
    let second = run(&lab.path(""), program, &["serve", "--config", file]);
    assert_eq!(second.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another process"), "{second:?}");
    assert_eq!(run(&lab.path(""), program, &["check-config", "--config", file]).status.code(), Some(0));
    for (broken, code, says) in
        [("[store]\n", 64, "exchange.listen: is missing"), ("[store", 64, "is no TOML")]
    {
        std::fs::write(lab.path("broken.toml"), broken).unwrap();
        let refused = run(&lab.path(""), program, &["serve", "--config", "broken.toml"]);
        assert_eq!(refused.status.code(), Some(code));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(says), "{refused:?}");
    }
    std::fs::write(lab.path("areas.csv"), "ars\n1\n").unwrap();
    let tables = run(&lab.path(""), program, &["check-config", "--config", file]);
    assert_eq!(tables.status.code(), Some(64));
    assert!(
        String::from_utf8_lossy(&tables.stderr).contains("areas: column `level` is missing"),
        "{tables:?}"
    );
    assert_eq!(run(&lab.path(""), program, &["fly"]).status.code(), Some(64));
    assert_eq!(run(&lab.path(""), program, &["--help"]).status.code(), Some(0));
    let missing = run(&lab.path(""), program, &["serve", "--config", "nowhere.toml"]);
    assert_eq!(missing.status.code(), Some(64));
    let reference = run(&lab.path(""), program, &["reference"]);
    assert!(String::from_utf8_lossy(&reference.stdout).contains("[retention]"));
}

#[tokio::test]
async fn the_demo_delivers_everything() {
    let folder = tempfile::tempdir().unwrap();
    let program = binary("amtsbote");
    let arguments = ["demo", "--once", "--dir", "lab"];
    for _ in 0..2 {
        let demo = run(folder.path(), program.to_str().unwrap(), &arguments);
        let output = String::from_utf8(demo.stdout).unwrap();
        assert!(demo.status.success(), "{output}\n{}", String::from_utf8_lossy(&demo.stderr));
        assert_eq!(
            output.lines().last(),
            Some("submitted=35 delivered=35 acknowledged=35 lost=0"),
            "{output}"
        );
        assert!(output.contains(" over mailbox\n"), "{output}");
        assert_eq!(output.matches(" by OSCI\n").count(), 2, "{output}");
    }
    let lab: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("lab/lab.json")).unwrap()).unwrap();
    assert!(lab["routes"].as_array().unwrap().len() >= 35);
    for account in lab["accounts"].as_array().unwrap() {
        for file in ["key", "certificate"] {
            assert!(folder.path().join("lab").join(account[file].as_str().unwrap()).exists(), "{account}");
        }
    }
    assert!(lab["osciIntermediary"]["url"].as_str().unwrap().starts_with("http://127.0.0.1:"));
    let clients = lab["osciAccounts"].as_array().unwrap();
    for role in ["author", "reader"] {
        assert!(clients.iter().any(|client| client["roles"][0] == role), "{clients:?}");
    }
    for file in clients.iter().flat_map(|client| {
        ["cipher", "sign", "cipherCertificate", "signCertificate"].map(|name| &client[name])
    }) {
        assert!(folder.path().join("lab").join(file.as_str().unwrap()).exists(), "{file}");
    }
    std::fs::create_dir(folder.path().join("other")).unwrap();
    std::fs::write(folder.path().join("other/precious"), "x").unwrap();
    let refused = run(folder.path(), program.to_str().unwrap(), &["demo", "--once", "--dir", "other"]);
    assert_eq!(refused.status.code(), Some(64));
    assert!(folder.path().join("other/precious").exists());
}

/// Commands of the README under a heading.
fn pasted(heading: &str) -> String {
    let readme = include_str!("../../../README.md");
    let (_, below) = readme.split_once(&format!("## {heading}\n")).unwrap();
    let (_, code) = below.split_once("```sh\n").unwrap();
    code.split_once("```").unwrap().0.to_owned()
}

/// Runs lines in a shell, in a folder, with the gateway on the path.
fn shell(folder: &std::path::Path, lines: &str) -> String {
    let path =
        format!("{}:{}", binary("amtsbote").parent().unwrap().display(), std::env::var("PATH").unwrap());
    let lines = format!("set -e\nexport PATH={path}\n{lines}");
    let output = run(folder, "bash", &["-c", &lines]);
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

#[tokio::test]
async fn the_readme_works_when_pasted() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = tokio::process::Command::new(binary("amtsbote"))
        .arg("demo")
        .current_dir(folder.path())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(demo.stdout.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().unwrap().starts_with("The laboratory keeps running") {}
    let tried = shell(folder.path(), &pasted("Try it with curl"));
    for seen in ["202 Accepted", "amtsbote-duplicate: true", "Verification successful", "acknowledged"] {
        assert!(tried.contains(seen), "{seen} in {tried}");
    }
    let serving = pasted("Run it");
    let (until_serving, serve) = serving.split_once("amtsbote serve").unwrap();
    assert_eq!(serve.trim(), "--config amtsbote.toml");
    let checked = shell(folder.path(), until_serving);
    assert!(checked.contains("The configuration is complete"), "{checked}");
}

#[tokio::test]
async fn the_demo_delivers_over_queues_and_keeps_credentials_to_itself() {
    let broker = amtsbote_testkit::rabbitmq::Rabbitmq::start(&Default::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let url = broker.url();
    let program = binary("amtsbote");
    let demo = |url: &str| {
        let arguments = ["demo", "--once", "--dir", "lab", "--rabbitmq", url];
        run(folder.path(), program.to_str().unwrap(), &arguments)
    };
    let done = demo(&url);
    let output = String::from_utf8(done.stdout).unwrap();
    assert_eq!(output.lines().last(), Some("submitted=35 delivered=35 acknowledged=35 lost=0"), "{output}");
    let lab = std::fs::read_to_string(folder.path().join("lab/lab.json")).unwrap();
    assert!(lab.contains("amqp") && !lab.contains("guest"), "{lab}");
    assert_eq!(demo("amqp://guest:wrong@127.0.0.1:1/%2f").status.code(), Some(75));
    assert_eq!(demo("amqps://127.0.0.1/%2f").status.code(), Some(64));
}

#[tokio::test]
async fn check_config_reports_every_file_that_cannot_be_used() {
    let lab = Lab::prepare(Options::default()).await;
    std::fs::write(lab.path("areas.csv"), "ars\n1\n").unwrap();
    std::fs::write(lab.path("pki/dvdv-client.key"), "no key").unwrap();
    std::fs::copy(lab.path("pki/portal.key"), lab.path("pki/server.key")).unwrap();
    let program = binary("amtsbote");
    let checked =
        run(&lab.path(""), program.to_str().unwrap(), &["check-config", "--config", "amtsbote.toml"]);
    let said = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(64));
    for part in ["routing tables", "TLS", "directory", "4 problem(s)"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[tokio::test]
async fn certificates_are_replaced_by_a_hangup_or_not_at_all() {
    let lab = Lab::start(Options::default()).await;
    let served = || async {
        let (_, metrics) = lab.telemetry("/metrics").await;
        let line = metrics.lines().find(|line| line.contains("expiry_seconds{role=\"server\"}")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let before = served().await;
    assert!(before > 0.0);
    // A key that belongs to another certificate: nothing changes, the seal neither.
    let key = std::fs::read(lab.path("pki/server.key")).unwrap();
    std::fs::copy(lab.path("pki/portal.key"), lab.path("pki/server.key")).unwrap();
    lab.signal_gateway("HUP");
    wait_for(&lab, "Nothing was changed").await;
    lab.client("portal").submit("1", METADATA, b"x").await;
    std::fs::write(lab.path("pki/server.key"), key).unwrap();
    lab.signal_gateway("HUP");
    wait_for(&lab, "were read again").await;
    lab.client("portal").submit("2", METADATA, b"x").await;
    assert!(served().await <= before, "it counts down");
    let shown = || {
        let address = lab.gateway().exchange;
        let ask = format!(
            "openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -fingerprint"
        );
        run(&lab.path(""), "bash", &["-c", &ask]).stdout
    };
    let old = shown();
    assert!(!old.is_empty());
    let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
    lab.pki.add("server-next", &Purpose::Server(names), KeyKind::P256).unwrap();
    for kind in ["pem", "key"] {
        std::fs::copy(lab.path(&format!("pki/server-next.{kind}")), lab.path(&format!("pki/server.{kind}")))
            .unwrap();
    }
    lab.signal_gateway("HUP");
    let replaced = async {
        let mut every = tokio::time::interval(std::time::Duration::from_millis(50));
        while shown() == old {
            every.tick().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), replaced).await.unwrap();
    lab.client("portal").submit("3", METADATA, b"x").await;
}

#[tokio::test]
async fn a_long_poll_ends_with_the_gateway() {
    let mut lab = Lab::start(Options::default()).await;
    let department = lab.client("department");
    let polling =
        tokio::spawn(async move { department.post("/v1/mailbox/leases", &json!({ "wait": 60 })).await });
    let connected = async {
        let mut every = tokio::time::interval(std::time::Duration::from_millis(20));
        while !lab.log().contains("The gateway is running.") {
            every.tick().await;
        }
    };
    connected.await;
    assert_eq!(lab.stop_gateway().await, 0);
    assert!(!lab.log().contains("were cut off"), "{}", lab.log());
    // Answered with nothing, or refused because it came too late.
    if let Ok(answer) = polling.await {
        assert_eq!((answer.status, &answer.json["messages"]), (201, &json!([])));
    }
}

#[tokio::test]
async fn development_certificates_are_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let program = binary("amtsbote");
    let make = || run(folder.path(), program.to_str().unwrap(), &["certs", "init", "pki"]);
    assert!(make().status.success());
    for name in ["ca", "seal-ca", "server", "portal", "department", "operator", "seal"] {
        assert!(folder.path().join(format!("pki/{name}.pem")).exists(), "{name}");
    }
    let again = make();
    assert_eq!(again.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"), "{again:?}");
}

fn doctor(lab: &Lab, more: &[&str]) -> (i32, String, String) {
    let program = amtsbote_it::binary("amtsbote");
    let arguments = [&["doctor", "--config", "amtsbote.toml"], more].concat();
    let output = amtsbote_it::run(&lab.path(""), program.to_str().unwrap(), &arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_doctor_examines_repairs_and_keeps_away_from_a_running_gateway() {
    let mut lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(portal.submit(&format!("k{n}"), METADATA, format!("<antrag>{n}</antrag>").as_bytes()).await);
    }
    let (code, _, stderr) = doctor(&lab, &["--repair"]);
    assert_eq!(code, 75);
    assert!(stderr.contains("in use by another process"), "{stderr}");
    assert_eq!(lab.stop_gateway().await, 0);
    let (code, stdout, _) = doctor(&lab, &[]);
    assert_eq!((code, stdout.ends_with("The store is sound.\n")), (0, true), "{stdout}");
    // Somebody hurts the document of one message and throws the index away.
    let journal = lab.store().join("journal/00000001.journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    let place = bytes.windows(15).position(|window| window == b"<antrag>2</antr").unwrap();
    bytes[place] ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    let before = std::fs::read(&journal).unwrap();
    let (code, stdout, _) = doctor(&lab, &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["sound"]), (1, &serde_json::json!(false)), "{stdout}");
    let named: Vec<_> = report["examination"]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|finding| finding["message"].as_str())
        .collect();
    assert_eq!(named, [&ids[2]]);
    assert_eq!(std::fs::read(&journal).unwrap(), before, "looking changes nothing");
    let (code, stdout, _) = doctor(&lab, &["--repair"]);
    assert_eq!((code, stdout.contains("HURT message")), (1, true), "{stdout}");
    let quarantine = lab.store().join("quarantine");
    let kept: Vec<_> = std::fs::read_dir(&quarantine).unwrap().map(|entry| entry.unwrap().path()).collect();
    let frame = kept.iter().find(|path| path.extension().is_some_and(|extension| extension == "frame"));
    let frame = std::fs::read(frame.unwrap()).unwrap();
    assert!(before.windows(frame.len()).any(|window| window == frame), "exactly what cannot be read");
    let listed = std::fs::read_to_string(quarantine.join("findings.ndjson")).unwrap();
    assert!(listed.contains(&ids[2]), "{listed}");
    assert!(std::fs::read(&journal).unwrap().starts_with(&before), "it is not the journal that is changed");
    lab.start_gateway().await;
    let (_, leased) = lab.client("department").lease(10).await;
    let found: Vec<_> = leased.iter().map(|one| one["id"].as_str().unwrap()).collect();
    let sound: Vec<_> = ids.iter().filter(|id| **id != ids[2]).collect();
    assert_eq!(found, sound);
    assert_eq!(lab.stop_gateway().await, 0);
    let (code, stdout, _) = doctor(&lab, &["--compact"]);
    assert!(stdout.contains("index built anew"), "{code} {stdout}");
    assert_eq!(doctor(&lab, &["--store", "store"]).0, 64);
}

/// The next thing a service manager is told, without its status line.
async fn told(socket: &tokio::net::UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("STATUS="));
    lines
        .map(|line| line.split_once('=').unwrap())
        .filter(|(name, _)| *name != "MONOTONIC_USEC")
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test]
async fn a_service_manager_is_told_how_the_gateway_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let wrapper = ["env", &format!("NOTIFY_SOCKET={}", path.display()), "WATCHDOG_USEC=200000"];
    let wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
    let mut lab = Lab::start(Options { wrapper, ..Options::default() }).await;
    assert_eq!(told(&socket).await, "READY=1");
    assert_eq!(told(&socket).await, "WATCHDOG=1");
    lab.signal_gateway("HUP");
    let mut next = told(&socket).await;
    while next == "WATCHDOG=1" {
        next = told(&socket).await;
    }
    assert_eq!(next, "RELOADING=1");
    assert_eq!(told(&socket).await, "READY=1");
    assert_eq!(lab.stop_gateway().await, 0);
    let mut next = told(&socket).await;
    while next == "WATCHDOG=1" {
        next = told(&socket).await;
    }
    assert_eq!(next, "STOPPING=1");
}

#[test]
fn shells_and_manuals_know_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let printed =
            std::process::Command::new(binary("amtsbote")).args(["completions", shell]).output().unwrap();
        assert!(printed.status.success());
        let text = String::from_utf8(printed.stdout).unwrap();
        assert!(text.contains("dead-letters") && text.contains("check-config"), "{shell}");
        std::fs::write(folder.path().join(shell), text).unwrap();
    }
    assert!(run(folder.path(), "bash", &["-n", "bash"]).status.success());
    let pages = folder.path().join("man");
    let arguments = ["man", "--dir", pages.to_str().unwrap()];
    let made = std::process::Command::new(binary("amtsbote")).args(arguments).status().unwrap();
    assert!(made.success());
    for page in ["amtsbote.1", "amtsbote-serve.1", "amtsbote-dead-letters-redrive.1"] {
        assert!(std::fs::read_to_string(pages.join(page)).unwrap().starts_with(".ie"), "{page}");
    }
}
