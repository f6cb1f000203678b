//! What an operator wants to know first: what is the matter with a message, whose turn is it, and what can be done.

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{Delivery, EventKind, FailureClass, FailureReason, ItemState, State};
use amtsbote_core::engine::OpenBreaker;
use amtsbote_core::hold::{Hold, HoldKey};
use amtsbote_core::port::StoredMessage;
use amtsbote_core::route::Destination;
use maud::{Markup, html};

use crate::frame::time;
use crate::texts::Language;

/// What stands in the way of messages.
pub(crate) struct Obstacles {
    pub(crate) holds: Vec<Hold>,
    pub(crate) breakers: Vec<OpenBreaker>,
}

impl Obstacles {
    fn hold(&self, key: &HoldKey) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.key == *key)
    }

    fn breaker(&self, destination: &Destination) -> Option<&OpenBreaker> {
        self.breakers.iter().find(|open| open.destination == *destination)
    }
}

/// Sentences about a message, the most important first.
pub(crate) fn explain(stored: &StoredMessage, obstacles: &Obstacles, language: Language) -> Vec<Markup> {
    let says = Says { language };
    let delivery = &stored.delivery;
    let mut said = Vec::new();
    if let Some(hold) = &delivery.held {
        said.push(says.held(hold, obstacles.hold(hold)));
    }
    let destination = delivery.destination.as_ref();
    let waits = matches!(delivery.state, State::Queued | State::Waiting { .. } | State::Accepted { .. });
    let in_mailbox = delivery.item.as_ref().is_some_and(|item| !is_done(&item.state));
    if let Some(destination) = destination.filter(|_| waits || in_mailbox) {
        let key = HoldKey::Destination(destination.clone());
        said.extend(obstacles.hold(&key).map(|hold| says.held(&key, Some(hold))));
        said.extend(obstacles.breaker(destination).filter(|_| waits).map(|open| says.out_of_order(open)));
    }
    said.push(says.state(delivery));
    if matches!(delivery.state, State::Waiting { .. } | State::Dead { .. } | State::Attempting { .. }) {
        said.extend(failures(stored).last().map(|(class, reason)| says.fault(class, reason)));
    }
    said
}

fn is_done(item: &ItemState) -> bool {
    matches!(item, ItemState::Acknowledged { .. } | ItemState::Gone)
}

fn failures(stored: &StoredMessage) -> impl DoubleEndedIterator<Item = (FailureClass, &FailureReason)> {
    stored.events.iter().filter_map(|event| match &event.kind {
        EventKind::AttemptFailed { class, reason, .. } => Some((*class, reason)),
        _ => None,
    })
}

struct Says {
    language: Language,
}

impl Says {
    fn pick(&self, german: &str, english: &str) -> Markup {
        let text = self.language.pick(german, english);
        html! { (text) }
    }

    fn until(&self, german: &str, english: &str, at: Timestamp) -> Markup {
        html! { (self.pick(german, english)) " " (time(at)) "." }
    }

    fn held(&self, key: &HoldKey, hold: Option<&Hold>) -> Markup {
        html! {
            (self.pick("Angehalten durch die Sperre", "Held by the hold on")) " " code { (key) }
            @if let Some(hold) = hold {
                " (" (hold.by) ": " (hold.reason) ")"
            }
            ". "
            (self.pick(
                "Sie verbraucht dabei keine Versuche. Freigeben unter Sperren.",
                "It uses up no attempts meanwhile. Release it under Holds.",
            ))
        }
    }

    fn out_of_order(&self, open: &OpenBreaker) -> Markup {
        html! {
            (self.pick("Das Ziel ist gestört seit", "The destination is out of order since")) " " (time(open.since)) ": "
            code { (open.reason.code) } ", " (open.reason.detail) ". "
            (self.pick("Der nächste Versuch ist am", "The next try is at")) " " (time(open.next_probe)) ". "
            (self.pick(
                "Dort muss jemand etwas tun; danach geht es von selbst weiter.",
                "Somebody there has to act; then it goes on by itself.",
            ))
        }
    }

