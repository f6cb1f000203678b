//! Orders in chunks (`partialStoreDelivery`, `partialFetchDelivery`; supplement of 2017).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use amtsbote_core::account::Role;
use amtsbote_core::delivery::Face;
use amtsbote_core::id::MessageId;
use amtsbote_core::intake::Admission;
use amtsbote_core::mailbox::MailboxError;
use futures::StreamExt as _;

use crate::codec::Problem;
use crate::codec::block::{CertificateRole, ControlBlock};
use crate::codec::card::{Entry, Feedback};
use crate::codec::code::{Code, Kind};
use crate::codec::compose::{Extras, response};
use crate::codec::content::chunk_container;
use crate::codec::order::{Answer, ChunkInformation, FetchRule, Request};
use crate::dialogs::{Transfer, challenge};
use crate::orders::{Done, Order, Stop};
use crate::reception::{Incoming, Limits, Part, Received, Reception};
use crate::respond::{Content, Outgoing, Wire};
use crate::server::{Failure, in_thread, understand};
use crate::services::Services;
use crate::transfers::{self, Begun, Outcome, TransferKey, digest_range};

/// Content id of a chunk that goes out.
const CHUNK_OUT: &str = "ChunkBlobFetchDelivery";
const KIB: u64 = 1024;

impl Order {
    /// A name of the client that nobody can make up.
    fn client_name(&self) -> String {
        format!("{}/{}", self.client.account.name, hex::encode(self.client.cipher.fingerprint()))
    }
}

fn shown(received: &BTreeSet<u64>, total: Option<u64>, number: Option<u64>) -> ChunkInformation {
    ChunkInformation {
        number,
        total,
        received: received.iter().copied().collect(),
        ..ChunkInformation::default()
    }
}

impl Services {
    /// `partialStoreDelivery`
    pub(crate) async fn store_chunk(
        &self,
        order: &mut Order,
        id: &str,
        subject: Option<String>,
        chunk: Option<&ChunkInformation>,
    ) -> Result<Done, Stop> {
        if !order.client.account.has(Role::Author) {
            return Err(Failure::Code(Code::ClientCipherInvalid).into());
        }
        let key = TransferKey { client: order.client_name(), what: id.to_owned() };
        let Some((transfer, _guard)) = self.transfers.lock(&key) else {
            return Ok(partial(
                vec![order.success(), Code::ChunksInProcess],
                None,
                None,
                ChunkInformation::default(),
            ));
        };
        let (begun, outcome, received) = {
            let transfer = transfer.clone();
            let known = in_thread(move || -> io::Result<_> {
                Ok((transfer.begun()?, transfer.outcome()?, transfer.received()?))
            });
            known.await?.map_err(Failure::Io)?
        };
        if let (Some(outcome), Some(begun)) = (&outcome, &begun) {
            return match chunk {
                Some(_) => Err(Stop::code(Code::ChunkExists)),
                None => self.told(order, outcome, begun.total).await,
            };
        }
        // All of it may be there since before a crash, and even be taken in.
        let whole = begun.clone().filter(|begun| received.len() as u64 == begun.total);
        let holder = self.ids.holder(id).await?.filter(|(holder, _)| *holder == order.client.account.name);
        let is_usable = match (&holder, &whole) {
            (Some(_), _) => true,
            (None, Some(_)) => self.was_taken_in(order, id).await?,
            (None, None) => false,
        };
        if !is_usable {
            return Err(Stop::code(Code::MessageIdUnusable));
        }
        let reserved = holder.and_then(|(_, reserved)| reserved);
        if let Some(begun) = whole {
            return self.finish_chunks(order, (id, reserved), subject, &transfer, &begun).await;
        }
        let over = begun.as_ref().is_some_and(|begun| {
            order.now.duration_since(begun.began).unsigned_abs() > self.transfers.limits.timeout
        });
        let (begun, received) = match over {
            true => {
                let transfer = transfer.clone();
                in_thread(move || transfer.discard()).await?.map_err(Failure::Io)?;
                (None, BTreeSet::new())
            }
            false => (begun, received),
        };
        let late = over.then_some(Code::ChunksExpired);
        let Some(chunk) = chunk else {
            let total = begun.as_ref().map(|begun| begun.total);
            let codes = [order.success()].into_iter().chain(late).collect();
            return Ok(partial(codes, None, None, shown(&received, total, None)));
        };
        let addressee = order.understood.certificates.get(CertificateRole::CipherAddressee);
        let addressee = addressee.ok_or(Problem::Structure("no CipherCertificateAddressee"))?;
        let addressee = hex::encode(addressee.fingerprint());
        let (number, announced) = self.check_chunk(order, chunk, begun.as_ref(), &addressee, &received)?;
        let room = {
            let (services, key) = (Arc::clone(&self.transfers), key.clone());
            let now = order.now;
            begun.is_some()
                || in_thread(move || services.sweep(now).and_then(|()| services.has_room(&key, "in")))
                    .await?
                    .map_err(Failure::Io)?
        };
        if !room {
            return Err(Stop::code(Code::ExecutionFailed));
        }
        let content =
            chunk_part(&order.understood.received).map(|part| order.understood.received.content(part));
        let mut content = content.ok_or(Stop::code(Code::ChunkInformation))?;
        let begins = begun.is_none().then(|| Begun { began: order.now, ..announced.clone() });
        let kept = {
            let transfer = transfer.clone();
            in_thread(move || {
                if let Some(begun) = &begins {
                    transfer.begin(begun)?;
                }
                transfer.keep(number, || content.next_piece())?;
                transfer.received()
            })
        };
        let received = kept.await?.map_err(Failure::Io)?;
        let total = announced.total;
        let codes: Vec<Code> = [order.success()].into_iter().chain(late).collect();
        if (received.len() as u64) < total {
            return Ok(partial(codes, None, None, shown(&received, Some(total), Some(number))));
        }
        let mut done = self.finish_chunks(order, (id, reserved), subject, &transfer, &announced).await?;
        if let Answer::PartialStoreDelivery { chunk, .. } = &mut done.answer {
            chunk.number = Some(number);
        }
        Ok(done)
    }

