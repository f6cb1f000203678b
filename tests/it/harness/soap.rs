//! A SOAP 1.2 client by hand: envelopes as text, so that tests can also write wrong ones.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use roxmltree::{Document, Node};

use crate::{Lab, Party};

/// Namespaces of XTA 2.1.1.
pub const NAMESPACES: &str = r#"xmlns:env="http://www.w3.org/2003/05/soap-envelope" xmlns:wsa="http://www.w3.org/2005/08/addressing" xmlns:xta="http://xoev.de/transport/xta/211" xmlns:meta="http://www.osci.eu/ws/2014/10/transport" xmlns:osci="http://www.osci.eu/ws/2008/05/transport""#;

/// Numbers what is recorded.
static RECORDED: AtomicUsize = AtomicUsize::new(0);

/// Port path, and action of an operation.
pub fn operation(name: &str) -> (&'static str, String) {
    let mailbox = "http://www.osci.eu/ws/2008/05/transport/urn/messageTypes/";
    match name {
        "checkAccountActive" => ("/xta/management", "http://www.xta.de/XTA/CheckAccountActive".to_owned()),
        "lookupService" => ("/xta/management", "http://www.xta.de/XTA/IsServiceAvailable".to_owned()),
        "getTransportReport" => ("/xta/management", "http://www.xta.de/XTA/GetTransportReport".to_owned()),
        "cancelMessage" => ("/xta/management", "http://www.xta.de/XTA/CancelMessage".to_owned()),
        "createMessageId" => ("/xta/management", "http://www.xta.de/XTA/CreateMessageID".to_owned()),
        "sendMessage" => ("/xta/send", "http://www.xta.de/XTA/SendMessage".to_owned()),
        "sendMessageSync" => ("/xta/send", "http://www.xta.de/XTA/SendMessageSync".to_owned()),
        "getMessage" => ("/xta/msgbox", format!("{mailbox}MsgBoxFetchRequest")),
        "getStatusList" => ("/xta/msgbox", format!("{mailbox}MsgBoxStatusListRequest")),
        "getNextMessage" => ("/xta/msgbox", format!("{mailbox}MsgBoxGetNextMsgRequest")),
        "getNextStatusList" => ("/xta/msgbox", format!("{mailbox}MsgBoxGetNextListRequest")),
        "close" => ("/xta/msgbox", format!("{mailbox}MsgBoxCloseRequest")),
        other => panic!("there is no operation {other}"),
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct SoapAnswer {
    /// Status of HTTP.
    pub status: u16,
    /// Content-Type.
    pub content_type: String,
    /// Whether the header says that it was a repetition.
    pub duplicate: bool,
    /// The body as it came.
    pub bytes: Vec<u8>,
}

impl SoapAnswer {
    /// The body as text; of a package the part with the envelope.
    pub fn xml(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        if !self.content_type.starts_with("multipart/") {
            return text.into_owned();
        }
        let begin = text.find("<?xml").unwrap();
        let end = text[begin..].find("\r\n--").unwrap();
        text[begin..begin + end].to_owned()
    }

    /// Texts of all elements with a local name, in the order of the document.
    pub fn texts(&self, local: &str) -> Vec<String> {
        let xml = self.xml();
        let document = Document::parse(&xml).unwrap_or_else(|error| panic!("{error} in {xml}"));
        let named =
            document.descendants().filter(|node| node.is_element() && node.tag_name().name() == local);
        named.map(|node| node.text().unwrap_or_default().trim().to_owned()).collect()
    }

    /// The text of the one element with a local name.
    pub fn text(&self, local: &str) -> String {
        let found = self.texts(local);
        assert_eq!(found.len(), 1, "{local} in {}", self.xml());
        found.into_iter().next().unwrap()
    }

    /// Values of an attribute of all elements with a local name.
    pub fn attributes(&self, local: &str, attribute: &str) -> Vec<String> {
        let xml = self.xml();
        let document = Document::parse(&xml).unwrap();
        let named = document.descendants().filter(|node| node.tag_name().name() == local);
        named.filter_map(|node| node.attribute(attribute).map(str::to_owned)).collect()
    }

    /// The number and exception of a modelled fault.
    pub fn fault(&self) -> Option<(String, String)> {
        let xml = self.xml();
        let document = Document::parse(&xml).ok()?;
        let exception = |node: &Node<'_, '_>| node.tag_name().name().ends_with("Exception");
        let exception = document.descendants().find(exception)?;
        let code = exception.descendants().find(|node| node.tag_name().name() == "code")?;
        Some((code.text()?.to_owned(), exception.tag_name().name().to_owned()))
    }

    /// The number of a modelled fault; panics if it is none.
    pub fn fault_code(&self) -> String {
        self.fault().unwrap_or_else(|| panic!("no fault: {} {}", self.status, self.xml())).0
    }

    /// Codes of a fault, from general to specific.
    pub fn codes(&self) -> Vec<String> {
        self.texts("Value").into_iter().map(|value| value.rsplit(':').next().unwrap().to_owned()).collect()
    }

    /// Panics unless it is the answer of an operation.
    #[must_use]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}", self.xml());
        self
    }
}

/// An envelope of header blocks and a body.
pub fn envelope(action: &str, headers: &str, body: &str) -> String {
    format!(
        "<env:Envelope {NAMESPACES}><env:Header><wsa:Action>{action}</wsa:Action><wsa:MessageID>urn:uuid:1</wsa:MessageID>{headers}</env:Header><env:Body>{body}</env:Body></env:Envelope>"
    )
}

impl Lab {
    /// Every SOAP answer of this laboratory is valid by the published schemas, if they and the validator's Python are here.
    pub fn recorded_answers_are_valid(&self) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let (script, python) =
            (root.join("../shared/schemas/xta2/validate.py"), root.join("target/python/bin/python"));
        if !script.exists() {
            eprintln!("skipped: ../shared/schemas/xta2 is not here");
            return;
        }
        assert!(python.exists(), "tests/run installs lxml into target/python");
        let files = std::fs::read_dir(self.path("soap")).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = files.collect();
        assert!(!files.is_empty(), "nothing was recorded");
        let judged = std::process::Command::new(python).arg(script).args(files).output().unwrap();
        assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
    }
}

