//! XTA by clients that nobody here wrote, and judged by the published schemas where they are at hand.

use std::path::{Path, PathBuf};

use amtsbote_it::soap::operation;
use amtsbote_it::{Lab, OFFICE, Options, run};
use serde_json::json;

use crate::xta::SERVICE;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn python() -> String {
    let python = root().join("target/python/bin/python");
    assert!(python.exists(), "tests/run installs zeep into target/python");
    python.to_str().unwrap().to_owned()
}

/// A file of the published material, which is not part of this repository.
fn published(path: &str) -> Option<PathBuf> {
    let found = root().join("../shared").join(path).canonicalize().ok();
    if found.is_none() {
        eprintln!("skipped: ../shared/{path} is not here");
    }
    found
}

/// Runs a client of some toolkit against a laboratory of its own: program and first arguments, then WSDL, address and files.
async fn toolkit(program: String, first: Vec<String>, wsdl: &Path, says: &str) {
    let lab = Lab::start(Options::default()).await;
    let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
    let mut arguments = first;
    arguments.extend([wsdl.to_str().unwrap().to_owned(), format!("https://{}", lab.gateway().exchange)]);
    let files = ["ca.pem", "portal.pem", "portal.key", "department.pem", "department.key"];
    arguments.extend(files.iter().map(|name| path(&format!("pki/{name}"))));
    arguments.extend([OFFICE.to_owned(), SERVICE.to_owned()]);
    let folder = lab.path("");
    let finished = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(&folder, &program, &arguments)
    });
    let finished = finished.await.unwrap();
    let (out, error) = (String::from_utf8_lossy(&finished.stdout), String::from_utf8_lossy(&finished.stderr));
    assert!(finished.status.success() && out.contains(says), "{out}\n{error}");
}

async fn zeep(wsdl: &Path) {
    let script = root().join("tests/it/xta/zeep_client.py").to_str().unwrap().to_owned();
    toolkit(python(), vec![script], wsdl, "all twelve operations").await;
}

async fn jaxws(wsdl: &Path) {
    if !Path::new("/usr/bin/wsimport").exists() {
        eprintln!("skipped: wsimport is not installed; tests/run installs it");
        return;
    }
    let script = root().join("tests/it/xta/jaxws.sh").to_str().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let first = vec![script, folder.path().to_str().unwrap().to_owned()];
    toolkit("bash".to_owned(), first, wsdl, "packages in both directions").await;
}

