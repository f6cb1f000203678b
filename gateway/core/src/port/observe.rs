use std::time::Duration;

use jiff::Timestamp;

use crate::delivery::{FailureClass, FailureReason};
use crate::id::MessageId;
use crate::message::IdScheme;
use crate::route::{ChannelKind, Destination};

/// How intake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntakeOutcome {
    /// New message.
    Accepted,
    /// Repeated submission with the same content.
    Duplicate,
    /// Same key, other content.
    Conflict,
    /// Refused with an explanation.
    Refused,
    /// The gateway could not.
    Failed,
}

/// One thing worth a log line or a metric. Carries no payload and no personal data.
#[derive(Debug, Clone, Copy)]
pub enum Observation<'a> {
    /// A submission was answered.
    Intake {
        /// By which face: the scheme of its key.
        scheme: IdScheme,
        /// How.
        outcome: IntakeOutcome,
        /// Time core took.
        elapsed: Duration,
    },
    /// An attempt ended.
    Attempt {
        /// Message.
        id: MessageId,
        /// Channel.
        channel: ChannelKind,
        /// `None`: delivered.
        failure: Option<FailureClass>,
        /// Duration.
        elapsed: Duration,
    },
    /// A message was dead-lettered.
    Dead {
        /// Message.
        id: MessageId,
        /// Stable code of the last failure.
        code: &'a str,
    },
    /// A deadline comes near, or has passed.
    Deadline {
        /// Message.
        id: MessageId,
        /// Whether it has passed.
        missed: bool,
    },
    /// A destination is out of order, or in order again.
    Breaker {
        /// Which.
        destination: &'a Destination,
        /// What went wrong; `None`: in order again.
        reason: Option<&'a FailureReason>,
    },
    /// A seal could not be made.
    SealFailed {
        /// Message.
        id: MessageId,
    },
    /// The engine looked at its work.
    Scheduled {
        /// How late the most overdue timer was picked.
        lag: Duration,
        /// When it looked.
        at: Timestamp,
    },
}

/// Takes observations. Cheap, never blocks, never fails.
pub trait Observer: Send + Sync {
    /// Records one.
    fn record(&self, observation: Observation<'_>);
}

/// Ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn record(&self, _: Observation<'_>) {}
}
