//! What clients see: JSON shapes of the interface. Separate from what is stored, so that either can change.

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{DeadReason, Delivery, Event, EventKind, State};
use amtsbote_core::id::MessageId;
use amtsbote_core::message::{ExternalId, Message, Metadata, Part};
use amtsbote_core::port::StoredMessage;
use amtsbote_core::route::{Decision, Endpoint, Route};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A body part.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PartView {
    /// File name as given.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Media type as given.
    media_type: String,
    /// Bytes.
    size: u64,
    /// SHA-256, lower-case hex.
    sha256: String,
    /// Where to download it; only in mailboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    href: Option<String>,
}

impl PartView {
    pub(crate) fn new(part: &Part, href: Option<String>) -> Self {
        Self {
            name: part.name.clone(),
            media_type: part.media_type.clone(),
            size: part.size,
            sha256: part.sha256.to_string(),
            href,
        }
    }
}

/// An id given by somebody else.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExternalIdView {
    /// `client`, `xta` or `osci`.
    scheme: Value,
    /// The id in its original spelling.
    value: String,
}

pub(crate) fn external_ids(ids: &[ExternalId]) -> Vec<ExternalIdView> {
    let scheme = |id: &ExternalId| serde_json::to_value(id.scheme).unwrap_or_default();
    ids.iter().map(|id| ExternalIdView { scheme: scheme(id), value: id.value.clone() }).collect()
}

/// The responsible authority.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OrganizationView {
    /// Key in the directory.
    key: String,
    /// Name.
    name: String,
    /// Category in the directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<String>,
}

impl From<&amtsbote_core::route::OrganizationRef> for OrganizationView {
    fn from(organization: &amtsbote_core::route::OrganizationRef) -> Self {
        Self {
            key: organization.key.to_string(),
            name: organization.name.clone(),
            category: organization.category.clone(),
        }
    }
}

/// A routing decision.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteView {
    /// OZG id of the service.
    service: String,
    /// Authority.
    organization: OrganizationView,
    /// How it is reached.
    channel: String,
    /// Area whose registration matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    matched_area: Option<String>,
    /// Key under which the directory was asked.
    lookup_key: String,
    /// Specification the directory was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    service_specification_uri: Option<String>,
    /// When the decision was made.
    #[schema(value_type = String, format = DateTime)]
    decided_at: Timestamp,
    /// Whether the directory's answer was kept beyond its time.
    stale: bool,
    /// Steps of the decision.
    trace: Vec<String>,
}

impl From<&Route> for RouteView {
    fn from(route: &Route) -> Self {
        Self {
            service: route.service.clone(),
            organization: (&route.organization).into(),
            channel: route.destination.channel.to_string(),
            matched_area: route.matched_area.as_ref().map(ToString::to_string),
            lookup_key: route.lookup_key.to_string(),
            service_specification_uri: route.specification.as_ref().map(ToString::to_string),
            decided_at: route.decided_at,
            stale: route.evidence.as_ref().is_some_and(|evidence| evidence.stale),
            trace: route.trace.clone(),
        }
    }
}

/// A submission and where it stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubmissionView {
    /// Identity, `urn:uuid:…`.
    id: String,
    /// State; `queued` also while a routed message waits for its seal.
    state: &'static str,
    /// Why, for `rejected` and `dead`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Value>,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    /// The route; null while it is open.
    route: Option<RouteView>,
    /// Ids the sender gave it.
    external_ids: Vec<ExternalIdView>,
    /// Document, then attachments.
    parts: Vec<PartView>,
}

pub(crate) fn submission(message: &Message, delivery: &Delivery, route: Option<&Route>) -> SubmissionView {
    let reason = match &delivery.state {
        State::Rejected { reason } => serde_json::to_value(reason).ok(),
        State::Dead { reason } => Some(dead_reason(reason)),
        _ => None,
    };
    SubmissionView {
        id: message.id.to_string(),
        state: delivery.shown_state(),
        reason,
        received_at: message.received_at,
        route: route.map(Into::into),
        external_ids: external_ids(&message.external_ids),
        parts: message.parts.iter().map(|part| PartView::new(part, None)).collect(),
    }
}

/// One line of a list of submissions.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubmissionLine {
    /// Identity.
    pub(crate) id: String,
    /// State.
    pub(crate) state: &'static str,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) received_at: Timestamp,
    /// The sender's case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) case_id: Option<String>,
}

/// A page of submissions, newest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubmissionPage {
    /// The lines; possibly none although there is a next page.
    pub(crate) submissions: Vec<SubmissionLine>,
    /// Continue with this cursor; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

/// The ProcessCard (Laufzettel).
#[derive(Serialize, ToSchema)]
pub(crate) struct ProcessCardView {
    /// The message.
    id: String,
    /// What happened, in order. Each has `at`, `event`, and members by kind.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Value>,
}

pub(crate) fn process_card(stored: &StoredMessage) -> ProcessCardView {
    let id = stored.message.id.to_string();
    ProcessCardView { id, events: stored.events.iter().map(event).collect() }
}

