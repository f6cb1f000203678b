//! The seventeen data operations. Functions are named as in the published interface.

use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::certificate::{describe, fingerprint, wire_time};
use crate::faults::Fault;
use crate::model::{Directory, Element, Holder, Organization, Service};
use crate::problem::{Answer, empty, missing, not_found, reply, unreadable};
use crate::server::{Miss, Mock};

const JSON: &str = "application/json; charset=utf-8";
const BATCH_MAX: usize = 200;
const ELEMENT_TYPES: [&str; 6] = [
    "OSCI_INTERMEDIARY",
    "OSCI_ADDRESSEE",
    "CIPHER_CERTIFICATE",
    "SIGNATURE_CERTIFICATE",
    "WEBSERVER",
    "TEXT",
];
const PARAMETER_TYPES: [&str; 3] = ["CIPHER_CERTIFICATE", "SIGNATURE_CERTIFICATE", "URI"];

/// What a single question leads to.
enum Outcome {
    Value(Value),
    /// No hit; the number of the problem and what was not found.
    Miss(&'static str, String),
    /// A service exists, but is not valid now.
    NotValid(String),
    /// No hit, answered without a body.
    Nothing,
}

type Question<'a> = &'a Map<String, Value>;

/// A data operation: the fields it needs, in order, and what answers it.
struct Operation {
    function: &'static str,
    needs: &'static [&'static str],
    answer: fn(&Mock, Question<'_>, Timestamp) -> Outcome,
    /// What a miss is inside a batch.
    batch_miss: fn() -> Value,
    batch: bool,
}

const OPERATIONS: [Operation; 8] = [
    Operation {
        function: "findauthoritydescription",
        needs: &["category", "organizationKey"],
        answer: authority,
        batch_miss: || Value::Null,
        batch: true,
    },
    Operation {
        function: "findauthoritydescriptions",
        needs: &["organizationKey"],
        answer: authorities,
        batch_miss: || Value::Null,
        batch: false,
    },
    Operation {
        function: "findservicedescription",
        needs: &["organizationKey", "serviceSpecificationUri"],
        answer: service,
        batch_miss: || Value::Null,
        batch: true,
    },
    Operation {
        function: "findCertificateByFingerprint",
        needs: &["fingerPrint"],
        answer: certificate,
        batch_miss: || Value::Null,
        batch: false,
    },
    Operation {
        function: "findcategories",
        needs: &["fingerPrint", "organizationKey"],
        answer: categories_of,
        batch_miss: || json!([]),
        batch: true,
    },
    Operation {
        function: "verifycategory",
        needs: &["fingerPrint", "category"],
        answer: verify,
        batch_miss: || json!({ "verifyCategory": false }),
        batch: true,
    },
    Operation {
        function: "findServiceSpecificationUrisByCategory",
        needs: &["category"],
        answer: specifications,
        batch_miss: || json!([]),
        batch: true,
    },
    Operation {
        function: "findOrganizationsByServiceElement",
        needs: &["parameterType", "parameterValue"],
        answer: by_element,
        batch_miss: || json!([]),
        batch: true,
    },
];

/// Answers a GET of a function; `None` if there is no such function.
pub(crate) fn get(
    mock: &Mock,
    function: &str,
    request_json: Option<&str>,
    faults: &[Fault],
) -> Option<Answer> {
    let now = mock.now();
    let value = match function {
        "categories" => mock.directory().categories.clone(),
        "intermediaries" => intermediaries(mock),
        // Declared as a string that holds JSON; the key is spelled like that.
        "version" => {
            json!(
                json!({ "version": "2.15.0-mock", "buildnunmber": "1", "schemaversion": "2.15" }).to_string()
            )
        }
        _ => {
            let operation = OPERATIONS.iter().find(|one| one.function == function)?;
            return Some(single(mock, operation, request_json, now, faults));
        }
    };
    Some(ok(spoil(value, faults)))
}

fn single(
    mock: &Mock,
    operation: &Operation,
    request: Option<&str>,
    now: Timestamp,
    faults: &[Fault],
) -> Answer {
    let Some(text) = request else { return missing("request_json") };
    let Ok(Value::Object(question)) = serde_json::from_str(text) else { return unreadable(text) };
    if let Err(answer) = check(operation, &question, text) {
        return *answer;
    }
    match (operation.answer)(mock, &question, now) {
        Outcome::Value(value) => ok(spoil(value, faults)),
        Outcome::Nothing => empty(StatusCode::NOT_FOUND),
        Outcome::NotValid(warning) => {
            let mut answer = empty(StatusCode::NO_CONTENT);
            if let Ok(value) = HeaderValue::from_str(&encoded_word(&warning)) {
                answer.headers_mut().insert("dvdv-warning-msg", value);
            }
            answer
        }
        Outcome::Miss(number, what) => match mock.options().miss {
            Miss::NotFound => not_found(number, &what),
            Miss::NoContent => empty(StatusCode::NO_CONTENT),
        },
    }
}

/// Answers a batch POST of a function; `None` if it has no batch form.
pub(crate) fn post(mock: &Mock, function: &str, body: &str, faults: &[Fault]) -> Option<Answer> {
    let operation = OPERATIONS.iter().find(|one| one.function == function && one.batch)?;
    let Ok(Value::Array(questions)) = serde_json::from_str(body) else { return Some(unreadable(body)) };
    if questions.len() > BATCH_MAX {
        return Some(unreadable("more than 200 items"));
    }
    let now = mock.now();
    let mut results = Vec::with_capacity(questions.len());
    for (number, question) in questions.iter().enumerate() {
        let Value::Object(question) = question else { return Some(unreadable(&format!("item {number}"))) };
        if let Err(answer) = check(operation, question, &format!("item {number}")) {
            return Some(*answer);
        }
        results.push(match (operation.answer)(mock, question, now) {
            Outcome::Value(value) => value,
            Outcome::Miss(..) | Outcome::NotValid(_) | Outcome::Nothing => (operation.batch_miss)(),
        });
    }
    if faults.contains(&Fault::ShortBatch) {
        results.pop();
    }
    Some(ok(spoil(Value::Array(results), faults)))
}

/// Needed fields present, enumerations and lengths as published.
fn check(operation: &Operation, question: Question<'_>, received: &str) -> Result<(), Box<Answer>> {
    for field in operation.needs {
        if text(question, field).is_empty() {
            return Err(Box::new(missing(field)));
        }
    }
    let one_of = |field: &str, values: &[&str]| {
        question
            .get(field)
            .is_none_or(|value| value.is_null() || value.as_str().is_some_and(|one| values.contains(&one)))
    };
    let length = |field: &str, range: std::ops::RangeInclusive<usize>| {
        question.get(field).is_none_or(|value| {
            value.is_null() || value.as_str().is_some_and(|one| range.contains(&one.chars().count()))
        })
    };
    let fits = one_of("serviceElementType", &ELEMENT_TYPES)
        && one_of("parameterType", &PARAMETER_TYPES)
        && length("fingerPrint", 40..=40)
        && length("category", 1..=255)
        && length("organizationKey", 6..=255)
        && length("serviceSpecificationUri", 9..=1000);
    if !fits {
        return Err(Box::new(unreadable(received)));
    }
    let selects = !text(question, "serviceElementType").is_empty()
        || !text(question, "customServiceElementType").is_empty();
    if operation.function == "findOrganizationsByServiceElement" && !selects {
        return Err(Box::new(missing("serviceElementType")));
    }
    Ok(())
}

fn text<'a>(question: Question<'a>, field: &str) -> &'a str {
    question.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn ok(value: Value) -> Answer {
    reply(StatusCode::OK, JSON, value.to_string())
}

