//! The XTA face: all operations, one message model with REST, what is refused.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use amtsbote_it::soap::{NAMESPACES, SoapAnswer, operation};
use amtsbote_it::{Lab, METADATA, OFFICE, Options, Party, soon};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use serde_json::json;

/// The service specification of Wohngeld in the directory of the laboratory.
pub(crate) const SERVICE: &str = "http://amtsbote.example/dvdv/ozg10092/1/ozg10092v1Antrag.wsdl";

pub(crate) fn author(identifier: &str) -> String {
    format!("<meta:Author><meta:Identifier type=\"xoev\">{identifier}</meta:Identifier></meta:Author>")
}

/// An order of the portal.
pub(crate) struct Order<'a> {
    pub(crate) id: &'a str,
    author: &'a str,
    reader: &'a str,
    service: &'a str,
    /// Elements among the delivery attributes.
    delivery: String,
    /// Elements behind the qualifier.
    more: String,
}

impl<'a> Order<'a> {
    pub(crate) fn new(id: &'a str) -> Self {
        let (delivery, more) =
            ("<meta:Origin>2025-03-04T10:15:00+01:00</meta:Origin>".to_owned(), String::new());
        Self { id, author: "ags:07315000", reader: OFFICE, service: SERVICE, delivery, more }
    }

    pub(crate) fn header(&self) -> String {
        let Self { id, author, reader, service, delivery, more } = self;
        format!(
            r#"<meta:MessageMetaData><meta:DeliveryAttributes>{delivery}</meta:DeliveryAttributes><meta:Originators><meta:Author><meta:Identifier type="xoev" name="Portal">{author}</meta:Identifier></meta:Author></meta:Originators><meta:Destinations><meta:Reader><meta:Identifier type="xoev">{reader}</meta:Identifier></meta:Reader></meta:Destinations><meta:MsgIdentification><wsa:MessageID>{id}</wsa:MessageID><meta:ProcessRef><meta:Requester>4711</meta:Requester><meta:Responder>B-12</meta:Responder></meta:ProcessRef></meta:MsgIdentification><meta:Qualifier><meta:Subject>Wohngeld</meta:Subject><meta:Service>{service}</meta:Service><meta:BusinessScenario><meta:Defined listURI="urn:de:xta:codeliste:business.scenario" listVersionID="3"><code>XSOZIALES_DATA</code></meta:Defined></meta:BusinessScenario><meta:MessageType listURI="urn:de:payloadSchema:elementName" listVersionID="1.0" payloadSchema="urn:wohngeld"><code>antrag</code></meta:MessageType></meta:Qualifier>{more}</meta:MessageMetaData>"#
        )
    }
}

pub(crate) fn content(document: &[u8], attachments: &[&[u8]]) -> String {
    let attachments: String = attachments
        .iter()
        .map(|one| format!("<xta:Attachment contentType=\"text/plain\" filename=\"anlage.txt\" lang=\"de\" id=\"a1\">{}</xta:Attachment>", STANDARD.encode(one)))
        .collect();
    format!(
        "<xta:GenericContentContainer><xta:ContentContainer><xta:Message contentType=\"application/xml\" filename=\"antrag.xml\" encoding=\"UTF-8\">{}</xta:Message>{attachments}</xta:ContentContainer></xta:GenericContentContainer>",
        STANDARD.encode(document)
    )
}

async fn send(portal: &Party, order: &Order<'_>, document: &[u8]) -> SoapAnswer {
    portal.soap("sendMessage", &order.header(), &content(document, &[b"anlage"])).await
}

fn id(value: &str) -> String {
    format!("<wsa:MessageID>{value}</wsa:MessageID>")
}

pub(crate) fn fetch(value: &str) -> String {
    format!(
        "<osci:MsgBoxFetchRequest><osci:MsgSelector>{}</osci:MsgSelector></osci:MsgBoxFetchRequest>",
        id(value)
    )
}

pub(crate) fn close(request: &str, ids: &[&str]) -> String {
    let ids: String =
        ids.iter().map(|id| format!("<osci:LastMsgReceived>{id}</osci:LastMsgReceived>")).collect();
    format!("<osci:MsgBoxCloseRequest MsgBoxRequestID=\"{request}\">{ids}</osci:MsgBoxCloseRequest>")
}

const LIST: &str = "<osci:MsgBoxStatusListRequest maxListItems=\"50\" ListForm=\"MessageMetaData\"/>";

