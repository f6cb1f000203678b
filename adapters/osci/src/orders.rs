//! What each order does. Durable before it is answered; every decision about a message is core's.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::account::{Account, Credential, Role};
use amtsbote_core::delivery::{Delivery, EventKind, Face, ItemState, Refusal};
use amtsbote_core::exchange::{ExchangeError, Exchanged};
use amtsbote_core::id::MessageId;
use amtsbote_core::intake::{Admission, IntakeError, Submission, Target, UnusableCertificate};
use amtsbote_core::key::PartyId;
use amtsbote_core::mailbox::MailboxError;
use amtsbote_core::message::{CarriedKind, ExternalId, IdScheme, IntakeKey, Message, Metadata};
use amtsbote_core::port::{StoreError, StoredMessage};
use amtsbote_core::route::{Endpoint, Route};
use amtsbote_core::submissions::SubmissionError;
use bytes::Bytes;

use crate::clients::Client;
use crate::codec::Problem;
use crate::codec::block::CertificateRole;
use crate::codec::card::ProcessCard;
use crate::codec::certificate::Certificate;
use crate::codec::code::{Code, Kind, Language};
use crate::codec::order::{Answer, FetchRule, Push, Request};
use crate::deliveries::{KeepError, Rendered, carry, checked, keep, osci_id, render, unspoken};
use crate::dialogs::{Dialog, Transfer, challenge};
use crate::push::{code_of, to_accept, to_process, warnings_of};
use crate::respond::Outgoing;
use crate::server::{Failure, Understood, in_thread};
use crate::services::{Said, Services};

/// Messages of a mailbox that are looked at at a time.
const PAGE: usize = 64;

/// An order whose client is known.
pub(crate) struct Order {
    pub(crate) understood: Arc<Understood>,
    pub(crate) client: Client,
    pub(crate) dialog: Option<Dialog>,
    /// Why it is not executed.
    pub(crate) refused: Option<Code>,
    pub(crate) now: Timestamp,
    /// What the response hands over.
    pub(crate) handed_over: Option<MessageId>,
    /// What is handed over in chunks from now on.
    pub(crate) transfer: Option<Transfer>,
}

/// What came of an order, ready to be written.
pub(crate) struct Done {
    pub(crate) answer: Answer,
    pub(crate) codes: Vec<Code>,
    pub(crate) language: Language,
    /// Children of the content package.
    pub(crate) package: String,
    /// Block of certificates of a delivery.
    pub(crate) certificates: Option<String>,
    pub(crate) custom: Vec<String>,
    pub(crate) parts: Vec<Outgoing>,
    /// What was stored.
    pub(crate) stored: Option<MessageId>,
}

impl Done {
    /// An order that was executed and needs nothing besides its answer.
    pub(crate) fn found(answer: Answer, codes: Vec<Code>) -> Self {
        Self {
            answer,
            codes,
            language: Language::default(),
            package: String::new(),
            certificates: None,
            custom: Vec::new(),
            parts: Vec::new(),
            stored: None,
        }
    }

    /// An order that was not executed.
    pub(crate) fn refused(request: &Request, code: Code) -> Self {
        Self::found(Answer::nothing(request), vec![code])
    }

    /// Whether it was executed.
    pub(crate) fn is_success(&self) -> bool {
        self.codes.iter().all(|code| matches!(code.kind(), Kind::Success | Kind::Warning))
    }
}

/// Why an order was not executed: with a code in its response, or with a fault.
pub(crate) enum Stop {
    Code(Vec<Code>),
    Failure(Failure),
}

impl<T: Into<Failure>> From<T> for Stop {
    fn from(failure: T) -> Self {
        Self::Failure(failure.into())
    }
}

impl Stop {
    pub(crate) fn code(code: Code) -> Self {
        Self::Code(vec![code])
    }
}