/// An event as a sender sees it: neither addresses of the gateway's configuration, nor what other systems wrote into their errors,
/// nor who operates the gateway and what operators write for each other.
fn event(event: &Event) -> Value {
    let mut shown = serde_json::to_value(event).unwrap_or_default();
    match &event.kind {
        EventKind::Routed { route } => {
            shown["route"] = serde_json::to_value(RouteView::from(route.as_ref())).unwrap_or_default();
        }
        EventKind::RouteOpen { .. } | EventKind::AttemptFailed { .. } => {
            forget(&mut shown["reason"], "detail")
        }
        EventKind::SecondArrival { .. } => forget(&mut shown, "first"),
        EventKind::Dead { reason } => shown["reason"] = dead_reason(reason),
        EventKind::Held { .. } => forget(&mut shown, "reason"),
        EventKind::Redriven { .. }
        | EventKind::Rerouted { .. }
        | EventKind::Cancelled { reason: Some(_), .. } => {
            forget(&mut shown, "reason");
            forget(&mut shown, "account");
        }
        EventKind::Received { .. }
        | EventKind::Sealed(_)
        | EventKind::SealFailed { .. }
        | EventKind::AttemptStarted { .. }
        | EventKind::AttemptLost { .. }
        | EventKind::Delivered { .. }
        | EventKind::Leased { .. }
        | EventKind::Fetched { .. }
        | EventKind::Taken { .. }
        | EventKind::Repeated
        | EventKind::LeaseExpired
        | EventKind::Released { .. }
        | EventKind::Acknowledged { .. }
        | EventKind::Rejected { .. }
        | EventKind::Cancelled { reason: None, .. }
        | EventKind::DeadlineNear { .. }
        | EventKind::DeadlineMissed { .. }
        | EventKind::Expired
        | EventKind::Remote { .. }
        | EventKind::Replied { .. }
        | EventKind::PayloadRemoved
        | EventKind::HoldEnded { .. }
        | EventKind::SenderNotified { .. } => {}
    }
    shown
}

fn dead_reason(reason: &DeadReason) -> Value {
    let mut shown = serde_json::to_value(reason).unwrap_or_default();
    forget(&mut shown["last"], "detail");
    shown
}

fn forget(object: &mut Value, member: &str) {
    if let Some(members) = object.as_object_mut() {
        members.remove(member);
    }
}

/// A message in a mailbox.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MailboxMessageView {
    /// Identity.
    id: String,
    /// Number of the hand-over, from 1; 0 if it was never handed over.
    attempt: u32,
    /// Whether an earlier hand-over may have reached you.
    redelivered: bool,
    /// State.
    state: &'static str,
    /// Whose mailbox.
    mailbox: Option<String>,
    /// Party that sent it.
    sender: String,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    /// The sender's case.
    #[serde(skip_serializing_if = "Option::is_none")]
    case_id: Option<String>,
    /// OZG id of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    /// What the author said.
    #[schema(value_type = Object)]
    metadata: Metadata,
    /// The document.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<PartView>,
    /// The attachments.
    attachments: Vec<PartView>,
    /// Where the gateway's seal over the document is.
    signature: String,
    /// Ids the sender gave it.
    external_ids: Vec<ExternalIdView>,
}

pub(crate) fn mailbox_message(stored: &StoredMessage) -> MailboxMessageView {
    let message = &stored.message;
    let base = message_href(message.id);
    let mut parts = message.parts.iter();
    MailboxMessageView {
        id: message.id.to_string(),
        attempt: stored.delivery.attempts,
        redelivered: stored.delivery.attempts > 1,
        state: stored.delivery.shown_state(),
        mailbox: stored.delivery.item.as_ref().map(|item| item.mailbox.to_string()),
        sender: message.sender.to_string(),
        received_at: message.received_at,
        case_id: message.metadata.case_id.as_ref().map(ToString::to_string),
        service: stored.route().map(|route| route.service.clone()),
        metadata: message.metadata.clone(),
        document: parts.next().map(|part| PartView::new(part, Some(format!("{base}/document")))),
        attachments: parts
            .enumerate()
            .map(|(n, part)| PartView::new(part, Some(format!("{base}/attachments/{}", n + 1))))
            .collect(),
        signature: format!("{base}/signature"),
        external_ids: external_ids(&message.external_ids),
    }
}

fn message_href(id: MessageId) -> String {
    format!("/v1/mailbox/messages/{id}")
}

/// Members of an explanation that depend on how it ended.
pub(crate) fn explain_decision(decision: &Decision) -> Vec<(&'static str, Value)> {
    let mut members = Vec::new();
    let list = |keys: Vec<String>| Value::from(keys);
    if !decision.candidates.is_empty() {
        members.push(("candidates", list(decision.candidates.iter().map(ToString::to_string).collect())));
    }
    if !decision.areas.is_empty() {
        members.push(("areas", list(decision.areas.iter().map(ToString::to_string).collect())));
    }
    if let Some(from) = decision.next_valid_from {
        members.push(("nextValidFrom", from.to_string().into()));
    }
    members
}

/// An endpoint; addresses of the gateway's own configuration are not shown.
pub(crate) fn endpoint(endpoint: &Endpoint, show_address: bool) -> Value {
    let mut shown = serde_json::json!({ "type": endpoint.channel.as_str() });
    if show_address {
        shown["uri"] = endpoint.address.as_str().into();
    }
    shown
}
