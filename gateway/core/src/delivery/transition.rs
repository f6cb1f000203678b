//! The state machine: state + input + time -> state + events, as pure functions.

use jiff::Timestamp;

use super::event::{Event, EventKind, Face, FailureClass, FailureReason, Proof, RemoteStage, SealRecord};
use super::state::{
    DeadHead, DeadReason, DeadlineWatch, Delivery, ItemState, MailboxItem, Placement, RejectReason, Retries,
    State,
};
use crate::hold::HoldKey;
use crate::id::{LeaseId, MessageId};
use crate::key::AccountName;
use crate::route::{ChannelKind, Destination, Route};

/// Something that happens to a delivery.
#[derive(Debug, Clone)]
pub enum Input {
    /// Responsibility resolution found the way.
    Routed(Box<Route>),
    /// The directory could not be asked.
    RouteOpen {
        /// Why.
        reason: FailureReason,
        /// When to ask again.
        retry_at: Timestamp,
    },
    /// There is no way, or policy forbids it.
    Refused(RejectReason),
    /// The mailbox has a message with the same id of XTA or OSCI and the same content already. Its reader is told.
    SecondArrival {
        /// Which.
        first: MessageId,
    },
    /// How its destination treats those behind a dead message with the same ordering key.
    DeadHead(DeadHead),
    /// The document is signed.
    Sealed(SealRecord),
    /// The gateway cannot sign at the moment.
    SealFailed {
        /// When to try again.
        retry_at: Timestamp,
    },
    /// A worker takes the message until the given time.
    StartAttempt {
        /// End of its lease.
        until: Timestamp,
    },
    /// The directory has a new endpoint for the same organisation and channel.
    EndpointChanged {
        /// Fencing token of the worker that noticed.
        token: u64,
        /// The decision with the new endpoint.
        route: Box<Route>,
    },
    /// The worker succeeded.
    Succeeded {
        /// Its fencing token.
        token: u64,
        /// Evidence.
        proof: Proof,
    },
    /// The worker failed and the policy says when to try again.
    Failed {
        /// Its fencing token.
        token: u64,
        /// Who has to act.
        class: FailureClass,
        /// What went wrong.
        reason: FailureReason,
        /// Next attempt, or the reason why there is none.
        next: Result<Timestamp, DeadReason>,
    },
    /// The lease of the worker is over and nothing was heard of it.
    Lost {
        /// Next attempt, or the reason why there is none.
        next: Result<Timestamp, DeadReason>,
    },
    /// The gateway cannot work on the message at all.
    Damaged(FailureReason),
    /// A point in time the delivery waited for has come (retry, end of a department's lease, `notBefore`, `expiresAt`, `deadline`).
    Due,
    /// A department leases it from the mailbox.
    Lease {
        /// Token.
        lease: LeaseId,
        /// Who.
        account: AccountName,
        /// Deadline.
        until: Timestamp,
    },
    /// The holder asks for more time.
    Extend {
        /// Token.
        lease: LeaseId,
        /// New deadline.
        until: Timestamp,
    },
    /// The holder gives it back.
    Release {
        /// Token.
        lease: LeaseId,
        /// Who.
        account: AccountName,
    },
    /// The holder takes responsibility.
    Acknowledge {
        /// Token.
        lease: LeaseId,
        /// Who.
        account: AccountName,
        /// Over which face.
        face: Face,
    },
    /// The holder refuses it.
    Reject {
        /// Token.
        lease: LeaseId,
        /// Stable code.
        code: String,
        /// Explanation for the sender.
        detail: String,
    },
    /// A part was read.
    Fetch {
        /// Who.
        account: AccountName,
    },
    /// A face without leases hands the whole message over. Leases are refused for a while, other readers are not.
    Take {
        /// Who.
        account: AccountName,
        /// Over which face.
        face: Face,
        /// No leases before.
        until: Timestamp,
    },
    /// A reader of a face without leases takes responsibility.
    Close {
        /// Who.
        account: AccountName,
        /// Over which face.
        face: Face,
    },
    /// The sender handed it in again.
    Repeated,
    /// Its sender waited for the answer, and it could not even be handed over.
    Unanswered(FailureReason),
    /// The server it was handed over to says how far it came there.
    Remote {
        /// How far.
        stage: RemoteStage,
        /// When, by the clock of that server.
        remote_at: Timestamp,
    },
    /// The department answered.
    Replied {
        /// The answer.
        reply: MessageId,
    },
    /// The sender withdraws it.
    Cancel {
        /// Who.
        account: AccountName,
    },
    /// Retention of the payload is over.
    Strip,
    /// A hold on its service, its account or itself keeps it back.
    Hold {
        /// Which.
        hold: HoldKey,
        /// Why.
        reason: String,
    },
    /// The hold has ended.
    Unhold,
    /// The sender was told how the message ended.
    Notified {
        /// The notice; `None` if the sender has no mailbox here.
        notice: Option<MessageId>,
    },
    /// The notice cannot be stored now.
    NoticePutOff {
        /// When it is tried again.
        until: Timestamp,
    },
    /// An operator sends a dead message on its way again.
    Redrive(Order),
    /// An operator sends a message another way.
    Reroute {
        /// On whose order.
        order: Order,
        /// The new way.
        route: Box<Route>,
    },
    /// An operator gives a message up.
    Withdraw(Order),
}