    /// Everything is there: executes it, and notes how that turned out.
    async fn finish_chunks(
        &self,
        order: &mut Order,
        id: (&str, Option<MessageId>),
        subject: Option<String>,
        transfer: &transfers::Incoming,
        begun: &Begun,
    ) -> Result<Done, Stop> {
        let outcome = self.join(order, id, subject, transfer, begun.total, &begun.addressee).await?;
        {
            let (transfer, outcome) = (transfer.clone(), outcome.clone());
            in_thread(move || transfer.end(&outcome)).await?.map_err(Failure::Io)?;
        }
        self.told(order, &outcome, begun.total).await
    }

    /// What was announced fits what came before, and what came fits what was announced.
    fn check_chunk(
        &self,
        order: &Order,
        chunk: &ChunkInformation,
        begun: Option<&Begun>,
        addressee: &str,
        received: &BTreeSet<u64>,
    ) -> Result<(u64, Begun), Stop> {
        let limits = &self.transfers.limits;
        let (Some(number), Some(size), Some(total)) = (chunk.number, chunk.size, chunk.total) else {
            return Err(Stop::code(Code::ChunkInformation));
        };
        if number == 0 || number > total || begun.is_some_and(|begun| begun.total != total) {
            return Err(Stop::code(Code::ChunkNumber));
        }
        if size > limits.max_chunk {
            return Err(Stop::code(Code::ChunkTooLarge));
        }
        if total > 1 && size < limits.min_chunk {
            return Err(Stop::code(Code::ChunkTooSmall));
        }
        let whole = size.saturating_mul(total - 1).max(chunk.total_size.unwrap_or(0));
        if whole > limits.max_message {
            return Err(Stop::code(Code::MessageTooLarge));
        }
        if begun.is_some_and(|begun| begun.size != size || begun.addressee != *addressee) {
            return Err(Stop::code(Code::ChunkInformation));
        }
        if received.contains(&number) {
            return Err(Stop::code(Code::ChunkExists));
        }
        let part = chunk_part(&order.understood.received);
        let length = part.map(|part| order.understood.received.decoded_length(part));
        let fits = match length {
            Some(length) if number < total => length == size * KIB,
            Some(length) => length > 0 && length <= size * KIB,
            None => false,
        };
        match fits {
            false if length.is_some_and(|length| length > size * KIB) => Err(Stop::code(Code::ChunkTooLarge)),
            false => Err(Stop::code(Code::ChunkInformation)),
            true => {
                let addressee = addressee.to_owned();
                Ok((number, Begun { began: order.now, total, size, addressee }))
            }
        }
    }

