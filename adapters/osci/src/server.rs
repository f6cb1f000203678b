//! From HTTP to an order and back: receive, understand, judge, execute, answer (OSCI-Transport 1.2, behaviour of a supplier).
//!
//! What is wrong before the order is understood is a fault. What is wrong with the order is feedback in its response.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::Face;
use amtsbote_core::mailbox::MailboxError;
use amtsbote_core::port::{DirectoryUnavailable, StoreError};
use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::Request as HttpRequest;
use axum::http::{Method as HttpMethod, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use tokio::task::spawn_blocking;

use crate::clients::Client;
use crate::codec::Problem;
use crate::codec::block::{
    CertificateRole, Certificates, ControlBlock, CustomHeader, Feature, Features, custom_headers, languages,
};
use crate::codec::certificate::Certificate;
use crate::codec::cipher::IvLength;
use crate::codec::code::{Code, Kind, Language};
use crate::codec::compose::{Extras, response};
use crate::codec::draft::{Signer, write_fault};
use crate::codec::encryption::{Method, find_key};
use crate::codec::envelope::{Direction, Operation};
use crate::codec::order::Request;
use crate::codec::signature::verify;
use crate::dialogs::{Dialog, challenge, conversation};
use crate::orders::{Done, Order};
use crate::reception::{Incoming, Limits, Received, Reception, ReceptionError};
use crate::respond::{SendError, Wire, digests};
use crate::services::Services;

/// Bytes that are looked at where they come; more are looked at in a thread of their own.
const QUICK: usize = 64 << 10;
/// Bytes that are looked at at a time.
const BATCH: usize = 1 << 20;
/// Messages above this size wait for one another before they are parsed.
const LARGE: u64 = 4 << 20;

/// The intermediary, at every path.
pub fn router(services: Arc<Services>) -> Router {
    Router::new().fallback(move |request: HttpRequest| serve(Arc::clone(&services), request))
}

async fn serve(services: Arc<Services>, request: HttpRequest) -> Response {
    if *request.method() != HttpMethod::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, "POST a message of OSCI-Transport 1.2").into_response();
    }
    let (head, body) = request.into_parts();
    let room = match services.in_flight.enter(&head.headers) {
        Ok(room) => room,
        Err(problem) => return problem.into_response(),
    };
    let received = match receive(&services, body).await {
        Ok(received) => received,
        Err(failure) => return fault(&services, &failure),
    };
    // Once it is here it is finished, whether its client waits or not.
    let work = {
        let services = Arc::clone(&services);
        async move {
            let answered = handle(&services, received).await;
            drop(room);
            answered
        }
    };
    match tokio::spawn(tracing::Instrument::in_current_span(work)).await.unwrap_or(Err(Failure::Worker)) {
        Ok(wire) => wire.into_response(),
        Err(failure) => fault(&services, &failure),
    }
}

/// Why there is nothing but a fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Problem(#[from] Problem),
    #[error("{}", .0.english())]
    Code(Code),
    #[error("the disk failed")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Mailbox(#[from] MailboxError),
    #[error(transparent)]
    Directory(#[from] DirectoryUnavailable),
    #[error("the connection broke off")]
    Broken,
    #[error("a worker ended without a word")]
    Worker,
}

impl From<ReceptionError> for Failure {
    fn from(error: ReceptionError) -> Self {
        match error {
            ReceptionError::Problem(problem) => Self::Problem(problem),
            ReceptionError::Io(error) => Self::Io(error),
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Problem(problem) => Self::Problem(problem),
            SendError::Store(error) => Self::Store(error),
        }
    }
}

impl Failure {
    fn code(&self) -> Code {
        match self {
            Self::Problem(problem) => match problem.code() {
                code if code.is_fault() => code,
                _ => Code::NotOsci,
            },
            Self::Code(code) => *code,
            Self::Broken => Code::NotOsci,
            Self::Io(_) | Self::Store(_) | Self::Mailbox(_) | Self::Directory(_) | Self::Worker => {
                Code::Internal
            }
        }
    }
}