/// Lists until there are so many entries; what is sent takes a moment until it is signed and in the mailbox.
pub(crate) async fn list(department: &Party, expected: usize) -> SoapAnswer {
    loop {
        let answer = department.soap("getStatusList", &author(OFFICE), LIST).await.ok();
        if answer.texts("MessageMetaData").len() == expected {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_order_goes_from_author_to_reader() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    assert!(
        portal.soap("checkAccountActive", &author("ags:07315000"), "").await.ok().texts("Fault").is_empty()
    );
    let own = portal.soap("createMessageId", "", "").await.ok().texts("MessageID").pop().unwrap();
    assert!(own.starts_with("urn:de:xta:messageid:amtsbote:"), "{own}");
    assert!(!send(&portal, &Order::new(&own), b"<antrag/>").await.ok().duplicate);
    let report = portal.soap("getTransportReport", "", &id(&own)).await.ok();
    assert_eq!(report.text("Status"), "0");

    let listed = list(&department, 1).await;
    assert_eq!(listed.text("ItemsPending"), "0");
    assert!(listed.texts("MessageID").contains(&own));
    assert_eq!((listed.text("Requester"), listed.text("Responder")), ("4711".to_owned(), "B-12".to_owned()));
    assert_eq!(listed.text("Origin"), "2025-03-04T09:15:00.000Z");
    assert!(!listed.texts("InitialSend").is_empty() && !listed.texts("Delivery").is_empty());
    for _ in 0..2 {
        let fetched = department.soap("getMessage", &author(OFFICE), &fetch(&own)).await.ok();
        assert_eq!(STANDARD.decode(fetched.text("Message")).unwrap(), b"<antrag/>");
        assert_eq!(STANDARD.decode(fetched.text("Attachment")).unwrap(), b"anlage");
        assert_eq!(fetched.attributes("Attachment", "lang"), ["de"]);
    }
    let report = department.soap("getTransportReport", &author(OFFICE), &id(&own)).await.ok();
    assert_eq!(report.text("Status"), "0");
    assert!(report.texts("Reason").iter().any(|reason| reason.contains("Abruf 2")), "{}", report.xml());
    for _ in 0..2 {
        drop(department.soap("close", &author(OFFICE), &close("1", &[&own])).await.ok());
    }
    assert!(list(&department, 0).await.attributes("NoMessageAvailable", "reason")[0].ends_with("NoMatch"));
    assert_eq!(department.soap("getMessage", "", &fetch(&own)).await.fault_code(), "9070");
    for (party, headers) in [(&portal, author("ags:07315000")), (&department, author(OFFICE))] {
        let report = party.soap("getTransportReport", &headers, &id(&own)).await.ok();
        assert_eq!(report.text("Status"), "1", "{}", report.xml());
        assert_eq!((report.texts("Reception").len(), report.texts("InitialFetch").len()), (1, 1));
    }
    let card = portal.get("/v1/submissions").await.json["submissions"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        format!("urn:uuid:{}", own.rsplit(':').next().unwrap()),
        card,
        "a reserved id is the message's own"
    );
    let events = portal.get(&format!("/v1/submissions/{card}/events")).await.json;
    let acknowledged =
        events["events"].as_array().unwrap().iter().filter(|event| event["event"] == "acknowledged");
    let faces: Vec<_> = acknowledged.map(|event| event["face"].clone()).collect();
    assert_eq!(faces, [json!("xta")]);
    lab.recorded_answers_are_valid();
}

#[tokio::test]
async fn repeating_is_harmless_and_other_content_a_conflict() {
    let lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let order = Order::new("urn:de:xta:messageid:Fachverfahren:1");
    assert!(!send(&portal, &order, b"<antrag/>").await.ok().duplicate);
    let again = Order { id: "urn:de:xta:messageid:FACHVERFAHREN:1", ..Order::new("") };
    assert_eq!(send(&portal, &again, b"<anderer/>").await.fault_code(), "9024");
    assert!(send(&portal, &order, b"<antrag/>").await.ok().duplicate);
    let body = "<xta:GenericContentContainer><xta:ContentContainer><xta:Message contentType=\"application/xml\" filename=\"antrag.xml\" encoding=\"UTF-8\"><x:Include xmlns:x=\"http://www.w3.org/2004/08/xop/include\" href=\"cid:m%40x\"/></xta:Message><xta:Attachment contentType=\"text/plain\" filename=\"anlage.txt\" lang=\"de\" id=\"a1\"><x:Include xmlns:x=\"http://www.w3.org/2004/08/xop/include\" href=\"cid:a@x\"/></xta:Attachment></xta:ContentContainer></xta:GenericContentContainer>";
    let packed = portal
        .soap_mtom("sendMessage", &order.header(), body, &[("a@x", b"anlage"), ("m@x", b"<antrag/>")])
        .await
        .ok();
    assert!(packed.duplicate, "packaging plays no part");
    assert!(packed.content_type.starts_with("multipart/related"), "{}", packed.content_type);
    let report = portal.soap("getTransportReport", "", &id(order.id)).await.ok();
    assert_eq!(report.texts("Reason").iter().filter(|reason| reason.contains("wiederholt")).count(), 2);
    assert_eq!(portal.get("/v1/submissions").await.json["submissions"].as_array().unwrap().len(), 1);
    lab.recorded_answers_are_valid();
}

#[tokio::test]
async fn one_message_on_all_faces() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let xta = Order::new("urn:de:xta:messageid:fv:7");
    drop(send(&portal, &xta, b"<antrag/>").await.ok());
    list(&department, 1).await;
    let (token, messages) = department.lease(5).await;
    let message = &messages[0];
    assert_eq!((&message["caseId"], &message["redelivered"]), (&json!("4711"), &json!(false)));
    assert_eq!(message["externalIds"][0], json!({ "scheme": "xta", "value": xta.id }));
    let one = message["id"].as_str().unwrap();
    assert_eq!(department.bytes(&format!("/v1/mailbox/messages/{one}/document")).await, b"<antrag/>");
    list(&department, 0).await;
    assert_eq!(department.soap("getMessage", "", &fetch(xta.id)).await.fault_code(), "9070", "leased");
    assert_eq!(department.soap("close", "", &close("1", &[xta.id])).await.fault_code(), "9070", "leased");
    assert_eq!(department.on_message(one, "release", Some(&token), None).await.status, 200);
    let fetched = department.soap("getMessage", "", &fetch(xta.id)).await.ok();
    assert_eq!(STANDARD.decode(fetched.text("Message")).unwrap(), b"<antrag/>");
    let wait = json!({ "max": 5, "seconds": 60, "wait": 0 });
    let lease = department.post("/v1/mailbox/leases", &wait).await;
    assert_eq!(lease.json["messages"], json!([]), "taken by XTA, nobody can lease it now");
    drop(department.soap("close", "", &close("x", &[xta.id])).await.ok());

    let rest = portal.submit("rest", METADATA, b"<w:antrag2 xmlns:w='urn:wohngeld'/>").await;
    let listed = list(&department, 1).await;
    let rest_id = format!("urn:de:xta:messageid:amtsbote:{}", rest.strip_prefix("urn:uuid:").unwrap());
    assert!(listed.texts("MessageID").contains(&rest_id), "{}", listed.xml());
    assert_eq!((listed.text("Requester"), listed.text("Service")), ("4711".to_owned(), SERVICE.to_owned()));
    assert_eq!(listed.attributes("MessageType", "payloadSchema"), ["urn:wohngeld"], "from the document");
    assert_eq!(listed.texts("code")[0], "antrag2");
    let fetched = department.soap_mtom("getMessage", "", &fetch(&rest_id), &[]).await.ok();
    let raw = String::from_utf8_lossy(&fetched.bytes).into_owned();
    assert!(raw.contains("\r\n\r\n<w:antrag2 xmlns:w='urn:wohngeld'/>\r\n--"), "{raw}");
    drop(department.soap_mtom("close", "", &close("x", &[&rest_id]), &[]).await.ok());
    assert_eq!(portal.get(&format!("/v1/submissions/{rest}")).await.json["state"], "acknowledged");
    lab.recorded_answers_are_valid();
}

#[tokio::test]
async fn encrypted_content_stays_as_it_is() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let order = Order::new("urn:de:xta:messageid:fv:enc");
    let encrypted = "<x:EncryptedData xmlns:x=\"http://www.w3.org/2001/04/xmlenc#\" Type='a'><x:CipherData><x:CipherValue>QmVp\nc3BpZWw=</x:CipherValue></x:CipherData></x:EncryptedData>";
    let body = format!("<xta:GenericContentContainer>{encrypted}</xta:GenericContentContainer>");
    drop(portal.soap("sendMessage", &order.header(), &body).await.ok());
    list(&department, 1).await;
    for fetched in [
        department.soap("getMessage", "", &fetch(order.id)).await.ok(),
        department.soap_mtom("getMessage", "", &fetch(order.id), &[]).await.ok(),
    ] {
        let tail = encrypted.split_once("Type='a'").unwrap().1.split_once('>').unwrap().1;
        assert!(fetched.xml().contains(tail), "{}", fetched.xml());
        assert!(fetched.texts("Include").is_empty());
    }
    drop(department.soap("close", "", &close("x", &[order.id])).await.ok());
    let included = "<xta:GenericContentContainer><x:EncryptedData xmlns:x=\"http://www.w3.org/2001/04/xmlenc#\"><x:CipherData><x:CipherValue><i:Include xmlns:i=\"http://www.w3.org/2004/08/xop/include\" href=\"cid:c@x\"/></x:CipherValue></x:CipherData></x:EncryptedData></xta:GenericContentContainer>";
    let order = Order::new("urn:de:xta:messageid:fv:enc2");
    drop(portal.soap_mtom("sendMessage", &order.header(), included, &[("c@x", b"Beispiel")]).await.ok());
    list(&department, 1).await;
    let fetched = department.soap("getMessage", "", &fetch(order.id)).await.ok();
    assert_eq!(fetched.text("CipherValue"), STANDARD.encode("Beispiel"));
    drop(department.soap("close", "", &close("x", &[order.id])).await.ok());
    let messages = portal.get("/v1/submissions").await.json;
    assert_eq!(messages["submissions"].as_array().unwrap().len(), 2);
    // What only calls itself encrypted is content like any other.
    let order = Order::new("urn:de:xta:messageid:fv:enc3");
    let posing = content(b"</osci:x>", &[]).replace("application/xml", "application/xenc+xml");
    let posing = posing.replace(" filename=\"antrag.xml\" encoding=\"UTF-8\"", "");
    drop(portal.soap("sendMessage", &order.header(), &posing).await.ok());
    list(&department, 1).await;
    let fetched = department.soap("getMessage", "", &fetch(order.id)).await.ok();
    assert_eq!(STANDARD.decode(fetched.text("Message")).unwrap(), b"</osci:x>");
    lab.recorded_answers_are_valid();
}

