//! Whole messages, read and written.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures::executor::block_on;

use crate::*;

/// Keeps content in memory.
#[derive(Default)]
struct Kept {
    contents: Vec<Vec<u8>>,
    open: bool,
    room: usize,
}

#[derive(Debug, PartialEq)]
struct NoRoom;

#[async_trait]
impl ContentSink for Kept {
    type Error = NoRoom;

    async fn begin(&mut self) -> Result<usize, NoRoom> {
        assert!(!self.open, "one content at a time");
        self.open = true;
        self.contents.push(Vec::new());
        Ok(self.contents.len() - 1)
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), NoRoom> {
        assert!(self.open);
        self.room = self.room.checked_sub(bytes.len()).ok_or(NoRoom)?;
        self.contents.last_mut().unwrap().extend_from_slice(&bytes);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), NoRoom> {
        assert!(std::mem::take(&mut self.open));
        Ok(())
    }
}

#[derive(Debug)]
struct Message {
    headers: Vec<Header>,
    body: Vec<Element>,
    contents: Vec<Vec<u8>>,
    actions: Vec<String>,
}

fn shape(name: &Name) -> Shape {
    match (name.namespace(), name.local()) {
        ("urn:t", "data") => Shape::Base64,
        ("urn:t", "sealed") => Shape::Opaque { namespace: "urn:t", local: "cipher" },
        _ => Shape::Tree,
    }
}

fn keep(name: &Name) -> bool {
    name.is("urn:t", "kept")
}

fn read_in_pieces(content_type: &str, text: &[u8], piece: usize) -> Result<Message, ReadError<NoRoom>> {
    let pieces: Vec<io::Result<Bytes>> =
        text.chunks(piece).map(|one| Ok(Bytes::copy_from_slice(one))).collect();
    let mut sink = Kept { room: 1_000, ..Kept::default() };
    block_on(async {
        let transport = Transport::of(content_type, None).unwrap();
        let stream = futures::stream::iter(pieces);
        let mut reader = MessageReader::open(transport, stream, XmlLimits::default(), &mut sink).await?;
        let headers = reader.headers(keep).await?;
        let actions = reader.actions().to_vec();
        let body = reader.body(shape, &mut sink).await?;
        Ok(Message { headers, body, contents: std::mem::take(&mut sink.contents), actions })
    })
}

