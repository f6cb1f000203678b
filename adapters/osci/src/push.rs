//! Pushing deliveries to passive recipients, in the place of an intermediary (`acceptDelivery`, `processDelivery`).
//!
//! To core it is a synchronous exchange: one attempt, and then it is known, or known to be unknown.

use std::sync::Arc;

use amtsbote_core::account::{AccountBook, Credential};
use amtsbote_core::delivery::{FailureReason, Proof};
use amtsbote_core::message::{CarriedKind, ExternalId, IdScheme, Metadata};
use amtsbote_core::port::{Clock, ExchangeOutcome, Exchanger, Handover, InstantAnswer, MessageStore};
use amtsbote_core::route::{ChannelKind, Endpoint};
use amtsbote_http::Client as HttpClient;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use url::Url;

use crate::client::{CallError, Caller};
use crate::clients::Trust;
use crate::codec::Problem;
use crate::codec::block::{CertificateRole, Certificates, ControlBlock, custom_headers};
use crate::codec::card::ProcessCard;
use crate::codec::certificate::Certificate;
use crate::codec::code::Code;
use crate::codec::compose::{Extras, request};
use crate::codec::content::ContentPackage;
use crate::codec::draft::Signer;
use crate::codec::encryption::Method;
use crate::codec::order::{Answer, Request, Response};
use crate::codec::signature::verify;
use crate::deliveries::{KeepError, Rendered, carry, checked, inspections, keep, osci_id, render};
use crate::dialogs::challenge;
use crate::reception::{Limits, Received};
use crate::respond::{Outgoing, SendError, digests};
use crate::services::{MetadataCodec, OsciKeys, Said};

/// Addresses of recipients that take a delivery.
const ACCEPT: &str = "osci-accept:";
/// Addresses of recipients that take a delivery and answer.
const PROCESS: &str = "osci-process:";
/// Marks codes of failures that are codes of OSCI.
const CODE: &str = "osci-";

/// The endpoint of a recipient that only takes deliveries.
pub(crate) fn to_accept(url: &str) -> Endpoint {
    Endpoint::new(ChannelKind::Osci, format!("{ACCEPT}{url}"))
}

/// The endpoint of a recipient that answers.
pub(crate) fn to_process(url: &str) -> Endpoint {
    Endpoint::new(ChannelKind::Osci, format!("{PROCESS}{url}"))
}

/// The code a failure stands for.
pub(crate) fn code_of(reason: &FailureReason, usual: Code) -> Code {
    reason.code.strip_prefix(CODE).and_then(Code::parse).unwrap_or(usual)
}

/// Warnings in the evidence of a push.
pub(crate) fn warnings_of(proof: &Proof) -> Vec<Code> {
    let words = proof.0.split([' ', ',', ';']).filter_map(Code::parse);
    words.filter(|code| matches!(code, Code::ResponseUnsigned | Code::ResponsePlain)).collect()
}

fn reason(code: Code, detail: impl Into<String>) -> FailureReason {
    FailureReason { code: format!("{CODE}{}", code.digits()), detail: detail.into() }
}

/// Pushes to recipients at allowed addresses.
pub struct OsciPusher {
    caller: Caller,
    store: Arc<dyn MessageStore>,
    keys: Arc<OsciKeys>,
    clock: Arc<dyn Clock>,
    accounts: Arc<ArcSwap<AccountBook>>,
    trust: Trust,
    metadata: Arc<dyn MetadataCodec>,
    /// Beginnings of addresses that may be called.
    allowed: Vec<Url>,
}

/// What a pusher works with.
pub struct PushPorts {
    /// HTTP, bounded in time.
    pub http: HttpClient,
    /// Contents.
    pub store: Arc<dyn MessageStore>,
    /// Randomness.
    pub entropy: Arc<dyn amtsbote_core::port::Entropy>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who is known here.
    pub accounts: Arc<ArcSwap<AccountBook>>,
    /// Whom we trust.
    pub trust: Trust,
    /// Our keys.
    pub keys: Arc<OsciKeys>,
    /// Metadata of XTA.
    pub metadata: Arc<dyn MetadataCodec>,
    /// Bounds of answers.
    pub limits: Limits,
}