/// RFC 2047 encoded word, quoted-printable.
fn encoded_word(text: &str) -> String {
    let mut word = "=?UTF-8?Q?".to_owned();
    for byte in text.bytes() {
        match byte {
            b' ' => word.push('_'),
            b if b.is_ascii_alphanumeric() => word.push(char::from(b)),
            b => word.push_str(&format!("={b:02X}")),
        }
    }
    word + "?="
}

fn valid(from: Option<Timestamp>, to: Option<Timestamp>, now: Timestamp) -> bool {
    from.is_none_or(|from| from <= now) && to.is_none_or(|to| now < to)
}

fn found<'a>(directory: &'a Directory, key: &str, now: Timestamp) -> Vec<&'a Organization> {
    let known = directory.organizations.iter().filter(|one| one.keys.iter().any(|other| other == key));
    known.filter(|one| valid(one.valid_from, one.valid_to, now)).collect()
}

fn authority(mock: &Mock, question: Question<'_>, now: Timestamp) -> Outcome {
    let (key, category) = (text(question, "organizationKey"), text(question, "category"));
    match found(&mock.directory(), key, now).into_iter().find(|one| one.category == category) {
        Some(organization) => Outcome::Value(description(mock, organization)),
        None => Outcome::Miss("5009", format!("Organisation {key} ({category})")),
    }
}

fn authorities(mock: &Mock, question: Question<'_>, now: Timestamp) -> Outcome {
    let directory = mock.directory();
    let found = found(&directory, text(question, "organizationKey"), now);
    Outcome::Value(found.into_iter().map(|one| description(mock, one)).collect())
}

