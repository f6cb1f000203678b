//! Accounts, ids, reports (`managementPortType`).

use amtsbote_core::account::Role;
use amtsbote_core::delivery::{Refusal, State};
use amtsbote_core::message::IdScheme;
use amtsbote_core::port::StoredMessage;
use amtsbote_core::route::{LookupRequest, OutcomeKind};
use amtsbote_core::submissions::SubmissionError;
use amtsbote_soap::Element;

use crate::Services;
use crate::fault::{ErrorCode, Refused, wrong};
use crate::mapping::{View, own_id, parse_own_id, read_service, xta_id};
use crate::metadata::{identifier, is_id, is_uri};
use crate::names::{ADDRESSING, META, RESPONSIBLE, XTA};
use crate::report::report;
use crate::request::{Answer, Caller};

/// Questions of one request.
const QUESTIONS_MAX: usize = 100;

impl Services {
    /// `createMessageId`
    pub(crate) async fn create_id(&self, caller: &Caller) -> Result<Answer, Refused> {
        if !caller.account.has(Role::Author) {
            return Err(ErrorCode::NotBooked.into());
        }
        let id = self.reservations.reserve(&caller.account).await?;
        Ok(Answer::of(Element::new(ADDRESSING, "MessageID").with_text(own_id(id))))
    }

    /// The caller's own order with this id.
    async fn own_order(&self, caller: &Caller, id: &str) -> Result<StoredMessage, SubmissionError> {
        let found = match self.submissions.find_external(&caller.account, IdScheme::Xta, id).await {
            Err(SubmissionError::Unknown) => match parse_own_id(id) {
                Some(own) => self.submissions.find(&caller.account, own).await?,
                None => return Err(SubmissionError::Unknown),
            },
            found => found?,
        };
        let narrowed = caller.identity.as_ref().is_none_or(|identity| found.message.sender == *identity);
        let fits = narrowed && xta_id(&found.message).eq_ignore_ascii_case(id);
        if fits { Ok(found) } else { Err(SubmissionError::Unknown) }
    }

    /// `getTransportReport`, for author and reader.
    pub(crate) async fn transport_report(
        &self,
        caller: &Caller,
        request: &Element,
    ) -> Result<Answer, Refused> {
        let id = request.text();
        let stored = match self.own_order(caller, &id).await {
            Ok(stored) => stored,
            Err(SubmissionError::Unknown) => self.received(caller, &id).await?,
            Err(error) => return Err(error.into()),
        };
        let (order, repairs) = self.order(&stored, View::Report).await;
        Ok(Answer::of(report(&stored, &self.options.server_identity, order, &repairs)))
    }

    /// An order for one of the organisations the caller reads for, in whatever way it reached them.
    async fn received(&self, caller: &Caller, id: &str) -> Result<StoredMessage, Refused> {
        let mut found = self.mailboxes.find(&caller.account, IdScheme::Xta, id).await?;
        if let Some(own) = parse_own_id(id)
            && let Ok(message) = self.mailboxes.open(&caller.account, own).await
            && xta_id(&message.message).eq_ignore_ascii_case(id)
        {
            found.push(message);
        }
        let mailboxes = caller.mailboxes();
        let ours = |one: &StoredMessage| {
            let destination = one.delivery.destination.as_ref();
            destination.is_some_and(|destination| mailboxes.contains(&destination.organization))
        };
        found.into_iter().find(ours).ok_or(ErrorCode::UnknownId.into())
    }

    /// `cancelMessage`: only as long as NotBefore lies ahead.
    pub(crate) async fn cancel(&self, caller: &Caller, request: &Element) -> Result<Answer, Refused> {
        let id = request.text();
        let stored = match self.own_order(caller, &id).await {
            Ok(stored) => stored,
            Err(SubmissionError::Unknown) => return Err(wrong(ErrorCode::WrongParameters, "MessageID")),
            Err(error) => return Err(error.into()),
        };
        let not_before = stored.message.metadata.not_before.ok_or(ErrorCode::NotBeforeMissing)?;
        if not_before <= self.clock.now() || stored.delivery.state == State::Cancelled {
            return Err(ErrorCode::NotBeforePassed.into());
        }
        match self.submissions.cancel(&caller.account, stored.message.id).await {
            Ok(_) => Ok(Answer::default()),
            Err(SubmissionError::Refused(Refusal::Finished | Refusal::HandedOut)) => {
                Err(ErrorCode::NotBeforePassed.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// `lookupService`: available, not available, or not known.
    pub(crate) async fn lookup(&self, request: &Element) -> Result<Answer, Refused> {
        let questions: Vec<&Element> = request
            .children_of(XTA, "LookupServiceRequestList")
            .flat_map(|list| list.children_of(XTA, "LookupService"))
            .collect();
        if questions.is_empty() || questions.len() > QUESTIONS_MAX {
            return Err(wrong(ErrorCode::NoParameters, "LookupService"));
        }
        let mut results = Vec::with_capacity(questions.len());
        for question in questions {
            results.push(self.answer(question).await?);
        }
        let list = Element::new(XTA, "LookupServiceResultList").with_all(results);
        Ok(Answer::of(Element::new(XTA, "LookupServiceResponse").with(list)))
    }

    async fn answer(&self, question: &Element) -> Result<Element, Refused> {
        let reader = question.child(META, "Reader").map(identifier).unwrap_or_default();
        if reader.is_empty() {
            return Err(wrong(ErrorCode::NoParameters, "Reader"));
        }
        let service = question.text_of(XTA, "ServiceType").unwrap_or_default();
        if !is_uri(&service) {
            return Err(wrong(ErrorCode::NoUri, "ServiceType"));
        }
        let available = match reader.parse() {
            // Whether somebody is responsible depends on the area, which is not asked here.
            _ if reader == RESPONSIBLE => None,
            Ok(recipient) => {
                let request = LookupRequest::Recipient { service: read_service(&service)?, recipient };
                let resolution = self.router.resolve(&request, self.clock.now()).await;
                match resolution.outcome {
                    OutcomeKind::Resolved => Some(true),
                    OutcomeKind::NoChannel if !resolution.listed.is_empty() => None,
                    OutcomeKind::NoChannel | OutcomeKind::NotValid | OutcomeKind::CertificateUnusable => {
                        Some(false)
                    }
                    OutcomeKind::DirectoryUnavailable => return Err(ErrorCode::DirectoryDown.into()),
                    OutcomeKind::ServiceUnknown
                    | OutcomeKind::Ambiguous
                    | OutcomeKind::AreaAmbiguous
                    | OutcomeKind::AreaTooCoarse
                    | OutcomeKind::NotResponsible
                    | OutcomeKind::AreaUnknown
                    | OutcomeKind::BadRequest => None,
                }
            }
            Err(_) => None,
        };
        let value = match available {
            Some(available) => Element::new(XTA, "ServiceIsAvailable").with_text(available.to_string()),
            None => Element::new(XTA, "ServiceIsAvailableUnknown").with_text("true"),
        };
        Ok(Element::new(XTA, "LookupServiceResult")
            .with(crate::metadata::party("Reader", &reader, None))
            .with(Element::new(XTA, "ServiceType").with_text(service))
            .with(Element::new(XTA, "IsServiceAvailableValue").with(value)))
    }

    /// The id in the body of a request that has nothing else.
    pub(crate) fn check_id(request: &Element, code: ErrorCode) -> Result<(), Refused> {
        if is_id(&request.text()) { Ok(()) } else { Err(wrong(code, "MessageID")) }
    }
}
