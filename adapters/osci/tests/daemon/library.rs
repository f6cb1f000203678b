//! The official Java library against the running intermediary, when the environment names the folder of its jars in `OSCI_LIB`
//! (`tests/java/build-lib.sh` makes one). Otherwise the tests say that they were skipped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use amtsbote_it::Lab;
use serde_json::Value;

use crate::lab::{PASSWORD, export, prepare};

fn library() -> Option<PathBuf> {
    let found = std::env::var_os("OSCI_LIB").map(PathBuf::from).filter(|path| path.is_dir());
    if found.is_none() {
        eprintln!("skipped: OSCI_LIB names no folder with the jars of the official library");
    }
    found
}

/// A process with the library that does one command after the other.
struct Probe {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Probe {
    fn compile(lab: &Lab, library: &Path) -> PathBuf {
        let classes = lab.path("classes");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/java");
        let files = std::fs::read_dir(sources).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|one| one == "java")).collect();
        let compiled = Command::new("javac")
            .args(["-nowarn", "-cp", &format!("{}/*", library.display()), "-d"])
            .arg(&classes)
            .args(files)
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        classes
    }

    fn start(lab: &Lab, library: &Path, url: &str) -> Self {
        let (classes, keys) = (lab.path("classes"), lab.path("probe"));
        let mut process = Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-cp"])
            .arg(format!("{}/*:{}", library.display(), classes.display()))
            .arg("OsciProbe")
            .arg(&keys)
            .args([PASSWORD, url])
            .arg(keys.join("intermediary-cipher.crt"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, input, output }
    }

    fn run(&mut self, command: &str) -> Value {
        writeln!(self.input, "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{command}: {line:?}"))
    }

    /// Runs a command that has to end with a code.
    fn expect(&mut self, command: &str, code: &str) -> Value {
        let result = self.run(command);
        assert_eq!(result["code"], code, "{command}: {result}");
        assert!(result["unusedOptions"].is_null(), "{command}: {result}");
        result
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

fn url(lab: &Lab) -> String {
    format!("http://{}/", lab.gateway().osci.unwrap())
}

/// Everything that can be stored comes out again, unaltered, with valid signatures.
const STORES: &[&str] = &[
    "mode=implicit size=4096",
    "mode=explicit size=4096 subject=Betreff",
    "size=100000 contentSign=true",
    "content=attachment size=0",
    "content=attachment size=4096 contentSign=true",
    "content=attachment size=5000000 attachmentBase64=true",
    "content=attachment size=50000 contentSign=true contentEncrypt=true attachmentEncrypt=true",
    "contentEncrypt=true size=4096",
    "nested=true contentSign=true",
    "twoContents=true contentSign=true content=attachment count=3 size=1000",
    "timestamps=cryptographic",
    // 200 MiB.
    "content=attachment size=209715200",
    "content=attachment size=209715200 contentSign=true contentEncrypt=true attachmentEncrypt=true",
];

/// Algorithms of transport and of signatures.
const ALGORITHMS: &[&str] = &[
    "sym=aes256-gcm iv=12",
    "sym=aes256-gcm iv=16",
    "sym=aes192-gcm",
    "sym=aes128-gcm",
    "sym=aes256-cbc",
    "sym=aes192-cbc",
    "sym=aes128-cbc",
    "sym=3des",
    "keyenc=rsa15",
    "base64=true",
    "digest=sha512",
    "digest=sha3-256",
    "digest=sha3-384",
    "digest=sha3-512",
    "sigalg=rsa-sha512",
    "sigalg=pss-sha256",
    "sigalg=pss-sha512",
    "sigalg=pss-sha3-256 digest=sha3-256",
    "sigalg=pss-sha3-384 digest=sha3-384",
    "sigalg=pss-sha3-512 digest=sha3-512",
    "features=false",
    "sign=false",
    "encrypt=false",
    "encrypt=false sign=false",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_official_library_stores_fetches_and_asks() {
    let Some(library) = library() else { return };
    let mut lab = prepare("").await;
    lab.start_gateway().await;
    export(&lab, &lab.path("probe"));
    Probe::compile(&lab, &library);
    let mut probe = Probe::start(&lab, &library, &url(&lab));
    for algorithms in ALGORITHMS {
        let result = probe.run(&format!("init-exit {algorithms}"));
        assert_eq!(result["ok"], true, "{algorithms}: {result}");
    }
    probe.expect("get-id mode=implicit", "0800");
    probe.expect("get-id mode=explicit", "0801");
    for options in STORES {
        let stored = probe.run(&format!("store addressee=bob {options}"));
        assert!(stored["code"].as_str().is_some_and(|code| code.starts_with('0')), "{options}: {stored}");
        let mut fetched = probe.run("fetch client=bob max=1");
        // Sealing takes a moment.
        while fetched["count"] == 0 {
            fetched = probe.run("fetch client=bob max=1");
        }
        let delivery = &fetched["deliveries"][0];
        assert_eq!(delivery["messageId"], stored["messageId"], "{options}");
        let text = delivery.to_string();
        for sent in stored["sent"].as_array().unwrap() {
            assert!(text.contains(sent["sha256"].as_str().unwrap()), "{options}: {fetched}");
        }
        assert!(!text.contains("\"signaturesValid\":false"), "{options}: {fetched}");
        let id = stored["messageId"].as_str().unwrap();
        let cards = probe.expect(&format!("process-cards client=alice by=id ids={id}"), "0801");
        assert!(cards["cards"][0]["reception"].is_string(), "{options}: {cards}");
        assert_eq!(probe.run(&format!("fetch client=bob by=id id={id} max=1"))["count"], 1, "{options}");
    }
    probe.expect("fetch client=bob by=date date=2020-01-01T00:00:00Z", "9803");
    probe.expect("process-cards client=bob by=date date=2020-01-01T00:00:00Z role=addressee limit=2", "0801");
    probe.expect("process-cards client=bob by=recent date=2020-01-01T00:00:00Z noReception=true", "9804");
    probe.expect("store addressee=bob sign=false", "9600");
    probe.expect("store addressee=bob messageId=made-up", "9801");
    let chunked = probe.run("partial-store addressee=bob size=300000 chunk=64 order=reverse");
    assert_eq!(chunked["code"], "0801", "{chunked}");
    let mut fetched = probe.run("partial-fetch client=bob chunk=50");
    while fetched["complete"] != true {
        fetched = probe.run("partial-fetch client=bob chunk=50");
    }
    assert!(fetched.to_string().contains(chunked["sentSha256"].as_str().unwrap()), "{fetched}");
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_with_the_official_library_are_pushed_to() {
    let Some(library) = library() else { return };
    let mut lab = prepare("").await;
    export(&lab, &lab.path("probe"));
    Probe::compile(&lab, &library);
    let mut recipient = Probe::start(&lab, &library, "http://127.0.0.1:1/");
    let answers = ["ok", "reject", "unsigned", "garbage", "fault", "badsig", "plain", "nocontent", "close"];
    let ports =
        answers.map(|answer| recipient.run(&format!("serve client=bob answer={answer}"))["port"].to_string());
    let allowed: Vec<String> = ports.iter().map(|port| format!("\"http://127.0.0.1:{port}\"")).collect();
    let text = std::fs::read_to_string(lab.path("amtsbote.toml")).unwrap();
    let section = format!("[osci]\npush_to = [{}]", allowed.join(", "));
    std::fs::write(lab.path("amtsbote.toml"), text.replacen("[osci]", &section, 1)).unwrap();
    lab.start_gateway().await;
    let mut probe = Probe::start(&lab, &library, &url(&lab));
    let expected = [
        ("0800", "0801"),
        ("9805", "9805"),
        ("0800", "0801"),
        ("9810", "9810"),
        ("9808", "9808"),
        ("9807", "9807"),
        ("0800", "0801"),
        ("0800", "9806"),
        ("9810", "9810"),
    ];
    for ((answer, port), (forwarded, mediated)) in answers.iter().zip(&ports).zip(expected) {
        let to = format!("addressee=bob size=3000 content=attachment uri=http://127.0.0.1:{port}/");
        let result = probe.expect(&format!("forward {to}"), forwarded);
        let reception = &result["processCard"]["reception"];
        assert_eq!(reception.is_string(), forwarded == "0800", "{answer}: {result}");
        probe.expect(&format!("mediate {to}"), mediated);
    }
    let nowhere = "addressee=bob uri=http://127.0.0.1:1/";
    probe.expect(&format!("forward {nowhere}"), "9809");
    let port = &ports[0];
    let mediated =
        probe.expect(&format!("mediate addressee=bob messageId=none uri=http://127.0.0.1:{port}/"), "0801");
    assert!(mediated["requestCard"].is_null() && mediated["reply"].is_object(), "{mediated}");
}
