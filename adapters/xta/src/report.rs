//! `TransportReport`: what became of an order (design section 4.3).

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{Delivery, Event, EventKind, RejectReason, RemoteStage, State};
use amtsbote_core::message::Part;
use amtsbote_core::port::StoredMessage;
use amtsbote_soap::Element;

use crate::metadata::{Repair, code, write_time};
use crate::names::{LIST_RECORDS, XTA};

/// A line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    at: Timestamp,
    code: &'static str,
    reason: String,
}

/// The three lists.
#[derive(Debug, Default, PartialEq, Eq)]
struct Records {
    errors: Vec<Record>,
    warnings: Vec<Record>,
    infos: Vec<Record>,
}

/// The report of a message, as it is now, with its order.
pub(crate) fn report(stored: &StoredMessage, server: &str, order: Element, repairs: &[Repair]) -> Element {
    let records = records(stored, repairs);
    let status = status(&stored.delivery, &records);
    let latest = stored.events.last().map_or(stored.message.received_at, |event| event.at);
    let text = |name: &str, text: String| Element::new(XTA, name).with_text(text);
    let mut message_status = Element::new(XTA, "MessageStatus").with(text("Status", status.to_string()));
    let lists = [
        ("ErrorList", "Error", &records.errors),
        ("WarnList", "Warning", &records.warnings),
        ("InfoList", "Info", &records.infos),
    ];
    for (list, name, records) in lists {
        if !records.is_empty() {
            let lines = records.iter().map(|record| {
                Element::new(XTA, name)
                    .with(text("Timestamp", write_time(record.at)))
                    .with(code(Element::new(XTA, "Code"), LIST_RECORDS, "1", record.code))
                    .with(text("Reason", record.reason.clone()))
            });
            message_status = message_status.with(Element::new(XTA, list).with_all(lines));
        }
    }
    Element::new(XTA, "TransportReport")
        .with(order)
        .with(text("ReportTime", write_time(latest)))
        .with(text("XTAServerIdentity", server.to_owned()))
        .with(message_status)
}

/// 0 open, 1 green, 2 yellow, 3 red. Red stays red.
fn status(delivery: &Delivery, records: &Records) -> u8 {
    let done = match &delivery.state {
        State::Accepted { .. }
        | State::Queued
        | State::Waiting { .. }
        | State::Attempting { .. }
        | State::Fetched => false,
        State::Delivered => delivery.item.is_none(),
        State::Acknowledged
        | State::Cancelled
        | State::Expired
        | State::Rejected { .. }
        | State::Dead { .. } => true,
    };
    match (records.errors.is_empty(), records.warnings.is_empty()) {
        (false, _) => 3,
        (true, _) if !done => 0,
        (true, false) => 2,
        (true, true) => 1,
    }
}

fn records(stored: &StoredMessage, repairs: &[Repair]) -> Records {
    let mut records = Records::default();
    let received = stored.message.received_at;
    for repair in repairs {
        let reason = format!("Ergänzt: {}", repair.as_str());
        records.infos.push(Record { at: received, code: "ergaenzt", reason });
    }
    for (number, part) in stored.message.parts.iter().enumerate() {
        if is_size_wrong(part) {
            let reason = format!("Größenangabe von Inhalt {} stimmt nicht", number + 1);
            records.warnings.push(Record { at: received, code: "groesse", reason });
        }
    }
    for event in &stored.events {
        read_event(event, stored, &mut records);
    }
    records
}

fn is_size_wrong(part: &Part) -> bool {
    part.attributes.get("size").is_some_and(|size| size.parse() != Ok(part.size))
}

fn read_event(event: &Event, stored: &StoredMessage, records: &mut Records) {
    let record = |code: &'static str, reason: &str| Record { at: event.at, code, reason: reason.to_owned() };
    match &event.kind {
        EventKind::Received { .. } => {
            records.infos.push(record("angenommen", "Transportauftrag angenommen"));
        }
        EventKind::Repeated => {
            records.infos.push(record("wiederholt", "Vom Autor mit gleichem Inhalt wiederholt"));
        }
        EventKind::SecondArrival { .. } => {
            records.infos.push(record("doppelt", "Dem Leser schon einmal zugegangen"));
        }
        EventKind::Delivered { mailbox: Some(_), .. } => {
            records.infos.push(record("postfach", "In das Postfach des Lesers gelegt"));
        }
        EventKind::Delivered { .. } => records.infos.push(record("zugestellt", "Zugestellt")),
        EventKind::Leased { attempt, .. } | EventKind::Taken { attempt, .. } => match attempt {
            1 => records.infos.push(record("abgerufen", "Vom Leser abgerufen")),
            n => records.infos.push(record("abgerufen", &format!("Vom Leser erneut abgerufen, Abruf {n}"))),
        },
        EventKind::Acknowledged { .. } if stored.delivery.attempts == 0 => {
            records.warnings.push(record("nicht-abgerufen", "Quittiert, ohne abgerufen worden zu sein"));
        }
        EventKind::Acknowledged { .. } => records.infos.push(record("quittiert", "Vom Leser quittiert")),
        EventKind::Cancelled { reason: None, .. } => {
            records.warnings.push(record("storniert", "Vom Autor storniert"));
        }
        EventKind::Cancelled { reason: Some(_), .. } => {
            records.warnings.push(record("aufgegeben", "Vom Betrieb aufgegeben"));
        }
        EventKind::Expired => {
            records.warnings.push(record("verfallen", "Gültigkeit abgelaufen, nicht zugestellt"));
        }
        EventKind::Rejected { reason } => {
            let reason = match reason {
                RejectReason::Route { .. } | RejectReason::Unroutable => "Kein Zustellweg",
                RejectReason::IdTaken => "MessageID im Postfach des Lesers schon vergeben",
                RejectReason::Department { .. } => "Vom Leser zurückgewiesen",
            };
            records.errors.push(record("abgelehnt", reason));
        }
        EventKind::Dead { .. } => records.errors.push(record("zustellfehler", "Nicht zustellbar")),
        EventKind::Redriven { .. } => records.infos.push(record("erneut", "Vom Betrieb erneut angestoßen")),
        EventKind::Rerouted { .. } => records.infos.push(record("umgeleitet", "Vom Betrieb umgeleitet")),
        EventKind::Remote { stage: RemoteStage::Fetched, .. } => {
            records.infos.push(record("dort-abgerufen", "Beim Intermediär abgerufen"));
        }
        EventKind::Remote { stage: RemoteStage::Received, .. } => {
            records.infos.push(record("dort-quittiert", "Beim Intermediär quittiert"));
        }
        EventKind::Replied { .. } => records.infos.push(record("beantwortet", "Vom Leser beantwortet")),
        EventKind::DeadlineMissed { .. } => {
            records.infos.push(record("frist", "Die Frist ist verstrichen"));
        }
        EventKind::PayloadRemoved => records.infos.push(record("geloescht", "Inhalt gelöscht")),
        EventKind::Routed { .. }
        | EventKind::RouteOpen { .. }
        | EventKind::Sealed(_)
        | EventKind::SealFailed { .. }
        | EventKind::AttemptStarted { .. }
        | EventKind::AttemptFailed { .. }
        | EventKind::AttemptLost { .. }
        | EventKind::Fetched { .. }
        | EventKind::LeaseExpired
        | EventKind::Released { .. }
        | EventKind::DeadlineNear { .. }
        | EventKind::Held { .. }
        | EventKind::HoldEnded { .. }
        | EventKind::SenderNotified { .. } => {}
    }
}