impl Party {
    /// Posts bytes as they are.
    pub async fn soap_raw(&self, path: &str, content_type: &str, body: Vec<u8>) -> SoapAnswer {
        let request = self.request(Method::POST, path).header("Content-Type", content_type).body(body);
        let reply = request.send().await.unwrap();
        let header = |name: &str| reply.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let answer = SoapAnswer {
            status: reply.status().as_u16(),
            content_type: header("content-type").unwrap_or_default(),
            duplicate: header("amtsbote-duplicate").as_deref() == Some("true"),
            bytes: reply.bytes().await.unwrap().to_vec(),
        };
        self.record(&answer);
        answer
    }

    /// Keeps an answer in the form of the published fixtures, to be judged at the end.
    fn record(&self, answer: &SoapAnswer) {
        let Some(folder) = &self.recorded else { return };
        std::fs::create_dir_all(folder).unwrap();
        let count = RECORDED.fetch_add(1, Ordering::Relaxed);
        if answer.content_type.starts_with("application/soap+xml") {
            std::fs::write(folder.join(format!("{count}.xml")), &answer.bytes).unwrap();
        } else if answer.content_type.starts_with("multipart/related") {
            let head = format!("MIME-Version: 1.0\r\nContent-Type: {}\r\n\r\n", answer.content_type);
            let package = [head.as_bytes(), &answer.bytes].concat();
            std::fs::write(folder.join(format!("{count}.mtom")), package).unwrap();
        }
    }

    /// Calls an operation with a plain envelope.
    pub async fn soap(&self, name: &str, headers: &str, body: &str) -> SoapAnswer {
        let (path, action) = operation(name);
        let content_type = format!("application/soap+xml; charset=utf-8; action=\"{action}\"");
        self.soap_raw(path, &content_type, envelope(&action, headers, body).into_bytes()).await
    }

    /// Calls an operation with a package of parts: Content-ID and bytes.
    pub async fn soap_mtom(
        &self,
        name: &str,
        headers: &str,
        body: &str,
        parts: &[(&str, &[u8])],
    ) -> SoapAnswer {
        let (path, action) = operation(name);
        let mut bytes = format!(
            "--B\r\nContent-Type: application/xop+xml; charset=UTF-8; type=\"application/soap+xml\"\r\nContent-ID: <root@x>\r\n\r\n{}",
            envelope(&action, headers, body)
        )
        .into_bytes();
        for (id, content) in parts {
            bytes.extend_from_slice(format!("\r\n--B\r\nContent-ID: <{id}>\r\n\r\n").as_bytes());
            bytes.extend_from_slice(content);
        }
        bytes.extend_from_slice(b"\r\n--B--\r\n");
        let content_type = format!(
            "multipart/related; type=\"application/xop+xml\"; boundary=B; start=\"<root@x>\"; start-info=\"application/soap+xml\"; action=\"{action}\""
        );
        self.soap_raw(path, &content_type, bytes).await
    }
}