impl Services {
    /// Executes an order.
    pub(crate) async fn execute(&self, order: &mut Order) -> Result<Done, Failure> {
        let request = order.understood.request.clone();
        let executed = match &request {
            Request::InitDialog => Ok(Done::found(Answer::InitDialog, vec![Code::DoneOpen])),
            Request::ExitDialog => Ok(Done::found(Answer::ExitDialog, vec![Code::Done])),
            Request::GetMessageId => self.give_id(order).await,
            Request::StoreDelivery { id, subject } => {
                self.store_delivery(order, id.as_deref(), subject.clone()).await
            }
            Request::FetchDelivery(rule) => self.fetch(order, rule).await,
            Request::FetchProcessCard(rule) => self.cards(order, rule).await,
            Request::PartialStoreDelivery { id, subject, chunk } => {
                self.store_chunk(order, id, subject.clone(), chunk.as_ref()).await
            }
            Request::PartialFetchDelivery(rule, chunk) => self.fetch_chunk(order, rule, chunk).await,
            Request::ForwardDelivery(push) => self.forward(order, push).await,
            Request::MediateDelivery(push) => self.mediate(order, push).await,
            Request::AcceptDelivery(_) | Request::ProcessDelivery { .. } => {
                return Err(crate::codec::Problem::NotAnOrder("an order for recipients").into());
            }
        };
        let mut done = match executed {
            Ok(done) => done,
            Err(Stop::Code(codes)) => Done { codes, ..Done::found(Answer::nothing(&request), Vec::new()) },
            Err(Stop::Failure(failure)) => return Err(failure),
        };
        done.language = order.understood.language;
        Ok(done)
    }

    async fn give_id(&self, order: &Order) -> Result<Done, Stop> {
        if !order.client.account.has(Role::Author) {
            return Err(Failure::Code(Code::ClientCipherInvalid).into());
        }
        let id = self.ids.give(&order.client.account).await?;
        Ok(Done::found(Answer::GetMessageId(Some(id)), vec![order.success()]))
    }

    /// The account whose mailbox a delivery goes to, and the mailbox.
    async fn addressee(&self, order: &Order) -> Result<(Arc<Account>, PartyId), Stop> {
        let certificates = &order.understood.certificates;
        let cipher = certificates.get(CertificateRole::CipherAddressee);
        let cipher = cipher.ok_or(Problem::Structure("no CipherCertificateAddressee"))?;
        let known = self.known(cipher);
        let found = match known {
            None if self.options.directory_addressees => self.listed(cipher).await?,
            known => known,
        };
        // Whoever may not know that somebody is here is told the same as if nobody were.
        let found = found.filter(|(account, _)| self.trust.may_store_for(&order.client, account));
        found.ok_or(Stop::code(Code::AddresseeCipherInvalid))
    }

    /// The account that has a cipher certificate, and its mailbox.
    fn known(&self, cipher: &Certificate) -> Option<(Arc<Account>, PartyId)> {
        let accounts = self.accounts.load();
        let account = accounts.authenticate(&Credential::OsciCipher(cipher.fingerprint()))?;
        let mailbox = account.serves.first().or(account.parties.first())?;
        Some((Arc::clone(account), mailbox.clone()))
    }

    /// The organisation that the directory says is addressed by a certificate, and the account that serves it here. Several organisations
    /// may share a certificate; if more than one of them is served here, nobody can say whose the delivery is.
    async fn listed(&self, cipher: &Certificate) -> Result<Option<(Arc<Account>, PartyId)>, Failure> {
        let organizations = self.directory.addressed_by(cipher.der()).await?;
        let accounts = self.accounts.load();
        let serving = |organization: &PartyId| {
            let serves =
                |account: &&Arc<Account>| account.has(Role::Reader) && account.serves.contains(organization);
            accounts.iter().find(serves).cloned()
        };
        let mut served = organizations
            .into_iter()
            .filter_map(|organization| Some((serving(&organization)?, organization)));
        match (served.next(), served.next()) {
            (Some((_, one)), Some((_, other))) => {
                tracing::warn!(%one, %other, "Organisations served here share a certificate of an addressee.");
                Ok(None)
            }
            (found, _) => Ok(found),
        }
    }