/// Who ordered something, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The operator.
    pub by: AccountName,
    /// For other operators.
    pub reason: String,
}

/// Why an input cannot be applied. Nothing changes then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The token is not the one of the current lease.
    #[error("the lease token does not match")]
    WrongLease,
    /// The lease ran out or was lost to someone else.
    #[error("the lease has ended")]
    LeaseLost,
    /// The message is already in a final state that contradicts the request.
    #[error("the message is already finished")]
    Finished,
    /// It was handed out already.
    #[error("the message was already handed out")]
    HandedOut,
    /// An operator holds it.
    #[error("the message is held")]
    Held,
    /// It is no dead letter.
    #[error("the message is not dead")]
    NotDead,
    /// The input does not fit the state; for the engine: somebody else was faster.
    #[error("not possible in this state")]
    NotNow,
}

/// Result of an input: the new delivery and what to write on the ProcessCard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a transition that is not committed did not happen"]
pub struct Transition {
    /// The delivery after the change.
    pub delivery: Delivery,
    /// What happened, in order.
    pub events: Vec<Event>,
}

impl Delivery {
    /// Applies an input at a time.
    ///
    /// # Errors
    /// A [`Refusal`]; the delivery is unchanged then.
    pub fn apply(&self, input: Input, now: Timestamp) -> Result<Transition, Refusal> {
        let mut next = Step { delivery: self.clone(), now, events: Vec::new() };
        next.delivery.version += 1;
        match input {
            Input::Routed(route) => next.routed(route)?,
            Input::RouteOpen { reason, retry_at } => next.route_open(reason, retry_at)?,
            Input::Refused(reason) => next.refused(reason)?,
            Input::SecondArrival { first } => {
                next.is_accepted()?;
                next.delivery.attempts += 1;
                next.note(EventKind::SecondArrival { first });
            }
            Input::DeadHead(dead_head) => match &mut next.delivery.line {
                Some(line) => line.dead_head = dead_head,
                None => return Err(Refusal::NotNow),
            },
            Input::Sealed(seal) => next.sealed(seal)?,
            Input::SealFailed { retry_at } => {
                next.is_accepted()?;
                next.put_off(retry_at, EventKind::SealFailed { retry_at });
            }
            Input::StartAttempt { until } => next.start_attempt(until)?,
            Input::EndpointChanged { token, route } => {
                next.holds(token)?;
                next.note(EventKind::Routed { route });
            }
            Input::Succeeded { token, proof } => next.succeeded(token, proof)?,
            Input::Failed { token, class, reason, next: after } => {
                next.failed(token, class, reason, after)?
            }
            Input::Lost { next: after } => next.lost(after)?,
            Input::Damaged(reason) => next.damaged(reason)?,
            Input::Due => next.due()?,
            Input::Lease { lease, account, until } => next.lease(lease, account, until)?,
            Input::Extend { lease, until } => {
                next.holder(lease)?.state = ItemState::Leased { lease, until };
            }
            Input::Release { lease, account } => next.release(lease, account)?,
            Input::Acknowledge { lease, account, face } => {
                next.holder(lease)?.state = ItemState::Acknowledged { lease: Some(lease), face };
                next.enter(State::Acknowledged);
                next.note(EventKind::Acknowledged { account, face });
            }
            Input::Take { account, face, until } => next.take(account, face, until)?,
            Input::Close { account, face } => {
                next.available()?.state = ItemState::Acknowledged { lease: None, face };
                next.enter(State::Acknowledged);
                next.note(EventKind::Acknowledged { account, face });
            }
            Input::Repeated => next.note(EventKind::Repeated),
            Input::Reject { lease, code, detail } => {
                next.holder(lease)?.state = ItemState::Gone;
                next.reject(RejectReason::Department { code, detail });
            }
            Input::Fetch { account } => next.fetch(account)?,
            Input::Unanswered(last) => next.unanswered(last)?,
            Input::Remote { stage, remote_at } => next.remote(stage, remote_at)?,
            Input::Replied { reply } => next.note(EventKind::Replied { reply }),
            Input::Cancel { account } => next.cancel(account)?,
            Input::Strip => next.strip()?,
            Input::Hold { hold, reason } => next.hold(hold, reason)?,
            Input::Unhold => {
                let hold = next.delivery.held.take().ok_or(Refusal::NotNow)?;
                next.note(EventKind::HoldEnded { hold });
            }
            Input::Notified { notice } => {
                next.delivery.notice_due.take().ok_or(Refusal::NotNow)?;
                if let Some(notice) = notice {
                    next.note(EventKind::SenderNotified { notice });
                }
            }
            Input::NoticePutOff { until } => {
                *next.delivery.notice_due.as_mut().ok_or(Refusal::NotNow)? = until;
            }
            Input::Redrive(order) => next.redrive(order)?,
            Input::Reroute { order, route } => next.reroute(order, route)?,
            Input::Withdraw(order) => next.withdraw(order)?,
        }
        Ok(Transition { delivery: next.delivery, events: next.events })
    }
}

