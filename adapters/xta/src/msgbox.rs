//! The mailbox: lists, messages, close (`msgBoxPortType`).
//!
//! Order is the order of handing out on every face: class, deadline, acceptance (ADR 0009). Nothing but `close` acknowledges.

use std::collections::{BTreeSet, VecDeque};

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{Face, ItemState};
use amtsbote_core::id::MessageId;
use amtsbote_core::key::PartyId;
use amtsbote_core::mailbox::{MailboxError, XTA_CLAIM};
use amtsbote_core::message::IdScheme;
use amtsbote_core::port::StoredMessage;
use amtsbote_soap::Element;

use crate::Services;
use crate::content;
use crate::cursors::{Cursor, Of};
use crate::fault::{ErrorCode, Refused};
use crate::mapping::{View, order_of, parse_own_id, xta_id};
use crate::metadata::{is_uri, read_time, write_time};
use crate::names::{ADDRESSING, META, OSCI};
use crate::request::{Answer, Caller};

/// Entries of a page, at most.
const PAGE_MAX: usize = 500;
/// Bytes of metadata after which a page ends.
const PAGE_BYTES: usize = 4 << 20;
/// Ids of one snapshot, at most; what lies behind them is found by the next list.
const SNAPSHOT_MAX: usize = 10_000;
/// Messages of one mailbox that a filter looks at.
const FILTERED_MAX: usize = 20_000;
/// Reasons why there is nothing.
const REASONS: &str = "http://www.osci.eu/ws/2008/05/transport/MsgBox/reasons/";
/// Business scenario of messages that name none.
const NO_SCENARIO: &str = "urn:amtsbote:business-scenario:undefined";

/// Which messages are meant.
#[derive(Debug, Default, PartialEq)]
struct Selector {
    ids: Vec<String>,
    relates_to: Vec<String>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

/// The selection contradicts itself or cannot be read.
struct SearchArgsInvalid;

impl Selector {
    fn of(request: &Element) -> Result<Self, SearchArgsInvalid> {
        let Some(element) = request.child(OSCI, "MsgSelector") else { return Ok(Self::default()) };
        if element.child(OSCI, "Extension").is_some() {
            return Err(SearchArgsInvalid);
        }
        match element.attribute("newEntry").map(str::trim) {
            // Nothing that was acknowledged is listed, so all are new.
            None | Some("true" | "1" | "false" | "0") => {}
            Some(_) => return Err(SearchArgsInvalid),
        }
        let uris = |local| -> Result<Vec<String>, SearchArgsInvalid> {
            let found: Vec<String> = element.children_of(ADDRESSING, local).map(Element::text).collect();
            if found.iter().all(|id| is_uri(id)) { Ok(found) } else { Err(SearchArgsInvalid) }
        };
        let time = |local| match element.text_of(OSCI, local) {
            Some(text) => read_time(&text).map(Some).ok_or(SearchArgsInvalid),
            None => Ok(None),
        };
        let (from, to) = (time("MsgBoxEntryTimeFrom")?, time("MsgBoxEntryTimeTo")?);
        if from.zip(to).is_some_and(|(from, to)| from > to) {
            return Err(SearchArgsInvalid);
        }
        Ok(Self { ids: uris("MessageID")?, relates_to: uris("RelatesTo")?, from, to })
    }

    /// Whether a message has to be looked at to know if it fits.
    fn is_plain(&self) -> bool {
        self.relates_to.is_empty() && self.from.is_none() && self.to.is_none()
    }

