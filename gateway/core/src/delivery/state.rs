//! Where a delivery stands (design section 4). `Delivered`, `Fetched` and `Acknowledged` are different facts.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::event::{Face, FailureReason};
use crate::hold::HoldKey;
use crate::id::LeaseId;
use crate::key::{AccountName, CaseId, OrderingKey, PartyId};
use crate::message::{Message, Priority};
use crate::route::{ChannelKind, Destination, OutcomeKind, Route};

/// Where a message stands. The JSON form is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum State {
    /// Durable; not yet routed, or not yet sealed.
    Accepted {
        /// Next routing attempt while the directory is down; absent: at once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    /// Sealed and ready for an attempt.
    Queued,
    /// Parked until a point in time: before a retry, or because of `notBefore`.
    Waiting {
        /// When it is due.
        until: Timestamp,
    },
    /// Somebody works on it and holds the fencing token until the lease ends.
    Attempting {
        /// Version of the delivery at the start of the attempt.
        token: u64,
        /// End of the lease.
        until: Timestamp,
    },
    /// Handed over (push) or available in the mailbox (pull).
    Delivered,
    /// Leased or downloaded at least once, not yet acknowledged.
    Fetched,
    /// The department has taken responsibility.
    Acknowledged,
    /// Withdrawn by the sender.
    Cancelled,
    /// Its time is over.
    Expired,
    /// Refused.
    Rejected {
        /// Why.
        reason: RejectReason,
    },
    /// Parked until someone acts.
    Dead {
        /// Why.
        reason: DeadReason,
    },
}

/// All states as they are shown (design section 8), in the order of a message's life.
pub const SHOWN_STATES: [&str; 12] = [
    "accepted",
    "queued",
    "waiting",
    "held",
    "attempting",
    "delivered",
    "fetched",
    "acknowledged",
    "cancelled",
    "expired",
    "rejected",
    "dead",
];

impl State {
    /// The state as it is written on the wire (design section 8).
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Queued => "queued",
            Self::Waiting { .. } => "waiting",
            Self::Attempting { .. } => "attempting",
            Self::Delivered => "delivered",
            Self::Fetched => "fetched",
            Self::Acknowledged => "acknowledged",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Rejected { .. } => "rejected",
            Self::Dead { .. } => "dead",
        }
    }
}

/// Why a message was refused after its acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum RejectReason {
    /// Routing found that there is no way.
    Route {
        /// Outcome of responsibility resolution.
        outcome: OutcomeKind,
    },
    /// The route stayed open for longer than allowed.
    Unroutable,
    /// The mailbox has a message with the same id of XTA or OSCI and other content already.
    IdTaken,
    /// The department refuses it.
    Department {
        /// Stable code the department gave.
        code: String,
        /// Its explanation for the sender.
        detail: String,
    },
}

/// Why a message will not be tried again by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum DeadReason {
    /// The last failure can never succeed.
    Permanent {
        /// The failure.
        last: FailureReason,
    },
    /// The policy's attempts are used up.
    AttemptsExhausted {
        /// The last failure.
        last: FailureReason,
    },
    /// The policy's age is over.
    TooOld {
        /// The last failure.
        last: FailureReason,
    },
    /// The gateway cannot work on it: its record or payload is damaged.
    Damaged {
        /// What is wrong.
        last: FailureReason,
    },
    /// Its sender waited for the answer, and there is none: the recipient does not have it, or refused it.
    SyncFailed {
        /// What went wrong.
        last: FailureReason,
    },
    /// Its sender waited for the answer; nobody knows whether the recipient has it.
    SyncUnknown {
        /// What went wrong.
        last: FailureReason,
    },
}

impl DeadReason {
    /// The failure after which it was given up.
    pub fn last(&self) -> &FailureReason {
        match self {
            Self::Permanent { last }
            | Self::AttemptsExhausted { last }
            | Self::TooOld { last }
            | Self::Damaged { last }
            | Self::SyncFailed { last }
            | Self::SyncUnknown { last } => last,
        }
    }
}

/// Who has a mailbox item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "item", rename_all = "lowercase")]
pub enum ItemState {
    /// Free to be leased.
    Available,
    /// Hidden from others until the deadline.
    Leased {
        /// Token of the lease.
        lease: LeaseId,
        /// Deadline.
        until: Timestamp,
    },
    /// Done.
    Acknowledged {
        /// Lease under which it was acknowledged; a repeat with it succeeds without effect. Absent for faces without leases.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease: Option<LeaseId>,
        /// Over which face.
        face: Face,
    },
    /// No longer offered: cancelled, expired, rejected.
    Gone,
}

/// A message in a mailbox (design section 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MailboxItem {
    /// Whose mailbox.
    pub mailbox: PartyId,
    /// Who has it.
    #[serde(flatten)]
    pub state: ItemState,
    /// When it became available first.
    pub delivered_at: Timestamp,
    /// The lease that ended last without an acknowledge: its holder is told that it was lost, not that it is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_lease: Option<LeaseId>,
    /// First lease or download.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_fetched_at: Option<Timestamp>,
    /// A face without leases fetched it; until then nobody can lease it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_until: Option<Timestamp>,
}