/// A change in the making.
struct Step {
    delivery: Delivery,
    now: Timestamp,
    events: Vec<Event>,
}

impl Step {
    fn note(&mut self, kind: EventKind) {
        self.events.push(Event { at: self.now, kind });
    }

    fn enter(&mut self, state: State) {
        self.delivery.state = state;
        self.delivery.since = self.now;
        self.delivery.held = None;
    }

    /// Enters a state in which the sender's wish was not met; the sender is told.
    fn end(&mut self, state: State) {
        if let Some(item) = &mut self.delivery.item {
            item.state = ItemState::Gone;
        }
        self.enter(state);
        let is_notice = self.delivery.account.as_str() == crate::account::GATEWAY;
        self.delivery.notice_due = (!is_notice).then_some(self.now);
    }

    fn is_accepted(&self) -> Result<(), Refusal> {
        if matches!(self.delivery.state, State::Accepted { .. }) { Ok(()) } else { Err(Refusal::NotNow) }
    }

    fn routed(&mut self, route: Box<Route>) -> Result<(), Refusal> {
        self.is_accepted()?;
        if self.delivery.destination.is_some() {
            return Err(Refusal::NotNow);
        }
        (self.delivery.destination, self.delivery.put_off) = (Some(route.destination.clone()), false);
        self.delivery.state = State::Accepted { retry_at: None };
        self.note(EventKind::Routed { route });
        Ok(())
    }

    fn route_open(&mut self, reason: FailureReason, retry_at: Timestamp) -> Result<(), Refusal> {
        self.is_accepted()?;
        self.put_off(retry_at, EventKind::RouteOpen { reason, retry_at });
        Ok(())
    }

    /// Tries again later. The ProcessCard says so once, not at every try.
    fn put_off(&mut self, retry_at: Timestamp, why: EventKind) {
        if !std::mem::replace(&mut self.delivery.put_off, true) {
            self.note(why);
        }
        self.delivery.state = State::Accepted { retry_at: Some(retry_at) };
    }

