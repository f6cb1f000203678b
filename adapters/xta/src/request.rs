//! A request that was read and whose caller is known, and what is answered.

use std::sync::Arc;

use amtsbote_core::account::Account;
use amtsbote_core::id::MessageId;
use amtsbote_core::key::PartyId;
use amtsbote_core::port::StoredMessage;
use amtsbote_soap::{Element, Fault, Header, Name};

use crate::fault::{ErrorCode, Refused, wrong};
use crate::metadata::identifier;
use crate::names::{ADDRESSING, META, OSCI, SECURITY, SECURITY_UTILITY};

/// Who calls, and for whom.
pub(crate) struct Caller {
    pub(crate) account: Arc<Account>,
    /// The identifier the caller narrowed itself to.
    pub(crate) identity: Option<PartyId>,
}

impl Caller {
    /// Reads the block `meta:Author`, which names the caller in any role. It may narrow, never widen.
    pub(crate) fn of(account: Arc<Account>, headers: &[Header]) -> Result<Self, Refused> {
        let foreign = wrong(ErrorCode::ForeignIdentifier, "Author");
        let Some(block) = headers.iter().find(|one| one.element.is(META, "Author")) else {
            return Ok(Self { account, identity: None });
        };
        let identity: PartyId = identifier(&block.element).parse().map_err(|_| foreign.clone())?;
        let known = account.owns(&identity) || account.opens(&identity);
        if known { Ok(Self { account, identity: Some(identity) }) } else { Err(foreign) }
    }

    /// The mailboxes the caller means.
    pub(crate) fn mailboxes(&self) -> Vec<PartyId> {
        match &self.identity {
            Some(identity) => self.account.opens(identity).then(|| identity.clone()).into_iter().collect(),
            None => self.account.mailboxes().cloned().collect(),
        }
    }
}

/// Header blocks an operation looks at, each at most once, and those that must be understood.
pub(crate) fn check_headers(headers: &[Header]) -> Result<(), Fault> {
    let single = [(META, "Author"), (META, "MessageMetaData"), (OSCI, "X509TokenContainer")];
    for (namespace, local) in single {
        if headers.iter().filter(|one| one.element.is(namespace, local)).count() > 1 {
            return Err(Fault::new(amtsbote_soap::FaultCode::Sender, "A header block is there twice."));
        }
    }
    let known = |element: &Element| {
        single.iter().any(|(namespace, local)| element.is(namespace, local))
            || element.name.namespace() == ADDRESSING
            || is_bare_timestamp(element)
    };
    let missed = headers.iter().filter(|one| one.must_understand() && !known(&one.element));
    let missed: Vec<Name> = missed.map(|one| one.element.name.clone()).collect();
    if missed.is_empty() { Ok(()) } else { Err(Fault::must_understand(&missed)) }
}

/// WCF sends a security header that holds nothing but a time.
fn is_bare_timestamp(element: &Element) -> bool {
    element.is(SECURITY, "Security") && element.children().all(|one| one.is(SECURITY_UTILITY, "Timestamp"))
}

/// What is answered.
#[derive(Default)]
pub(crate) struct Answer {
    /// Header blocks besides those of WS-Addressing.
    pub(crate) headers: Vec<Element>,
    /// The one element in the body, if any.
    pub(crate) body: Option<Element>,
    /// The message whose parts are the numbered contents.
    pub(crate) content: Option<StoredMessage>,
    /// The message that was handed in before, if this was a repetition.
    pub(crate) repeated: Option<MessageId>,
}

impl Answer {
    /// Only a body.
    pub(crate) fn of(body: Element) -> Self {
        Self { body: Some(body), ..Self::default() }
    }
}
