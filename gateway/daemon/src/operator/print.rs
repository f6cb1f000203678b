//! What answers look like for people.

use amtsbote_core::port::Clock as _;
use serde_json::Value;

use super::table::{age, clean, print_table, say, text};
use crate::SystemClock;

pub(super) fn members<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer[name].as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn hold_line(hold: &Value) -> String {
    let until = hold["until"].as_str().map_or(String::new(), |until| format!(", until {until}"));
    let (scope, key, reason) = (text(hold, "scope"), text(hold, "key"), text(hold, "reason"));
    clean(&format!("{scope} {key} ({reason}; by {}{until})", text(hold, "by")))
}

pub(super) fn print_holds(answer: &Value) {
    let holds = members(answer, "holds");
    let row = |hold: &Value| {
        ["scope", "key", "since", "until", "by", "reason"].map(|name| text(hold, name).to_owned()).to_vec()
    };
    print_table(
        &["SCOPE", "KEY", "SINCE", "UNTIL", "BY", "REASON"],
        holds.iter().map(row),
        "nothing is held",
    );
}

pub(super) fn print_queues(answer: &Value) {
    let now = SystemClock.now();
    let row = |one: &Value| {
        let why = match (one.get("hold"), one.get("breaker")) {
            (Some(hold), _) => format!("{} ({})", text(hold, "reason"), text(hold, "by")),
            (None, Some(breaker)) => {
                let reason = &breaker["reason"];
                let probe = text(breaker, "nextProbe");
                format!("{}: {}; next try {probe}", text(reason, "code"), text(reason, "detail"))
            }
            (None, None) => String::new(),
        };
        let oldest = text(one, "oldest").parse().ok().map_or(String::new(), |oldest| age(oldest, now));
        vec![
            text(one, "destination").to_owned(),
            text(one, "state").to_owned(),
            one["messages"].to_string(),
            oldest,
            why,
        ]
    };
    let destinations = members(answer, "destinations").iter().map(row);
    print_table(&["DESTINATION", "STATE", "MESSAGES", "OLDEST", "WHY"], destinations, "nothing waits");
    say(&format!("dead letters: {}", answer["deadLetters"]));
}

pub(super) fn print_dead_letters(answer: &Value) {
    let row = |one: &Value| {
        let last = &one["reason"]["last"];
        vec![
            text(one, "id").to_owned(),
            text(one, "since").to_owned(),
            text(one, "destination").to_owned(),
            text(one, "account").to_owned(),
            one["attempts"].to_string(),
            text(last, "code").to_owned(),
            text(last, "detail").to_owned(),
        ]
    };
    let heads = ["ID", "SINCE", "DESTINATION", "ACCOUNT", "ATTEMPTS", "CODE", "DETAIL"];
    print_table(&heads, members(answer, "deadLetters").iter().map(row), "no dead letters");
    if answer["next"].is_string() {
        say("there are more; raise --limit or narrow the filter");
    }
}

pub(super) fn print_message(message: &Value) {
    say(&format!("{} is {}", text(message, "id"), text(message, "state")));
    say(&format!("destination {}, account {}", text(message, "destination"), text(message, "account")));
    let row = |event: &Value| {
        let mut rest = event.clone();
        if let Some(members) = rest.as_object_mut() {
            members.remove("at");
            members.remove("event");
            // Long, and only good for programs; --json has it.
            members.remove("signature");
        }
        let rest = if rest.as_object().is_some_and(serde_json::Map::is_empty) {
            String::new()
        } else {
            rest.to_string()
        };
        vec![text(event, "at").to_owned(), text(event, "event").to_owned(), rest]
    };
    print_table(&["AT", "EVENT", "DETAILS"], members(message, "events").iter().map(row), "no events");
}

pub(super) fn print_trace(message: &Value) {
    let ids = members(message, "externalIds").iter();
    let ids: Vec<_> = ids.map(|one| format!("{} {}", text(one, "scheme"), text(one, "value"))).collect();
    if !ids.is_empty() {
        say(&clean(&format!("known as {}", ids.join(", "))));
    }
    let metadata = &message["contents"]["metadata"];
    if let Some(service) = metadata["service"].as_object() {
        let service =
            service.iter().map(|(kind, key)| format!("{kind}:{}", key.as_str().unwrap_or_default()));
        let (service, case) = (service.collect::<String>(), text(message, "caseId"));
        say(&clean(&format!("service {service}, case {case}, subject {}", text(metadata, "subject"))));
    }
    for part in members(&message["contents"], "parts") {
        let (name, media_type) = (text(part, "name"), text(part, "mediaType"));
        say(&clean(&format!("part {name} ({media_type}, {} bytes)", part["size"])));
    }
    print_message(message);
}

