//! The content of the directory, read from tables.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

/// The tables cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Not a table.
    #[error("{table}: {source}")]
    Table {
        /// Which.
        table: &'static str,
        /// Cause.
        source: csv::Error,
    },
    /// A value is malformed.
    #[error("{table}: `{value}` is not a time")]
    Time {
        /// Which.
        table: &'static str,
        /// The value.
        value: String,
    },
    /// Not JSON.
    #[error("categories: {0}")]
    Categories(#[from] serde_json::Error),
}

#[derive(Debug, Clone)]
pub(crate) struct Organization {
    pub(crate) id: u64,
    pub(crate) keys: Vec<String>,
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) state: Option<u8>,
    pub(crate) address: Option<String>,
    pub(crate) valid_from: Option<Timestamp>,
    pub(crate) valid_to: Option<Timestamp>,
    pub(crate) representative: Option<String>,
    pub(crate) services: Vec<Service>,
}

#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) specification: String,
    pub(crate) valid_from: Option<Timestamp>,
    pub(crate) valid_to: Option<Timestamp>,
    pub(crate) elements: Vec<Element>,
}

/// Which example certificate an element carries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    Intermediary(String),
    Category(String),
}

#[derive(Debug, Clone)]
pub(crate) struct Element {
    pub(crate) id: u64,
    pub(crate) role: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) custom_kind: Option<&'static str>,
    pub(crate) uri: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) cipher: Option<Holder>,
    pub(crate) signature: Option<Holder>,
}

/// The whole directory.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    pub(crate) organizations: Vec<Organization>,
    pub(crate) categories: Value,
    /// Specifications that organisations of a category may offer.
    pub(crate) allowed: BTreeMap<String, BTreeSet<String>>,
    pub(crate) intermediaries: Vec<String>,
}

struct SpecificationRow {
    uri: String,
    category: String,
}

fn time(table: &'static str, value: Option<&String>) -> Result<Option<Timestamp>, DataError> {
    match value.filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => value.parse().map(Some).map_err(|_| DataError::Time { table, value: value.clone() }),
    }
}

type Row = BTreeMap<String, String>;

fn rows(table: &'static str, text: &str) -> Result<Vec<Row>, DataError> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().collect::<Result<_, _>>().map_err(|source| DataError::Table { table, source })
}

fn list(row: &Row, column: &str) -> Vec<String> {
    let text = row.get(column).map(String::as_str).unwrap_or_default();
    text.split(';').filter(|one| !one.is_empty()).map(str::to_owned).collect()
}

fn text(row: &Row, column: &str) -> Option<String> {
    row.get(column).filter(|value| !value.is_empty()).cloned()
}

impl Directory {
    /// Reads the tables; columns as in the example data.
    ///
    /// # Errors
    /// When a table is malformed.
    pub fn load(authorities: &str, services: &str, categories: &str) -> Result<Self, DataError> {
        let mut directory = Self { categories: sorted(serde_json::from_str(categories)?), ..Self::default() };
        let mut specifications = BTreeMap::new();
        for row in rows("services", services)? {
            let (Some(id), Some(uri)) = (text(&row, "ozg_id"), text(&row, "service_specification_uri"))
            else {
                continue;
            };
            let category = text(&row, "dvdv_category").unwrap_or_default();
            directory.allowed.entry(category.clone()).or_default().insert(uri.clone());
            specifications.insert(id, SpecificationRow { uri, category });
        }
        let mut ids = 9000..;
        for (number, row) in rows("authorities", authorities)?.into_iter().enumerate() {
            let organization = organization(number as u64, &row, &specifications, &mut ids)?;
            directory.organizations.push(organization);
            if let Some(uri) = text(&row, "intermediary_uri")
                && !directory.intermediaries.contains(&uri)
            {
                directory.intermediaries.push(uri);
            }
        }
        directory.intermediaries.sort();
        Ok(directory)
    }

    /// The example directory that comes with the mock.
    ///
    /// # Errors
    /// Never, unless the embedded files were edited.
    pub fn example() -> Result<Self, DataError> {
        use crate::example::{AUTHORITIES, CATEGORIES, SERVICES};
        Self::load(AUTHORITIES, SERVICES, CATEGORIES)
    }
}