    /// `storeDelivery`
    pub(crate) async fn store_delivery(
        &self,
        order: &mut Order,
        id: Option<&str>,
        subject: Option<String>,
    ) -> Result<Done, Stop> {
        let id = id.ok_or(Stop::code(Code::NoMessageId))?.to_owned();
        let reserved = self.reserved(order, &id).await?;
        match self.take_in(order, &id, reserved, subject).await? {
            (Admission::New(proof), codes) => self.stored(order, proof.id(), codes).await,
            // An id is used once, also for the same content.
            (Admission::Repeated(_), _) => Err(Stop::code(Code::MessageIdUnusable)),
        }
    }

    /// Hands a delivery for a mailbox here to core. Also the codes of warnings.
    pub(crate) async fn take_in(
        &self,
        order: &Order,
        id: &str,
        reserved: Option<MessageId>,
        subject: Option<String>,
    ) -> Result<(Admission, Vec<Code>), Stop> {
        let (_, mailbox) = self.addressee(order).await?;
        let (submission, codes) =
            self.submission(order, (id, reserved, true), mailbox, Target::LocalMailbox, subject).await?;
        Ok((self.intake.accept(submission, &nothing_to_repeat).await.map_err(of_intake)?, codes))
    }

    /// What is said about a delivery that is stored now.
    pub(crate) async fn stored(
        &self,
        order: &Order,
        accepted: MessageId,
        codes: Vec<Code>,
    ) -> Result<Done, Stop> {
        let stored = self.store.load(accepted).await?.ok_or(StoreError::Removed { id: accepted })?;
        let card = crate::cards::card(&stored);
        let codes = [order.success()].into_iter().chain(codes).collect();
        let answer = Answer::StoreDelivery(Some(Box::new(card)));
        Ok(Done { stored: Some(accepted), ..Done::found(answer, codes) })
    }

    /// The message an id will name, if it was given to this client.
    async fn reserved(&self, order: &Order, id: &str) -> Result<Option<MessageId>, Stop> {
        let holder = self.ids.holder(id).await?;
        let holder = holder.filter(|(holder, _)| *holder == order.client.account.name);
        Ok(holder.ok_or(Stop::code(Code::MessageIdUnusable))?.1)
    }

    /// What core is handed: checked, inspected, its content in the store. Also the codes of warnings. `id`: under which it is taken in,
    /// the message it will name, and whether the client gave it.
    async fn submission(
        &self,
        order: &Order,
        id: (&str, Option<MessageId>, bool),
        recipient: PartyId,
        target: Target,
        subject: Option<String>,
    ) -> Result<(Submission, Vec<Code>), Stop> {
        let client = &order.client;
        if !client.account.has(Role::Author) {
            return Err(Failure::Code(Code::ClientCipherInvalid).into());
        }
        let (inspections, codes) = self.trust.inspect(&order.understood.certificates, order.now);
        if codes.iter().any(|code| code.kind() == Kind::Error) {
            return Err(Stop::Code(codes));
        }
        let understood = &order.understood;
        let planned = {
            let understood = Arc::clone(understood);
            in_thread(move || checked(&understood.received, &understood.certificates)).await?.map_err(
                |problem| match problem.code() {
                    code if code.is_fault() => Stop::from(problem),
                    code => Stop::code(code),
                },
            )?
        };
        let sender = client.account.parties.first().cloned();
        let sender = sender.ok_or(Failure::Code(Code::ClientCipherInvalid))?;
        let (metadata, by_xta) = self.metadata_of(order, &sender, recipient, subject).await?;
        let (parts, payload) = match keep(planned, &understood.received, self.store.stage().await?).await {
            Ok(kept) => kept,
            Err(KeepError::Store(error)) => return Err(error.into()),
            Err(KeepError::Read(error)) => return Err(Failure::Io(error).into()),
        };
        let (id, reserved, given) = id;
        let value = id.parse().map_err(|_| Stop::code(Code::MessageIdUnusable))?;
        let external = ExternalId { scheme: IdScheme::Osci, value: id.to_owned() };
        let submission = Submission {
            key: IntakeKey { account: client.account.name.clone(), scheme: IdScheme::Osci, value },
            sender,
            metadata,
            parts,
            payload,
            external_ids: given.then_some(external).into_iter().chain(by_xta).collect(),
            carried: carry(&understood.certificates, &understood.custom, &inspections),
            canonical: Vec::new(),
            target,
            reserved,
            unusable_certificate: UnusableCertificate::Wait,
        };
        Ok((submission, codes))
    }