impl OsciPusher {
    /// A pusher that calls addresses with one of these beginnings, and no others: they come from strangers.
    pub fn new(ports: PushPorts, allowed: Vec<Url>) -> Self {
        let PushPorts { http, store, entropy, clock, accounts, trust, keys, metadata, limits } = ports;
        let caller = Caller { http, entropy, limits };
        Self { caller, store, keys, clock, accounts, trust, metadata, allowed }
    }

    fn allows(&self, url: &Url) -> bool {
        let same = |one: &&Url| one.origin() == url.origin() && url.path().starts_with(one.path());
        matches!(url.scheme(), "http" | "https") && self.allowed.iter().find(same).is_some()
    }

    async fn push(&self, handover: &Handover) -> Result<ExchangeOutcome, ExchangeOutcome> {
        let address = handover.route.endpoint.address.as_str();
        let (url, wants_answer) = match (address.strip_prefix(ACCEPT), address.strip_prefix(PROCESS)) {
            (Some(url), _) => (url, false),
            (None, Some(url)) => (url, true),
            (None, None) => return Err(failed(Code::NotReached, "the address is none of a recipient")),
        };
        let url = url.parse::<Url>().map_err(|_| failed(Code::NotReached, "the address is no URL"))?;
        if !self.allows(&url) {
            return Err(failed(Code::NotReached, "the address is not among those that may be called"));
        }
        let message = &handover.message;
        let block = message.carried(CarriedKind::OsciCertificates);
        let certificates = block.map(Certificates::from_block).transpose();
        let certificates = certificates
            .map_err(|problem| failed(Code::NotReached, problem.to_string()))?
            .unwrap_or_default();
        let recipient = certificates.get(CertificateRole::CipherAddressee).cloned();
        let recipient =
            recipient.ok_or_else(|| failed(Code::NotReached, "the recipient's certificate is missing"))?;
        let reply_id = wants_answer.then(|| self.reply_id());
        let challenge = challenge(self.caller.entropy.as_ref());
        let sent = self.send(handover, url, &recipient, reply_id.as_deref(), &challenge).await;
        let received = sent.map_err(|error| match &error {
            CallError::Unreachable(_) | CallError::Request(_) | CallError::Content(_) => {
                failed(Code::NotReached, error.to_string())
            }
            CallError::Fault(_) => failed(Code::RecipientInternal, error.to_string()),
            CallError::Status(_) | CallError::Answer(_) | CallError::Unknown(_) | CallError::Worker => {
                unknown(Code::Reached, error.to_string())
            }
        })?;
        let judging =
            tokio::task::spawn_blocking(move || (judge(&received, &challenge, wants_answer), received));
        let (judged, received) = judging.await.map_err(|_| ended())?;
        let Judged { signer, warnings } = judged?;
        if signer.is_some_and(|signer| self.is_foreign(&recipient, &signer)) {
            return Err(unknown(Code::RecipientSignatureInvalid, "the answer is signed by somebody else"));
        }
        let proof = Proof(format!("osci {}{}", Code::Done.digits(), warnings));
        if !wants_answer {
            return Ok(ExchangeOutcome::Delivered(proof));
        }
        self.answer(handover, received, reply_id, proof).await
    }

    /// An id for the answer.
    fn reply_id(&self) -> String {
        let mut bytes = [0; 16];
        self.caller.entropy.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().as_hyphenated().to_string()
    }