/// Our own description, as the gateway serves it.
async fn described() -> tempfile::TempDir {
    let lab = Lab::start(Options::default()).await;
    let party = lab.client("portal");
    let description = party.bytes("/xta/management?wsdl").await;
    assert!(String::from_utf8_lossy(&description).contains(&format!("{}/xta/msgbox", party.base)));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("xta.wsdl"), description).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn zeep_works_with_our_own_description() {
    zeep(&described().await.path().join("xta.wsdl")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zeep_works_with_the_published_description() {
    let Some(file) = published("schemas/xta2/XTA.wsdl") else { return };
    zeep(&file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jaxws_sends_and_fetches_packages_by_our_own_description() {
    jaxws(&described().await.path().join("xta.wsdl")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jaxws_sends_and_fetches_packages_by_the_published_description() {
    let Some(file) = published("schemas/xta2/XTA.wsdl") else { return };
    jaxws(&file).await;
}

/// A request as a fixture has it: headers of HTTP in front of a package, an envelope alone otherwise.
struct Fixture {
    name: String,
    content_type: String,
    action: Option<String>,
    body: Vec<u8>,
}

fn fixtures(folder: &Path) -> Vec<Fixture> {
    let mut found: Vec<Fixture> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            let action = text.split_once("Action>").and_then(|(_, rest)| rest.split_once('<'));
            let action = action.map(|(action, _)| action.to_owned());
            let (content_type, body) = match path.extension().and_then(|ending| ending.to_str()) {
                Some("mtom") => {
                    let line = text.lines().find(|line| line.starts_with("Content-Type:")).unwrap();
                    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
                    let end =
                        end.unwrap_or_else(|| bytes.windows(2).position(|two| two == b"\n\n").unwrap() + 2);
                    (line["Content-Type:".len()..].trim().to_owned(), bytes[end..].to_vec())
                }
                _ => ("application/soap+xml; charset=utf-8".to_owned(), bytes.clone()),
            };
            Fixture {
                name: path.file_name().unwrap().to_str().unwrap().to_owned(),
                content_type,
                action,
                body,
            }
        })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// Where a request with this action goes; the send port for one that has none.
fn port(action: Option<&str>) -> &'static str {
    let operations = [
        "checkAccountActive",
        "lookupService",
        "getTransportReport",
        "cancelMessage",
        "createMessageId",
        "sendMessage",
        "sendMessageSync",
        "getMessage",
        "getStatusList",
        "getNextMessage",
        "getNextStatusList",
        "close",
    ];
    let known = operations.into_iter().map(operation).find(|(_, known)| Some(known.as_str()) == action);
    known.map_or("/xta/send", |(path, _)| path)
}

/// An account for the parties of the fixtures, and their service in the catalogue.
async fn laboratory() -> Lab {
    let mut lab = Lab::prepare(Options::default()).await;
    let services = std::fs::read_to_string(lab.path("services.csv")).unwrap();
    let row = "99999,Beispiel,Beispiel,A,,,urn:xoev-de:beispiel:schema:1.0.0/beispiel100Antrag.wsdl,example,Beispielamt,bsp,example,gemeinde,\n";
    std::fs::write(lab.path("services.csv"), services + row).unwrap();
    lab.write_configuration(
        "[[accounts]]\nname = \"fixture\"\nroles = [\"author\", \"reader\"]\nparties = [\"ags:09999001\"]\nserves = [\"gae:musterkreis@beispiel.example\"]\ncertificates = [\"pki/nobody.pem\"]\n",
    );
    lab.start_gateway().await;
    lab
}

#[tokio::test]
async fn every_published_request_is_answered_and_every_hostile_one_refused() {
    let Some(folder) = published("fixtures/xta2") else { return };
    let requests = fixtures(&folder).into_iter().filter(|one| one.name.contains(".request"));
    let quirks = fixtures(&folder.join("quirks"));
    for fixture in requests.chain(quirks) {
        let lab = laboratory().await;
        let party = lab.client("nobody");
        let path = port(fixture.action.as_deref());
        let answer = party.soap_raw(path, &fixture.content_type, fixture.body).await;
        let explained = match fixture.name.split('.').next().unwrap() {
            // Nothing was sent before.
            "getTransportReport" | "getMessage" | "getNextMessage" | "close" => Some("9070"),
            "cancelMessage" => Some("9022"),
            "sendMessageSync" => Some("9080"),
            "lookupService" if fixture.name.contains("empty-reader") => Some("9020"),
            _ => None,
        };
        match explained {
            Some(code) => assert_eq!(answer.fault_code(), code, "{}: {}", fixture.name, answer.xml()),
            None => assert_eq!(answer.status, 200, "{}: {}", fixture.name, answer.xml()),
        }
        lab.recorded_answers_are_valid();
    }
    let lab = laboratory().await;
    let party = lab.client("nobody");
    for fixture in fixtures(&folder.join("hostile")) {
        let path = port(fixture.action.as_deref());
        let answer = party.soap_raw(path, &fixture.content_type, fixture.body).await;
        assert!(matches!(answer.status, 400 | 500), "{}: {} {}", fixture.name, answer.status, answer.xml());
        assert!(!answer.codes().is_empty(), "{}: {}", fixture.name, answer.xml());
    }
    assert_eq!(party.get("/v1/submissions").await.json["submissions"], json!([]));
    lab.recorded_answers_are_valid();
}