    async fn fits(&self, stored: &StoredMessage) -> bool {
        let Some(item) = &stored.delivery.item else { return false };
        // The standard counts in whole seconds or finer; what lies inside the last one counts as inside.
        let in_time = self.from.is_none_or(|from| item.delivered_at >= from)
            && self.to.is_none_or(|to| item.delivered_at <= to);
        if !in_time || self.relates_to.is_empty() {
            return in_time;
        }
        let (order, _) = order_of(stored, View::Reader, None, None).await;
        let related = order.child(META, "MsgIdentification");
        let related =
            related.into_iter().flat_map(|one| one.children_of(META, "In-Reply-To")).map(Element::text);
        related.into_iter().any(|id| self.relates_to.iter().any(|wanted| wanted.eq_ignore_ascii_case(&id)))
    }
}

impl Services {
    /// A message with this id in one of the caller's mailboxes. Authors do not know each other's ids, so there may be several; the one
    /// of the lowest rank is meant.
    async fn in_mailbox(
        &self,
        caller: &Caller,
        id: &str,
        rank: fn(&StoredMessage) -> u8,
    ) -> Result<StoredMessage, Refused> {
        let mut found = self.mailboxes.find(&caller.account, IdScheme::Xta, id).await?;
        if let Some(own) = parse_own_id(id) {
            match self.mailboxes.open(&caller.account, own).await {
                Ok(message) if xta_id(&message.message).eq_ignore_ascii_case(id) => found.push(message),
                Ok(_) | Err(MailboxError::Unknown) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mailboxes = caller.mailboxes();
        found.retain(|one| one.delivery.item.as_ref().is_some_and(|item| mailboxes.contains(&item.mailbox)));
        found.sort_by_key(rank);
        found.into_iter().next().ok_or(ErrorCode::UnknownId.into())
    }

    /// Ids of everything that fits, in the order of the mailboxes.
    async fn select(&self, caller: &Caller, selector: &Selector) -> Result<VecDeque<MessageId>, Refused> {
        let mut found = VecDeque::new();
        if !selector.ids.is_empty() {
            for id in &selector.ids {
                match self.in_mailbox(caller, id, to_fetch).await {
                    Ok(stored) if is_offered(&stored) && selector.fits(&stored).await => {
                        found.push_back(stored.message.id);
                    }
                    Ok(_) | Err(Refused::Modelled { code: ErrorCode::UnknownId, .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(found);
        }
        for mailbox in caller.mailboxes() {
            self.select_from(caller, &mailbox, selector, &mut found).await?;
        }
        Ok(found)
    }

    async fn select_from(
        &self,
        caller: &Caller,
        mailbox: &PartyId,
        selector: &Selector,
        found: &mut VecDeque<MessageId>,
    ) -> Result<(), Refused> {
        let (mut after, mut looked_at) = (None, 0);
        while found.len() < SNAPSHOT_MAX && looked_at < FILTERED_MAX {
            let places = self.mailboxes.look(&caller.account, mailbox, after, PAGE_MAX).await?;
            looked_at += if selector.is_plain() { 0 } else { places.len() };
            for place in &places {
                if selector.is_plain() {
                    found.push_back(place.id);
                } else if let Some(stored) = self.offered(caller, place.id).await?
                    && selector.fits(&stored).await
                {
                    found.push_back(place.id);
                }
            }
            after = places.last().copied().filter(|_| places.len() == PAGE_MAX);
            if after.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// A message, as long as it is offered to this caller.
    async fn offered(&self, caller: &Caller, id: MessageId) -> Result<Option<StoredMessage>, Refused> {
        match self.mailboxes.open(&caller.account, id).await {
            Ok(stored) => Ok(Some(stored).filter(is_offered)),
            Err(MailboxError::Unknown) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// `getStatusList`
    pub(crate) async fn status_list(&self, caller: &Caller, request: &Element) -> Result<Answer, Refused> {
        let size = request.attribute("maxListItems").map(|text| text.trim().parse::<usize>());
        let form = request.attribute("ListForm").map(str::trim);
        let (Ok(selector), Some(Ok(1..)) | None, attributes) =
            (Selector::of(request), &size, matches!(form, Some("MsgAtrributes" | "MsgAttributes")))
        else {
            let cursor =
                Cursor { of: Of::List, page: Vec::new(), rest: VecDeque::new(), size: 1, attributes: false };
            let id = self.cursors.open(&caller.account.name, cursor, self.entropy.as_ref());
            return Ok(Answer {
                headers: vec![nothing(&id, "SearchArgsInvalid")],
                ..Answer::of(Element::new(OSCI, "MsgStatusList"))
            });
        };
        let rest = self.select(caller, &selector).await?;
        let size = size.and_then(Result::ok).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let cursor = Cursor { of: Of::List, page: Vec::new(), rest, size, attributes };
        let id = self.cursors.open(&caller.account.name, cursor.clone(), self.entropy.as_ref());
        self.list_page(caller, &id, cursor, Vec::new()).await
    }

    /// `getNextStatusList`
    pub(crate) async fn next_status_list(
        &self,
        caller: &Caller,
        request: &Element,
    ) -> Result<Answer, Refused> {
        let id = request.attribute("MsgBoxRequestID").unwrap_or_default().trim().to_owned();
        match self.cursors.get(&caller.account.name, Of::List, &id) {
            Some(cursor) => {
                let again = self.not_arrived(caller, &cursor, request).await?;
                self.list_page(caller, &id, cursor, again).await
            }
            None => Ok(Answer {
                headers: vec![nothing(&id, "RequestIdInvalid")],
                ..Answer::of(Element::new(OSCI, "MsgStatusList"))
            }),
        }
    }

    /// What of the last page has to be sent again: all of it, if the client names what it has and that is not all.
    async fn not_arrived(
        &self,
        caller: &Caller,
        cursor: &Cursor,
        request: &Element,
    ) -> Result<Vec<MessageId>, Refused> {
        let received: Vec<String> = request.children_of(OSCI, "LastMsgReceived").map(Element::text).collect();
        if received.is_empty() {
            return Ok(Vec::new());
        }
        for id in &cursor.page {
            if let Some(stored) = self.offered(caller, *id).await?
                && !received.iter().any(|known| known.eq_ignore_ascii_case(&xta_id(&stored.message)))
            {
                return Ok(cursor.page.clone());
            }
        }
        Ok(Vec::new())
    }

    /// The next page of a list: what did not arrive, or what follows. What was closed meanwhile is left out.
    async fn list_page(
        &self,
        caller: &Caller,
        id: &str,
        mut cursor: Cursor,
        again: Vec<MessageId>,
    ) -> Result<Answer, Refused> {
        let mut list = Element::new(OSCI, "MsgStatusList");
        let mut wanted = VecDeque::from(again);
        let repeats = !wanted.is_empty();
        cursor.page.clear();
        let mut bytes = 0;
        while cursor.page.len() < cursor.size && bytes < PAGE_BYTES {
            let next = if repeats { wanted.pop_front() } else { cursor.rest.pop_front() };
            let Some(next) = next else { break };
            if let Some(stored) = self.offered(caller, next).await? {
                bytes += stored.message.carried.iter().map(|one| one.text.len()).sum::<usize>();
                let (order, _) = self.order(&stored, View::Reader).await;
                list = list.with(if cursor.attributes { attributes(&order, &stored) } else { order });
                cursor.page.push(next);
            }
        }
        let header = match cursor.page.is_empty() {
            true => nothing(id, "NoMatch"),
            false => pending(id, cursor.rest.len()),
        };
        self.cursors.put(id, cursor);
        Ok(Answer { headers: vec![header], ..Answer::of(list) })
    }

    /// `getMessage`
    pub(crate) async fn message(&self, caller: &Caller, request: &Element) -> Result<Answer, Refused> {
        let new = |rest| Cursor { of: Of::Messages, page: Vec::new(), rest, size: 1, attributes: false };
        let Ok(selector) = Selector::of(request) else {
            let id = self.cursors.open(&caller.account.name, new(VecDeque::new()), self.entropy.as_ref());
            return Ok(Answer { headers: vec![nothing(&id, "SearchArgsInvalid")], ..Answer::default() });
        };
        let rest = self.select(caller, &selector).await?;
        if !selector.ids.is_empty() && rest.len() < selector.ids.len() {
            return Err(ErrorCode::UnknownId.into());
        }
        let cursor = new(rest);
        let id = self.cursors.open(&caller.account.name, cursor.clone(), self.entropy.as_ref());
        self.next_of(caller, &id, cursor, None).await
    }

    /// `getNextMessage`
    pub(crate) async fn next_message(&self, caller: &Caller, request: &Element) -> Result<Answer, Refused> {
        let id = request.attribute("MsgBoxRequestID").unwrap_or_default().trim().to_owned();
        let cursor = self.cursors.get(&caller.account.name, Of::Messages, &id).ok_or(ErrorCode::UnknownId)?;
        let again = self.not_arrived(caller, &cursor, request).await?.into_iter().next();
        self.next_of(caller, &id, cursor, again).await
    }

    async fn next_of(
        &self,
        caller: &Caller,
        id: &str,
        mut cursor: Cursor,
        again: Option<MessageId>,
    ) -> Result<Answer, Refused> {
        let mut again = again;
        cursor.page.clear();
        while let Some(next) = again.take().or_else(|| cursor.rest.pop_front()) {
            let taken = match self.mailboxes.take(&caller.account, next, Face::Xta, XTA_CLAIM).await {
                Ok(taken) => taken,
                // Somebody else was faster.
                Err(error) => match Refused::from(error) {
                    Refused::Modelled { code: ErrorCode::UnknownId, .. } => continue,
                    refused => return Err(refused),
                },
            };
            cursor.page.push(next);
            let (order, _) = self.order(&taken, View::Reader).await;
            let headers = vec![order, pending(id, cursor.rest.len())];
            self.cursors.put(id, cursor);
            let body = Some(content::container(&taken.message));
            return Ok(Answer { headers, body, content: Some(taken), repeated: None });
        }
        self.cursors.put(id, cursor);
        Ok(Answer { headers: vec![nothing(id, "NoMatch")], ..Answer::default() })
    }

    /// `close`: the one way to acknowledge. All of the messages, or none.
    pub(crate) async fn close(&self, caller: &Caller, request: &Element) -> Result<Answer, Refused> {
        let mut ids = BTreeSet::new();
        for received in request.children_of(OSCI, "LastMsgReceived") {
            ids.insert(self.in_mailbox(caller, &received.text(), to_close).await?.message.id);
        }
        self.mailboxes.close(&caller.account, &ids, Face::Xta).await?;
        if let Some(id) = request.attribute("MsgBoxRequestID") {
            self.cursors.close(&caller.account.name, id.trim());
        }
        Ok(Answer::default())
    }
}

/// Whether a reader of this face can have it now.
fn is_offered(stored: &StoredMessage) -> bool {
    let item = stored.delivery.item.as_ref();
    stored.delivery.held.is_none() && item.is_some_and(|item| item.state == ItemState::Available)
}

/// Which of several messages with one id is fetched: one that is offered.
fn to_fetch(stored: &StoredMessage) -> u8 {
    u8::from(!is_offered(stored))
}

/// Which of several messages with one id is closed: one that was fetched, else one that is closed already, so that a repeated close
/// does not close what nobody has seen.
fn to_close(stored: &StoredMessage) -> u8 {
    let item = stored.delivery.item.as_ref();
    let fetched = item.is_some_and(|item| item.first_fetched_at.is_some());
    match item.map(|item| &item.state) {
        Some(ItemState::Available) if fetched => 0,
        Some(ItemState::Acknowledged { .. }) => 1,
        Some(ItemState::Available) => 2,
        Some(ItemState::Leased { .. } | ItemState::Gone) | None => 3,
    }
}

fn response(id: &str) -> Element {
    Element::new(OSCI, "MsgBoxResponse").with_attribute("MsgBoxRequestID", id)
}

fn pending(id: &str, items: usize) -> Element {
    response(id).with(Element::new(OSCI, "ItemsPending").with_text(items.to_string()))
}

fn nothing(id: &str, reason: &str) -> Element {
    let none =
        Element::new(OSCI, "NoMessageAvailable").with_attribute("reason", format!("{REASONS}{reason}"));
    response(id).with(none)
}

/// An entry of the short form of lists.
fn attributes(order: &Element, stored: &StoredMessage) -> Element {
    let identification = order.child(META, "MsgIdentification");
    let id = identification.and_then(|one| one.text_of(ADDRESSING, "MessageID")).unwrap_or_default();
    let related = identification.into_iter().flat_map(|one| one.children_of(META, "In-Reply-To"));
    let related = related.map(|id| Element::new(ADDRESSING, "RelatesTo").with_text(id.text()));
    let scenario = order.descend(META, &["Qualifier", "BusinessScenario", "Defined"]);
    let scenario =
        scenario.and_then(|one| Some(format!("{}#{}", one.attribute("listURI")?, one.text_of("", "code")?)));
    let size = i32::try_from(stored.message.payload_size()).unwrap_or(i32::MAX);
    let obsolete = order.descend(META, &["DeliveryAttributes", "ObsoleteAfter"]).map(Element::text);
    let delivered =
        stored.delivery.item.as_ref().map_or(stored.message.received_at, |item| item.delivered_at);
    let text = |local: &str, text: String| Element::new(OSCI, local).with_text(text);
    Element::new(OSCI, "MsgAttributes")
        .with(Element::new(ADDRESSING, "MessageID").with_text(id))
        .with_all(related)
        .with(text("TypeOfBusinessScenario", scenario.unwrap_or_else(|| NO_SCENARIO.to_owned())))
        .with(text("MsgSize", size.to_string()))
        .with_all(obsolete.map(|date| text("ObsoleteAfterDate", date)))
        .with(text("DeliveryTime", write_time(delivered)))
}