pub(super) fn print_route(answer: &Value) {
    say(&format!("outcome {}", text(answer, "outcome")));
    let organization = &answer["organization"];
    if organization.is_object() {
        say(&clean(&format!("{} ({})", text(organization, "name"), text(organization, "key"))));
    }
    if answer["channel"].is_object() {
        say(&clean(&format!("channel {}", answer["channel"])));
    }
    for step in members(answer, "trace") {
        say(&clean(&step.as_str().map_or_else(|| step.to_string(), str::to_owned)));
    }
}

pub(super) fn print_accounts(answer: &Value) {
    let list = |one: &Value, name: &str| {
        let words: Vec<_> = members(one, name).iter().filter_map(Value::as_str).collect();
        words.join(" ")
    };
    let row = |one: &Value| {
        vec![
            text(one, "name").to_owned(),
            list(one, "roles"),
            list(one, "parties"),
            list(one, "serves"),
            text(one, "channel").to_owned(),
            members(one, "credentials").len().to_string(),
        ]
    };
    let heads = ["NAME", "ROLES", "PARTIES", "SERVES", "CHANNEL", "CREDENTIALS"];
    print_table(&heads, members(answer, "accounts").iter().map(row), "no accounts");
}

pub(super) fn print_certificates(answer: &Value) {
    let row = |one: &Value| {
        vec![text(one, "role").to_owned(), text(one, "expiresAt").to_owned(), one["daysLeft"].to_string()]
    };
    print_table(&["ROLE", "EXPIRES", "DAYS LEFT"], members(answer, "certificates").iter().map(row), "none");
}

pub(super) fn print_job(job: &Value) {
    print_jobs(std::slice::from_ref(job));
    for failure in members(job, "failures") {
        say(&clean(&format!("{}: {}", text(failure, "id"), text(failure, "problem"))));
    }
}

pub(super) fn print_jobs(jobs: &[Value]) {
    let row = |job: &Value| {
        vec![
            text(job, "job").to_owned(),
            text(job, "action").to_owned(),
            text(job, "state").to_owned(),
            job["total"].to_string(),
            job["done"].to_string(),
            job["failed"].to_string(),
            text(job, "by").to_owned(),
            text(job, "reason").to_owned(),
        ]
    };
    let heads = ["JOB", "ACTION", "STATE", "TOTAL", "DONE", "FAILED", "BY", "REASON"];
    print_table(&heads, jobs.iter().map(row), "no bulk operations");
}

pub(super) fn print_audit(answer: &Value) {
    let row = |entry: &Value| {
        ["at", "by", "action", "target", "reason"].map(|name| text(entry, name).to_owned()).to_vec()
    };
    print_table(
        &["AT", "BY", "ACTION", "TARGET", "REASON"],
        members(answer, "entries").iter().map(row),
        "nothing yet",
    );
}

pub(super) fn print_messages(answer: &Value) {
    let row = |one: &Value| {
        vec![
            text(one, "receivedAt").to_owned(),
            text(one, "id").to_owned(),
            text(one, "state").to_owned(),
            text(one, "destination").to_owned(),
            text(one, "account").to_owned(),
            one["attempts"].to_string(),
            text(&one["lastFailure"], "code").to_owned(),
        ]
    };
    let heads = ["ACCEPTED", "ID", "STATE", "DESTINATION", "ACCOUNT", "ATTEMPTS", "LAST FAILURE"];
    print_table(&heads, members(answer, "messages").iter().map(row), "nothing found");
}

pub(super) fn print_overview(answer: &Value) {
    let health = &answer["health"];
    say(&clean(&format!("{}  dead letters {}", text(health, "status"), answer["deadLetters"])));
    for reason in members(health, "reasons") {
        say(&clean(&format!("  {}", reason.as_str().unwrap_or_default())));
    }
    if let Some(last) = members(answer, "history").last() {
        let rate = |name: &str| last[name].as_f64().unwrap_or(0.0) / last["seconds"].as_f64().unwrap_or(1.0);
        let milliseconds =
            |name: &str| last[name].as_f64().map_or("-".to_owned(), |s| format!("{:.1} ms", s * 1_000.0));
        say(&format!(
            "per second: {:.1} accepted, {:.1} handed over, {:.1} failed; answered within {} (half), {} (99 of 100)",
            rate("accepted"),
            rate("delivered"),
            rate("failed"),
            milliseconds("p50"),
            milliseconds("p99"),
        ));
    }
    say("");
    print_queues(answer);
}
