//! The client's side of an explicit dialog with an intermediary. After every response: it is encrypted, signed by the certificate that
//! is expected, an answer to what was asked, and in its place.

use std::fs::File;
use std::sync::Arc;

use amtsbote_core::port::Entropy;
use amtsbote_http::Client as HttpClient;
use url::Url;

use crate::client::{CallError, Caller};
use crate::codec::Problem;
use crate::codec::block::{CertificateRole, Certificates, ControlBlock, Features};
use crate::codec::card::ProcessCard;
use crate::codec::certificate::{Certificate, Identity};
use crate::codec::code::Code;
use crate::codec::compose::{Extras, request};
use crate::codec::draft::{PartDigest, Signer};
use crate::codec::encryption::Method;
use crate::codec::envelope::Direction;
use crate::codec::order::{Answer, CardRule, CardSelection, Request, Response};
use crate::codec::signature::verify;
use crate::dialogs::challenge;
use crate::reception::{Limits, Received};
use crate::respond::{Content, Outgoing, SendError, digests};

/// An intermediary as its clients see it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Address.
    pub url: Url,
    /// Orders are encrypted for it.
    pub cipher: Certificate,
    /// Responses are signed with it; absent: with whatever they bring, which proves little.
    pub signature: Option<Certificate>,
}

/// Who we are towards an intermediary.
#[derive(Debug, Clone)]
pub struct Own {
    /// Responses are encrypted for it; it owns the mailbox.
    pub cipher: Identity,
    /// Signs orders.
    pub signature: Identity,
}

/// Why an order was not answered.
#[derive(Debug, thiserror::Error)]
pub enum DialogError {
    /// Nothing was sent.
    #[error("the intermediary cannot be reached: {0}")]
    Unreachable(String),
    /// Nobody knows what became of it.
    #[error("the answer did not come: {0}")]
    Unknown(String),
    /// A fault.
    #[error("a fault with code {0}")]
    Fault(String),
    /// The answer is not what it has to be.
    #[error("the answer: {0}")]
    Answer(Problem),
    /// The order cannot be made.
    #[error("the order: {0}")]
    Order(Problem),
}

impl From<CallError> for DialogError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable(_) | CallError::Content(_) => Self::Unreachable(error.to_string()),
            CallError::Unknown(_) | CallError::Status(_) | CallError::Worker => {
                Self::Unknown(error.to_string())
            }
            CallError::Fault(fault) => Self::Fault(fault.digits),
            CallError::Answer(problem) => Self::Answer(problem),
            CallError::Request(problem) => Self::Order(problem),
        }
    }
}

/// A client of intermediaries.
#[derive(Clone)]
pub struct OsciClient {
    caller: Caller,
    own: Own,
    /// How orders are encrypted.
    method: Method,
}

/// What goes along with an order.
#[derive(Default)]
pub struct Freight {
    package: String,
    certificates: Certificates,
    custom: Vec<String>,
    parts: Vec<Outgoing>,
}

/// An answer that was verified.
#[derive(Debug)]
pub struct Answered {
    /// What was found out.
    pub response: Response,
    /// The whole message.
    pub received: Received,
}

impl Freight {
    /// A delivery: children of the content package, and certificates besides our own.
    pub fn delivery(package: String, certificates: Certificates) -> Self {
        Self { package, certificates, ..Self::default() }
    }

    /// Adds a header block.
    #[must_use]
    pub fn with_header(mut self, block: String) -> Self {
        self.custom.push(block);
        self
    }

    pub(crate) fn with_parts(mut self, parts: impl Iterator<Item = Outgoing>) -> Self {
        self.parts.extend(parts);
        self
    }

    /// Adds a part that lies in a file.
    #[must_use]
    pub fn with_file(mut self, id: &str, file: Arc<File>, size: u64, sha256: [u8; 32]) -> Self {
        self.parts.push(Outgoing::file(id, Content::File { file, from: 0 }, size, sha256));
        self
    }
}

impl OsciClient {
    /// A client over HTTP that is bounded in time.
    pub fn new(http: HttpClient, entropy: Arc<dyn Entropy>, limits: Limits, own: Own) -> Self {
        Self { caller: Caller { http, entropy, limits }, own, method: Method::default() }
    }