    /// Whether a delivery of this id came from the client before.
    async fn was_taken_in(&self, order: &Order, id: &str) -> Result<bool, Stop> {
        let Ok(own) = id.parse::<MessageId>() else { return Ok(false) };
        let stored = self.store.load(own).await?;
        Ok(stored.is_some_and(|stored| stored.message.account == order.client.account.name))
    }

    /// All chunks are there: joins them and executes the order inside. If it was executed before, and nobody noted that, it is the same.
    async fn join(
        &self,
        order: &mut Order,
        (id, reserved): (&str, Option<MessageId>),
        subject: Option<String>,
        transfer: &transfers::Incoming,
        total: u64,
        addressee: &str,
    ) -> Result<Outcome, Stop> {
        let limits = self.reception_limits();
        let _turn = Arc::clone(&self.large).acquire_owned().await.ok();
        let joined = {
            let transfer = transfer.clone();
            in_thread(move || {
                join_chunks(&transfer, total, limits).and_then(|received| Ok(understand(received)?))
            })
        };
        let failed = |codes: &[Code]| Outcome { codes: digits(codes), message: None };
        let inner = match joined.await? {
            Ok(inner) => inner,
            Err(Failure::Problem(problem)) => {
                tracing::info!(
                    error = &problem as &dyn std::error::Error,
                    "A message in chunks is no order."
                );
                return Ok(failed(&[problem.code()]));
            }
            Err(failure) => return Err(failure.into()),
        };
        let Request::StoreDelivery { id: inner_id, subject: inner_subject } = &inner.request else {
            return Ok(failed(&[Code::NotAnOrder]));
        };
        let there = inner
            .certificates
            .get(CertificateRole::CipherAddressee)
            .map(|one| hex::encode(one.fingerprint()));
        let own = inner.certificates.get(CertificateRole::CipherOriginator);
        let consistent = inner_id.as_deref() == Some(id)
            && there.as_deref() == Some(addressee)
            && own.is_none_or(|own| *own == order.client.cipher);
        if !consistent {
            return Ok(failed(&[Code::ChunkInformation]));
        }
        if let Err(problem) = &inner.signature {
            return Ok(failed(&[problem.code()]));
        }
        let subject = inner_subject.clone().or(subject);
        let outer = std::mem::replace(&mut order.understood, Arc::new(inner));
        let executed = match self.take_in(order, id, reserved, subject).await {
            Ok((Admission::New(proof) | Admission::Repeated(proof), codes)) => {
                self.stored(order, proof.id(), codes).await
            }
            Err(stop) => Err(stop),
        };
        order.understood = outer;
        match executed {
            Ok(done) => Ok(Outcome { codes: digits(&done.codes), message: done.stored }),
            Err(Stop::Code(codes)) => Ok(failed(&codes)),
            Err(Stop::Failure(Failure::Problem(problem))) => Ok(failed(&[problem.code()])),
            Err(failure) => Err(failure),
        }
    }

    /// Tells how the whole turned out.
    async fn told(&self, order: &Order, outcome: &Outcome, total: u64) -> Result<Done, Stop> {
        let codes: Vec<Code> = outcome.codes.iter().filter_map(|digits| Code::parse(digits)).collect();
        let entry = |code: &Code| Entry { digits: code.digits().to_owned(), text: String::new() };
        let inside = Feedback(codes.iter().map(entry).collect());
        let stored = match outcome.message {
            Some(id) => self.store.load(id).await?,
            None => None,
        };
        let failed = codes.iter().any(|code| !matches!(code.kind(), Kind::Success | Kind::Warning));
        let outer =
            if failed { vec![Code::InsideError] } else { vec![order.success(), Code::InsideFeedback] };
        let card = stored.map(|stored| Box::new(crate::cards::card(&stored)));
        Ok(partial(outer, Some(inside), card, shown(&(1..=total).collect(), Some(total), None)))
    }

