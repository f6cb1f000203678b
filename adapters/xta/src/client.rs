//! A client of a remote XTA server: what this gateway needs of the twelve operations, with packages in both directions.
//!
//! It decides by the detail of a fault and its number only; how HTTP and SOAP class it differs between products.

use std::io;
use std::sync::Arc;

use amtsbote_core::port::Entropy;
use amtsbote_http::{Client, ClientError, Streamed};
use amtsbote_soap::addressing;
use amtsbote_soap::base64::Base64Encoder;
use amtsbote_soap::{
    Coding, ContentSink, Element, Header, MessageReader, Outgoing, Packaging, PeerFault, ReadError, Segment,
    Transport, XmlLimits, envelope, pack,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use url::Url;
use uuid::Uuid;

use crate::content::shape;
use crate::metadata::party;
use crate::names::{ADDRESSING, META, OSCI, PREFIXES, XTA};
use crate::operation::{Operation, Port};
use crate::send::is_carried;

/// Answers may be larger than requests: lists repeat the metadata of many orders.
const ANSWER_LIMITS: XmlLimits = XmlLimits { depth: 64, attributes: 1_000, value: 1 << 20, markup: 16 << 20 };

/// Content that is being sent.
pub type ContentStream = BoxStream<'static, io::Result<Bytes>>;

/// The three addresses of a server; each is configured by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Urls {
    /// Send port.
    pub send: Url,
    /// Management port.
    pub management: Url,
    /// Mailbox port.
    pub msgbox: Url,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError<E> {
    /// No connection, or none in time; the server has not taken the request for sure.
    #[error("the server cannot be reached")]
    Unreachable(#[source] ClientError),
    /// The exchange broke off; nobody knows whether the server took the request.
    #[error("the exchange broke off")]
    Unknown(#[source] ClientError),
    /// The server refuses, with a fault. Its words are a stranger's.
    #[error("the server answered with fault {} {}", .0.exception, .0.number)]
    Fault(RemoteFault),
    /// The server answers with a status instead of SOAP.
    #[error("the server answered with status {status}")]
    Status {
        /// Of HTTP.
        status: StatusCode,
        /// Seconds after which it wants to be asked again.
        retry_after: Option<u64>,
    },
    /// The answer cannot be read.
    #[error("the answer cannot be read")]
    Answer(#[source] ReadError<E>),
    /// The answer is not the one of the operation.
    #[error("the answer is not that of the operation")]
    Unexpected,
}

/// A fault of a server, as far as one may decide by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFault {
    /// `Sender`, `Receiver`, …
    pub code: String,
    /// Local name of the exception in the detail; empty if there is none.
    pub exception: String,
    /// Number of the list; 0 if there is none.
    pub number: u16,
}

impl From<&PeerFault> for RemoteFault {
    fn from(fault: &PeerFault) -> Self {
        let exception = fault.detail.iter().find(|one| one.name.local().ends_with("Exception"));
        let code = exception.and_then(|one| one.children().find(|child| child.name.local() == "errorCode"));
        let number = code.and_then(|one| one.children().find(|child| child.name.local() == "code"));
        Self {
            code: fault.code.clone(),
            exception: exception.map(|one| one.name.local().to_owned()).unwrap_or_default(),
            number: number.and_then(|one| one.text().parse().ok()).unwrap_or_default(),
        }
    }
}

/// An answer of an operation.
#[derive(Debug)]
pub struct Reply {
    /// Header blocks.
    pub headers: Vec<Header>,
    /// The element in the body, if there is one.
    pub body: Option<Element>,
}

/// An order that was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// `MessageMetaData` with its bytes.
    pub metadata: Header,
    /// `GenericContentContainer`; its contents went into the sink.
    pub container: Element,
}

impl Fetched {
    fn of<E>(reply: Reply) -> Result<Self, CallError<E>> {
        let metadata = reply.headers.into_iter().find(|one| one.element.is(META, "MessageMetaData"));
        match (metadata, reply.body) {
            (Some(metadata), Some(container)) => Ok(Self { metadata, container }),
            _ => Err(CallError::Unexpected),
        }
    }
}

/// Entries of a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// MessageIDs, in the server's order.
    pub ids: Vec<String>,
    /// The iterator that knows more, if there is more.
    pub next: Option<String>,
}

/// A server as one of its accounts.
pub struct XtaClient {
    http: Client,
    urls: Urls,
    /// Identifier by which the account calls.
    identifier: String,
    entropy: Arc<dyn Entropy>,
}

impl XtaClient {
    /// A client over an HTTP client that has the account's certificate.
    pub fn new(http: Client, urls: Urls, identifier: String, entropy: Arc<dyn Entropy>) -> Self {
        Self { http, urls, identifier, entropy }
    }

    /// Whether it hands in at this address.
    pub fn sends_to(&self, address: &str) -> bool {
        address.parse::<Url>().is_ok_and(|url| url == self.urls.send)
    }

    fn random_id(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes);
        Uuid::from_bytes(bytes)
    }

    /// Hands an order in. Metadata and the other header blocks are written as they are; contents are those the container numbers.
    ///
    /// # Errors
    /// See [`CallError`]; after [`CallError::Unknown`] ask for the [report](Self::report) before sending again.
    pub async fn send<K: ContentSink>(
        &self,
        headers: Vec<Element>,
        container: Element,
        contents: Vec<(String, ContentStream)>,
        sink: &mut K,
    ) -> Result<(), CallError<K::Error>> {
        let operation = Operation::SendMessage;
        self.call(Port::Send, operation, headers, Some(container), contents, sink).await.map(drop)
    }

    /// Hands an order in and brings the answer of its reader.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn send_sync<K: ContentSink>(
        &self,
        headers: Vec<Element>,
        container: Element,
        contents: Vec<(String, ContentStream)>,
        sink: &mut K,
    ) -> Result<Fetched, CallError<K::Error>> {
        let operation = Operation::SendMessageSync;
        Fetched::of(self.call(Port::Send, operation, headers, Some(container), contents, sink).await?)
    }

    /// The order of the account with this id as the server reports it; nothing if it has none.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn report<K: ContentSink>(
        &self,
        id: &str,
        sink: &mut K,
    ) -> Result<Option<Element>, CallError<K::Error>> {
        let body = Element::new(ADDRESSING, "MessageID").with_text(id);
        let operation = Operation::GetTransportReport;
        match self.call(Port::Management, operation, vec![self.author()], Some(body), Vec::new(), sink).await
        {
            Ok(reply) => {
                let report = reply.body.filter(|body| body.is(XTA, "TransportReport"));
                let order = report.and_then(|report| report.child(META, "MessageMetaData").cloned());
                order.map(Some).ok_or(CallError::Unexpected)
            }
            Err(CallError::Fault(RemoteFault { number: 9070, .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists the account's mailbox.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list<K: ContentSink>(
        &self,
        most: usize,
        sink: &mut K,
    ) -> Result<Listed, CallError<K::Error>> {
        let body = Element::new(OSCI, "MsgBoxStatusListRequest")
            .with_attribute("maxListItems", most.to_string())
            .with_attribute("ListForm", "MessageMetaData");
        self.page(Operation::GetStatusList, body, sink).await
    }

    /// Goes on with a list.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list_next<K: ContentSink>(
        &self,
        iterator: &str,
        sink: &mut K,
    ) -> Result<Listed, CallError<K::Error>> {
        let body = Element::new(OSCI, "MsgBoxGetNextRequest").with_attribute("MsgBoxRequestID", iterator);
        self.page(Operation::GetNextStatusList, body, sink).await
    }

    async fn page<K: ContentSink>(
        &self,
        operation: Operation,
        body: Element,
        sink: &mut K,
    ) -> Result<Listed, CallError<K::Error>> {
        let reply =
            self.call(Port::MsgBox, operation, vec![self.author()], Some(body), Vec::new(), sink).await?;
        let list = reply.body.filter(|body| body.is(OSCI, "MsgStatusList")).ok_or(CallError::Unexpected)?;
        let id = |entry: &Element| {
            let inside = entry.child(META, "MsgIdentification").unwrap_or(entry);
            inside.text_of(ADDRESSING, "MessageID")
        };
        let response =
            reply.headers.iter().map(|one| &one.element).find(|one| one.is(OSCI, "MsgBoxResponse"));
        let next = response.and_then(|response| {
            let pending: u64 = response.text_of(OSCI, "ItemsPending")?.parse().ok()?;
            response.attribute("MsgBoxRequestID").filter(|_| pending > 0).map(str::to_owned)
        });
        Ok(Listed { ids: list.children().filter_map(id).collect(), next })
    }

    /// Fetches an order without acknowledging it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn fetch<K: ContentSink>(
        &self,
        id: &str,
        sink: &mut K,
    ) -> Result<Fetched, CallError<K::Error>> {
        let id = Element::new(ADDRESSING, "MessageID").with_text(id);
        let body = Element::new(OSCI, "MsgBoxFetchRequest").with(Element::new(OSCI, "MsgSelector").with(id));
        let operation = Operation::GetMessage;
        let reply =
            self.call(Port::MsgBox, operation, vec![self.author()], Some(body), Vec::new(), sink).await?;
        Fetched::of(reply)
    }

    /// Acknowledges orders: they are safe here.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn close<K: ContentSink>(
        &self,
        ids: &[String],
        sink: &mut K,
    ) -> Result<(), CallError<K::Error>> {
        let ids = ids.iter().map(|id| Element::new(OSCI, "LastMsgReceived").with_text(id));
        let body =
            Element::new(OSCI, "MsgBoxCloseRequest").with_attribute("MsgBoxRequestID", "1").with_all(ids);
        let operation = Operation::Close;
        self.call(Port::MsgBox, operation, vec![self.author()], Some(body), Vec::new(), sink).await.map(drop)
    }

    fn author(&self) -> Element {
        party("Author", &self.identifier, None)
    }

    async fn call<K: ContentSink>(
        &self,
        port: Port,
        operation: Operation,
        headers: Vec<Element>,
        body: Option<Element>,
        contents: Vec<(String, ContentStream)>,
        sink: &mut K,
    ) -> Result<Reply, CallError<K::Error>> {
        let url = match port {
            Port::Send => &self.urls.send,
            Port::Management => &self.urls.management,
            Port::MsgBox => &self.urls.msgbox,
        };
        let action = operation.action();
        let (message_id, boundary) = (self.random_id(), format!("amtsbote-{}", self.random_id().simple()));
        let mut blocks = addressing::request(action, &message_id.urn().to_string(), url.as_str());
        blocks.extend(headers);
        let message = envelope(blocks, body.into_iter().collect());
        let media_types: Vec<&str> = contents.iter().map(|(media_type, _)| media_type.as_str()).collect();
        let outgoing = pack(message, PREFIXES, Packaging::Mtom, action, &boundary, &media_types);
        let Outgoing { content_type, segments } = outgoing;
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_str(&content_type).map_err(|_| CallError::Unexpected)?,
        );
        let contents = contents.into_iter().map(|(_, content)| content).collect();
        let sent =
            self.http.stream(Method::POST, url.clone(), headers, outgoing_body(segments, contents)).await;
        let answer = sent.map_err(|error| match error {
            ClientError::Forbidden => CallError::Unreachable(error),
            ClientError::Failed(ref cause) if cause.is_connect() => CallError::Unreachable(error),
            ClientError::Timeout | ClientError::Failed(_) | ClientError::Body(_) => CallError::Unknown(error),
        })?;
        read_answer(answer, sink).await
    }
}