#[tokio::test]
async fn an_id_that_two_authors_use_names_the_first_order() {
    let lab = Lab::start(Options::default()).await;
    let (portal, other, department) =
        (lab.client("portal"), lab.client("portal-b"), lab.client("department"));
    let order = Order::new("urn:de:xta:messageid:fv:same");
    let by_other = |order: &Order<'_>| order.header().replace("ags:07315000", "ags:02000000");
    drop(send(&portal, &order, b"<eins/>").await.ok());
    list(&department, 1).await;
    drop(other.soap("sendMessage", &by_other(&order), &content(b"<zwei/>", &[])).await.ok());
    let report = loop {
        let report = other.soap("getTransportReport", "", &id(order.id)).await.ok();
        if report.text("Status") == "3" {
            break report;
        }
        tokio::task::yield_now().await;
    };
    assert!(report.xml().contains("schon vergeben"), "{}", report.xml());
    let fetched = department.soap("getMessage", "", &fetch(order.id)).await.ok();
    assert_eq!(STANDARD.decode(fetched.text("Message")).unwrap(), b"<eins/>");
    for _ in 0..2 {
        drop(department.soap("close", "", &close("x", &[order.id])).await.ok());
        assert_eq!(list(&department, 0).await.texts("MessageMetaData").len(), 0);
    }
    lab.recorded_answers_are_valid();
}