    fn state(&self, delivery: &Delivery) -> Markup {
        match &delivery.state {
            State::Accepted { retry_at: Some(at) } => self.until(
                "Die zuständige Stelle konnte noch nicht ermittelt werden, weil das Verzeichnis nicht antwortet. Nächster Versuch am",
                "The responsible authority could not be found yet because the directory does not answer. Next try at",
                *at,
            ),
            State::Accepted { retry_at: None } if delivery.sealed => self.pick("Wird eingereiht.", "Is being queued."),
            State::Accepted { retry_at: None } => {
                self.pick("Angenommen; wird gerade zugeordnet und signiert.", "Accepted; is being routed and signed.")
            }
            State::Queued => self.pick("Bereit; ist beim Ziel an der Reihe, sobald dort Platz ist.", "Ready; its turn comes as soon as the destination has room."),
            State::Waiting { until } => self.until("Wartet auf den nächsten Versuch am", "Waits for the next attempt at", *until),
            State::Attempting { until, .. } => self.until("Wird gerade übergeben; längstens bis", "Is being handed over; until", *until),
            State::Delivered | State::Fetched => self.mailbox(delivery),
            State::Acknowledged => self.pick("Die Behörde hat sie übernommen. Es ist nichts zu tun.", "The authority has taken it. There is nothing to do."),
            State::Cancelled => self.pick("Zurückgezogen oder aufgegeben. Es ist nichts zu tun.", "Withdrawn or given up. There is nothing to do."),
            State::Expired => self.pick("Ihre Zeit ist abgelaufen; der Absender wurde benachrichtigt.", "Its time is over; the sender was told."),
            State::Rejected { .. } => self.pick("Abgelehnt; der Absender wurde benachrichtigt. Der Grund steht im Laufzettel.", "Refused; the sender was told. The reason is on the process card."),
            State::Dead { .. } => self.pick(
                "Unzustellbar: sie bleibt liegen, bis jemand eingreift. Ursache beheben, dann erneut zustellen.",
                "A dead letter: it stays until somebody acts. Remove the cause, then deliver it again.",
            ),
        }
    }

    fn mailbox(&self, delivery: &Delivery) -> Markup {
        let Some(item) = &delivery.item else {
            return self.pick("Übergeben. Es ist nichts zu tun.", "Handed over. There is nothing to do.");
        };
        match (&item.state, item.first_fetched_at) {
            (ItemState::Leased { until, .. }, _) => self.until(
                "Das Fachverfahren hat sie abgeholt und muss sie bestätigen, spätestens am",
                "The department system has taken it and has to acknowledge it, at the latest at",
                *until,
            ),
            (_, Some(at)) => self.until(
                "Liegt im Postfach und ist nicht bestätigt, obwohl sie schon einmal abgeholt wurde. Das Fachverfahren ist am Zug. Zuerst abgeholt am",
                "Lies in the mailbox and is not acknowledged although it was fetched before. It is the department system's turn. First fetched at",
                at,
            ),
            (_, None) => self.until(
                "Liegt im Postfach und wurde noch nicht abgeholt. Das Fachverfahren ist am Zug. Im Postfach seit",
                "Lies in the mailbox and was not fetched yet. It is the department system's turn. In the mailbox since",
                item.delivered_at,
            ),
        }
    }

    fn fault(&self, class: FailureClass, reason: &FailureReason) -> Markup {
        let whose = match class {
            FailureClass::Transient => self.pick("vorübergehend, die Gegenstelle", "passing, the other side"),
            FailureClass::Permanent => self
                .pick("diese Nachricht wird dort nie angenommen", "this message will never be taken there"),
            FailureClass::Destination => self.pick("die Gegenstelle als Ganzes", "the other side as a whole"),
            FailureClass::Ours => self.pick("dieses Gateway", "this gateway"),
        };
        html! {
            (self.pick("Letzter Fehler:", "Last failure:")) " " code { (reason.code) } ", " (reason.detail) ". "
            (self.pick("Wessen Fehler:", "Whose fault:")) " " (whose) "."
        }
    }
}
