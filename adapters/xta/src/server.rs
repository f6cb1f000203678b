//! From HTTP to an operation and back. The order of checks: packaging, envelope, addressing, operation, account, header blocks, and
//! only then content.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use amtsbote_core::account::Account;
use amtsbote_core::port::{PartReader, StoreError, StoredMessage};
use amtsbote_http::{Peer, PeerTrust};
use amtsbote_soap::addressing::{Addressing, action_not_supported};
use amtsbote_soap::base64::Base64Encoder;
use amtsbote_soap::{
    Coding, Element, Fault, FaultCode, Header, MessageReader, Outgoing, PackageError, Packaging, ReadError,
    Segment, Transport, XmlError, XmlLimits, envelope, pack,
};
use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use uuid::Uuid;

use crate::Services;
use crate::content::{ContentError, Spool, shape};
use crate::fault::{ErrorCode, Refused};
use crate::names::PREFIXES;
use crate::operation::{Operation, Port};
use crate::request::{Answer, Caller, check_headers};
use crate::send::{Announced, is_carried, takes_content};
use crate::wsdl;

/// Bytes and time spent on a request that is refused anyway.
const LINGER: usize = 64 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);
/// Bytes around contents: envelope, headers of parts, white space in base64.
const AROUND: u64 = 4 << 20;

/// The three ports.
pub fn router(services: Arc<Services>) -> Router {
    let options = &services.options;
    let ports = [
        (options.send.clone(), Port::Send),
        (options.management.clone(), Port::Management),
        (options.msgbox.clone(), Port::MsgBox),
    ];
    let mut router = Router::new();
    for (path, port) in ports {
        let services = Arc::clone(&services);
        let serve = move |request: Request| serve(Arc::clone(&services), port, request);
        router = router.route(&path, axum::routing::any(serve));
    }
    router
}

async fn serve(services: Arc<Services>, port: Port, request: Request) -> Response {
    match *request.method() {
        Method::POST => {}
        Method::GET if request.uri().query().is_some_and(|query| query.eq_ignore_ascii_case("wsdl")) => {
            let xml = HeaderValue::from_static("text/xml; charset=utf-8");
            let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
            let document = wsdl::document(&services.options, host);
            return ([(header::CONTENT_TYPE, xml)], document).into_response();
        }
        _ => return text(StatusCode::METHOD_NOT_ALLOWED, "POST a SOAP 1.2 message, or GET ?wsdl"),
    }
    let (head, body) = request.into_parts();
    let Some(transport) = transport(&head.headers) else {
        linger(&Incoming::new(body, u64::MAX)).await;
        return text(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "SOAP 1.2 as application/soap+xml or multipart/related, in UTF-8",
        );
    };
    let peer = head.extensions.get::<Arc<Peer>>().map(Arc::as_ref);
    let account = services.identify(peer);
    let limit = account.as_ref().ok().and_then(|account| account.message_limit);
    let limit = limit.unwrap_or(services.options.message_limit).min(services.options.most);
    let incoming = Incoming::new(body, limit / 2 * 3 + AROUND);
    let room = match services.in_flight.enter(&head.headers) {
        Ok(room) => room,
        Err(problem) => {
            linger(&incoming).await;
            return problem.into_response();
        }
    };
    let mut exchange =
        Exchange { packaging: transport.packaging, addressing: Addressing::default(), operation: None };
    let handled = exchange.handle(&services, port, account, transport, incoming.clone(), limit).await;
    drop(room);
    match handled {
        Ok(answer) => exchange.answer(&services, answer),
        Err(Failure::Refused(refused)) => {
            linger(&incoming).await;
            exchange.fault(&services, refused)
        }
        Err(Failure::Response(response)) => {
            linger(&incoming).await;
            *response
        }
    }
}

fn transport(headers: &HeaderMap) -> Option<Transport> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Transport::of(text("content-type")?, text("soapaction")).ok()
}

fn text(status: StatusCode, text: &'static str) -> Response {
    (status, text).into_response()
}