    /// Encrypts in another way.
    #[must_use]
    pub fn encrypting(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// Opens a dialog.
    ///
    /// # Errors
    /// See [`DialogError`].
    pub async fn open(&self, peer: Peer) -> Result<Session, DialogError> {
        let control = ControlBlock { challenge: Some(self.challenge()), ..ControlBlock::default() };
        let answered = self.ask(&peer, &Request::InitDialog, &control, Freight::default()).await?;
        let answer = ControlBlock::read(&answered.received.envelope).map_err(DialogError::Answer)?;
        let (Some(conversation), Some(challenge)) = (answer.conversation, answer.challenge) else {
            return Err(DialogError::Answer(Problem::Dialog("there is no conversation")));
        };
        if !answered.response.feedback.is_success() {
            let digits = answered.response.feedback.first().map(|entry| entry.digits.clone());
            return Err(DialogError::Fault(digits.unwrap_or_default()));
        }
        Ok(Session { client: self.clone(), peer, conversation, challenge, sequence: 0 })
    }

    /// Sends an order outside of any dialog.
    ///
    /// # Errors
    /// See [`DialogError`].
    pub async fn once(
        &self,
        peer: &Peer,
        order: &Request,
        freight: Freight,
    ) -> Result<Answered, DialogError> {
        let control =
            ControlBlock { challenge: Some(self.challenge()), sequence: Some(0), ..ControlBlock::default() };
        self.ask(peer, order, &control, freight).await
    }

    fn challenge(&self) -> String {
        challenge(self.caller.entropy.as_ref())
    }

    async fn ask(
        &self,
        peer: &Peer,
        order: &Request,
        control: &ControlBlock,
        freight: Freight,
    ) -> Result<Answered, DialogError> {
        let Freight { package, certificates, custom, parts } = freight;
        let (xml, parts) = self.write(order, control, certificates, package, custom, parts).await?;
        let encrypt = Some((self.method, &peer.cipher));
        let keys = vec![self.own.cipher.clone()];
        let received = self.caller.call(peer.url.clone(), xml, parts, encrypt, keys).await?;
        let (order, control, peer) = (order.operation(), control.clone(), peer.clone());
        let checked = tokio::task::spawn_blocking(move || {
            check(&received, &control, &peer)?;
            let response = Response::read(&received.envelope)?;
            let kind = received.envelope.kind();
            // A chunk that is everything is answered with the other message.
            let fits = kind.operation == order
                || (order == crate::codec::envelope::Operation::PartialFetchDelivery
                    && kind.operation == crate::codec::envelope::Operation::FetchDelivery);
            if kind.direction != Direction::Response || !fits {
                return Err(Problem::NotAnOrder("the answer is to another order"));
            }
            Ok(Answered { response, received })
        });
        let checked = checked.await.map_err(|_| DialogError::Unknown("a worker ended".to_owned()))?;
        checked.map_err(DialogError::Answer)
    }

    async fn write(
        &self,
        order: &Request,
        control: &ControlBlock,
        others: Certificates,
        package: String,
        custom: Vec<String>,
        parts: Vec<Outgoing>,
    ) -> Result<(String, Vec<Outgoing>), DialogError> {
        let Own { cipher, signature } = &self.own;
        let mut certificates = Certificates::default();
        // Once a dialog is open the intermediary knows for whom it encrypts.
        let opens = matches!(
            order,
            Request::InitDialog
                | Request::GetMessageId
                | Request::StoreDelivery { .. }
                | Request::ForwardDelivery(_)
                | Request::MediateDelivery(_)
                | Request::PartialStoreDelivery { .. }
        );
        if opens {
            certificates = certificates.with(CertificateRole::CipherOriginator, cipher.certificate());
        }
        certificates = certificates.with(CertificateRole::SignatureOriginator, signature.certificate());
        certificates.0.extend(others.0);
        let algorithm = signature.preferred();
        let digests: Vec<PartDigest> =
            digests(&parts, algorithm.digest).await.map_err(|error| match error {
                SendError::Problem(problem) => DialogError::Order(problem),
                SendError::Store(error) => DialogError::Unreachable(error.to_string()),
            })?;
        let block = certificates.write_others();
        let features = Features::all();
        let extras = Extras {
            intermediary: None,
            others: Some(&block),
            features: Some(&features),
            custom: &custom,
            package: &package,
        };
        let key = CertificateRole::SignatureOriginator.id_of(signature.certificate());
        let signer = Signer { identity: signature, algorithm, key };
        let xml = request(order, control, "de", extras).finish(Some(&signer), &digests);
        Ok((xml.map_err(DialogError::Order)?, parts))
    }
}

/// Whether a response may be believed.
fn check(received: &Received, asked: &ControlBlock, peer: &Peer) -> Result<(), Problem> {
    if received.encrypted.is_none() {
        return Err(Problem::Structure("an encrypted order was answered in plain text"));
    }
    let control = ControlBlock::read(&received.envelope)?;
    if control.response.is_none() || control.response != asked.challenge {
        return Err(Problem::Dialog("it answers another order"));
    }
    if asked.conversation.is_some()
        && (control.conversation != asked.conversation || control.sequence != asked.sequence)
    {
        return Err(Problem::Dialog("it belongs to another dialog"));
    }
    let certificates = Certificates::read(&received.envelope)?;
    let role = CertificateRole::SignatureIntermediary;
    let signer = verify(&received.envelope, &certificates, role, &received.part_ids(), received)?;
    match &peer.signature {
        Some(expected) if expected != signer => Err(Problem::Signature("it is somebody else's")),
        _ => Ok(()),
    }
}

/// An open dialog. Dropped without [`Session::close`], the intermediary learns nothing about what it handed over last.
pub struct Session {
    client: OsciClient,
    peer: Peer,
    conversation: String,
    challenge: String,
    sequence: u64,
}

impl Session {
    /// Sends the next order. After an error the dialog is of no use any more.
    ///
    /// # Errors
    /// See [`DialogError`].
    pub async fn ask(&mut self, order: &Request, freight: Freight) -> Result<Answered, DialogError> {
        let control = ControlBlock {
            response: Some(self.challenge.clone()),
            challenge: Some(self.client.challenge()),
            conversation: Some(self.conversation.clone()),
            sequence: Some(self.sequence),
        };
        let answered = self.client.ask(&self.peer, order, &control, freight).await?;
        self.sequence += 1;
        let next = ControlBlock::read(&answered.received.envelope).map_err(DialogError::Answer)?.challenge;
        self.challenge = match (next, order) {
            (Some(challenge), _) => challenge,
            (None, Request::ExitDialog) => String::new(),
            (None, _) => return Err(DialogError::Answer(Problem::Dialog("there is no challenge"))),
        };
        Ok(answered)
    }

