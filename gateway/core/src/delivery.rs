//! Life of one message after its acceptance: the state machine, its events, and the retry policy.
//!
//! Everything here is pure: state + input + time -> new state + events. The engine and the mailbox act on the result;
//! the store keeps it. Invariant: a stored delivery changes only by [`Delivery::apply`], and every change raises `version`
//! by one, which is the fencing token of whoever works on it.

mod event;
mod policy;
mod state;
mod transition;

pub use event::{Event, EventKind, Face, FailureClass, FailureReason, Proof, RemoteStage, SealRecord};
pub use policy::{InvalidRetryPolicy, RetryPolicy};
pub use state::{
    DeadHead, DeadReason, DeadlineWatch, Delivery, ItemState, Line, MailboxItem, Placement, RejectReason,
    Retries, SHOWN_STATES, State,
};
pub use transition::{Input, Order, Refusal, Transition};

#[cfg(test)]
mod tests;