    fn refused(&mut self, reason: RejectReason) -> Result<(), Refusal> {
        self.is_accepted()?;
        self.reject(reason);
        Ok(())
    }

    fn reject(&mut self, reason: RejectReason) {
        self.end(State::Rejected { reason: reason.clone() });
        self.note(EventKind::Rejected { reason });
    }

    fn sealed(&mut self, seal: SealRecord) -> Result<(), Refusal> {
        self.is_accepted()?;
        let Some(destination) = self.delivery.destination.clone() else { return Err(Refusal::NotNow) };
        (self.delivery.sealed, self.delivery.put_off) = (true, false);
        self.note(EventKind::Sealed(seal));
        self.queue(destination);
        Ok(())
    }

    /// Ready for the destination when its time has come: a mailbox has it at once, a push channel needs an attempt.
    fn queue(&mut self, destination: Destination) {
        if self.expired() {
            self.expire();
        } else if self.delivery.exchange_until.is_some() {
            self.enter(State::Queued);
        } else if let Some(until) = self.delivery.not_before.filter(|until| *until > self.now) {
            self.enter(State::Waiting { until });
        } else if destination.channel == ChannelKind::Mailbox {
            self.delivery.item = Some(MailboxItem {
                mailbox: destination.organization.clone(),
                state: ItemState::Available,
                delivered_at: self.now,
                lost_lease: None,
                first_fetched_at: None,
                claimed_until: None,
            });
            self.enter(State::Delivered);
            self.note(EventKind::Delivered { proof: None, mailbox: Some(destination.organization) });
        } else {
            self.enter(State::Queued);
        }
    }

    /// Its time is over, and nobody has it in hand.
    fn expired(&self) -> bool {
        self.is_late() && !self.delivery.is_claimed(self.now)
    }

    fn is_late(&self) -> bool {
        self.delivery.expires_at.is_some_and(|end| end <= self.now)
    }

    fn expire(&mut self) {
        self.end(State::Expired);
        self.note(EventKind::Expired);
    }

    fn start_attempt(&mut self, until: Timestamp) -> Result<(), Refusal> {
        if self.delivery.state != State::Queued || !self.delivery.sealed {
            return Err(Refusal::NotNow);
        }
        if self.delivery.held.is_some() {
            return Err(Refusal::Held);
        }
        if self.expired() {
            self.expire();
            return Ok(());
        }
        self.delivery.attempts += 1;
        self.enter(State::Attempting { token: self.delivery.version, until });
        self.note(EventKind::AttemptStarted { attempt: self.delivery.attempts });
        Ok(())
    }

    fn holds(&self, token: u64) -> Result<(), Refusal> {
        match self.delivery.state {
            State::Attempting { token: current, .. } if current == token => Ok(()),
            _ => Err(Refusal::LeaseLost),
        }
    }

    fn succeeded(&mut self, token: u64, proof: Proof) -> Result<(), Refusal> {
        self.holds(token)?;
        self.enter(State::Delivered);
        self.note(EventKind::Delivered { proof: Some(proof), mailbox: None });
        Ok(())
    }

    fn failed(
        &mut self,
        token: u64,
        class: FailureClass,
        reason: FailureReason,
        next: Result<Timestamp, DeadReason>,
    ) -> Result<(), Refusal> {
        self.holds(token)?;
        let attempt = self.delivery.attempts;
        self.note(EventKind::AttemptFailed { attempt, class, reason, retry_at: next.as_ref().ok().copied() });
        match class {
            FailureClass::Transient | FailureClass::Permanent => self.count_failure(&next),
            FailureClass::Destination | FailureClass::Ours => {}
        }
        self.wait_or_die(next);
        Ok(())
    }

    fn lost(&mut self, next: Result<Timestamp, DeadReason>) -> Result<(), Refusal> {
        match self.delivery.state {
            State::Attempting { until, .. } if until <= self.now => {
                self.note(EventKind::AttemptLost { attempt: self.delivery.attempts });
                if self.delivery.exchange_until.is_some() {
                    let detail = "the worker ended without a word".to_owned();
                    let last = FailureReason { code: "outcome-unknown".to_owned(), detail };
                    self.die(DeadReason::SyncUnknown { last });
                    return Ok(());
                }
                self.count_failure(&next);
                self.wait_or_die(next);
                Ok(())
            }
            _ => Err(Refusal::NotNow),
        }
    }