/// Watch over a legal deadline (Frist): it must not pass in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadlineWatch {
    /// When to speak up next.
    pub at: Timestamp,
    /// Whether that is the deadline itself, after the warning.
    pub last: bool,
}

/// What a dead message does to those behind it that have the same ordering key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeadHead {
    /// They wait until somebody acts.
    #[default]
    Block,
    /// They go on without it.
    Skip,
}

/// A place among the messages with the same ordering key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The key.
    pub key: OrderingKey,
    /// What follows if it dies.
    #[serde(default)]
    pub dead_head: DeadHead,
}

/// How much of the retry policy a message has used up: only failures of its own count, neither holds nor a destination that is
/// out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Failed attempts that count.
    pub failures: u32,
    /// Time it was made to wait after them.
    pub waited: SignedDuration,
}

impl Retries {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The changing side of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Rises by one with every change; compared when a change is committed.
    pub version: u64,
    /// Where it stands.
    #[serde(flatten)]
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// When the message was accepted.
    pub received_at: Timestamp,
    /// Account that submitted it.
    pub account: AccountName,
    /// The sender's case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case_id: Option<CaseId>,
    /// Scheduling class.
    #[serde(default)]
    pub priority: Priority,
    /// Not to be handed over before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Worthless afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Legal deadline, for the order inside the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Who is told when about the deadline; absent when everything was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_watch: Option<DeadlineWatch>,
    /// Where it goes; absent while the route is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    /// Whether the document is signed; nothing is handed out before.
    #[serde(default)]
    pub sealed: bool,
    /// Hand-overs begun.
    #[serde(default)]
    pub attempts: u32,
    /// What of its retries is used up.
    #[serde(default, skip_serializing_if = "Retries::is_none")]
    pub retries: Retries,
    /// What keeps it back although it could go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HoldKey>,
    /// Its place among those with the same ordering key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<Line>,
    /// When the sender is to be told how it ended; absent when nothing is owed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice_due: Option<Timestamp>,
    /// Whether the ProcessCard says already that routing or signing has to be tried again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub put_off: bool,
    /// Its place in a mailbox, for the pull channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<MailboxItem>,
    /// Whether the payload is gone after its retention.
    #[serde(default)]
    pub stripped: bool,
    /// Its sender waits for the answer until then: it is handed over once, by whoever accepted it, and never again. The engine only
    /// ends it when that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange_until: Option<Timestamp>,
}

/// Which queue of the store a delivery stands in; a pure function of the delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Placement {
    /// To be routed and sealed, at once.
    Prepare,
    /// To be looked at when the time has come.
    Timer {
        /// When.
        due: Timestamp,
    },
    /// Ready for an attempt at its destination.
    Ready {
        /// Unit of queueing.
        destination: Destination,
        /// First order.
        class: Priority,
        /// Second order, none last.
        deadline: Option<Timestamp>,
    },
    /// Available in a mailbox.
    Available {
        /// Whose.
        mailbox: PartyId,
        /// First order.
        class: Priority,
        /// Second order, none last.
        deadline: Option<Timestamp>,
    },
    /// Kept back by a hold on its service, its account or itself.
    Held {
        /// By which.
        hold: HoldKey,
        /// First order.
        class: Priority,
        /// Second order, none last.
        deadline: Option<Timestamp>,
    },
    /// Needs nobody; kept until its retention is over.
    Finished {
        /// Since when.
        since: Timestamp,
        /// Whether the payload is gone already.
        stripped: bool,
    },
    /// Needs an operator; kept until someone acts.
    Dead {
        /// Since when.
        since: Timestamp,
    },
}

impl Delivery {
    /// The delivery of a message at the moment of its acceptance, with or without a route.
    pub fn new(message: &Message, route: Option<&Route>) -> Self {
        let metadata = &message.metadata;
        Self {
            version: 1,
            state: State::Accepted { retry_at: None },
            since: message.received_at,
            received_at: message.received_at,
            account: message.account.clone(),
            case_id: metadata.case_id.clone(),
            priority: metadata.priority,
            not_before: metadata.not_before,
            expires_at: metadata.expires_at,
            deadline: metadata.deadline,
            deadline_watch: metadata.deadline.map(|at| DeadlineWatch { at, last: true }),
            destination: route.map(|route| route.destination.clone()),
            sealed: false,
            attempts: 0,
            retries: Retries::default(),
            held: None,
            line: metadata.ordering_key.clone().map(|key| Line { key, dead_head: DeadHead::default() }),
            notice_due: None,
            put_off: false,
            item: None,
            stripped: false,
            exchange_until: None,
        }
    }