    /// `partialFetchDelivery`
    pub(crate) async fn fetch_chunk(
        &self,
        order: &mut Order,
        rule: &FetchRule,
        wanted: &ChunkInformation,
    ) -> Result<Done, Stop> {
        let limits = &self.transfers.limits;
        let (Some(number), Some(size)) = (wanted.number, wanted.size) else {
            return Err(Stop::code(Code::ChunkInformation));
        };
        if size > limits.max_chunk {
            return Err(Stop::code(Code::ChunkTooLarge));
        }
        if size < limits.min_chunk.max(1) {
            return Err(Stop::code(Code::ChunkTooSmall));
        }
        let going_on = order.dialog.as_ref().and_then(|dialog| dialog.transfer.clone());
        let going_on = going_on.filter(|transfer| transfer.rule == *rule && transfer.size == size);
        let (id, mut transfer, stored) = match going_on {
            Some(transfer) => {
                let id = transfer.id;
                (id, transfer, self.store.load(id).await?.ok_or(Stop::code(Code::NoDelivery))?)
            }
            None => {
                let (stored, _) = self.take_one(order, rule).await?;
                let transfer =
                    Transfer { id: stored.message.id, rule: rule.clone(), size, sent: BTreeSet::new() };
                (stored.message.id, transfer, stored)
            }
        };
        let key = TransferKey { client: order.client_name(), what: format!("{id}/{size}") };
        let file = match self.frozen(&key).await? {
            Some(file) => file,
            // What the client has is of a package that is gone; another one's chunks do not fit to it.
            None if !wanted.received.is_empty() => return Err(Stop::code(Code::ChunkInformation)),
            None => self.freeze(order, &stored, &key, rule).await?,
        };
        let length = file.metadata().map_err(Failure::Io)?.len();
        let total = length.div_ceil(size * KIB);
        if total <= 1 {
            order.handed_over = Some(id);
            self.forget_package(&key).await?;
            return Ok(self.hand_over(&stored, rule, vec![order.success()]).await?);
        }
        if number == 0 || number > total {
            return Err(Stop::code(Code::ChunkNumber));
        }
        transfer.sent.extend(wanted.received.iter().copied().filter(|one| (1..=total).contains(one)));
        let everything = transfer.sent.len() as u64 == total;
        transfer.sent.insert(number);
        let from = (number - 1) * size * KIB;
        let part_length = (length - from).min(size * KIB);
        let file = Arc::new(file);
        let sha256 = {
            let file = Arc::clone(&file);
            in_thread(move || digest_range(&file, from, part_length)).await?.map_err(Failure::Io)?
        };
        if everything {
            // It says that it has everything, and is believed at once.
            match self.mailboxes.close(&order.client.account, &BTreeSet::from([id]), Face::Osci).await {
                Ok(()) | Err(MailboxError::Refused(_) | MailboxError::Unknown) => {}
                Err(error) => return Err(Failure::from(error).into()),
            }
        }
        if transfer.sent.len() as u64 == total {
            order.handed_over = Some(id);
        }
        order.transfer = Some(transfer);
        let chunk = ChunkInformation {
            number: Some(number),
            total: Some(total),
            total_size: Some(length.div_ceil(KIB)),
            ..ChunkInformation::default()
        };
        let shown_id = crate::deliveries::osci_id(&stored.message);
        let answer = Answer::PartialFetchDelivery { rule: rule.clone(), chunk, id: shown_id };
        let package = chunk_container(CHUNK_OUT);
        let parts = vec![Outgoing::file(CHUNK_OUT, Content::File { file, from }, part_length, sha256)];
        Ok(Done { package, parts, ..Done::found(answer, vec![order.success()]) })
    }

    /// The package of a delivery that was begun to be handed out.
    async fn frozen(&self, key: &TransferKey) -> Result<Option<File>, Failure> {
        let outgoing = self.transfers.outgoing(key);
        Ok(in_thread(move || outgoing.package()).await??)
    }

