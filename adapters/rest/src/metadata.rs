//! Reads the metadata part. Unknown fields are errors; all problems are reported at once, by field, never with the value.

use std::str::FromStr;

use amtsbote_core::Timestamp;
use amtsbote_core::key::{CaseId, InvalidKey, OrderingKey, PartyId, ServiceKey};
use amtsbote_core::message::{MessageType, Metadata, Priority};
use serde_json::{Map, Value};

/// Longest free text field.
const TEXT_MAX: usize = 1_000;

/// A field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldProblem {
    pub(crate) field: String,
    pub(crate) problem: String,
}

/// What a face adds for an answer: metadata the replying department must not choose.
pub(crate) struct ReplyTo<'a> {
    pub(crate) original: &'a Metadata,
    pub(crate) id: amtsbote_core::id::MessageId,
    pub(crate) recipient: &'a PartyId,
}

struct Fields {
    path: &'static str,
    left: Map<String, Value>,
    problems: Vec<FieldProblem>,
}

impl Fields {
    fn open(path: &'static str, value: Value) -> Result<Self, FieldProblem> {
        match value {
            Value::Object(left) => Ok(Self { path, left, problems: Vec::new() }),
            _ => Err(FieldProblem { field: path.to_owned(), problem: "expected an object".to_owned() }),
        }
    }

    fn wrong(&mut self, name: &str, problem: impl Into<String>) {
        let field = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        self.problems.push(FieldProblem { field, problem: problem.into() });
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.left.remove(name)? {
            Value::String(text)
                if text.chars().count() <= TEXT_MAX && !text.chars().any(char::is_control) =>
            {
                Some(text)
            }
            Value::String(_) => {
                self.wrong(name, format!("at most {TEXT_MAX} characters without control characters"));
                None
            }
            _ => {
                self.wrong(name, "expected a string");
                None
            }
        }
    }

    fn key<T: FromStr<Err = InvalidKey>>(&mut self, name: &str) -> Option<T> {
        let text = self.text(name)?;
        text.parse().map_err(|error: InvalidKey| self.wrong(name, error.hint)).ok()
    }

    fn time(&mut self, name: &str) -> Option<Timestamp> {
        let text = self.text(name)?;
        text.parse()
            .map_err(|_| self.wrong(name, "expected an RFC 3339 time such as 2026-01-01T00:00:00Z"))
            .ok()
    }

    /// An object with exactly one of the given members, as `member:value`.
    fn one_of<T: FromStr<Err = InvalidKey>>(&mut self, name: &'static str, members: &[&str]) -> Option<T> {
        let allowed = members.join(", ");
        let (member, value) = match self.left.remove(name)? {
            Value::Object(object) if object.len() == 1 => object.into_iter().next()?,
            _ => {
                self.wrong(name, format!("expected an object with exactly one of {allowed}"));
                return None;
            }
        };
        match value {
            Value::String(text) if members.contains(&member.as_str()) => {
                let parsed = format!("{member}:{text}").parse();
                parsed.map_err(|error: InvalidKey| self.wrong(&format!("{name}.{member}"), error.hint)).ok()
            }
            Value::String(_) => {
                self.wrong(name, format!("expected an object with exactly one of {allowed}"));
                None
            }
            _ => {
                self.wrong(&format!("{name}.{member}"), "expected a string");
                None
            }
        }
    }

    fn close(mut self, problems: &mut Vec<FieldProblem>) {
        let unknown: Vec<String> = self.left.keys().cloned().collect();
        for name in unknown {
            // The name came from outside: shown only when it is a plausible field name.
            let shown = if name.len() <= 64
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
            {
                name
            } else {
                "?".to_owned()
            };
            self.wrong(&shown, "unknown field");
        }
        problems.append(&mut self.problems);
    }
}

/// Reads the metadata of a submission.
pub(crate) fn read(bytes: &[u8]) -> Result<Metadata, Vec<FieldProblem>> {
    let mut fields = open(bytes)?;
    let service = fields.one_of("service", &["leika", "ozg", "uri"]);
    if service.is_none() && fields.problems.is_empty() {
        fields.wrong("service", "is required");
    }
    let area_given = fields.left.contains_key("area");
    let recipient_given = fields.left.contains_key("recipient");
    let area = fields.one_of("area", &["ars", "ags"]);
    let recipient = fields.key("recipient");
    match (area_given, recipient_given) {
        (true, true) => fields.wrong("area", "must be absent when a recipient is named"),
        (false, false) => fields.wrong("area", "either area or recipient is required"),
        _ => {}
    }
    let reply_to = fields.key("replyTo");
    let in_reply_to = fields.text("inReplyTo").and_then(|text| {
        text.parse().map_err(|_| fields.wrong("inReplyTo", "expected urn:uuid:<uuid>")).ok()
    });
    let common = Common::read(&mut fields);
    let mut problems = Vec::new();
    fields.close(&mut problems);
    match service {
        Some(service) if problems.is_empty() => {
            Ok(Metadata { area, recipient, reply_to, in_reply_to, ..common.for_service(service) })
        }
        _ => Err(problems),
    }
}

/// Reads the metadata of an answer; service, recipient and case come from the message it answers.
pub(crate) fn read_reply(bytes: &[u8], to: &ReplyTo<'_>) -> Result<Metadata, Vec<FieldProblem>> {
    let mut fields = open(bytes)?;
    let common = Common::read(&mut fields);
    let mut problems = Vec::new();
    fields.close(&mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Metadata {
        recipient: Some(to.recipient.clone()),
        case_id: to.original.case_id.clone(),
        process_ref: to.original.process_ref.clone(),
        in_reply_to: Some(to.id),
        ..common.for_service(to.original.service.clone())
    })
}