    async fn send(
        &self,
        handover: &Handover,
        url: Url,
        recipient: &Certificate,
        reply_id: Option<&str>,
        challenge: &str,
    ) -> Result<Received, CallError> {
        let message = &handover.message;
        let now = self.clock.now();
        let rendered = render(self.store.as_ref(), message, None).await.map_err(CallError::Content)?;
        let Rendered { package, parts, certificates, custom } = rendered;
        let card = ProcessCard {
            message_id: osci_id(message),
            modified: now,
            creation: Some(message.received_at),
            forwarding: Some(now),
            reception: None,
            subject: message.metadata.subject.clone(),
            inspections: inspections(message),
        };
        let order = match reply_id {
            None => Request::AcceptDelivery(Box::new(card)),
            Some(_) if message.external_id(IdScheme::Osci).is_none() => {
                Request::ProcessDelivery { reply_id: None, card: None }
            }
            Some(id) => {
                Request::ProcessDelivery { reply_id: Some(id.to_owned()), card: Some(Box::new(card)) }
            }
        };
        let control = ControlBlock { challenge: Some(challenge.to_owned()), ..ControlBlock::default() };
        let algorithm = self.keys.signature.preferred();
        let parts: Vec<Outgoing> =
            parts.into_iter().map(|part| Outgoing::stored(&self.store, message.id, part)).collect();
        let digests = digests(&parts, algorithm.digest).await;
        let digests = digests.map_err(|error| match error {
            SendError::Problem(problem) => CallError::Request(problem),
            SendError::Store(error) => CallError::Content(error),
        })?;
        let own = self.own_certificates();
        let extras = Extras {
            intermediary: Some(&own),
            others: certificates.as_deref(),
            features: None,
            custom: &custom,
            package: &package,
        };
        let signer = Signer {
            identity: &self.keys.signature,
            algorithm,
            key: CertificateRole::SignatureIntermediary.id_of(self.keys.signature.certificate()),
        };
        let xml = request(&order, &control, "de", extras).finish(Some(&signer), &digests);
        let xml = xml.map_err(CallError::Request)?;
        let encrypt = Some((Method::default(), recipient));
        self.caller.call(url, xml, parts, encrypt, self.keys.cipher.clone()).await
    }

    /// Recipients encrypt their answers for us, so they are told both of our certificates.
    fn own_certificates(&self) -> Certificates {
        let own = self.keys.shown();
        match self.keys.cipher.first() {
            Some(cipher) => own.with(CertificateRole::CipherIntermediary, cipher.certificate()),
            None => own,
        }
    }

    /// Whether the recipient is known here, and the signature certificate is not one of its own.
    fn is_foreign(&self, recipient: &Certificate, signer: &Certificate) -> bool {
        let accounts = self.accounts.load();
        let recipient = accounts.authenticate(&Credential::OsciCipher(recipient.fingerprint()));
        let signer = accounts.authenticate(&Credential::OsciSignature(signer.fingerprint()));
        recipient.is_some_and(|recipient| signer.is_none_or(|signer| signer.name != recipient.name))
    }

