//! Lines of a message's ProcessCard (Laufzettel). Append-only; the JSON form is both stored and shown.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::state::{DeadReason, RejectReason};
use crate::hold::HoldKey;
use crate::id::MessageId;
use crate::key::{AccountName, PartyId};
use crate::route::Route;

/// Something that happened to a message, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Which side of the gateway somebody used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Face {
    /// JSON over HTTPS.
    Rest,
    /// XTA 2.
    Xta,
    /// OSCI-Transport 1.2.
    Osci,
}

/// Who has to act on a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// May well work next time.
    Transient,
    /// Will never work for this message.
    Permanent,
    /// The destination as a whole is out of order.
    Destination,
    /// The gateway itself is out of order.
    Ours,
}

/// How far a message came at a server it was handed over to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteStage {
    /// Its recipient fetched it (OSCI: Forwarding).
    Fetched,
    /// Its recipient confirmed it (OSCI: Reception).
    Received,
}

/// Why an attempt failed: a stable code and a sentence without payload or personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReason {
    /// Stable, kebab-case.
    pub code: String,
    /// For a human.
    pub detail: String,
}

/// What the receiving side gave as evidence of a hand-over, for example `confirmed by broker main`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proof(pub String);

/// The seal over a document: detached CMS (CAdES-BES), DER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealRecord {
    /// For example `ecdsa-p256-sha256`.
    pub algorithm: String,
    /// SHA-256 of the signing certificate, lower-case hex.
    pub certificate: String,
    /// The signature itself.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub signature: Bytes,
}

fn to_base64<S: serde::Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(serde::de::Error::custom)
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum EventKind {
    /// Accepted from an account.
    Received {
        /// Who handed it in.
        account: AccountName,
    },
    /// The responsible authority is known.
    Routed {
        /// The decision with its evidence.
        route: Box<Route>,
    },
    /// The directory could not be asked; the route stays open.
    RouteOpen {
        /// Why.
        reason: FailureReason,
        /// Next look-up.
        retry_at: Timestamp,
    },
    /// The document is signed.
    Sealed(SealRecord),
    /// The gateway could not sign; it tries again.
    SealFailed {
        /// When.
        retry_at: Timestamp,
    },
    /// An attempt to hand over begins; durable before the first byte leaves.
    AttemptStarted {
        /// From 1.
        attempt: u32,
    },
    /// The attempt failed.
    AttemptFailed {
        /// From 1.
        attempt: u32,
        /// Who has to act.
        class: FailureClass,
        /// What went wrong.
        reason: FailureReason,
        /// Next attempt, if there will be one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    /// The attempt ended without a known outcome: the worker died or lost its lease.
    AttemptLost {
        /// From 1.
        attempt: u32,
    },
    /// Handed over to the destination or placed in its mailbox.
    Delivered {
        /// Evidence from the other side, for push channels.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proof: Option<Proof>,
        /// Mailbox, for pull channels.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mailbox: Option<PartyId>,
    },
    /// Leased from a mailbox: this is a hand-over.
    Leased {
        /// From 1; above 1 it is a repeated hand-over.
        attempt: u32,
        /// Who.
        account: AccountName,
        /// Until when, unless extended.
        until: Timestamp,
    },
    /// Document or attachment read for the first time.
    Fetched {
        /// Who.
        account: AccountName,
    },
    /// Handed over by a face without leases, which does not hide it from other readers.
    Taken {
        /// From 1; above 1 it is a repeated hand-over.
        attempt: u32,
        /// Who.
        account: AccountName,
        /// Over which face.
        face: Face,
    },
    /// The sender handed it in again, with the same content.
    Repeated,
    /// The mailbox has a message with the same id of XTA or OSCI and the same content already.
    SecondArrival {
        /// Which.
        first: MessageId,
    },
    /// The lease ran out; the message is available again.
    LeaseExpired,
    /// The lease was given back; the message is available again.
    Released {
        /// Who.
        account: AccountName,
    },
    /// The department has taken responsibility.
    Acknowledged {
        /// Who.
        account: AccountName,
        /// Over which face.
        face: Face,
    },
    /// Refused: no route, policy, or by the department.
    Rejected {
        /// Why.
        reason: RejectReason,
    },
    /// Withdrawn by the sender, or given up by an operator.
    Cancelled {
        /// Who.
        account: AccountName,
        /// Why, if it was an operator.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Will not be tried again until someone acts.
    Dead {
        /// Why.
        reason: DeadReason,
    },
    /// The deadline comes near and the message is not with the department.
    DeadlineNear {
        /// The deadline.
        deadline: Timestamp,
    },
    /// The deadline passed before the message was with the department.
    DeadlineMissed {
        /// The deadline.
        deadline: Timestamp,
    },
    /// Undeliverable because its time is over.
    Expired,
    /// The server it was handed over to says how far it came there.
    Remote {
        /// How far.
        stage: RemoteStage,
        /// When, by the clock of that server.
        remote_at: Timestamp,
    },
    /// A department answered it.
    Replied {
        /// The answer.
        reply: MessageId,
    },
    /// The payload was removed after its retention.
    PayloadRemoved,
    /// A hold on its service, its account or itself keeps it back.
    Held {
        /// Which.
        hold: HoldKey,
        /// Why.
        reason: String,
    },
    /// The hold has ended; the message goes on.
    HoldEnded {
        /// Which.
        hold: HoldKey,
    },
    /// The sender was told how it ended.
    SenderNotified {
        /// The notice in the sender's mailbox.
        notice: MessageId,
    },
    /// An operator sent it on its way again.
    Redriven {
        /// Who.
        account: AccountName,
        /// Why.
        reason: String,
    },
    /// An operator had it routed anew.
    Rerouted {
        /// Who.
        account: AccountName,
        /// Why.
        reason: String,
    },
}