fn service(mock: &Mock, question: Question<'_>, now: Timestamp) -> Outcome {
    let (key, uri) = (text(question, "organizationKey"), text(question, "serviceSpecificationUri"));
    let directory = mock.directory();
    let organizations =
        directory.organizations.iter().filter(|one| one.keys.iter().any(|other| other == key));
    let mut services = organizations
        .flat_map(|organization| organization.services.iter().map(move |service| (organization, service)))
        .filter(|(_, service)| service.specification == uri)
        .peekable();
    if services.peek().is_none() {
        return Outcome::Miss("5005", format!("Dienst {uri} für {key}"));
    }
    match services.find(|(_, service)| valid(service.valid_from, service.valid_to, now)) {
        Some((organization, service)) => Outcome::Value(full_service(mock, organization, service)),
        None => Outcome::NotValid("Dienst ungültig".to_owned()),
    }
}

fn certificate(mock: &Mock, question: Question<'_>, _: Timestamp) -> Outcome {
    let wanted = text(question, "fingerPrint").to_lowercase();
    let client =
        mock.clients().into_iter().find(|client| fingerprint(&client.der) == wanted).map(|client| client.der);
    match client.or_else(|| mock.certificates().by_fingerprint(&wanted).map(|(_, der)| der)) {
        Some(der) => Outcome::Value(describe(&der)),
        None => Outcome::Nothing,
    }
}

/// Categories whose client certificate this is.
fn client_categories(mock: &Mock, wanted: &str) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let clients = mock.clients().into_iter().filter(|client| fingerprint(&client.der) == wanted);
    let mut categories: Vec<String> = clients.map(|client| client.category).collect();
    if let Some((Holder::Category(category), _)) = mock.certificates().by_fingerprint(&wanted) {
        categories.push(category);
    }
    categories.sort();
    categories.dedup();
    categories
}

fn categories_of(mock: &Mock, question: Question<'_>, now: Timestamp) -> Outcome {
    let own = client_categories(mock, text(question, "fingerPrint"));
    let directory = mock.directory();
    let found = found(&directory, text(question, "organizationKey"), now);
    let mut categories: Vec<&str> = found.iter().map(|one| one.category.as_str()).collect();
    categories.retain(|category| own.iter().any(|one| one == category));
    categories.sort_unstable();
    categories.dedup();
    Outcome::Value(json!(categories))
}

fn verify(mock: &Mock, question: Question<'_>, _: Timestamp) -> Outcome {
    let own = client_categories(mock, text(question, "fingerPrint"));
    Outcome::Value(json!({ "verifyCategory": own.iter().any(|one| one == text(question, "category")) }))
}

fn specifications(mock: &Mock, question: Question<'_>, _: Timestamp) -> Outcome {
    Outcome::Value(json!(
        mock.directory().allowed.get(text(question, "category")).cloned().unwrap_or_default()
    ))
}

fn by_element(mock: &Mock, question: Question<'_>, now: Timestamp) -> Outcome {
    let (kind, custom) = (text(question, "serviceElementType"), text(question, "customServiceElementType"));
    let (parameter, value) = (text(question, "parameterType"), text(question, "parameterValue"));
    let carries = |holder: &Option<Holder>| {
        let known = mock.certificates().by_fingerprint(&value.to_lowercase());
        known.is_some_and(|(known, _)| holder.as_ref() == Some(&known))
    };
    let matches = |element: &Element| {
        (kind.is_empty() || element.kind == kind)
            && (custom.is_empty() || element.custom_kind == Some(custom))
            && match parameter {
                "URI" => element.uri.as_deref() == Some(value),
                "CIPHER_CERTIFICATE" => carries(&element.cipher),
                _ => carries(&element.signature),
            }
    };
    let directory = mock.directory();
    let organizations = directory.organizations.iter().filter(|one| valid(one.valid_from, one.valid_to, now));
    let found =
        organizations.filter(|one| one.services.iter().flat_map(|service| &service.elements).any(matches));
    Outcome::Value(found.map(light).collect())
}

fn intermediaries(mock: &Mock) -> Value {
    let directory = mock.directory();
    let list = directory.intermediaries.iter().enumerate();
    list.map(|(number, uri)| {
        json!({
            "id": 9900 + number, "orgaProvId": 77, "provider": true, "orgaProvName": "Beispiel-RZ",
            "orgaProvAddress": "Musterstraße 1", "selName": format!("Intermediär {}", number + 1),
            "selDescription": "Beispiel", "uri": uri,
        })
    })
    .collect()
}

fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}