    /// Makes the package of a delivery, once and the same for all its chunks.
    async fn freeze(
        &self,
        order: &Order,
        stored: &amtsbote_core::port::StoredMessage,
        key: &TransferKey,
        rule: &FetchRule,
    ) -> Result<File, Stop> {
        let outgoing = self.transfers.outgoing(key);
        let (now, transfers, own) = (order.now, Arc::clone(&self.transfers), key.clone());
        let room = in_thread(move || transfers.sweep(now).and_then(|()| transfers.has_room(&own, "out")));
        if !room.await?.map_err(Failure::Io)? {
            return Err(Stop::code(Code::ExecutionFailed));
        }
        let mut done = self.hand_over(stored, rule, vec![Code::DoneOpen]).await?;
        done.language = order.understood.language;
        let control = ControlBlock {
            response: Some(challenge(self.entropy.as_ref())),
            challenge: Some(challenge(self.entropy.as_ref())),
            conversation: order.understood.control.conversation.clone(),
            sequence: order.understood.control.sequence,
        };
        let shown = self.keys.shown();
        let extras = Extras {
            intermediary: Some(&shown),
            others: done.certificates.as_deref(),
            features: None,
            custom: &done.custom,
            package: &done.package,
        };
        // The chunks are signed; what is inside of them need not be once more.
        let xml = response(&done.answer, &done.codes, done.language, &control, extras).finish(None, &[]);
        let wire = Wire::new(xml.map_err(Failure::from)?, done.parts, None, self.entropy.as_ref());
        let mut stream = Box::pin(wire.map_err(Failure::from)?.stream());
        let mut file = {
            let outgoing = outgoing.clone();
            in_thread(move || outgoing.begin(now)).await?.map_err(Failure::Io)?
        };
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(Failure::from)?;
            file = in_thread(move || file.write_all(&piece).map(|()| file)).await?.map_err(Failure::Io)?;
        }
        Ok(in_thread(move || outgoing.freeze(file)).await?.map_err(Failure::Io)?)
    }

    async fn forget_package(&self, key: &TransferKey) -> Result<(), Failure> {
        let outgoing = self.transfers.outgoing(key);
        Ok(in_thread(move || outgoing.discard()).await??)
    }

    /// A delivery was received; what was kept to hand it out in chunks is not needed any more.
    pub(crate) async fn forget_transfer(
        &self,
        client: &crate::clients::Client,
        transfer: &Transfer,
    ) -> Result<(), Failure> {
        let name = format!("{}/{}", client.account.name, hex::encode(client.cipher.fingerprint()));
        let key = TransferKey { client: name, what: format!("{}/{}", transfer.id, transfer.size) };
        self.forget_package(&key).await
    }
}

/// The part a chunk is: the only one.
fn chunk_part(received: &Received) -> Option<&Part> {
    match received.parts() {
        [part] => Some(part),
        _ => None,
    }
}

fn partial(
    codes: Vec<Code>,
    inside: Option<Feedback>,
    card: Option<Box<crate::codec::card::ProcessCard>>,
    chunk: ChunkInformation,
) -> Done {
    Done::found(Answer::PartialStoreDelivery { inside, card, chunk }, codes)
}

fn digits(codes: &[Code]) -> Vec<String> {
    codes.iter().map(|code| code.digits().to_owned()).collect()
}

fn join_chunks(transfer: &transfers::Incoming, total: u64, limits: Limits) -> Result<Received, Failure> {
    let mut reception = Reception::new(limits);
    let mut buffer = vec![0; 256 << 10];
    for number in 1..=total {
        let mut chunk = transfer.chunk(number)?;
        loop {
            let length = chunk.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            reception.feed(&buffer[..length])?;
            if reception.locked().is_some() {
                return Err(Problem::NotAnOrder("encrypted twice").into());
            }
        }
    }
    match reception.finish()? {
        Incoming::Message(received) => Ok(*received),
        Incoming::Fault(_) => Err(Problem::NotAnOrder("a fault in chunks").into()),
    }
}