    /// Only what the message itself brought about is charged to it.
    fn count_failure(&mut self, next: &Result<Timestamp, DeadReason>) {
        let retries = &mut self.delivery.retries;
        retries.failures += 1;
        if let Ok(until) = next {
            retries.waited = retries.waited.saturating_add(until.duration_since(self.now));
        }
    }

    fn wait_or_die(&mut self, next: Result<Timestamp, DeadReason>) {
        match next {
            Ok(until) => self.enter(State::Waiting { until }),
            Err(reason) => self.die(reason),
        }
    }

    fn die(&mut self, reason: DeadReason) {
        self.end(State::Dead { reason: reason.clone() });
        self.note(EventKind::Dead { reason });
    }

    fn unanswered(&mut self, last: FailureReason) -> Result<(), Refusal> {
        match (&self.delivery.state, self.delivery.exchange_until) {
            (State::Accepted { .. } | State::Queued, Some(_)) => {
                self.die(DeadReason::SyncFailed { last });
                Ok(())
            }
            _ => Err(Refusal::NotNow),
        }
    }

    fn damaged(&mut self, last: FailureReason) -> Result<(), Refusal> {
        match self.delivery.placement() {
            Placement::Finished { .. } | Placement::Dead { .. } => Err(Refusal::Finished),
            Placement::Prepare
            | Placement::Timer { .. }
            | Placement::Ready { .. }
            | Placement::Available { .. }
            | Placement::Held { .. } => {
                self.die(DeadReason::Damaged { last });
                Ok(())
            }
        }
    }

    fn due(&mut self) -> Result<(), Refusal> {
        if self.delivery.alarm().is_some() && self.expired() {
            self.expire();
            return Ok(());
        }
        if self.delivery.alarm().is_some()
            && let (Some(watch), Some(deadline)) = (self.delivery.deadline_watch, self.delivery.deadline)
            && watch.at <= self.now
        {
            self.watch_deadline(deadline);
            return Ok(());
        }
        let item = self.delivery.item.as_mut();
        match (&self.delivery.state, item) {
            (State::Accepted { .. } | State::Queued, _)
                if self.delivery.exchange_until.is_some_and(|until| until <= self.now) =>
            {
                let detail = "the gateway stopped before it was handed over".to_owned();
                self.unanswered(FailureReason { code: "not-attempted".to_owned(), detail })?;
            }
            (State::Accepted { retry_at: Some(at) }, _) if *at <= self.now => {
                self.delivery.state = State::Accepted { retry_at: None };
            }
            (State::Waiting { until }, _) if *until <= self.now => {
                let Some(destination) = self.delivery.destination.clone() else {
                    return Err(Refusal::NotNow);
                };
                self.queue(destination);
            }
            (State::Delivered | State::Fetched, Some(MailboxItem { state, lost_lease, .. })) => match state {
                ItemState::Leased { until, lease } if *until <= self.now => {
                    *lost_lease = Some(*lease);
                    *state = ItemState::Available;
                    self.note(EventKind::LeaseExpired);
                }
                ItemState::Available
                | ItemState::Leased { .. }
                | ItemState::Acknowledged { .. }
                | ItemState::Gone => return Err(Refusal::NotNow),
            },
            _ => return Err(Refusal::NotNow),
        }
        Ok(())
    }

    /// First a warning, then the truth; if the deadline has passed already, only the truth.
    fn watch_deadline(&mut self, deadline: Timestamp) {
        if deadline <= self.now {
            self.delivery.deadline_watch = None;
            self.note(EventKind::DeadlineMissed { deadline });
        } else {
            self.delivery.deadline_watch = Some(DeadlineWatch { at: deadline, last: true });
            self.note(EventKind::DeadlineNear { deadline });
        }
    }