/// An organisation without certificates and services.
fn light(organization: &Organization) -> Value {
    without_nulls(json!({
        "id": organization.id,
        "validFrom": organization.valid_from.map(wire_time),
        "validTo": organization.valid_to.map(wire_time),
        "nameDe": organization.name,
        "postalAddress": organization.address,
        "locationStateId": organization.state,
        "category": organization.category,
        "organizationKeys": organization.keys,
    }))
}

fn full(mock: &Mock, organization: &Organization) -> Value {
    let mut value = light(organization);
    let clients = mock.clients().into_iter().filter(|client| client.category == organization.category);
    let mut certificates: Vec<Value> = clients.map(|client| describe(&client.der)).collect();
    let own = Holder::Category(organization.category.clone());
    certificates.extend(mock.certificates().of(&own).ok().map(|der| describe(&der)));
    value["clientCertificates"] = Value::Array(certificates);
    value["services"] = organization.services.iter().map(base_service).collect();
    value
}

fn description(mock: &Mock, organization: &Organization) -> Value {
    let representative = organization.representative.as_ref();
    let directory = mock.directory();
    let known = directory.organizations.iter();
    let representatives: Vec<Value> = known
        .filter(|one| representative.is_some_and(|key| one.keys.contains(key)))
        .map(|one| full(mock, one))
        .collect();
    json!({ "organization": full(mock, organization), "representatives": representatives })
}

fn base_service(service: &Service) -> Value {
    without_nulls(json!({
        "id": service.id,
        "validFrom": service.valid_from.map(wire_time),
        "validTo": service.valid_to.map(wire_time),
        "nameDe": service.name,
        "serviceDescriptionName": service.name,
        "serviceSpecificationType": "WSDL_OSCI",
        "serviceSpecificationUri": service.specification,
    }))
}

fn full_service(mock: &Mock, organization: &Organization, service: &Service) -> Value {
    let mut value = base_service(service);
    value["serviceSpecificationDocument"] =
        "<definitions xmlns=\"http://schemas.xmlsoap.org/wsdl/\"/>".into();
    value["organizationNameDe"] = organization.name.as_str().into();
    if let Some(state) = organization.state {
        value["locationStateId"] = state.into();
    }
    value["serviceElements"] = service.elements.iter().map(|one| element(mock, one)).collect();
    value
}

fn element(mock: &Mock, element: &Element) -> Value {
    let certificate = |holder: &Option<Holder>| {
        holder.as_ref().and_then(|holder| mock.certificates().of(holder).ok()).map(|der| describe(&der))
    };
    without_nulls(json!({
        "serviceElementName": format!("{} {}", element.role, element.id),
        "serviceElementDescriptionName": element.role,
        "serviceElementType": element.kind,
        "customServiceElementType": element.custom_kind,
        "serviceElementText": element.text,
        "serviceElementUri": element.uri,
        "cipherCertificate": certificate(&element.cipher),
        "signatureCertificate": certificate(&element.signature),
        "required": true,
        "serviceElementId": element.id,
        "providerId": 77,
        "providerNameDe": "Beispiel-RZ",
    }))
}

/// Applies the faults that change content.
fn spoil(mut value: Value, faults: &[Fault]) -> Value {
    for fault in faults {
        match fault {
            Fault::NullRequired => each_object(&mut value, &|members| {
                for name in ["id", "category", "serviceSpecificationType", "providerId", "serviceElementId"] {
                    if let Some(member) = members.get_mut(name) {
                        *member = Value::Null;
                    }
                }
            }),
            Fault::UnknownEnum => each_object(&mut value, &|members| {
                for name in ["serviceElementType", "serviceSpecificationType"] {
                    if let Some(member) = members.get_mut(name) {
                        *member = "SOMETHING_NEW".into();
                    }
                }
            }),
            Fault::UnknownProperty => each_object(&mut value, &|members| {
                members.insert("somethingNew".to_owned(), json!({ "deep": [1] }));
            }),
            Fault::RevokedReasonOnly => each_object(&mut value, &|members| {
                if members.contains_key("fingerprint") {
                    members.insert("revocationReason".to_owned(), "KEY_COMPROMISE".into());
                }
            }),
            Fault::RevokedBadDate => each_object(&mut value, &|members| {
                if members.contains_key("fingerprint") {
                    members.insert("revocationDate".to_owned(), "gestern".into());
                }
            }),
            _ => {}
        }
    }
    value
}

fn each_object(value: &mut Value, change: &dyn Fn(&mut Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(|member| each_object(member, change));
            change(members);
        }
        Value::Array(list) => list.iter_mut().for_each(|one| each_object(one, change)),
        _ => {}
    }
}