    /// `forwardDelivery`
    async fn forward(&self, order: &mut Order, push: &Push) -> Result<Done, Stop> {
        let id = push.id.clone().ok_or(Stop::code(Code::NoMessageId))?;
        let (codes, exchanged) = self.push(order, push, to_accept(&push.receiver)).await?;
        let card = self.card_of(order, &id).await?;
        match exchanged {
            Ok(_) => Ok(Done::found(Answer::ForwardDelivery(card), codes)),
            Err(code) => Ok(Done::found(Answer::ForwardDelivery(card), vec![code])),
        }
    }

    /// `mediateDelivery`
    async fn mediate(&self, order: &mut Order, push: &Push) -> Result<Done, Stop> {
        let (codes, exchanged) = self.push(order, push, to_process(&push.receiver)).await?;
        // Without an id nobody keeps a card.
        let card = match &push.id {
            Some(id) => self.card_of(order, id).await?,
            None => None,
        };
        match exchanged {
            Ok(Exchanged { answer: Some(answer), .. }) => {
                let reply = push.id.as_ref().map(|_| Box::new(crate::cards::card(&answer)));
                let done = self.hand_over(&answer, &FetchRule::Next, codes).await?;
                Ok(Done { answer: Answer::MediateDelivery(card, reply), ..done })
            }
            Ok(Exchanged { answer: None, .. }) => {
                Ok(Done::found(Answer::MediateDelivery(card, None), vec![Code::NoAnswer]))
            }
            Err(code) => Ok(Done::found(Answer::MediateDelivery(card, None), vec![code])),
        }
    }

    /// Has a delivery pushed, and waits for how it went: the codes, or the code of the failure.
    async fn push(
        &self,
        order: &Order,
        push: &Push,
        endpoint: Endpoint,
    ) -> Result<(Vec<Code>, Result<Exchanged, Code>), Stop> {
        if order.client.guest {
            return Err(Failure::Code(Code::ClientCipherInvalid).into());
        }
        let (id, reserved) = match &push.id {
            Some(id) => (id.clone(), self.reserved(order, id).await?),
            None => (challenge(self.entropy.as_ref()), None),
        };
        let recipient = self.recipient(order)?;
        let (subject, target) = (push.subject.clone(), Target::Given(endpoint));
        let given = (id.as_str(), reserved, push.id.is_some());
        let (submission, warnings) = self.submission(order, given, recipient, target, subject).await?;
        let exchanged = match self.exchanges.exchange(submission).await {
            Ok(exchanged) => exchanged,
            Err(ExchangeError::Failed(reason)) => {
                return Ok((warnings, Err(code_of(&reason, Code::NotReached))));
            }
            Err(ExchangeError::Unknown(reason)) => {
                return Ok((warnings, Err(code_of(&reason, Code::Reached))));
            }
            Err(ExchangeError::UnderWay) => return Err(Stop::code(Code::MessageIdUnusable)),
            Err(ExchangeError::Overloaded) => return Err(Stop::code(Code::NotReached)),
            Err(ExchangeError::Intake(error)) => return Err(of_intake(error)),
            Err(ExchangeError::Store(error)) => return Err(error.into()),
        };
        let proof = exchanged.request.events.iter().rev().find_map(|event| match &event.kind {
            EventKind::Delivered { proof, .. } => proof.as_ref(),
            _ => None,
        });
        let codes =
            [order.success()].into_iter().chain(warnings).chain(proof.map(warnings_of).unwrap_or_default());
        Ok((codes.collect(), Ok(exchanged)))
    }