fn fault(services: &Services, failure: &Failure) -> Response {
    let code = failure.code();
    if code.kind() == Kind::ServerFault {
        tracing::error!(
            error = failure as &dyn std::error::Error,
            code = code.digits(),
            "An OSCI message was not answered."
        );
    } else {
        tracing::info!(
            error = failure as &dyn std::error::Error,
            code = code.digits(),
            "An OSCI message was refused."
        );
    }
    match Wire::new(write_fault(code), Vec::new(), None, services.entropy.as_ref()) {
        Ok(wire) => wire.into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A request that was understood, before anybody decided whether to believe it.
pub(crate) struct Understood {
    pub(crate) received: Received,
    pub(crate) control: ControlBlock,
    pub(crate) certificates: Certificates,
    pub(crate) language: Language,
    pub(crate) features: Option<Features>,
    pub(crate) custom: Vec<CustomHeader>,
    pub(crate) request: Request,
    /// Who signed it.
    pub(crate) signature: Result<Option<Certificate>, Problem>,
}

/// Takes a message in. Small ones are looked at here; a private key is used in a thread of its own.
pub(crate) async fn receive(services: &Services, body: Body) -> Result<Incoming, Failure> {
    receive_with(services, services.reception_limits(), body.into_data_stream()).await
}

async fn receive_with(
    services: &Services,
    limits: Limits,
    mut stream: BodyDataStream,
) -> Result<Incoming, Failure> {
    let policy = limits.policy;
    let mut reception = Reception::new(limits);
    let (mut batch, mut total, mut ended) = (Vec::new(), 0_u64, false);
    while !ended {
        match stream.next().await {
            Some(piece) => {
                let piece = piece.map_err(|_| Failure::Broken)?;
                total += piece.len() as u64;
                batch.extend_from_slice(&piece);
            }
            None => ended = true,
        }
        if !ended && batch.len() < BATCH {
            continue;
        }
        let bytes = std::mem::take(&mut batch);
        reception = match bytes.len() {
            length if length <= QUICK => {
                reception.feed(&bytes)?;
                reception
            }
            _ => in_thread(move || reception.feed(&bytes).map(|()| reception)).await??,
        };
        if reception.locked().is_some() {
            let keys = services.cipher_keys();
            let opened = in_thread(move || -> Result<Reception, ReceptionError> {
                if let Some(data) = reception.locked() {
                    let decryptor = data.open(find_key(data, &keys)?, policy)?;
                    reception.unlock(decryptor)?;
                }
                Ok(reception)
            });
            reception = opened.await??;
        }
    }
    let _turn = match total > LARGE {
        true => Arc::clone(&services.large).acquire_owned().await.ok(),
        false => None,
    };
    Ok(in_thread(move || reception.finish()).await??)
}

pub(crate) async fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    spawn_blocking(work).await.map_err(|_| Failure::Worker)
}

/// Reads everything a request says, and verifies its signature.
pub(crate) fn understand(received: Received) -> Result<Understood, Problem> {
    let envelope = &received.envelope;
    if envelope.kind().direction == Direction::Response {
        return Err(Problem::NotAnOrder("it is a response"));
    }
    let (control, certificates) = (ControlBlock::read(envelope)?, Certificates::read(envelope)?);
    let (language, features) = (languages(envelope)?, Features::read(envelope)?);
    let (request, custom) = (Request::read(envelope)?, custom_headers(envelope)?);
    check_control(&request, &control)?;
    let role = match &request {
        Request::AcceptDelivery(_) | Request::ProcessDelivery { .. } => {
            CertificateRole::SignatureIntermediary
        }
        _ => CertificateRole::SignatureOriginator,
    };
    let signature = match verify(envelope, &certificates, role, &received.part_ids(), &received) {
        Ok(signer) => Ok(Some(signer.clone())),
        Err(Problem::Unsigned) => Ok(None),
        Err(problem) => Err(problem),
    };
    Ok(Understood { received, control, certificates, language, features, custom, request, signature })
}

/// Which fields a request of each kind has (section "ControlBlock").
fn check_control(request: &Request, control: &ControlBlock) -> Result<(), Problem> {
    if control.challenge.is_none() {
        return Err(Problem::Dialog("there is no challenge"));
    }
    match (request.operation(), &control.conversation) {
        (Operation::InitDialog, None) if control.response.is_none() && control.sequence.is_none() => Ok(()),
        (Operation::InitDialog, _) => Err(Problem::Dialog("a dialog inside of a dialog")),
        (Operation::AcceptDelivery | Operation::ProcessDelivery, None)
            if control.response.is_none() && control.sequence.is_none() =>
        {
            Ok(())
        }
        (Operation::AcceptDelivery | Operation::ProcessDelivery, _) => {
            Err(Problem::Dialog("a push inside of a dialog"))
        }
        (_, Some(_)) if control.response.is_some() && control.sequence.is_some() => Ok(()),
        (_, Some(_)) => Err(Problem::Dialog("the response or the number is missing")),
        // What is left of an earlier dialog is passed over.
        (_, None) if control.sequence.is_none_or(|number| number == 0) => Ok(()),
        (_, None) => Err(Problem::Dialog("a number outside of a dialog")),
    }
}

/// Whether an operation may stand outside of an explicit dialog.
fn may_be_implicit(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::InitDialog
            | Operation::GetMessageId
            | Operation::StoreDelivery
            | Operation::ForwardDelivery
            | Operation::PartialStoreDelivery
    )
}