    /// The answer as a message.
    async fn answer(
        &self,
        handover: &Handover,
        received: Received,
        reply_id: Option<String>,
        proof: Proof,
    ) -> Result<ExchangeOutcome, ExchangeOutcome> {
        let useless = |problem: Problem| failed(Code::NoAnswer, problem.to_string());
        let package = ContentPackage::of(&received.envelope).map_err(useless)?;
        if package.is_empty() {
            return Err(failed(Code::NoAnswer, "the answer holds nothing"));
        }
        let certificates = Certificates::read(&received.envelope).map_err(useless)?;
        let checking = tokio::task::spawn_blocking(move || {
            let planned = checked(&received, &certificates);
            (planned, certificates, received)
        });
        let (planned, certificates, received) = checking.await.map_err(|_| ended())?;
        let planned = planned.map_err(|problem| unknown(Code::Reached, problem.to_string()))?;
        let custom = custom_headers(&received.envelope).map_err(useless)?;
        let (inspections, _) = self.trust.inspect(&certificates, self.clock.now());
        let response = Response::read(&received.envelope).map_err(useless)?;
        let Answer::ProcessDelivery { id, subject } = response.answer else {
            return Err(failed(Code::NoAnswer, "the answer is of another kind"));
        };
        let said = match custom.iter().find(|header| header.is_metadata()) {
            Some(header) => self.metadata.read(&header.text, &handover.route.destination.organization).await,
            None => None,
        };
        let asked = &handover.message.metadata;
        let by_xta = said.as_ref().and_then(Said::external_id);
        let metadata = said.map_or_else(|| asked.of_answer(), |said| said.metadata);
        let metadata = Metadata { subject: subject.or(metadata.subject.clone()), ..metadata };
        let lost = |error: String| unknown(Code::Reached, error);
        let writer = handover.stage().await.map_err(|error| lost(error.to_string()))?;
        let (parts, payload) =
            keep(planned, &received, writer).await.map_err(|error: KeepError| lost(error.to_string()))?;
        let value = id.or(reply_id).filter(|id| id.len() <= 255);
        let external_ids = value
            .map(|value| ExternalId { scheme: IdScheme::Osci, value })
            .into_iter()
            .chain(by_xta)
            .collect();
        let carried = carry(&certificates, &custom, &inspections);
        let answer = InstantAnswer { proof, metadata, parts, payload, external_ids, carried };
        Ok(ExchangeOutcome::Answered(Box::new(answer)))
    }
}

/// What an answer says of itself.
struct Judged {
    signer: Option<Certificate>,
    /// Codes of warnings, as text.
    warnings: String,
}

/// Whether the recipient took it.
fn judge(received: &Received, challenge: &str, wants_answer: bool) -> Result<Judged, ExchangeOutcome> {
    let useless = |problem: Problem| unknown(Code::Reached, problem.to_string());
    let envelope = &received.envelope;
    let control = ControlBlock::read(envelope).map_err(useless)?;
    if control.response.as_deref() != Some(challenge) {
        return Err(unknown(Code::Reached, "the answer is to something else"));
    }
    let response = Response::read(envelope).map_err(useless)?;
    match (&response.answer, wants_answer) {
        (Answer::AcceptDelivery, false) | (Answer::ProcessDelivery { .. }, true) => {}
        _ => return Err(unknown(Code::Reached, "the answer is of another kind")),
    }
    let certificates = Certificates::read(envelope).map_err(useless)?;
    let role = match wants_answer {
        true => CertificateRole::SignatureOriginator,
        false => CertificateRole::SignatureAddressee,
    };
    let mut warnings = String::new();
    let signer = match verify(envelope, &certificates, role, &received.part_ids(), received) {
        Ok(signer) => Some(signer.clone()),
        Err(Problem::Unsigned) => {
            warnings.push_str(", 3802");
            None
        }
        Err(problem) => return Err(unknown(Code::RecipientSignatureWrong, problem.to_string())),
    };
    if received.encrypted.is_none() {
        warnings.push_str(", 3803");
    }
    if !response.feedback.is_success() {
        let digits = response.feedback.first().map(|entry| entry.digits.clone()).unwrap_or_default();
        let detail = format!("the recipient answered with code {digits}");
        return Err(match digits == Code::RecipientInternal.digits() {
            true => unknown(Code::RecipientInternal, detail),
            false => failed(Code::NotAccepted, detail),
        });
    }
    Ok(Judged { signer, warnings })
}

fn failed(code: Code, detail: impl Into<String>) -> ExchangeOutcome {
    ExchangeOutcome::Failed(reason(code, detail))
}

fn unknown(code: Code, detail: impl Into<String>) -> ExchangeOutcome {
    ExchangeOutcome::Unknown(reason(code, detail))
}

fn ended() -> ExchangeOutcome {
    unknown(Code::Reached, "a worker ended without a word")
}

#[async_trait]
impl Exchanger for OsciPusher {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Osci
    }

    async fn exchange(&self, handover: &Handover) -> ExchangeOutcome {
        match self.push(handover).await {
            Ok(outcome) | Err(outcome) => outcome,
        }
    }
}