/// What is sent, with each content at its place.
fn outgoing_body(segments: Vec<Segment>, contents: Vec<ContentStream>) -> ContentStream {
    let mut contents: Vec<Option<ContentStream>> = contents.into_iter().map(Some).collect();
    let pieces = segments.into_iter().map(move |segment| match segment {
        Segment::Bytes(bytes) => stream::iter([Ok(bytes)]).boxed(),
        Segment::Content(number, coding) => {
            let content = contents.get_mut(number).and_then(Option::take);
            let content =
                content.unwrap_or_else(|| stream::iter([Err(io::ErrorKind::NotFound.into())]).boxed());
            match coding {
                Coding::Identity => content,
                Coding::Base64 => encoded(content),
            }
        }
    });
    stream::iter(pieces.collect::<Vec<_>>()).flatten().boxed()
}

fn encoded(content: ContentStream) -> ContentStream {
    let begin = (content, Some(Base64Encoder::default()));
    stream::try_unfold(begin, |(mut content, encoder)| async move {
        let Some(mut encoder) = encoder else { return Ok(None) };
        match content.next().await.transpose()? {
            Some(bytes) => Ok(Some((Bytes::from(encoder.feed(&bytes)), (content, Some(encoder))))),
            None => Ok(Some((Bytes::from(encoder.finish()), (content, None)))),
        }
    })
    .boxed()
}

async fn read_answer<K: ContentSink>(answer: Streamed, sink: &mut K) -> Result<Reply, CallError<K::Error>> {
    let status = answer.status;
    let text = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
    let transport = text("content-type").and_then(|content_type| Transport::of(content_type, None).ok());
    let Some(transport) = transport else {
        let retry_after = text("retry-after").and_then(|seconds| seconds.parse().ok());
        return Err(CallError::Status { status, retry_after });
    };
    let reader = MessageReader::open(transport, answer.body, ANSWER_LIMITS, sink).await;
    let mut reader = reader.map_err(CallError::Answer)?;
    let headers = reader.headers(is_carried).await.map_err(CallError::Answer)?;
    let body = reader.body(shape, sink).await.map_err(CallError::Answer)?.into_iter().next();
    match body.as_ref().and_then(PeerFault::of) {
        Some(fault) => Err(CallError::Fault(RemoteFault::from(&fault))),
        None if status.is_success() => Ok(Reply { headers, body }),
        None => Err(CallError::Status { status, retry_after: None }),
    }
}