    /// Its sender waits for the answer until then. It stands in no line.
    #[must_use]
    pub fn answered_until(mut self, until: Timestamp) -> Self {
        (self.exchange_until, self.line) = (Some(until), None);
        self
    }

    /// An answer that went back to a sender who waited for it: it is where it belongs.
    #[must_use]
    pub fn handed_back(mut self, to: PartyId) -> Self {
        self.destination = Some(Destination { organization: to, channel: ChannelKind::Mailbox });
        (self.state, self.attempts) = (State::Delivered, 1);
        self
    }

    /// Warns so long before the deadline; at once if that is over already.
    #[must_use]
    pub fn warned_before(mut self, lead: Duration) -> Self {
        let warning = |deadline: Timestamp| deadline.checked_sub(lead).unwrap_or(Timestamp::MIN);
        self.deadline_watch =
            self.deadline.map(|deadline| DeadlineWatch { at: warning(deadline), last: false });
        self
    }

    /// State as shown to people: a routed message that only waits for its seal counts as `queued`.
    pub fn shown_state(&self) -> &'static str {
        match self.state {
            _ if self.held.is_some() => "held",
            State::Accepted { .. } if self.destination.is_some() => "queued",
            _ => self.state.as_str(),
        }
    }

    /// Where it stands in line, as long as it does: from the moment its destination is known until its first hand-over is done
    /// (push: delivered; mailbox: acknowledged) or it ends in another way. Acceptance decides the order.
    pub fn line_key(&self) -> Option<(&Destination, &OrderingKey)> {
        let (line, destination) = (self.line.as_ref()?, self.destination.as_ref()?);
        let stands = match self.placement() {
            Placement::Finished { .. } => false,
            Placement::Dead { .. } => line.dead_head == DeadHead::Block,
            Placement::Prepare
            | Placement::Timer { .. }
            | Placement::Ready { .. }
            | Placement::Available { .. }
            | Placement::Held { .. } => true,
        };
        stands.then_some((destination, &line.key))
    }

    /// Where the store has to keep it.
    pub fn placement(&self) -> Placement {
        if let Some(hold) = &self.held {
            return Placement::Held { hold: hold.clone(), class: self.priority, deadline: self.deadline };
        }
        if let (State::Accepted { .. } | State::Queued, Some(due)) = (&self.state, self.exchange_until) {
            return Placement::Timer { due };
        }
        match &self.state {
            State::Accepted { retry_at: None } => Placement::Prepare,
            State::Accepted { retry_at: Some(due) } => Placement::Timer { due: *due },
            State::Waiting { until } | State::Attempting { until, .. } => Placement::Timer { due: *until },
            State::Queued => match &self.destination {
                Some(destination) => Placement::Ready {
                    destination: destination.clone(),
                    class: self.priority,
                    deadline: self.deadline,
                },
                None => Placement::Prepare,
            },
            State::Delivered | State::Fetched => match &self.item {
                Some(MailboxItem { state: ItemState::Leased { until, .. }, .. }) => {
                    Placement::Timer { due: *until }
                }
                Some(item) => Placement::Available {
                    mailbox: item.mailbox.clone(),
                    class: self.priority,
                    deadline: self.deadline,
                },
                None => self.finished(),
            },
            State::Acknowledged | State::Cancelled | State::Expired | State::Rejected { .. } => {
                self.finished()
            }
            State::Dead { .. } => Placement::Dead { since: self.since },
        }
    }

    /// When the delivery has to be looked at besides its [`Self::placement`]: its deadline comes near, its time ends, its sender
    /// has to be told. Nothing while somebody works on it; when the work ends the alarm is there again, overdue if need be.
    pub fn alarm(&self) -> Option<Timestamp> {
        if self.notice_due.is_some() {
            return self.notice_due;
        }
        let leased = self.item.as_ref().is_some_and(|item| matches!(item.state, ItemState::Leased { .. }));
        match self.placement() {
            Placement::Finished { .. } | Placement::Dead { .. } => None,
            _ if leased || matches!(self.state, State::Attempting { .. }) => None,
            _ => {
                // Whoever took it in time may still finish.
                let claimed_until = self.item.as_ref().and_then(|item| item.claimed_until);
                let end = self.expires_at.map(|end| claimed_until.map_or(end, |until| end.max(until)));
                [end, self.deadline_watch.map(|watch| watch.at)].into_iter().flatten().min()
            }
        }
    }

    /// Whether a face without leases has it in hand.
    pub(crate) fn is_claimed(&self, now: Timestamp) -> bool {
        self.item.as_ref().is_some_and(|item| {
            item.state == ItemState::Available && item.claimed_until.is_some_and(|until| until > now)
        })
    }

    fn finished(&self) -> Placement {
        Placement::Finished { since: self.since, stripped: self.stripped }
    }

    /// Whether nothing more will happen by itself and the sender's obligation is met or ended.
    pub fn is_finished(&self) -> bool {
        matches!(self.placement(), Placement::Finished { .. })
    }
}