    fn lease(&mut self, lease: LeaseId, account: AccountName, until: Timestamp) -> Result<(), Refusal> {
        self.available()?;
        if self.delivery.is_claimed(self.now) {
            return Err(Refusal::NotNow);
        }
        if self.expired() {
            self.expire();
            return Ok(());
        }
        let item = self.hand_over()?;
        item.state = ItemState::Leased { lease, until };
        self.note(EventKind::Leased { attempt: self.delivery.attempts, account, until });
        Ok(())
    }

    fn take(&mut self, account: AccountName, face: Face, until: Timestamp) -> Result<(), Refusal> {
        self.available()?;
        if self.expired() {
            self.expire();
            return Ok(());
        }
        let late = self.is_late();
        let item = self.hand_over()?;
        if !late {
            item.claimed_until = Some(until);
        }
        let attempt = self.delivery.attempts;
        // A reader that comes again and again leaves fewer and fewer lines.
        if attempt.is_power_of_two() {
            self.note(EventKind::Taken { attempt, account, face });
        }
        Ok(())
    }

    /// The item, if nobody holds a lease on it and nothing keeps it back.
    fn available(&mut self) -> Result<&mut MailboxItem, Refusal> {
        let held = self.delivery.held.is_some();
        let item = self.delivery.item.as_mut().ok_or(Refusal::NotNow)?;
        match item.state {
            ItemState::Available if held => Err(Refusal::Held),
            ItemState::Available => Ok(item),
            ItemState::Leased { .. } => Err(Refusal::NotNow),
            ItemState::Acknowledged { .. } | ItemState::Gone => Err(Refusal::Finished),
        }
    }

    /// Counts a hand-over from the mailbox.
    fn hand_over(&mut self) -> Result<&mut MailboxItem, Refusal> {
        self.delivery.attempts += 1;
        if self.delivery.state == State::Delivered {
            self.enter(State::Fetched);
        }
        let now = self.now;
        let item = self.delivery.item.as_mut().ok_or(Refusal::NotNow)?;
        item.first_fetched_at.get_or_insert(now);
        Ok(item)
    }

    /// The item, if `lease` holds it now.
    fn holder(&mut self, lease: LeaseId) -> Result<&mut MailboxItem, Refusal> {
        let now = self.now;
        let item = self.delivery.item.as_mut().ok_or(Refusal::NotNow)?;
        match &item.state {
            ItemState::Leased { lease: current, until } if *current == lease => {
                if *until > now {
                    Ok(item)
                } else {
                    Err(Refusal::LeaseLost)
                }
            }
            ItemState::Leased { .. } if item.lost_lease == Some(lease) => Err(Refusal::LeaseLost),
            ItemState::Leased { .. } => Err(Refusal::WrongLease),
            ItemState::Available => Err(Refusal::LeaseLost),
            ItemState::Acknowledged { .. } | ItemState::Gone => Err(Refusal::Finished),
        }
    }

    fn release(&mut self, lease: LeaseId, account: AccountName) -> Result<(), Refusal> {
        let item = self.holder(lease)?;
        (item.state, item.lost_lease) = (ItemState::Available, Some(lease));
        self.note(EventKind::Released { account });
        Ok(())
    }

    fn fetch(&mut self, account: AccountName) -> Result<(), Refusal> {
        let now = self.now;
        let item = self.delivery.item.as_mut().ok_or(Refusal::NotNow)?;
        match item.state {
            ItemState::Gone => return Err(Refusal::Finished),
            _ if self.delivery.held.is_some() => return Err(Refusal::Held),
            _ if item.first_fetched_at.is_some() => return Err(Refusal::NotNow),
            ItemState::Available | ItemState::Leased { .. } | ItemState::Acknowledged { .. } => {}
        }
        item.first_fetched_at = Some(now);
        if self.delivery.state == State::Delivered {
            self.enter(State::Fetched);
        }
        self.note(EventKind::Fetched { account });
        Ok(())
    }

    fn remote(&mut self, stage: RemoteStage, remote_at: Timestamp) -> Result<(), Refusal> {
        if self.delivery.state != State::Delivered || self.delivery.item.is_some() {
            return Err(Refusal::NotNow);
        }
        self.note(EventKind::Remote { stage, remote_at });
        Ok(())
    }