/// What the response will be wrapped in.
struct Wrap {
    control: ControlBlock,
    encrypt: Option<(Method, Certificate)>,
}

async fn handle(services: &Services, received: Incoming) -> Result<Wire, Failure> {
    let received = match received {
        Incoming::Message(received) => *received,
        Incoming::Fault(_) => return Err(Problem::NotAnOrder("it is a fault").into()),
    };
    let understood = in_thread(move || understand(received)).await??;
    if matches!(understood.request, Request::AcceptDelivery(_) | Request::ProcessDelivery { .. }) {
        return services.pushed(understood).await;
    }
    let now = services.clock.now();
    let implicit = understood.control.conversation.is_none();
    let dialog = match implicit {
        true => None,
        false => Some(services.dialogs.take(&understood.control, now)?),
    };
    let mut order = judge(services, understood, dialog, now).await?;
    let operation = order.understood.request.operation();
    tracing::debug!(operation = operation.as_str(), account = %order.client.account.name, "An OSCI order came.");
    let done = match order.refused.take() {
        Some(code) => Done::refused(&order.understood.request, code),
        None if implicit && !may_be_implicit(operation) => {
            Done::refused(&order.understood.request, Code::ExplicitOnly)
        }
        None => services.execute(&mut order).await?,
    };
    let wrap = wrap(services, order, &done, now)?;
    answer(services, done, wrap).await
}

/// Decides whether a request is believed, and marks what its client received.
async fn judge(
    services: &Services,
    understood: Understood,
    mut dialog: Option<Dialog>,
    now: Timestamp,
) -> Result<Order, Failure> {
    let accounts = services.accounts.load();
    let given = understood.certificates.get(CertificateRole::CipherOriginator);
    let client = match (&dialog, given) {
        (Some(dialog), Some(given)) if *given != dialog.client.cipher => {
            return Err(Problem::Dialog("the certificate is another").into());
        }
        (Some(dialog), _) => {
            // The account may have been taken away meanwhile.
            let known = services.trust.client(&accounts, &dialog.client.cipher);
            known.ok_or(Failure::Code(Code::ClientCipherInvalid))?
        }
        (None, Some(given)) => {
            if !given.may_encipher() {
                return Err(Failure::Code(Code::ClientCipherInvalid));
            }
            services.trust.client(&accounts, given).ok_or(Failure::Code(Code::ClientCipherInvalid))?
        }
        (None, None) => return Err(Problem::NoCipherCertificate.into()),
    };
    drop(accounts);
    // In a dialog the client has proven that the certificate is its own; whoever merely shows one is not asked about.
    if dialog.is_some() {
        services.vouched(&client).await?;
    }
    if let Some(id) = dialog.as_ref().and_then(|dialog| dialog.handed_over) {
        services.acknowledge(&client, id).await?;
        if let Some(transfer) = dialog.as_mut().and_then(|dialog| dialog.transfer.take()) {
            services.forget_transfer(&client, &transfer).await?;
        }
    }
    let accounts = services.accounts.load();
    let mut refused = match &understood.signature {
        Err(problem) => Some(problem.code()),
        Ok(Some(signer)) if !services.trust.may_sign(&accounts, &client, signer) => {
            Some(Code::ClientSignatureInvalid)
        }
        Ok(Some(_)) => None,
        // In a dialog whoever answers the challenge has read what was encrypted for the client.
        Ok(None) if dialog.is_some() || services.options.unsigned_orders => None,
        Ok(None) => match understood.request.operation() {
            Operation::InitDialog | Operation::GetMessageId => None,
            _ => Some(Code::NotSigned),
        },
    };
    let operation = understood.request.operation();
    if dialog.is_none()
        && operation != Operation::InitDialog
        && !services.trust.categories(&client).is_empty()
    {
        refused = refused.or(Some(Code::ExplicitOnly));
    }
    // Without a dialog anybody can show a certificate, and guests sign with whatever they like: that must not use up what the owner of the
    // certificate has left.
    let signed = matches!(understood.signature, Ok(Some(_))) && refused.is_none();
    let proven = dialog.is_some() || signed && !client.guest;
    if services.quotas.count(&client.quota(proven)).0.is_err() {
        refused = refused.or(Some(Code::ExecutionFailed));
    }
    let understood = Arc::new(understood);
    Ok(Order { understood, client, dialog, refused, now, handed_over: None, transfer: None })
}