/// The message, the same however it is cut into pieces.
fn read(content_type: &str, text: &[u8]) -> Result<Message, ReadError<NoRoom>> {
    let whole = read_in_pieces(content_type, text, text.len().max(1));
    for piece in [1, 2, 3, 7, 50] {
        let again = read_in_pieces(content_type, text, piece);
        match (&whole, &again) {
            (Ok(one), Ok(other)) => {
                assert_eq!(
                    (&one.body, &one.headers, &one.contents),
                    (&other.body, &other.headers, &other.contents)
                )
            }
            (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
            _ => panic!("in pieces of {piece}: {whole:?} but {again:?}"),
        }
    }
    whole
}

const PLAIN: &str = "application/soap+xml";

fn soap(headers: &str, body: &str) -> String {
    format!(
        "<?xml version='1.0' encoding='utf-8'?>\n<e:Envelope xmlns:e='{}' xmlns:t='urn:t' xmlns='urn:d'>\n <e:Header>{headers}</e:Header>\n <e:Body>{body}</e:Body> </e:Envelope>\n",
        name::ENVELOPE
    )
}

fn body(text: &str) -> Result<Message, ReadError<NoRoom>> {
    read(PLAIN, soap("", text).as_bytes())
}

fn refused(result: Result<Message, ReadError<NoRoom>>) -> String {
    result.map(|message| format!("{:?}", message.body)).unwrap_err().to_string()
}

#[test]
fn names_are_resolved_whatever_their_prefixes() {
    let message = body("<a x='1' t:y='&lt;&#x41;'><b xmlns=''>&amp;<![CDATA[<]]><!-- c -->z</b><t:c xmlns:t='urn:other'/></a>").unwrap();
    let a = &message.body[0];
    assert!(a.is("urn:d", "a"));
    assert_eq!((a.attribute("x"), a.attribute_of("urn:t", "y")), (Some("1"), Some("<A")));
    assert_eq!(a.text_of("", "b").as_deref(), Some("&<z"));
    assert!(a.child("urn:other", "c").is_some());
}

#[test]
fn names_of_namespaces_are_short_and_without_references() {
    let message = body("<n:a xmlns:n='urn:a b'><m:a xmlns:m=\"urn:a b\"/></n:a>").unwrap();
    assert!(message.body[0].is("urn:a b", "a") && message.body[0].child("urn:a b", "a").is_some());
    assert_eq!(
        refused(body("<n:a xmlns:n='urn:a&amp;b'/>")),
        "a reference in the name of a namespace is refused"
    );
    assert_eq!(
        refused(body(&format!("<n:a xmlns:n='urn:{}'/>", "a".repeat(1_000)))),
        "a text or attribute is too long"
    );
}

#[test]
fn base64_streams_past_however_it_is_written() {
    let message =
        body("<t:data> QU\r\nJD<!-- x -->RA&#13;==<![CDATA[ ]]></t:data><t:data/><t:data>QQ==</t:data>")
            .unwrap();
    assert_eq!(message.contents, [&b"ABCD"[..], b"", b"A"]);
    assert_eq!(message.body.iter().map(|one| one.binary().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(refused(body("<t:data>QQ=</t:data>")), "content that is not base64");
    assert_eq!(refused(body("<t:data>Ä</t:data>")), "content that is not base64");
    assert!(refused(body("<t:data>QQ==<b/></t:data>")).contains("an element in content"));
    assert_eq!(
        refused(body(&format!("<t:data>{}</t:data>", "QUJD".repeat(500)))),
        "the content was not taken"
    );
}

#[test]
fn what_is_kept_means_the_same_by_itself() {
    let headers =
        "<t:kept a='ä'><n xmlns:z='urn:z'>1 &lt; 2<z:e/></n><!-- c --><![CDATA[x]]>\n</t:kept><t:other/>";
    let message = read(PLAIN, soap(headers, "").as_bytes()).unwrap();
    let source = String::from_utf8(message.headers[0].source.clone()).unwrap();
    assert!(source.starts_with("<t:kept a='ä' xmlns:e=\""), "{source}");
    assert!(
        source.ends_with("<n xmlns:z='urn:z'>1 &lt; 2<z:e/></n><!-- c --><![CDATA[x]]>\n</t:kept>"),
        "{source}"
    );
    let again = read(
        PLAIN,
        format!(
            "<e:Envelope xmlns:e='{}'><e:Header>{source}</e:Header><e:Body/></e:Envelope>",
            name::ENVELOPE
        )
        .as_bytes(),
    )
    .unwrap();
    assert_eq!(again.headers[0].element, message.headers[0].element);
    assert!(message.headers[1].source.is_empty());
}

#[test]
fn opaque_content_streams_byte_for_byte() {
    let inner = "<t:key><t:cipher>QUJD</t:cipher></t:key> <t:cipher>\nQQ==\n</t:cipher><end/>";
    let message = body(&format!("<t:around><t:sealed T='1'>{inner}</t:sealed></t:around>")).unwrap();
    let content = String::from_utf8(message.contents[0].clone()).unwrap();
    assert!(
        content.starts_with("<t:sealed T='1' xmlns:") && content.contains(" xmlns=\"urn:d\""),
        "{content}"
    );
    assert!(content.ends_with(&format!("{inner}</t:sealed>")), "{content}");
    assert_eq!(message.body[0].children().next().unwrap().binary(), Some(0));
    assert_eq!(
        refused(body("<t:sealed><t:cipher>a\u{1}b</t:cipher></t:sealed>")),
        "content that is not base64"
    );
}

fn package(envelope: &str, parts: &str) -> String {
    let envelope = envelope.replace(
        "<include/>",
        "<x:Include xmlns:x='http://www.w3.org/2004/08/xop/include' href='cid:a%40b'/>",
    );
    format!(
        "--B\r\nContent-Type: application/xop+xml; type=\"application/soap+xml; action=\\\"urn:in\\\"\"\r\nContent-ID: <root>\r\n\r\n{envelope}\r\n{parts}--B--"
    )
}

const MTOM: &str =
    "multipart/related; type=\"application/xop+xml\"; boundary=B; start=\"<root>\"; action=\"urn:out\"";

fn part(id: &str, content: &str) -> String {
    format!("--B\r\nContent-ID: <{id}>\r\n\r\n{content}\r\n")
}

fn package_of(body: &str, parts: &[String]) -> Result<Message, ReadError<NoRoom>> {
    read(MTOM, package(&soap("", body), &parts.concat()).as_bytes())
}

#[test]
fn parts_are_found_by_their_references() {
    let message = package_of(
        "<t:data> <include/> </t:data><t:data>QQ==</t:data>",
        &[part("x", "nobody"), part("a@b", "\0\r\n--\u{e4}")],
    )
    .unwrap();
    assert_eq!(message.contents, [&b"A"[..], "\0\r\n--\u{e4}".as_bytes()]);
    assert_eq!(message.body.iter().map(|one| one.binary().unwrap()).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(message.actions, ["urn:out", "urn:in"]);
    // Before the envelope, and with the reference as it is written.
    let text = format!("{}{}", part("a%40b", "early"), package(&soap("", "<t:data><include/></t:data>"), ""));
    assert_eq!(read(MTOM, text.as_bytes()).unwrap().contents, [b"early"]);
    let encoded =
        "--B\r\nContent-ID: <a@b>\r\nContent-Transfer-Encoding: base64\r\n\r\nQU\r\nJD\r\n".to_owned();
    assert_eq!(package_of("<t:data><include/></t:data>", &[encoded]).unwrap().contents, [b"ABC"]);
}

#[test]
fn opaque_content_takes_its_parts_in() {
    let message = package_of(
        "<t:sealed><t:cipher> <include/></t:cipher><end/></t:sealed>",
        &[part("x", ""), part("a@b", "ABCD")],
    )
    .unwrap();
    let content = String::from_utf8(message.contents[0].clone()).unwrap();
    assert!(content.ends_with("<t:cipher> QUJDRA==</t:cipher><end/></t:sealed>"), "{content}");
    assert!(!content.contains("Include"), "{content}");
    assert!(
        refused(package_of("<t:sealed><t:cipher><include/></t:cipher></t:sealed>", &[]))
            .contains("a part is missing")
    );
    let two = package_of("<t:sealed><t:cipher><include/></t:cipher></t:sealed><t:data/>", &[]);
    assert!(refused(two).contains("beside"));
}

#[test]
fn references_to_nothing_are_refused() {
    assert!(refused(package_of("<t:data><include/></t:data>", &[])).contains("a part is missing"));
    assert!(
        refused(package_of("<t:data><include/></t:data><t:data><include/></t:data>", &[part("a@b", "x")]))
            .contains("twice")
    );
    let include =
        |href: &str| format!("<x:Include xmlns:x='http://www.w3.org/2004/08/xop/include' href='{href}'/>");
    let spellings =
        format!("<t:data>{}</t:data><t:data>{}</t:data>", include("cid:a@b"), include("cid:a%40b"));
    assert!(refused(package_of(&spellings, &[part("a@b", "x")])).contains("twice"));
    let either = format!("<t:data>{}</t:data>", include("cid:a%40b"));
    assert!(refused(package_of(&either, &[part("a@b", "x"), part("a%40b", "y")])).contains("two parts"));
    let header = package(&soap(&format!("<t:h>{}</t:h>", include("cid:a@b")), ""), &part("a@b", "x"));
    assert!(refused(read(MTOM, header.as_bytes())).contains("only the body"));
    assert!(refused(package_of("<t:data>QQ==<include/></t:data>", &[part("a@b", "x")])).contains("beside"));
    let foreign = "<t:data><x:Include xmlns:x='http://www.w3.org/2004/08/xop/include' href='file:///etc/passwd'/></t:data>";
    assert!(refused(package_of(foreign, &[])).contains("only cid:"));
    let alone = soap("", "<t:data><include/></t:data>")
        .replace("<include/>", "<x:Include xmlns:x='http://www.w3.org/2004/08/xop/include' href='cid:a'/>");
    assert!(refused(read(PLAIN, alone.as_bytes())).contains("no package"));
    assert!(refused(package_of("", &vec![part("a", ""); 1_000])).contains("too many parts"));
    let same = format!("{}{}{}", part("a", "1"), part("a", "2"), package(&soap("", ""), ""));
    assert!(refused(read(MTOM, same.as_bytes())).contains("same Content-ID"));
    assert!(refused(read(MTOM, part("x", "").as_bytes())).contains("delimiter"));
}

#[test]
fn what_is_refused_from_strangers() {
    let deep = "<a>".repeat(70) + &"</a>".repeat(70);
    let attributes: String = (0..1_001).map(|n| format!(" a{n}='1'")).collect();
    let long = "x".repeat(70_000);
    let huge = "<a>xxxxxxxx</a>".repeat(80_000);
    let many: String = (0..101).map(|_| "<h/>").collect();
    for (text, what) in [
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>".to_owned(), "a document type"),
        (soap("", "<a>&b;</a>"), "an entity"),
        (soap("", "<?php x?>"), "a processing instruction"),
        ("<?xml version='1.0' encoding='ISO-8859-1'?><a/>".to_owned(), "any encoding but UTF-8"),
        (soap("", &deep), "nested too deeply"),
        (soap("", &format!("<a{attributes}/>")), "too many attributes"),
        (soap("", &format!("<a>{long}</a>")), "too long"),
        (soap("", &format!("<a b='{long}'/>")), "too long"),
        (soap("", &huge), "the document is too long"),
        (soap(&many, ""), "too many header blocks"),
        (soap("", "<a b='1' b='2'/>"), "not well-formed"),
        (soap("", "<a t:b='1' s:b='2' xmlns:s='urn:t'/>"), "twice"),
        (soap("", "<u:a/>"), "prefix"),
        (soap("", "<a></b>"), "not well-formed"),
        (soap("", "<a b='<'/>"), "attribute"),
        (soap("", "<a>&#0;</a>"), "reference"),
        (soap("", "<a>\u{1}</a>"), "character"),
        (soap("", "<a>]]></a>"), "character"),
        (soap("", "<1a/>"), "name"),
        (soap("", "text"), "text in the body"),
        (soap("text", ""), "text between"),
        (soap("", "<a>"), "not well-formed"),
        (soap("", "") + "<a/>", "second root"),
        (soap("", "") + "x", "outside"),
        (soap("", "").replace("</e:Envelope>", ""), "ends too early"),
        (soap("", "</e:Body><e:Body>"), "behind the body"),
        ("<a/>".to_owned(), "an envelope is expected"),
        (format!("<e:Envelope xmlns:e='{}'/>", name::ENVELOPE), "a body is expected"),
        (String::new(), "ends too early"),
        ("{}".to_owned(), "outside"),
        (
            "<e:Envelope xmlns:e='http://schemas.xmlsoap.org/soap/envelope/'><e:Body/></e:Envelope>"
                .to_owned(),
            "another version",
        ),
    ] {
        let error = refused(read(PLAIN, text.as_bytes()));
        assert!(error.contains(what), "{error} for {}", &text[..text.len().min(300)]);
    }
    let wrong = soap("", "<a>%</a>").into_bytes();
    let wrong: Vec<u8> = wrong.into_iter().map(|byte| if byte == b'%' { 0xff } else { byte }).collect();
    assert_eq!(refused(read(PLAIN, &wrong)), "not well-formed: not UTF-8");
}

#[test]
fn transports_are_known_by_their_headers() {
    let actions =
        |content_type: &str, soap_action| Transport::of(content_type, soap_action).map(|one| one.actions);
    assert_eq!(
        actions("application/soap+xml;action=urn:a", Some("\"urn:b\"")),
        Ok(vec!["urn:a".to_owned(), "urn:b".to_owned()])
    );
    let info = r#"multipart/related; boundary=b; start-info="application/soap+xml; action=\"urn:c\"""#;
    assert_eq!(actions(info, Some("\"\"")), Ok(vec!["urn:c".to_owned()]));
    for wrong in [
        "text/xml",
        "application/soap+xml; charset=utf-16",
        "multipart/related",
        "multipart/form-data; boundary=b",
        "",
    ] {
        assert_eq!(actions(wrong, None), Err(UnsupportedMediaType), "{wrong}");
    }
}

const PREFIXES: &write::Prefixes = &[("env", name::ENVELOPE), ("wsa", name::ADDRESSING), ("t", "urn:t")];

/// What a plan sends when the numbered content is this.
fn sent(outgoing: &Outgoing, contents: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in &outgoing.segments {
        match segment {
            Segment::Bytes(more) => bytes.extend_from_slice(more),
            Segment::Content(number, Coding::Identity) => bytes.extend_from_slice(contents[*number]),
            Segment::Content(number, Coding::Base64) => {
                let mut encoder = base64::Base64Encoder::default();
                bytes.extend_from_slice(encoder.feed(contents[*number]).as_bytes());
                bytes.extend_from_slice(encoder.finish().as_bytes());
            }
        }
    }
    bytes
}

#[test]
fn what_is_sent_can_be_read_in_either_packaging() {
    let mut data = Element::new("urn:t", "data").with_attribute("name", "a\"b");
    data.content.push(Content::Binary(0));
    let headers = vec![Element::new("urn:t", "kept").with_text("ä < ö")];
    for packaging in [Packaging::Plain, Packaging::Mtom] {
        let envelope = envelope(headers.clone(), vec![data.clone()]);
        let outgoing = pack(envelope, PREFIXES, packaging, "urn:do", "boundary-1", &["text/plain"]);
        let message = read(&outgoing.content_type, &sent(&outgoing, &[b"\x00content\r\n--"])).unwrap();
        assert_eq!(message.contents, [b"\x00content\r\n--"]);
        assert_eq!(message.body, [data.clone()]);
        assert_eq!(message.headers[0].element, headers[0]);
        assert!(message.actions.iter().all(|action| action == "urn:do") && !message.actions.is_empty());
    }
}

#[test]
fn faults_can_be_read_back() {
    let detail = Element::new("urn:t", "Exception").with_text("9070");
    let fault = Fault::modelled(FaultCode::Sender, "de", "Unbekannt", detail.clone());
    let envelope = envelope(Vec::new(), vec![fault.element()]);
    let outgoing = pack(envelope, PREFIXES, Packaging::Plain, "urn:do", "b", &[]);
    let message = read(&outgoing.content_type, &sent(&outgoing, &[])).unwrap();
    let expected =
        PeerFault { code: "Sender".to_owned(), reason: "Unbekannt".to_owned(), detail: vec![detail] };
    assert_eq!(PeerFault::of(&message.body[0]), Some(expected));
}

mod addressed {
    use super::*;
    use crate::addressing::{Addressing, action_not_supported};

    fn addressing(headers: &str) -> Result<Addressing, Fault> {
        let headers = headers.replace("<", "<w:").replace("<w:/", "</w:");
        let text =
            soap(&headers, "").replacen("xmlns:t", &format!("xmlns:w='{}' xmlns:t", name::ADDRESSING), 1);
        Addressing::of(&read(PLAIN, text.as_bytes()).unwrap().headers)
    }

    fn subcodes(fault: Fault) -> Vec<String> {
        fault.subcodes.iter().map(|one| one.local().to_owned()).collect()
    }

    #[test]
    fn one_action_from_all_places() {
        let both = addressing("<Action> urn:a </Action><MessageID>urn:m</MessageID><ReplyTo><Address>http://www.w3.org/2005/08/addressing/anonymous</Address></ReplyTo>").unwrap();
        assert_eq!(both.message_id.as_deref(), Some("urn:m"));
        assert_eq!(both.resolve_action(&["urn:a".to_owned()]).unwrap(), "urn:a");
        assert_eq!(
            subcodes(both.resolve_action(&["urn:b".to_owned()]).unwrap_err()),
            ["InvalidAddressingHeader", "ActionMismatch"]
        );
        let none = addressing("").unwrap();
        assert_eq!(none.resolve_action(&["urn:b".to_owned()]).unwrap(), "urn:b");
        assert_eq!(subcodes(none.resolve_action(&[]).unwrap_err()), ["MessageAddressingHeaderRequired"]);
        assert_eq!(subcodes(action_not_supported("urn:x")), ["ActionNotSupported"]);
    }

    #[test]
    fn answers_go_nowhere_else_and_nothing_is_there_twice() {
        for place in ["ReplyTo", "FaultTo"] {
            let fault =
                addressing(&format!("<{place}><Address>http://internal/</Address></{place}>")).unwrap_err();
            assert_eq!(subcodes(fault), ["InvalidAddressingHeader", "OnlyAnonymousAddressSupported"]);
        }
        let twice = addressing("<Action>urn:a</Action><Action>urn:a</Action>").unwrap_err();
        assert_eq!(subcodes(twice), ["InvalidAddressingHeader", "InvalidCardinality"]);
        assert!(addressing("<RelatesTo>urn:a</RelatesTo><RelatesTo>urn:b</RelatesTo>").is_ok());
    }
}