#[tokio::test]
async fn what_is_carried_along_is_written_as_the_schema_has_it() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let token = "<meta:SecurityToken usage=\"ENCRYPTION\" x=\"1\"><w:BinarySecurityToken xmlns:w=\"http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd\" xmlns:u=\"http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd\" u:Id=\"t\" ValueType=\"urn:x509\">QQ==<b/></w:BinarySecurityToken></meta:SecurityToken></meta:Author>";
    for id in ["urn:de:xta:messageid:fv:one", "urn:de:xta:messageid:fv:two"] {
        let header = Order::new(id).header().replace("</meta:Author>", token);
        drop(portal.soap("sendMessage", &header, &content(b"<antrag/>", &[])).await.ok());
    }
    // An id of an element that is there twice would not be valid in one list.
    let listed = list(&department, 2).await;
    assert_eq!(listed.texts("BinarySecurityToken"), ["QQ==", "QQ=="]);
    lab.recorded_answers_are_valid();
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let ids: Vec<String> = (0..5).map(|n| format!("urn:de:xta:messageid:fv:{n}")).collect();
    for id in &ids {
        drop(send(&portal, &Order::new(id), b"<antrag/>").await.ok());
    }
    list(&department, 5).await;
    let order_ids = |answer: &SoapAnswer| -> Vec<String> {
        let all = answer.texts("MessageID");
        all.into_iter().filter(|id| id.starts_with("urn:de:xta:")).collect()
    };
    let page = department
        .soap(
            "getStatusList",
            "",
            "<osci:MsgBoxStatusListRequest maxListItems=\"2\" ListForm=\"MsgAtrributes\"/>",
        )
        .await
        .ok();
    assert_eq!((order_ids(&page), page.text("ItemsPending")), (ids[..2].to_vec(), "3".to_owned()));
    assert_eq!(page.texts("MsgAttributes").len(), 2);
    let request = page.attributes("MsgBoxResponse", "MsgBoxRequestID").pop().unwrap();
    let next = |received: &[&str]| {
        let received: String =
            received.iter().map(|id| format!("<osci:LastMsgReceived>{id}</osci:LastMsgReceived>")).collect();
        format!(
            "<osci:MsgBoxGetNextRequest MsgBoxRequestID=\"{request}\">{received}</osci:MsgBoxGetNextRequest>"
        )
    };
    let again = department.soap("getNextStatusList", "", &next(&[&ids[0]])).await.ok();
    assert_eq!(order_ids(&again), ids[..2], "the page did not arrive as a whole");
    let second = department.soap("getNextStatusList", "", &next(&[&ids[0], &ids[1]])).await.ok();
    assert_eq!(order_ids(&second), ids[2..4]);
    drop(department.soap("close", "", &close("1", &[&ids[4]])).await.ok());
    let third = department.soap("getNextStatusList", "", &next(&[])).await.ok();
    assert!(third.attributes("NoMessageAvailable", "reason")[0].ends_with("NoMatch"), "closed meanwhile");
    let unknown = department
        .soap("getNextStatusList", "", "<osci:MsgBoxGetNextRequest MsgBoxRequestID=\"urn:x:1\"/>")
        .await
        .ok();
    assert!(unknown.attributes("NoMessageAvailable", "reason")[0].ends_with("RequestIdInvalid"));
    let foreign = lab.client("stranger").soap("getNextStatusList", "", &next(&[])).await.ok();
    assert!(foreign.attributes("NoMessageAvailable", "reason")[0].ends_with("RequestIdInvalid"));

    let select = |inner: &str| {
        format!(
            "<osci:MsgBoxStatusListRequest><osci:MsgSelector>{inner}</osci:MsgSelector></osci:MsgBoxStatusListRequest>"
        )
    };
    for (inner, expected) in [
        (id(&ids[1].to_uppercase().replace("URN:DE:XTA:MESSAGEID", "urn:de:xta:messageid")), 1),
        (id("urn:de:xta:messageid:fv:none"), 0),
        ("<osci:MsgBoxEntryTimeFrom>2020-01-01T00:00:00Z</osci:MsgBoxEntryTimeFrom>".to_owned(), 4),
        ("<osci:MsgBoxEntryTimeTo>2020-01-01T00:00:00Z</osci:MsgBoxEntryTimeTo>".to_owned(), 0),
        ("<wsa:RelatesTo>urn:x:1</wsa:RelatesTo>".to_owned(), 0),
    ] {
        let answer = department.soap("getStatusList", "", &select(&inner)).await.ok();
        assert_eq!(answer.texts("MessageMetaData").len(), expected, "{inner}");
    }
    for wrong in [
        "<osci:MsgBoxEntryTimeFrom>2021-01-01T00:00:00Z</osci:MsgBoxEntryTimeFrom><osci:MsgBoxEntryTimeTo>2020-01-01T00:00:00Z</osci:MsgBoxEntryTimeTo>",
        "<osci:MsgBoxEntryTimeFrom>gestern</osci:MsgBoxEntryTimeFrom>",
        "<osci:Extension><x/></osci:Extension>",
    ] {
        let answer = department.soap("getStatusList", "", &select(wrong)).await.ok();
        assert!(
            answer.attributes("NoMessageAvailable", "reason")[0].ends_with("SearchArgsInvalid"),
            "{wrong}"
        );
    }
    let two = format!(
        "<osci:MsgBoxFetchRequest><osci:MsgSelector>{}{}</osci:MsgSelector></osci:MsgBoxFetchRequest>",
        id(&ids[2]),
        id(&ids[3])
    );
    let first = department.soap("getMessage", "", &two).await.ok();
    assert_eq!((order_ids(&first), first.text("ItemsPending")), (ids[2..3].to_vec(), "1".to_owned()));
    let request = first.attributes("MsgBoxResponse", "MsgBoxRequestID").pop().unwrap();
    let go_on = format!("<osci:MsgBoxGetNextRequest MsgBoxRequestID=\"{request}\"/>");
    assert_eq!(order_ids(&department.soap("getNextMessage", "", &go_on).await.ok()), ids[3..4]);
    let end = department.soap("getNextMessage", "", &go_on).await.ok();
    assert!(end.attributes("NoMessageAvailable", "reason")[0].ends_with("NoMatch"));
    let unknown = department
        .soap("getNextMessage", "", "<osci:MsgBoxGetNextRequest MsgBoxRequestID=\"urn:x:1\"/>")
        .await;
    assert_eq!(unknown.fault_code(), "9070");
    let some = department.soap("close", "", &close("1", &[&ids[0], "urn:de:xta:messageid:fv:none"])).await;
    assert_eq!(some.fault_code(), "9070");
    list(&department, 4).await;
    lab.recorded_answers_are_valid();
}

