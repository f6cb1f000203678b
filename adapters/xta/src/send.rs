//! Handing in (`sendPortType`). Checks that need no content come before the first byte of it is kept.

use amtsbote_core::account::Role;
use amtsbote_core::delivery::Delivery;
use amtsbote_core::id::MessageId;
use amtsbote_core::intake::{Admission, Submission, UnusableCertificate};
use amtsbote_core::message::{Carried, CarriedKind, ExternalId, IdScheme, IntakeKey, Message};
use amtsbote_core::route::Route;
use amtsbote_soap::{Element, Header};
use bytes::Bytes;

use crate::Services;
use crate::content::{self, Order, Spool};
use crate::fault::{ErrorCode, Refused, wrong};
use crate::mapping::{Understood, View, parse_own_id, understand};
use crate::metadata::MetaData;
use crate::names::{META, OSCI};
use crate::operation::Operation;
use crate::request::{Answer, Caller};

/// Bytes of a header block that is carried along.
const CARRIED_MAX: usize = 64 << 10;

/// An order whose header blocks are in order.
pub(crate) struct Announced {
    understood: Understood,
    canonical: Vec<u8>,
    message_id: String,
    reserved: Option<MessageId>,
    carried: Vec<Carried>,
}

/// Header blocks that are carried along byte for byte.
pub(crate) fn is_carried(name: &amtsbote_soap::Name) -> bool {
    name.is(META, "MessageMetaData") || name.is(OSCI, "X509TokenContainer")
}

impl Services {
    /// Looks at everything that comes before the content.
    pub(crate) async fn announce(&self, caller: &Caller, headers: &[Header]) -> Result<Announced, Refused> {
        if !caller.account.has(Role::Author) {
            return Err(ErrorCode::NotBooked.into());
        }
        let block = headers.iter().find(|one| one.element.is(META, "MessageMetaData"));
        let block = block.ok_or(wrong(ErrorCode::NoParameters, "MessageMetaData"))?;
        let (order, _) = MetaData::read(&block.element)?;
        let understood = understand(&order, &caller.account)?;
        if caller.identity.as_ref().is_some_and(|identity| *identity != understood.sender) {
            return Err(wrong(ErrorCode::ForeignIdentifier, "Author"));
        }
        let reserved = self.reserved(caller, &order.message_id).await?;
        let mut carried = vec![carry(block, CarriedKind::XtaMetadata, "MessageMetaData")?];
        let tokens = headers.iter().find(|one| one.element.is(OSCI, "X509TokenContainer"));
        // Some clients send it empty, which is not valid.
        if let Some(tokens) = tokens.filter(|one| one.element.children().next().is_some()) {
            carried.push(carry(tokens, CarriedKind::XtaTokens, "X509TokenContainer")?);
        }
        let (canonical, message_id) = (order.canonical(), order.message_id);
        Ok(Announced { understood, canonical, message_id, reserved, carried })
    }

    /// The message id of an id that was given out here, if it was given to this account. Ids of the same form that nobody here gave out
    /// come from other gateways.
    async fn reserved(&self, caller: &Caller, id: &str) -> Result<Option<MessageId>, Refused> {
        let Some(own) = parse_own_id(id) else { return Ok(None) };
        match self.reservations.holder(own).await? {
            Some(holder) if holder == caller.account.name => Ok(Some(own)),
            Some(_) => Err(wrong(ErrorCode::WrongParameters, "MessageID")),
            None => Ok(None),
        }
    }

    /// `sendMessage`: durable before it is answered.
    pub(crate) async fn send(
        &self,
        caller: &Caller,
        announced: Announced,
        container: &Element,
        spool: Spool,
    ) -> Result<Answer, Refused> {
        let submission = submission(caller, announced, container, spool).await?;
        let repeated = match self.intake.accept(submission, &nothing_to_repeat).await? {
            Admission::New(_) => None,
            Admission::Repeated(proof) => {
                self.submissions.note_repeat(&caller.account, proof.id()).await?;
                Some(proof.id())
            }
        };
        Ok(Answer { repeated, ..Answer::default() })
    }

    /// `sendMessageSync`: answered by the reader, or not at all.
    pub(crate) async fn send_sync(
        &self,
        caller: &Caller,
        announced: Announced,
        container: &Element,
        spool: Spool,
    ) -> Result<Answer, Refused> {
        let submission = submission(caller, announced, container, spool).await?;
        let exchanged = self.exchanges.exchange(submission).await?;
        let answer = exchanged.answer.ok_or(ErrorCode::Internal)?;
        let (order, _) = self.order(&answer, View::Reader).await;
        let body = Some(content::container(&answer.message));
        Ok(Answer { headers: vec![order], body, content: Some(answer), repeated: None })
    }
}

async fn submission(
    caller: &Caller,
    announced: Announced,
    container: &Element,
    spool: Spool,
) -> Result<Submission, Refused> {
    let Announced { understood, canonical, message_id, reserved, carried } = announced;
    let (parts, payload) = spool.finish(Order::of(container)?).await?;
    let value = message_id.to_ascii_lowercase();
    let value = value.parse().map_err(|_| wrong(ErrorCode::NoUri, "MessageID"))?;
    Ok(Submission {
        key: IntakeKey { account: caller.account.name.clone(), scheme: IdScheme::Xta, value },
        sender: understood.sender,
        metadata: understood.metadata,
        parts,
        payload,
        external_ids: vec![ExternalId { scheme: IdScheme::Xta, value: message_id }],
        carried,
        canonical,
        target: understood.target,
        reserved,
        unusable_certificate: UnusableCertificate::Wait,
    })
}

/// A header block that is kept byte for byte. Every list and report shows it, so it must not be large.
pub(crate) fn carry(header: &Header, kind: CarriedKind, about: &'static str) -> Result<Carried, Refused> {
    if header.source.len() > CARRIED_MAX {
        return Err(wrong(ErrorCode::WrongParameters, about));
    }
    let text = String::from_utf8(header.source.clone()).map_err(|_| ErrorCode::Internal)?;
    Ok(Carried { kind, text })
}

/// The answer to an order says nothing, so there is nothing to keep.
fn nothing_to_repeat(_: &Message, _: &Delivery, _: Option<&Route>) -> Bytes {
    Bytes::new()
}

/// Whether a request of this operation hands content in.
pub(crate) fn takes_content(operation: Operation) -> bool {
    matches!(operation, Operation::SendMessage | Operation::SendMessageSync)
}