fn organization(
    number: u64,
    row: &Row,
    specifications: &BTreeMap<String, SpecificationRow>,
    ids: &mut impl Iterator<Item = u64>,
) -> Result<Organization, DataError> {
    let (valid_from, valid_to) =
        (time("authorities", row.get("valid_from"))?, time("authorities", row.get("valid_to"))?);
    let category = text(row, "category").unwrap_or_default();
    let mut keys: Vec<String> = text(row, "organization_key").into_iter().collect();
    keys.extend(list(row, "additional_keys"));
    let mut services = Vec::new();
    for (position, id) in list(row, "services").iter().enumerate() {
        let Some(specification) = specifications.get(id) else { continue };
        let name =
            specification.uri.rsplit('/').next().unwrap_or_default().trim_end_matches(".wsdl").to_owned();
        debug_assert!(!specification.category.is_empty());
        services.push(Service {
            id: 5000 + number * 10 + position as u64,
            name,
            specification: specification.uri.clone(),
            valid_from,
            valid_to,
            elements: elements(row, &category, ids),
        });
    }
    Ok(Organization {
        id: 1000 + number,
        keys,
        name: text(row, "name").unwrap_or_default(),
        category,
        state: text(row, "location_state_id").and_then(|state| state.parse().ok()),
        address: text(row, "postal_address"),
        valid_from,
        valid_to,
        representative: text(row, "representative_key"),
        services,
    })
}

/// Service elements for a channel; everything but OSCI is a convention of Amtsbote, since DVDV knows only OSCI.
fn elements(row: &Row, category: &str, ids: &mut impl Iterator<Item = u64>) -> Vec<Element> {
    let uri = text(row, "addressee_uri");
    let own = Some(Holder::Category(category.to_owned()));
    let mut element = |role, kind, custom_kind, uri, text, cipher| Element {
        id: ids.next().unwrap_or_default(),
        role,
        kind,
        custom_kind,
        uri,
        text,
        cipher,
        signature: None,
    };
    let intermediary = text(row, "intermediary_uri");
    let channel = row.get("channel_type").map(String::as_str).unwrap_or_default();
    match channel {
        "osci-mailbox" | "osci-passive" => {
            let mut elements = vec![element("Empfänger", "OSCI_ADDRESSEE", None, uri, None, own)];
            if let Some(intermediary) = intermediary {
                let cipher = Some(Holder::Intermediary(intermediary.clone()));
                elements.push(element(
                    "Intermediär",
                    "OSCI_INTERMEDIARY",
                    None,
                    Some(intermediary),
                    None,
                    cipher,
                ));
            }
            if channel == "osci-passive" {
                elements.push(element("Zustellart", "TEXT", None, None, Some("passiv".to_owned()), None));
            }
            elements
        }
        "xta-mailbox" => vec![
            element("XTA-Server", "WEBSERVER", Some("AMTSBOTE_XTA2"), uri, None, None),
            element("XTA-Server", "CIPHER_CERTIFICATE", None, None, None, own),
        ],
        "amqp" => vec![element("Warteschlange", "WEBSERVER", Some("AMTSBOTE_AMQP"), uri, None, None)],
        "webhook" => vec![element("Webhook", "WEBSERVER", Some("AMTSBOTE_WEBHOOK"), uri, None, None)],
        "directory" => {
            let path = uri.as_deref().and_then(|uri| uri.strip_prefix("file://")).unwrap_or_default();
            let text = serde_json::json!({ "path": path }).to_string();
            vec![element("Ablage", "TEXT", Some("AMTSBOTE_DIRECTORY"), None, Some(text), None)]
        }
        _ => Vec::new(),
    }
}

/// Categories in alphabetical order on every level, as since 2.15.0.
fn sorted(mut categories: Value) -> Value {
    if let Value::Array(list) = &mut categories {
        list.sort_by_key(|one| one["name"].as_str().unwrap_or_default().to_owned());
        for one in list {
            if let Some(children) = one.get_mut("children") {
                *children = sorted(children.take());
            }
        }
    }
    categories
}