#[tokio::test]
async fn orders_are_cancelled_before_their_time_and_find_whoever_is_responsible() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    let mut later = Order::new("urn:de:xta:messageid:fv:later");
    later.delivery = format!("<meta:NotBefore>{}</meta:NotBefore>", soon(3600));
    drop(send(&portal, &later, b"x").await.ok());
    drop(portal.soap("cancelMessage", "", &id(later.id)).await.ok());
    assert_eq!(portal.soap("cancelMessage", "", &id(later.id)).await.fault_code(), "9100");
    let report = portal.soap("getTransportReport", "", &id(later.id)).await.ok();
    assert_eq!(report.text("Status"), "2");
    let now = Order::new("urn:de:xta:messageid:fv:now");
    drop(send(&portal, &now, b"x").await.ok());
    assert_eq!(portal.soap("cancelMessage", "", &id(now.id)).await.fault_code(), "9101");
    assert_eq!(
        portal.soap("cancelMessage", "", &id("urn:de:xta:messageid:fv:none")).await.fault_code(),
        "9022"
    );
    assert_eq!(lab.client("portal-b").soap("cancelMessage", "", &id(now.id)).await.fault_code(), "9022");
    assert_eq!(lab.client("portal-b").soap("getTransportReport", "", &id(now.id)).await.fault_code(), "9070");

    let mut open = Order::new("urn:de:xta:messageid:fv:open");
    open.reader = "amtsbote:zustaendig";
    open.more = "<meta:MessageProperties><meta:Property><meta:Key listURI=\"urn:amtsbote:codeliste:message-property\" listVersionID=\"1\"><code>area</code></meta:Key><meta:Value>ars:073150000000</meta:Value></meta:Property></meta:MessageProperties>".to_owned();
    drop(send(&portal, &open, b"x").await.ok());
    let listed = list(&department, 2).await;
    assert_eq!(listed.texts("Identifier").iter().filter(|one| *one == OFFICE).count(), 2, "{}", listed.xml());
    let report = portal.soap("getTransportReport", "", &id(open.id)).await.ok();
    assert!(report.texts("Identifier").contains(&"amtsbote:zustaendig".to_owned()));
    let mut nobody = Order::new("urn:de:xta:messageid:fv:nobody");
    (nobody.service, nobody.reader) = ("", "wgb:999999999999");
    assert_eq!(send(&portal, &nobody, b"x").await.fault_code(), "9022");
    nobody.reader = OFFICE;
    drop(send(&portal, &nobody, b"x").await.ok());
    list(&department, 3).await;

    let question = |reader: &str, service: &str| {
        format!(
            "<xta:LookupServiceRequest><xta:LookupServiceRequestList><xta:LookupService><meta:Reader><meta:Identifier type=\"xoev\">{reader}</meta:Identifier></meta:Reader><xta:ServiceType>{service}</xta:ServiceType></xta:LookupService></xta:LookupServiceRequestList></xta:LookupServiceRequest>"
        )
    };
    let yes = portal.soap("lookupService", "", &question(OFFICE, SERVICE)).await.ok();
    assert_eq!(yes.text("ServiceIsAvailable"), "true");
    let no = portal.soap("lookupService", "", &question("wgb:999999999999", SERVICE)).await.ok();
    assert_eq!(no.text("ServiceIsAvailable"), "false");
    let unknown = portal.soap("lookupService", "", &question(OFFICE, "urn:x:unknown")).await.ok();
    assert_eq!(unknown.text("ServiceIsAvailableUnknown"), "true");
    assert_eq!(portal.soap("lookupService", "", &question(OFFICE, "")).await.fault_code(), "9021");
    assert_eq!(portal.soap("lookupService", "", &question("", SERVICE)).await.fault_code(), "9020");
    let sync = portal
        .soap("sendMessageSync", &Order::new("urn:de:xta:messageid:fv:sync").header(), &content(b"x", &[]))
        .await;
    assert_eq!(sync.fault_code(), "9080");
    lab.recorded_answers_are_valid();
}