    /// An id for a delivery.
    ///
    /// # Errors
    /// See [`DialogError`].
    pub async fn message_id(&mut self) -> Result<String, DialogError> {
        let answered = self.ask(&Request::GetMessageId, Freight::default()).await?;
        match answered.response.answer {
            Answer::GetMessageId(Some(id)) => Ok(id),
            _ => Err(DialogError::Fault(first_digits(&answered.response))),
        }
    }

    /// The process cards of some deliveries; those the intermediary does not know are not among them.
    ///
    /// # Errors
    /// See [`DialogError`].
    pub async fn cards(&mut self, ids: Vec<String>) -> Result<Vec<ProcessCard>, DialogError> {
        let selection = CardSelection::Ids(ids);
        self.cards_by(CardRule { selection, part: None, no_reception: false, limit: None }).await
    }

    /// Process cards by a rule; as many as the intermediary gives at once.
    ///
    /// # Errors
    /// See [`DialogError`].
    pub async fn cards_by(&mut self, rule: CardRule) -> Result<Vec<ProcessCard>, DialogError> {
        let answered = self.ask(&Request::FetchProcessCard(rule), Freight::default()).await?;
        let digits = first_digits(&answered.response);
        match answered.response.answer {
            Answer::FetchProcessCard(_, cards) if digits.starts_with('0') => Ok(cards),
            _ if digits == Code::NoCard.digits() => Ok(Vec::new()),
            _ => Err(DialogError::Fault(digits)),
        }
    }

    /// Ends the dialog in good order: whatever was handed over last counts as received.
    ///
    /// # Errors
    /// See [`DialogError`].
    pub async fn close(mut self) -> Result<(), DialogError> {
        self.ask(&Request::ExitDialog, Freight::default()).await.map(drop)
    }
}

/// The main result of a response.
pub fn first_digits(response: &Response) -> String {
    response
        .feedback
        .first()
        .map(|entry| entry.digits.clone())
        .unwrap_or_else(|| Code::NotOsci.digits().to_owned())
}