/// Why nothing is answered by an operation.
enum Failure {
    Refused(Refused),
    /// With an answer that is not SOAP.
    Response(Box<Response>),
}

impl<T: Into<Refused>> From<T> for Failure {
    fn from(refused: T) -> Self {
        Self::Refused(refused.into())
    }
}

impl Services {
    /// The account of a certificate.
    fn identify(&self, peer: Option<&Peer>) -> Result<Arc<Account>, ErrorCode> {
        let peer = peer.ok_or(ErrorCode::NoAccount)?;
        if peer.expired {
            return Err(ErrorCode::CertificateExpired);
        }
        let vouched = (peer.trust == PeerTrust::Authority).then_some(peer.subject.as_str());
        self.accounts.load().identify(peer.fingerprint, vouched).cloned().ok_or(ErrorCode::NoAccount)
    }
}

/// One request with what is known of it so far; enough to answer it in its own manner whatever happens.
struct Exchange {
    packaging: Packaging,
    addressing: Addressing,
    operation: Option<Operation>,
}

impl Exchange {
    async fn handle(
        &mut self,
        services: &Services,
        port: Port,
        account: Result<Arc<Account>, ErrorCode>,
        transport: Transport,
        incoming: Incoming,
        limit: u64,
    ) -> Result<Answer, Failure> {
        let watched = incoming.clone();
        let read = |error| read_failed(error, &watched);
        // Parts that come before the envelope go somewhere, too.
        let early = matches!(port, Port::Send) && transport.packaging == Packaging::Mtom;
        let mut spool = if early && account.is_ok() { services.spool(limit).await? } else { Spool::none() };
        let reader = MessageReader::open(transport, incoming, XmlLimits::default(), &mut spool).await;
        let mut reader = reader.map_err(read)?;
        let headers = reader.headers(is_carried).await.map_err(read)?;
        self.addressing = Addressing::of(&headers)?;
        let action = self.addressing.resolve_action(reader.actions())?;
        let operation = Operation::of(port, &action).ok_or_else(|| action_not_supported(&action))?;
        self.operation = Some(operation);
        let account = account?;
        let (counted, left) = services.quotas.count(account.name.as_str());
        if let Err(problem) = counted {
            let mut response = problem.into_response();
            left.show(response.headers_mut());
            return Err(Failure::Response(Box::new(response)));
        }
        check_headers(&headers)?;
        let caller = Caller::of(account, &headers)?;
        let mut announced = None;
        if takes_content(operation) {
            announced = Some(services.announce(&caller, &headers).await?);
            if !early {
                spool = services.spool(limit).await?;
            }
        }
        let body = reader.body(shape, &mut spool).await.map_err(read)?;
        let body = only_body(operation, body)?;
        services
            .perform(operation, &caller, &headers, announced, body.as_ref(), spool)
            .await
            .map_err(Failure::Refused)
    }

    /// Writes an answer of the operation.
    fn answer(&self, services: &Arc<Services>, answer: Answer) -> Response {
        let Answer { headers, body, content, repeated } = answer;
        let action = self.operation.map_or("", Operation::action);
        let mut blocks = self.addressing.answer(action, &services.new_id());
        blocks.extend(headers);
        let message = envelope(blocks, body.into_iter().collect());
        let mut response = self.send(services, message, action, content);
        if repeated.is_some() {
            response.headers_mut().insert("amtsbote-duplicate", HeaderValue::from_static("true"));
        }
        response
    }