#[tokio::test]
async fn whatever_is_wrong_is_refused_with_its_fault_and_nothing_is_stored() {
    let lab =
        Lab::start(Options { extra: "[xta]\nmessage_bytes = 2000".to_owned(), ..Options::default() }).await;
    let portal = lab.client("portal");
    let order = |change: fn(&mut Order<'_>)| {
        let mut order = Order::new("urn:de:xta:messageid:fv:1");
        change(&mut order);
        order.header()
    };
    let good = order(|_| {});
    let small = content(b"x", &[]);
    for (headers, body, code) in [
        (String::new(), small.clone(), "9020"),
        (order(|order| order.id = "keine Uri"), small.clone(), "9021"),
        (order(|order| order.id = ""), small.clone(), "9022"),
        (order(|order| order.service = "keine Uri"), small.clone(), "9021"),
        (order(|order| order.service = "urn:x:unknown"), small.clone(), "9013"),
        (order(|order| order.author = "ags:02000000"), small.clone(), "9014"),
        (order(|order| order.author = "ags:99999999"), small.clone(), "9014"),
        (order(|order| order.reader = ""), small.clone(), "9022"),
        (order(|order| order.reader = "kein Schlüssel"), small.clone(), "9022"),
        (order(|order| order.reader = "wgb:999999999999"), small.clone(), "9022"),
        (order(|order| order.reader = "amtsbote:zustaendig"), small.clone(), "9022"),
        (
            order(|order| order.delivery = "<meta:ObsoleteAfter>2020-01-01</meta:ObsoleteAfter>".to_owned()),
            small.clone(),
            "9022",
        ),
        (
            order(|order| order.delivery = "<meta:ObsoleteAfter>morgen</meta:ObsoleteAfter>".to_owned()),
            small.clone(),
            "9022",
        ),
        (
            order(|order| order.delivery = "<meta:NotBefore>morgen</meta:NotBefore>".to_owned()),
            small.clone(),
            "9022",
        ),
        (format!("{}{good}", author("ags:02000000")), small.clone(), "9014"),
        (good.clone(), content(&[0; 2001], &[]), "9023"),
        (good.clone(), small.replace("eA==", "e"), "9022"),
        (good.clone(), small.replace("contentType=\"application/xml\"", ""), "9022"),
        (good.clone(), "<xta:GenericContentContainer/>".to_owned(), "9022"),
        (
            good.clone(),
            "<xta:GenericContentContainer><xta:ContentContainer/></xta:GenericContentContainer>".to_owned(),
            "9022",
        ),
    ] {
        let answer = portal.soap("sendMessage", &headers, &body).await;
        assert_eq!(answer.fault_code(), code, "{headers} {body}");
        assert_eq!(answer.status, 500);
    }
    let theirs =
        lab.client("portal-b").soap("createMessageId", "", "").await.ok().texts("MessageID").pop().unwrap();
    assert_eq!(
        send(&portal, &Order::new(&theirs), b"x").await.fault_code(),
        "9022",
        "given to somebody else"
    );
    let mut long = Order::new("urn:de:xta:messageid:fv:long");
    long.more = "<meta:MessageProperties>".to_owned()
        + &"<meta:Property><meta:Key listURI=\"urn:l\" listVersionID=\"1\"><code>c</code></meta:Key><meta:Value>v</meta:Value></meta:Property>".repeat(1_000)
        + "</meta:MessageProperties>";
    assert_eq!(send(&portal, &long, b"x").await.fault_code(), "9022", "metadata every list would show");
    let (path, action) = operation("sendMessage");
    let plain = format!("application/soap+xml; action=\"{action}\"");
    let envelope = |inner: &str| format!("<env:Envelope {NAMESPACES}>{inner}</env:Envelope>");
    let twice = format!("<env:Header>{good}{good}</env:Header><env:Body>{small}</env:Body>");
    let other = "<env:Header><wsa:Action>urn:x</wsa:Action></env:Header><env:Body/>";
    let must = "<env:Header><x:y xmlns:x=\"urn:x\" env:mustUnderstand=\"true\"/></env:Header><env:Body/>";
    let reply = "<env:Header><wsa:ReplyTo><wsa:Address>http://127.0.0.1/</wsa:Address></wsa:ReplyTo></env:Header><env:Body/>";
    for (text, code) in [
        ("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>".to_owned(), "Sender"),
        ("<a>".to_owned(), "Sender"),
        ("{}".to_owned(), "Sender"),
        (String::new(), "Sender"),
        (
            envelope("<env:Body/>").replace(
                "http://www.w3.org/2003/05/soap-envelope",
                "http://schemas.xmlsoap.org/soap/envelope/",
            ),
            "VersionMismatch",
        ),
        (envelope(&twice), "Sender"),
        (envelope(other), "ActionMismatch"),
        (envelope(must), "MustUnderstand"),
        (envelope(reply), "OnlyAnonymousAddressSupported"),
        (envelope("<env:Body/>"), "Sender"),
        (envelope("<env:Body><a/><b/></env:Body>"), "Sender"),
    ] {
        let answer = portal.soap_raw(path, &plain, text.clone().into_bytes()).await;
        assert_eq!(
            answer.codes().last().map(String::as_str).unwrap_or_default(),
            code,
            "{text}: {}",
            answer.xml()
        );
        assert!(
            matches!(answer.status, 400 | 500) && answer.fault().is_none_or(|(code, _)| code == "9020"),
            "{}",
            answer.xml()
        );
    }
    let wrong = portal
        .soap_raw(path, "application/soap+xml; action=\"urn:x\"", envelope("<env:Body/>").into_bytes())
        .await;
    assert_eq!(wrong.codes(), ["Sender", "ActionNotSupported"]);
    let none = portal.soap_raw(path, "application/soap+xml", envelope("<env:Body/>").into_bytes()).await;
    assert_eq!(none.codes(), ["Sender", "MessageAddressingHeaderRequired"]);
    for media in ["text/xml", "application/soap+xml; charset=utf-16", "multipart/related; type=x"] {
        assert_eq!(portal.soap_raw(path, media, Vec::new()).await.status, 415, "{media}");
    }
    let included = small
        .replace("eA==", "<x:Include xmlns:x=\"http://www.w3.org/2004/08/xop/include\" href=\"cid:none\"/>");
    assert_eq!(portal.soap_mtom("sendMessage", &good, &included, &[("a", b"x")]).await.fault_code(), "9022");
    assert_eq!(portal.soap("sendMessage", &good, &included).await.fault_code(), "9022");

    let nobody = lab.client("nobody").soap("checkAccountActive", "", "").await;
    assert_eq!(nobody.fault_code(), "9012");
    let stranger = lab.client("stranger");
    assert_eq!(stranger.soap("getStatusList", &author(OFFICE), LIST).await.fault_code(), "9014");
    assert_eq!(stranger.soap("createMessageId", "", "").await.fault_code(), "9013");
    assert_eq!(portal.get("/v1/submissions").await.json["submissions"], json!([]));
    lab.recorded_answers_are_valid();
}