impl Services {
    /// Whether the directory knows a client that has no account here, if it has to.
    async fn vouched(&self, client: &Client) -> Result<(), Failure> {
        let categories = self.trust.categories(client);
        for category in categories {
            if self.directory.belongs_to(client.cipher.der(), category).await? {
                return Ok(());
            }
        }
        match categories.is_empty() {
            true => Ok(()),
            false => Err(Failure::Code(Code::ClientCipherInvalid)),
        }
    }

    /// A further request in the same dialog says that the last delivery arrived.
    async fn acknowledge(&self, client: &Client, id: amtsbote_core::id::MessageId) -> Result<(), Failure> {
        let ids = std::collections::BTreeSet::from([id]);
        match self.mailboxes.close(&client.account, &ids, Face::Osci).await {
            Ok(()) => Ok(()),
            // It ended in another way meanwhile: an operator, or its time.
            Err(MailboxError::Refused(_) | MailboxError::Unknown) => Ok(()),
            Err(error @ MailboxError::Store(_)) => Err(error.into()),
        }
    }
}

/// How the answer goes back: who it is for, and what the next request has to know.
fn wrap(services: &Services, order: Order, done: &Done, now: Timestamp) -> Result<Wrap, Failure> {
    let Order { understood, client, dialog, handed_over, transfer, .. } = order;
    let operation = understood.request.operation();
    let entropy = services.entropy.as_ref();
    let encrypted = understood.received.encrypted;
    // The response to the first request is what proves who the client is: only it can read the challenge.
    let method = encrypted
        .or((operation == Operation::InitDialog).then(|| usual_method(understood.features.as_ref())));
    let encrypt = method.map(|method| (method, client.cipher.clone()));
    let mut control = ControlBlock {
        response: understood.control.challenge.clone(),
        challenge: Some(challenge(entropy)),
        conversation: understood.control.conversation.clone(),
        sequence: understood.control.sequence,
    };
    match (operation, dialog) {
        (Operation::InitDialog, _) => {
            let opened = conversation(entropy);
            let dialog = Dialog {
                client,
                challenge: control.challenge.clone().unwrap_or_default(),
                sequence: 0,
                handed_over: None,
                transfer: None,
                last_heard: now,
            };
            if done.is_success() && !services.dialogs.open(opened.clone(), dialog) {
                tracing::warn!("A client has too many dialogs open.");
                return Err(Failure::Code(Code::Internal));
            }
            (control.conversation, control.sequence) = (Some(opened), None);
        }
        (Operation::ExitDialog, _) => control.challenge = None,
        (_, Some(dialog)) => {
            let next = Dialog {
                challenge: control.challenge.clone().unwrap_or_default(),
                sequence: dialog.sequence + 1,
                handed_over,
                transfer,
                last_heard: now,
                ..dialog
            };
            let conversation = control.conversation.clone().unwrap_or_default();
            services.dialogs.put_back(conversation, next);
        }
        (_, None) => {
            (control.conversation, control.sequence) = (Some(conversation(entropy)), Some(0));
        }
    }
    Ok(Wrap { control, encrypt })
}

/// How an answer is encrypted if the request was not.
fn usual_method(features: Option<&Features>) -> Method {
    let new = features.is_none_or(|features| features.features.contains(&Feature::Iv12));
    Method { iv: if new { IvLength::Twelve } else { IvLength::Sixteen }, ..Method::default() }
}

async fn answer(services: &Services, done: Done, wrap: Wrap) -> Result<Wire, Failure> {
    let keys = Arc::clone(&services.keys);
    let algorithm = keys.signature.preferred();
    let digests = digests(&done.parts, algorithm.digest).await?;
    let features = services.features();
    let Done { answer, codes, language, package, certificates, custom, parts, stored: _ } = done;
    let control = wrap.control;
    let xml = in_thread(move || {
        let shown = keys.shown();
        let extras = Extras {
            intermediary: Some(&shown),
            others: certificates.as_deref(),
            features: Some(&features),
            custom: &custom,
            package: &package,
        };
        let key = CertificateRole::SignatureIntermediary.id_of(keys.signature.certificate());
        let signer = Signer { identity: &keys.signature, algorithm, key };
        response(&answer, &codes, language, &control, extras).finish(Some(&signer), &digests)
    });
    let xml = xml.await??;
    let encrypt = wrap.encrypt.as_ref().map(|(method, certificate)| (*method, certificate));
    Ok(Wire::new(xml, parts, encrypt, services.entropy.as_ref())?)
}