    /// Writes a fault.
    fn fault(&self, services: &Arc<Services>, refused: Refused) -> Response {
        if let Refused::Modelled { code, about } = &refused {
            tracing::debug!(fault.code = code.number(), about, "An XTA request was refused.");
        }
        let fault = refused.fault(self.operation);
        let action = fault.action.or(self.operation.map(Operation::action)).unwrap_or_default();
        let mut blocks = self.addressing.answer(action, &services.new_id());
        blocks.extend(fault.headers.iter().cloned());
        let message = envelope(blocks, vec![fault.element()]);
        let mut response = self.send(services, message, action, None);
        // The stacks in the field send 500 for everything that is SOAP.
        *response.status_mut() = match (self.operation, fault.code) {
            (None, FaultCode::Sender) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        response
    }

    fn send(
        &self,
        services: &Arc<Services>,
        message: Element,
        action: &str,
        content: Option<StoredMessage>,
    ) -> Response {
        let boundary = services.boundary();
        let parts = content.as_ref().map(|stored| stored.message.parts.as_slice()).unwrap_or_default();
        let media_types: Vec<&str> = parts.iter().map(|part| part.media_type.as_str()).collect();
        let outgoing = pack(message, PREFIXES, self.packaging, action, &boundary, &media_types);
        let Outgoing { content_type, segments } = outgoing;
        let body = match content {
            None => {
                let bytes = segments.into_iter().filter_map(|segment| match segment {
                    Segment::Bytes(bytes) => Some(bytes),
                    Segment::Content(..) => None,
                });
                Body::from(bytes.flatten().collect::<Vec<u8>>())
            }
            Some(stored) => Body::from_stream(stream_segments(Arc::clone(services), stored, segments)),
        };
        let mut response = Response::new(body);
        if let Ok(value) = HeaderValue::from_str(&content_type) {
            response.headers_mut().insert(header::CONTENT_TYPE, value);
        }
        response
    }
}

/// The one element of the body, if it is the one the operation has.
fn only_body(operation: Operation, body: Vec<Element>) -> Result<Option<Element>, Refused> {
    let wrong = || Refused::from(Fault::new(FaultCode::Sender, "The body does not fit the action."));
    let mut elements = body.into_iter();
    match (operation.body(), elements.next(), elements.next()) {
        (None, None, _) => Ok(None),
        (Some((namespace, local)), Some(element), None) if element.is(namespace, local) => Ok(Some(element)),
        _ => Err(wrong()),
    }
}

/// What the reader says, unless it stumbled over the bound of the request itself.
fn read_failed(error: ReadError<ContentError>, incoming: &Incoming) -> Failure {
    let input =
        matches!(error, ReadError::Xml(XmlError::Input(_)) | ReadError::Package(PackageError::Input(_)));
    if input && incoming.is_too_large() { ErrorCode::TooLarge.into() } else { Refused::from(error).into() }
}

impl Services {
    async fn spool(&self, limit: u64) -> Result<Spool, StoreError> {
        Ok(Spool::new(self.store.stage().await?, limit))
    }

    async fn perform(
        &self,
        operation: Operation,
        caller: &Caller,
        _headers: &[Header],
        announced: Option<Announced>,
        body: Option<&Element>,
        spool: Spool,
    ) -> Result<Answer, Refused> {
        let absent = Element::new("", "absent");
        let body = body.unwrap_or(&absent);
        match (operation, announced) {
            (Operation::CheckAccountActive, _) => Ok(Answer::default()),
            (Operation::CreateMessageId, _) => self.create_id(caller).await,
            (Operation::LookupService, _) => self.lookup(body).await,
            (Operation::GetTransportReport, _) => {
                Self::check_id(body, ErrorCode::UnknownId)?;
                self.transport_report(caller, body).await
            }
            (Operation::CancelMessage, _) => {
                Self::check_id(body, ErrorCode::NoUri)?;
                self.cancel(caller, body).await
            }
            (Operation::SendMessage, Some(announced)) => self.send(caller, announced, body, spool).await,
            (Operation::SendMessageSync, Some(announced)) => {
                self.send_sync(caller, announced, body, spool).await
            }
            (Operation::SendMessage | Operation::SendMessageSync, None) => Err(ErrorCode::Internal.into()),
            (Operation::GetStatusList, _) => self.status_list(caller, body).await,
            (Operation::GetNextStatusList, _) => self.next_status_list(caller, body).await,
            (Operation::GetMessage, _) => self.message(caller, body).await,
            (Operation::GetNextMessage, _) => self.next_message(caller, body).await,
            (Operation::Close, _) => self.close(caller, body).await,
        }
    }

    fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes);
        bytes
    }

    /// An id for the message of SOAP, not of the order.
    fn new_id(&self) -> String {
        Uuid::from_bytes(self.random()).as_urn().to_string()
    }

    /// A boundary no content can know.
    fn boundary(&self) -> String {
        format!("amtsbote-{}", hex::encode(self.random()))
    }
}

/// The segments of an answer with content, read from the store while they are sent.
fn stream_segments(
    services: Arc<Services>,
    stored: StoredMessage,
    segments: Vec<Segment>,
) -> impl Stream<Item = io::Result<Bytes>> {
    let begin = Sending { services, stored, segments: segments.into_iter(), reading: None };
    stream::try_unfold(begin, |mut sending| async move {
        let next = sending.next().await?;
        Ok(next.map(|bytes| (bytes, sending)))
    })
}

/// How far an answer was sent.
struct Sending {
    services: Arc<Services>,
    stored: StoredMessage,
    segments: std::vec::IntoIter<Segment>,
    reading: Option<(Box<dyn PartReader>, Option<Base64Encoder>)>,
}

impl Sending {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some((reader, encoder)) = &mut self.reading {
                match (reader.next().await.map_err(io::Error::other)?, encoder) {
                    (Some(bytes), None) => return Ok(Some(bytes)),
                    (Some(bytes), Some(encoder)) => return Ok(Some(encoder.feed(&bytes).into())),
                    (None, _) => {
                        let rest =
                            self.reading.take().and_then(|(_, encoder)| encoder).map(Base64Encoder::finish);
                        if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
                            return Ok(Some(rest.into()));
                        }
                    }
                }
            }
            match self.segments.next() {
                None => return Ok(None),
                Some(Segment::Bytes(bytes)) => return Ok(Some(bytes)),
                Some(Segment::Content(number, coding)) => {
                    let number = u16::try_from(number).map_err(io::Error::other)?;
                    let reader = self.services.mailboxes.read_taken(self.stored.message.id, number).await;
                    let encoder = matches!(coding, Coding::Base64).then(Base64Encoder::default);
                    self.reading = Some((reader.map_err(io::Error::other)?, encoder));
                }
            }
        }
    }
}

/// The body of a request, bounded. Clones share it, so that what is left can be read after a refusal.
#[derive(Clone)]
struct Incoming(Arc<Mutex<Bounded>>);

struct Bounded {
    stream: BodyDataStream,
    left: u64,
    too_large: bool,
}

impl Incoming {
    fn new(body: Body, left: u64) -> Self {
        Self(Arc::new(Mutex::new(Bounded { stream: body.into_data_stream(), left, too_large: false })))
    }

    fn is_too_large(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).too_large
    }
}

impl Stream for Incoming {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let mut bounded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let polled = bounded.stream.poll_next_unpin(cx);
        polled.map(|next| match next? {
            Ok(bytes) if bytes.len() as u64 > bounded.left => {
                bounded.too_large = true;
                Some(Err(io::ErrorKind::FileTooLarge.into()))
            }
            Ok(bytes) => {
                bounded.left -= bytes.len() as u64;
                Some(Ok(bytes))
            }
            Err(error) => Some(Err(io::Error::other(error))),
        })
    }
}

/// Reads on for a moment after a refusal: a client that is still sending would get a reset instead of the answer.
async fn linger(incoming: &Incoming) {
    {
        let mut bounded = incoming.0.lock().unwrap_or_else(PoisonError::into_inner);
        bounded.left = LINGER as u64;
    }
    let mut incoming = incoming.clone();
    let reading = async { while let Some(Ok(_)) = incoming.next().await {} };
    // Whether it ended or not, the answer goes out now.
    drop(tokio::time::timeout(LINGER_TIME, reading).await);
}
