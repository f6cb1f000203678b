//! The mock answers every operation as the published interface says, judged by an independent validator.

use std::io::BufRead as _;
use std::path::Path;
use std::process::{Command, Stdio};

use amtsbote_it::binary;

#[test]
fn every_answer_of_the_mock_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let schema = root.join("../shared/schemas/dvdv2/dvdv-api-v2.yaml");
    let python = root.join("target/python/bin/python");
    if !schema.exists() {
        eprintln!("skipped: the published interface description of DVDV2 is not at hand");
        return;
    }
    assert!(python.exists(), "tests/run installs the validator into target/python");
    let folder = tempfile::tempdir().unwrap();
    let pki = folder.path().join("pki");
    let made =
        Command::new(binary("amtsbote")).args(["certs", "init"]).arg(&pki).stdout(Stdio::null()).status();
    assert!(made.unwrap().success());
    let (certificate, key) = (pki.join("dvdv-client.pem"), pki.join("dvdv-client.key"));
    let mut mock = Command::new(binary("dvdv-mock"))
        .args(["--listen", "127.0.0.1:0", "--bearer", "federal", "--client"])
        .arg(&certificate)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut url = String::new();
    std::io::BufReader::new(mock.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dvdv/validate.py");
    let judged = Command::new(python)
        .arg(script)
        .arg(schema)
        .arg(url.trim())
        .args([certificate, key])
        .arg("federal")
        .output();
    mock.kill().unwrap();
    mock.wait().unwrap();
    let judged = judged.unwrap();
    let output =
        String::from_utf8_lossy(&judged.stdout).into_owned() + &String::from_utf8_lossy(&judged.stderr);
    println!("{output}");
    assert!(judged.status.success(), "{output}");
}