fn open(bytes: &[u8]) -> Result<Fields, Vec<FieldProblem>> {
    let whole =
        |problem: &str| vec![FieldProblem { field: "metadata".to_owned(), problem: problem.to_owned() }];
    let value = serde_json::from_slice(bytes).map_err(|_| whole("expected a JSON object in UTF-8"))?;
    Fields::open("", value).map_err(|_| whole("expected a JSON object in UTF-8"))
}

/// The fields that submissions and answers share.
struct Common {
    subject: Option<String>,
    case_id: Option<CaseId>,
    priority: Priority,
    not_before: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    deadline: Option<Timestamp>,
    ordering_key: Option<OrderingKey>,
    message_type: Option<MessageType>,
    business_scenario: Option<String>,
    process_ref: Option<String>,
}

impl Common {
    fn read(fields: &mut Fields) -> Self {
        let priority = match fields.text("priority").as_deref() {
            None | Some("normal") => Priority::Normal,
            Some("high") => Priority::High,
            Some(_) => {
                fields.wrong("priority", "expected normal or high");
                Priority::Normal
            }
        };
        let message_type =
            fields.left.remove("messageType").and_then(|value| message_type(value, &mut fields.problems));
        Self {
            subject: fields.text("subject"),
            case_id: fields.key("caseId"),
            priority,
            not_before: fields.time("notBefore"),
            expires_at: fields.time("expiresAt"),
            deadline: fields.time("deadline"),
            ordering_key: fields.key("orderingKey"),
            message_type,
            business_scenario: fields.text("businessScenario"),
            process_ref: fields.text("processRef"),
        }
    }

    fn for_service(self, service: ServiceKey) -> Metadata {
        Metadata {
            service,
            area: None,
            recipient: None,
            subject: self.subject,
            case_id: self.case_id,
            priority: self.priority,
            not_before: self.not_before,
            expires_at: self.expires_at,
            deadline: self.deadline,
            ordering_key: self.ordering_key,
            reply_to: None,
            message_type: self.message_type,
            business_scenario: self.business_scenario,
            in_reply_to: None,
            process_ref: self.process_ref,
        }
    }
}

fn message_type(value: Value, problems: &mut Vec<FieldProblem>) -> Option<MessageType> {
    let mut fields = match Fields::open("messageType", value) {
        Ok(fields) => fields,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    let (code, payload_schema) = (fields.text("code"), fields.text("payloadSchema"));
    let (list_uri, list_version) = (fields.text("listUri"), fields.text("listVersion"));
    for (name, value) in [("code", &code), ("payloadSchema", &payload_schema)] {
        if value.is_none() {
            fields.wrong(name, "is required");
        }
    }
    fields.close(problems);
    Some(MessageType { code: code?, payload_schema: payload_schema?, list_uri, list_version })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(json: &str) -> Vec<String> {
        let found = read(json.as_bytes()).err().unwrap_or_default();
        found.into_iter().map(|one| format!("{}: {}", one.field, one.problem)).collect()
    }

    #[test]
    fn complete_metadata_is_read() {
        let json = r#"{"service":{"leika":"99107023037000"},"area":{"ags":"07315000"},"subject":"Wohngeld","caseId":"4711",
            "priority":"high","notBefore":"2026-01-01T00:00:00Z","expiresAt":"2026-03-01T00:00:00+01:00",
            "deadline":"2026-02-01T00:00:00Z","orderingKey":"k","replyTo":"ags:07315000",
            "messageType":{"code":"0200","payloadSchema":"urn:x"},"businessScenario":"s","processRef":"p",
            "inReplyTo":"urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057"}"#;
        let metadata = read(json.as_bytes()).unwrap();
        assert_eq!((metadata.priority, metadata.case_id.unwrap().as_str()), (Priority::High, "4711"));
    }

    #[test]
    fn every_problem_is_reported_by_field_and_without_its_value() {
        let found = problems(
            r#"{"service":{"leika":"9910702303700"},"area":{"ags":"7315000"},"recipient":"Geheim","priority":"sofort",
                "deadline":"morgen","Name":"Erika Mustermann","caseId":7,"messageType":{"code":"x"}}"#,
        );
        for field in [
            "service.leika",
            "area.ags",
            "recipient",
            "area:",
            "priority",
            "deadline",
            "Name: unknown",
            "caseId",
            "messageType.payloadSchema",
        ] {
            assert!(found.iter().any(|one| one.starts_with(field)), "{field} in {found:#?}");
        }
        let all = found.join(" ");
        for value in ["9910702303700", "7315000", "Geheim", "sofort", "morgen", "Erika"] {
            assert!(!all.contains(value), "{value} leaked");
        }
    }

    #[test]
    fn selectors_must_be_exactly_one() {
        for json in [
            r#"{"service":{"ozg":"10092","leika":"99107023037000"},"area":{"ars":"07"}}"#,
            r#"{"service":{},"area":{"ars":"07"}}"#,
            r#"{"service":{"name":"x"},"area":{"ars":"07"}}"#,
            r#"{"area":{"ars":"07"}}"#,
            r#"{"service":{"ozg":"10092"}}"#,
            r#"{"service":{"ozg":"10092"},"area":{"plz":"55116"}}"#,
            r#"{"service":{"ozg":10092},"area":{"ars":"07"}}"#,
            "[]",
            "{",
            "\u{feff}",
        ] {
            assert!(!problems(json).is_empty(), "{json}");
        }
    }
}