/// Closes what it lists until nothing is left; what it closed.
async fn read_all(department: Party, closed: Arc<Mutex<BTreeSet<String>>>, number: usize) -> usize {
    const WINDOW: usize = 16;
    let mut done = 0;
    loop {
        let before = closed.lock().unwrap().clone();
        let request = "<osci:MsgBoxStatusListRequest maxListItems=\"100\" ListForm=\"MsgAtrributes\"/>";
        let answer = department.soap("getStatusList", &author(OFFICE), request).await.ok();
        let ids: Vec<String> =
            answer.texts("MessageID").into_iter().filter(|id| id.starts_with("urn:de:xta:")).collect();
        let again: Vec<&String> = ids.iter().filter(|id| before.contains(*id)).collect();
        assert!(again.is_empty(), "closed and listed again: {again:?}");
        if ids.is_empty() {
            return done;
        }
        // Readers overlap, so that some fetch and close the same.
        let begin = number * (WINDOW - 4) % ids.len();
        for id in ids.iter().cycle().skip(begin).take(WINDOW.min(ids.len())) {
            let fetched = department.soap("getMessage", &author(OFFICE), &fetch(id)).await;
            if fetched.status != 200 {
                assert_eq!(fetched.fault_code(), "9070", "another reader was faster");
                continue;
            }
            drop(department.soap("close", &author(OFFICE), &close("1", &[id])).await.ok());
            closed.lock().unwrap().insert(id.clone());
            done += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_readers_share_a_mailbox_of_ten_thousand() {
    const MESSAGES: usize = 10_000;
    let lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let keys = (0..MESSAGES).map(|n| n.to_string());
    let sent = futures::stream::iter(keys).map(|key| {
        let portal = portal.clone();
        async move { portal.submit(&key, METADATA, b"<antrag/>").await }
    });
    let sent: BTreeSet<String> = sent.buffer_unordered(64).collect().await;
    assert_eq!(sent.len(), MESSAGES);
    let department = Party { recorded: None, ..lab.client("department") };
    let closed: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    // Everything is in the mailbox before the readers begin, or one might end too early.
    while lab
        .telemetry("/metrics")
        .await
        .1
        .lines()
        .all(|line| line != format!("amtsbote_mailbox_messages {MESSAGES}"))
    {
        tokio::task::yield_now().await;
    }
    let readers =
        (0..8).map(|number| tokio::spawn(read_all(department.clone(), Arc::clone(&closed), number)));
    let done: Vec<usize> = futures::future::join_all(readers).await.into_iter().map(Result::unwrap).collect();
    assert!(done.iter().sum::<usize>() >= MESSAGES, "{done:?}");
    let uuid = |id: &String| id.rsplit(':').next().unwrap().to_owned();
    let closed: BTreeSet<String> = closed.lock().unwrap().iter().map(uuid).collect();
    assert_eq!(closed, sent.iter().map(uuid).collect(), "no message was missed");
    let counts = futures::stream::iter(sent).map(|id| {
        let portal = portal.clone();
        async move {
            let card = portal.get(&format!("/v1/submissions/{id}/events")).await.json;
            card["events"].as_array().unwrap().iter().filter(|event| event["event"] == "acknowledged").count()
        }
    });
    assert!(
        counts.buffer_unordered(64).all(|count| std::future::ready(count == 1)).await,
        "acknowledged once each"
    );
}