    /// Whom a push goes to: the first organisation of its account here, or a name made of its certificate.
    fn recipient(&self, order: &Order) -> Result<PartyId, Stop> {
        let cipher = order.understood.certificates.get(CertificateRole::CipherAddressee);
        let cipher = cipher.ok_or(Problem::Structure("no CipherCertificateAddressee"))?;
        if let Some((_, mailbox)) = self.known(cipher) {
            return Ok(mailbox);
        }
        let name = format!("osci:{}", hex::encode(cipher.fingerprint()));
        name.parse().map_err(|_| Stop::code(Code::AddresseeCipherInvalid))
    }

    async fn card_of(&self, order: &Order, id: &str) -> Result<Option<Box<ProcessCard>>, Failure> {
        match self.submissions.find_external(&order.client.account, IdScheme::Osci, id).await {
            Ok(stored) => Ok(Some(Box::new(crate::cards::card(&stored)))),
            Err(SubmissionError::Store(error)) => Err(error.into()),
            Err(SubmissionError::Unknown | SubmissionError::Refused(_)) => Ok(None),
        }
    }

    /// What core has to know of a delivery, and its id of XTA. The certificate of the addressee says where it goes, whatever else is said.
    async fn metadata_of(
        &self,
        order: &Order,
        sender: &PartyId,
        mailbox: PartyId,
        subject: Option<String>,
    ) -> Result<(Metadata, Option<ExternalId>), Stop> {
        let header = order.understood.custom.iter().find(|header| header.is_metadata());
        let said = match header {
            Some(header) => self.metadata.read(&header.text, sender).await,
            None => None,
        };
        let usual = unspoken().ok_or(Failure::Worker)?;
        let by_xta = said.as_ref().and_then(Said::external_id);
        let said = said.map_or(usual, |said| said.metadata);
        let metadata =
            Metadata { recipient: Some(mailbox), area: None, subject: subject.or(said.subject), ..said };
        Ok((metadata, by_xta))
    }

    /// `fetchDelivery`
    async fn fetch(&self, order: &mut Order, rule: &FetchRule) -> Result<Done, Stop> {
        let (taken, more) = self.take_one(order, rule).await?;
        order.handed_over = Some(taken.message.id);
        let warning = more.then_some(Code::MoreDeliveries);
        let codes = [order.success()].into_iter().chain(warning).collect();
        Ok(self.hand_over(&taken, rule, codes).await?)
    }

    /// Takes the delivery a rule selects; also whether there are more.
    pub(crate) async fn take_one(
        &self,
        order: &Order,
        rule: &FetchRule,
    ) -> Result<(StoredMessage, bool), Stop> {
        let account = &order.client.account;
        if order.client.guest {
            return Err(Stop::code(Code::NoDelivery));
        }
        let (candidates, more) = match rule {
            FetchRule::Id(id) => (self.named(account, id).await?, false),
            FetchRule::Next => self.waiting(account, None).await?,
            FetchRule::Since(at) => self.waiting(account, Some(*at)).await?,
        };
        for id in candidates {
            match self.mailboxes.take(account, id, Face::Osci, self.dialogs.idle()).await {
                Ok(taken) => return Ok((taken, more)),
                // It was received before, and is wanted once more.
                Err(MailboxError::Refused(Refusal::Finished)) if matches!(rule, FetchRule::Id(_)) => {
                    match self.mailboxes.open(account, id).await {
                        Ok(stored) if was_received(&stored) && !stored.delivery.stripped => {
                            return Ok((stored, more));
                        }
                        _ => {}
                    }
                }
                // Somebody else was faster.
                Err(MailboxError::Refused(_) | MailboxError::Unknown) => {}
                Err(error @ MailboxError::Store(_)) => return Err(Failure::from(error).into()),
            }
        }
        Err(Stop::code(Code::NoDelivery))
    }