    fn cancel(&mut self, account: AccountName) -> Result<(), Refusal> {
        match &self.delivery.state {
            State::Accepted { .. } | State::Queued | State::Waiting { .. } | State::Delivered
                if self.delivery.attempts == 0 =>
            {
                if let Some(item) = &mut self.delivery.item {
                    item.state = ItemState::Gone;
                }
                self.enter(State::Cancelled);
                self.note(EventKind::Cancelled { account, reason: None });
                Ok(())
            }
            State::Accepted { .. }
            | State::Queued
            | State::Waiting { .. }
            | State::Attempting { .. }
            | State::Delivered
            | State::Fetched => Err(Refusal::HandedOut),
            State::Acknowledged
            | State::Cancelled
            | State::Expired
            | State::Rejected { .. }
            | State::Dead { .. } => Err(Refusal::Finished),
        }
    }

    fn strip(&mut self) -> Result<(), Refusal> {
        if !self.delivery.is_finished() || self.delivery.stripped {
            return Err(Refusal::NotNow);
        }
        self.delivery.stripped = true;
        self.note(EventKind::PayloadRemoved);
        Ok(())
    }

    /// Only what could go on at once is kept back; what waits for something else is looked at again when that has come.
    fn hold(&mut self, hold: HoldKey, reason: String) -> Result<(), Refusal> {
        match self.delivery.placement() {
            Placement::Ready { .. } | Placement::Available { .. } => {
                self.note(EventKind::Held { hold: hold.clone(), reason });
                self.delivery.held = Some(hold);
                Ok(())
            }
            Placement::Prepare
            | Placement::Timer { .. }
            | Placement::Held { .. }
            | Placement::Finished { .. }
            | Placement::Dead { .. } => Err(Refusal::NotNow),
        }
    }

    /// The retries begin anew; the number of the attempt goes on, so that a second hand-over is marked.
    fn go_again(&mut self) {
        (self.delivery.retries, self.delivery.item) = (Retries::default(), None);
        self.delivery.notice_due = None;
        match (self.delivery.destination.clone(), self.delivery.sealed) {
            (Some(destination), true) => self.queue(destination),
            _ => self.enter(State::Accepted { retry_at: None }),
        }
    }

    fn redrive(&mut self, Order { by, reason }: Order) -> Result<(), Refusal> {
        if !matches!(self.delivery.state, State::Dead { .. }) {
            return Err(Refusal::NotDead);
        }
        self.is_repeatable()?;
        self.note(EventKind::Redriven { account: by, reason });
        self.go_again();
        Ok(())
    }

    /// Nobody waits any more for the answer to a synchronous message.
    fn is_repeatable(&self) -> Result<(), Refusal> {
        if self.delivery.exchange_until.is_some() { Err(Refusal::Finished) } else { Ok(()) }
    }

    fn reroute(&mut self, Order { by, reason }: Order, route: Box<Route>) -> Result<(), Refusal> {
        self.is_repeatable()?;
        match &self.delivery.state {
            State::Dead { .. } | State::Accepted { .. } | State::Queued | State::Waiting { .. } => {
                self.note(EventKind::Rerouted { account: by, reason });
                self.delivery.destination = Some(route.destination.clone());
                self.note(EventKind::Routed { route });
                self.go_again();
                Ok(())
            }
            State::Attempting { .. } | State::Delivered | State::Fetched => Err(Refusal::HandedOut),
            State::Acknowledged | State::Cancelled | State::Expired | State::Rejected { .. } => {
                Err(Refusal::Finished)
            }
        }
    }

    fn withdraw(&mut self, Order { by, reason }: Order) -> Result<(), Refusal> {
        let leased =
            matches!(self.delivery.item.as_ref().map(|item| &item.state), Some(ItemState::Leased { .. }));
        match &self.delivery.state {
            State::Attempting { .. } => Err(Refusal::HandedOut),
            _ if leased => Err(Refusal::HandedOut),
            _ if self.delivery.is_finished() => Err(Refusal::Finished),
            _ => {
                self.end(State::Cancelled);
                self.note(EventKind::Cancelled { account: by, reason: Some(reason) });
                Ok(())
            }
        }
    }
}
