//! Process cards as a view of what happened to messages (design section 4.3).
//!
//! Creation is the acceptance, Forwarding the first fetch or, for what is pushed, the delivery, Reception the acknowledgement or again
//! the delivery.

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::EventKind;
use amtsbote_core::id::MessageId;
use amtsbote_core::mailbox::MailboxError;
use amtsbote_core::message::CarriedKind;
use amtsbote_core::port::{Cursor, StoredMessage, SubmissionFilter};
use amtsbote_core::reservation::RESERVED_FOR;
use amtsbote_core::submissions::SubmissionError;

use crate::clients::Client;
use crate::codec::card::ProcessCard;
use crate::codec::code::Code;
use crate::codec::encryption::encode;
use crate::codec::order::{Answer, CardRule, CardSelection, Part};
use crate::deliveries::{inspections, osci_id};
use crate::orders::{Done, Order, Stop};
use crate::server::Failure;
use crate::services::Services;

/// Messages that are looked at for one answer.
const SCAN_MAX: usize = 20_000;
/// Messages that are looked at at a time.
const PAGE: usize = 500;

/// The card of a message.
pub(crate) fn card(stored: &StoredMessage) -> ProcessCard {
    let message = &stored.message;
    let (mut forwarding, mut reception) = (None, None);
    for event in &stored.events {
        match &event.kind {
            EventKind::Taken { .. } | EventKind::Leased { .. } | EventKind::Fetched { .. } => {
                forwarding.get_or_insert(event.at);
            }
            EventKind::Delivered { mailbox: None, .. } => {
                forwarding.get_or_insert(event.at);
                reception.get_or_insert(event.at);
            }
            EventKind::Acknowledged { .. } => {
                reception.get_or_insert(event.at);
            }
            _ => {}
        }
    }
    let creation = message.received_at;
    ProcessCard {
        message_id: osci_id(message),
        modified: reception.or(forwarding).unwrap_or(creation),
        creation: Some(creation),
        forwarding,
        reception,
        subject: message.metadata.subject.clone(),
        inspections: inspections(message),
    }
}

impl Services {
    /// `fetchProcessCard`
    pub(crate) async fn cards(&self, order: &Order, rule: &CardRule) -> Result<Done, Stop> {
        let limit = rule.limit.unwrap_or(self.options.cards).clamp(1, self.options.cards);
        let (mut cards, mut more) = match &rule.selection {
            CardSelection::Ids(ids) => (self.cards_by_id(&order.client, ids).await?, false),
            CardSelection::All => self.cards_since(&order.client, rule, None).await?,
            CardSelection::Created(at) => self.cards_since(&order.client, rule, Some(*at)).await?,
            CardSelection::Modified(_) => self.cards_since(&order.client, rule, None).await?,
        };
        if rule.no_reception {
            cards.retain(|card| card.reception.is_none());
        }
        if let CardSelection::Modified(at) = &rule.selection {
            cards.retain(|card| seconds(card.modified) >= seconds(*at));
            cards.sort_by_key(|card| card.modified);
        } else {
            cards.sort_by_key(|card| card.creation);
        }
        more |= cards.len() > limit;
        cards.truncate(limit);
        if cards.is_empty() {
            return Err(Stop::code(Code::NoCard));
        }
        let codes = [order.success()].into_iter().chain(more.then_some(Code::MoreCards)).collect();
        Ok(Done::found(Answer::FetchProcessCard(rule.clone(), cards), codes))
    }

    async fn cards_by_id(&self, client: &Client, ids: &[String]) -> Result<Vec<ProcessCard>, Failure> {
        let mut cards = Vec::new();
        for id in ids {
            let mut found = self.named(&client.account, id).await?;
            let scheme = amtsbote_core::message::IdScheme::Osci;
            match self.submissions.find_external(&client.account, scheme, id).await {
                Ok(stored) => found.push(stored.message.id),
                Err(SubmissionError::Store(error)) => return Err(error.into()),
                Err(SubmissionError::Unknown | SubmissionError::Refused(_)) => {}
            }
            found.sort_unstable();
            found.dedup();
            for id in found {
                let stored = self.store.load(id).await?;
                cards.extend(stored.filter(|one| concerns(client, one, None)).map(|one| card(&one)));
            }
        }
        Ok(cards)
    }

    /// Cards of the client's deliveries, and whether not all were looked at.
    async fn cards_since(
        &self,
        client: &Client,
        rule: &CardRule,
        since: Option<Timestamp>,
    ) -> Result<(Vec<ProcessCard>, bool), Failure> {
        let account = &client.account;
        let filter = SubmissionFilter {
            account: (rule.part != Some(Part::Addressee)).then(|| account.name.clone()),
            organizations: match rule.part {
                Some(Part::Originator) => Vec::new(),
                _ if client.guest => Vec::new(),
                _ => account.mailboxes().cloned().collect(),
            },
            ..SubmissionFilter::default()
        };
        let (mut cards, mut after, mut looked_at): (Vec<ProcessCard>, Option<Cursor>, usize) =
            Default::default();
        loop {
            let (page, next) = self.submissions.list(&filter, after, PAGE).await.map_err(of_submissions)?;
            looked_at += PAGE;
            for entry in page {
                if since.is_some_and(|since| was_given_long_before(entry.id, since)) {
                    return Ok((cards, false));
                }
                let stored = self.store.load(entry.id).await?;
                let stored = stored.filter(|one| since.is_none_or(|since| came_since(one, since)));
                cards.extend(stored.filter(|one| concerns(client, one, rule.part)).map(|one| card(&one)));
            }
            after = next;
            if after.is_none() {
                return Ok((cards, false));
            }
            if looked_at >= SCAN_MAX {
                return Ok((cards, true));
            }
        }
    }
}

fn of_submissions(error: SubmissionError) -> Failure {
    match error {
        SubmissionError::Store(error) => error.into(),
        SubmissionError::Unknown | SubmissionError::Refused(_) => MailboxError::Unknown.into(),
    }
}

/// Times are told in whole seconds, and clients ask with what they were told.
fn seconds(at: Timestamp) -> i64 {
    at.as_second()
}

/// Whether an id is so old that nothing that came since can have it: ids are given out before they are used.
fn was_given_long_before(id: MessageId, since: Timestamp) -> bool {
    id.accepted_at().is_some_and(|at| at.checked_add(RESERVED_FOR).is_ok_and(|latest| latest < since))
}

/// Whether a delivery was created then or later.
pub(crate) fn came_since(stored: &StoredMessage, since: Timestamp) -> bool {
    seconds(stored.message.received_at) >= seconds(since)
}

/// Whether the client has this part in a delivery. Clients without an account share one, so their certificates tell them apart.
fn concerns(client: &Client, stored: &StoredMessage, part: Option<Part>) -> bool {
    let message = &stored.message;
    let own = || {
        let certificates = message.carried(CarriedKind::OsciCertificates).unwrap_or_default();
        !client.guest || certificates.contains(&encode(client.cipher.der()))
    };
    let sent = message.account == client.account.name && own();
    let goes_there = stored.delivery.destination.as_ref();
    let gets = !client.guest && goes_there.is_some_and(|there| client.account.opens(&there.organization));
    match part {
        Some(Part::Originator) => sent,
        Some(Part::Addressee) => gets,
        None => sent || gets,
    }
}