    pub(crate) async fn hand_over(
        &self,
        stored: &StoredMessage,
        rule: &FetchRule,
        codes: Vec<Code>,
    ) -> Result<Done, Failure> {
        let message = &stored.message;
        let metadata = match message.carried(CarriedKind::XtaMetadata).is_some() || came_by_osci(message) {
            true => None,
            false => Some(self.metadata.write(stored).await),
        };
        let rendered = render(self.store.as_ref(), message, metadata).await?;
        let Rendered { package, parts, certificates, custom } = rendered;
        let card = crate::cards::card(stored);
        let answer = Answer::FetchDelivery(rule.clone(), Some(Box::new(card)));
        let parts = parts.into_iter().map(|part| Outgoing::stored(&self.store, message.id, part)).collect();
        Ok(Done { package, certificates, custom, parts, ..Done::found(answer, codes) })
    }

    /// Messages of the client's mailboxes with this id.
    pub(crate) async fn named(&self, account: &Account, id: &str) -> Result<Vec<MessageId>, Failure> {
        let mut found = Vec::new();
        for one in self.mailboxes.find(account, IdScheme::Osci, id).await? {
            found.push(one.message.id);
        }
        if let Ok(own) = id.parse::<MessageId>()
            && found.is_empty()
        {
            match self.mailboxes.open(account, own).await {
                Ok(stored) if osci_id(&stored.message) == id => found.push(own),
                Ok(_) | Err(MailboxError::Unknown) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// Whether a delivery was created then or later. Its id may be older.
    async fn came_since(&self, id: MessageId, since: Timestamp) -> Result<bool, Failure> {
        if id.accepted_at().is_some_and(|at| at >= since) {
            return Ok(true);
        }
        let stored = self.store.load(id).await?;
        Ok(stored.is_some_and(|stored| crate::cards::came_since(&stored, since)))
    }

    /// Messages that wait for the client, and whether there are more than the first.
    async fn waiting(
        &self,
        account: &Account,
        since: Option<Timestamp>,
    ) -> Result<(Vec<MessageId>, bool), Failure> {
        let mut found = Vec::new();
        for mailbox in account.mailboxes() {
            let mut after = None;
            loop {
                let places = self.mailboxes.look(account, mailbox, after, PAGE).await?;
                for place in &places {
                    let wanted = match since {
                        None => true,
                        Some(since) => self.came_since(place.id, since).await?,
                    };
                    found.extend(wanted.then_some(place.id));
                }
                after = places.last().copied().filter(|_| places.len() == PAGE && found.len() < 2);
                if after.is_none() {
                    break;
                }
            }
        }
        let more = found.len() > 1;
        Ok((found, more))
    }
}

fn of_intake(error: IntakeError) -> Stop {
    match error {
        IntakeError::Conflict(_) => Stop::code(Code::MessageIdUnusable),
        IntakeError::Refused(_) | IntakeError::Metadata(_) => Stop::code(Code::AddresseeCipherInvalid),
        IntakeError::Store(error) => error.into(),
        IntakeError::RouteOpen | IntakeError::OnlyAsynchronous => Stop::code(Code::ExecutionFailed),
    }
}

/// Whether a message has a ContentPackage of its own.
fn came_by_osci(message: &Message) -> bool {
    message.carried(CarriedKind::OsciCertificates).is_some()
}

fn was_received(stored: &StoredMessage) -> bool {
    let item = stored.delivery.item.as_ref();
    item.is_some_and(|item| matches!(item.state, ItemState::Acknowledged { .. }))
}

/// The answer to a delivery is made anew each time, so there is nothing to keep.
fn nothing_to_repeat(_: &Message, _: &Delivery, _: Option<&Route>) -> Bytes {
    Bytes::new()
}

impl Order {
    /// The code of success: whether the dialog goes on.
    pub(crate) fn success(&self) -> Code {
        if self.dialog.is_some() { Code::DoneOpen } else { Code::Done }
    }
}
