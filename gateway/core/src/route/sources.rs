//! Reads the operator's files: comma-separated tables with a header line, UTF-8.
//!
//! The area table is the directory of municipalities as Destatis publishes it (GV100AD, see [`super::gv100ad`]), or a table with the
//! columns `ars, ags, level, name, parent_ars, plz_sitz`; levels `bund, land, regierungsbezirk, kreis, verband, gemeinde`. The Bund
//! row `00` is added when it is missing.

use std::collections::HashMap;
use std::str::FromStr;

use jiff::Timestamp;

use super::gv100ad;
use super::tables::{
    Area, AreaLevel, Organization, Responsibility, RoutingTables, Service, ServiceSpecification,
    TableConflict,
};
use crate::key::{Ars, InvalidKey, OzgId, PartyId};

/// Content of the operator's files.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// Area table, in one of the two formats.
    pub areas: &'a str,
    /// Service catalogue: `ozg_id, name, leika_key, service_specification_uri` (several keys or URIs separated by `;`), optional
    /// `exclusive_central`, `valid_from`, `valid_to`.
    pub services: &'a str,
    /// Authorities: `organization_key, additional_keys, name, category, covers, services, valid_from, valid_to`, optional `priority`.
    pub authorities: &'a str,
}

/// What is wrong with which file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceProblem {
    /// The file is not a table.
    #[error("{file}: {detail}")]
    Table {
        /// Which table.
        file: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// A column is missing.
    #[error("{file}: column `{column}` is missing")]
    Column {
        /// Which table.
        file: &'static str,
        /// Which column.
        column: &'static str,
    },
    /// A value is malformed.
    #[error("{file} line {line}, column `{column}`: {detail}")]
    Value {
        /// Which table.
        file: &'static str,
        /// From 1, header included.
        line: u64,
        /// Which column.
        column: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// The tables contradict each other.
    #[error("{0}")]
    Conflict(TableConflict),
}

/// Tables, and what an operator should know about them.
#[derive(Debug)]
pub struct Loaded {
    /// The snapshot.
    pub tables: RoutingTables,
    /// For example entries that will be ambiguous.
    pub warnings: Vec<String>,
}

impl Sources<'_> {
    /// Parses and checks all files.
    ///
    /// # Errors
    /// Every problem found; nothing is half loaded.
    pub fn load(&self) -> Result<Loaded, Vec<SourceProblem>> {
        let (mut warnings, mut problems) = (Vec::new(), Vec::new());
        let mut areas = if gv100ad::recognised(self.areas) {
            gv100ad::read(self.areas, &mut warnings, &mut problems)
        } else {
            Table::read("areas", self.areas, &mut problems, area)
        };
        let services = Table::read("services", self.services, &mut problems, service);
        let authorities = Table::read("authorities", self.authorities, &mut problems, authority);
        if !problems.is_empty() {
            return Err(problems);
        }
        let (organizations, rows): (Vec<_>, Vec<_>) = authorities.into_iter().unzip();
        let rows: Vec<Responsibility> = rows.into_iter().flatten().collect();
        if let Some(bund) = missing_bund(&areas) {
            areas.push(bund);
        }
        warnings.extend(ambiguous(&rows));
        match RoutingTables::try_new(areas, services, organizations, rows) {
            Ok(tables) => Ok(Loaded { tables, warnings }),
            Err(conflicts) => Err(conflicts.into_iter().map(SourceProblem::Conflict).collect()),
        }
    }
}

fn missing_bund(areas: &[Area]) -> Option<Area> {
    let ars: Ars = "00".parse().ok()?;
    (!areas.iter().any(|area| area.ars == ars)).then(|| Area {
        ars,
        ags: None,
        level: AreaLevel::Bund,
        name: "Bund".to_owned(),
        parent: None,
        postcode: None,
    })
}

/// Different organisations with equal service, area and priority and overlapping validity.
fn ambiguous(rows: &[Responsibility]) -> Vec<String> {
    let mut groups: HashMap<(&OzgId, &Ars, i32), Vec<&Responsibility>> = HashMap::new();
    for row in rows {
        groups.entry((&row.service, &row.area, row.priority)).or_default().push(row);
    }
    let overlaps = |a: &Responsibility, b: &Responsibility| {
        a.organization != b.organization
            && a.valid_to.is_none_or(|end| b.valid_from.is_none_or(|start| start < end))
            && b.valid_to.is_none_or(|end| a.valid_from.is_none_or(|start| start < end))
    };
    let mut warnings: Vec<String> = groups
        .iter()
        .filter(|(_, rows)| {
            rows.iter().enumerate().any(|(n, a)| rows[n + 1..].iter().any(|b| overlaps(a, b)))
        })
        .map(|((service, area, _), _)| format!("service {service} in area {area} will be AMBIGUOUS"))
        .collect();
    warnings.sort();
    warnings
}

struct Table<'a> {
    file: &'static str,
    columns: &'a HashMap<String, usize>,
    record: &'a csv::StringRecord,
    problems: &'a mut Vec<SourceProblem>,
}

impl Table<'_> {
    fn read<T>(
        file: &'static str,
        text: &str,
        problems: &mut Vec<SourceProblem>,
        row: fn(&mut Table<'_>) -> Option<T>,
    ) -> Vec<T> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
        let columns: HashMap<String, usize> = match reader.headers() {
            Ok(headers) => headers.iter().enumerate().map(|(n, name)| (name.to_owned(), n)).collect(),
            Err(error) => {
                problems.push(SourceProblem::Table { file, detail: error.to_string() });
                return Vec::new();
            }
        };
        let mut rows = Vec::new();
        for record in reader.records() {
            match record {
                Ok(record) => {
                    rows.extend(row(&mut Table { file, columns: &columns, record: &record, problems }))
                }
                Err(error) => problems.push(SourceProblem::Table { file, detail: error.to_string() }),
            }
        }
        problems.dedup();
        rows
    }

    fn optional(&self, column: &str) -> Option<&str> {
        self.columns.get(column).and_then(|n| self.record.get(*n)).filter(|text| !text.is_empty())
    }

    fn required(&mut self, column: &'static str) -> Option<String> {
        if !self.columns.contains_key(column) {
            self.problems.push(SourceProblem::Column { file: self.file, column });
            return None;
        }
        let value = self.optional(column).map(str::to_owned);
        if value.is_none() {
            self.wrong(column, "a value is required".to_owned());
        }
        value
    }

    fn wrong(&mut self, column: &'static str, detail: String) {
        let line = self.record.position().map_or(0, csv::Position::line);
        self.problems.push(SourceProblem::Value { file: self.file, line, column, detail });
    }

    fn parsed<T: FromStr<Err = InvalidKey>>(&mut self, column: &'static str, text: &str) -> Option<T> {
        text.parse().map_err(|error: InvalidKey| self.wrong(column, error.to_string())).ok()
    }

    fn key<T: FromStr<Err = InvalidKey>>(&mut self, column: &'static str) -> Option<T> {
        let text = self.required(column)?;
        self.parsed(column, &text)
    }

    fn optional_key<T: FromStr<Err = InvalidKey>>(&mut self, column: &'static str) -> Option<T> {
        let text = self.optional(column)?.to_owned();
        self.parsed(column, &text)
    }

    fn list<T: FromStr<Err = InvalidKey>>(&mut self, column: &'static str) -> Vec<T> {
        let text = self.optional(column).unwrap_or_default().to_owned();
        text.split(';')
            .filter(|one| !one.is_empty())
            .filter_map(|one| self.parsed(column, one.trim()))
            .collect()
    }

    fn flag(&mut self, column: &'static str) -> bool {
        match self.optional(column) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                self.wrong(column, "expected true or false".to_owned());
                false
            }
        }
    }

    fn instant(&mut self, column: &'static str) -> Option<Timestamp> {
        let text = self.optional(column)?.to_owned();
        text.parse()
            .map_err(|_| self.wrong(column, "expected a time such as 2026-01-01T00:00:00Z".to_owned()))
            .ok()
    }
}

fn area(table: &mut Table<'_>) -> Option<Area> {
    let level = match table.required("level")?.as_str() {
        "bund" => AreaLevel::Bund,
        "land" => AreaLevel::Land,
        "regierungsbezirk" => AreaLevel::Regierungsbezirk,
        "kreis" => AreaLevel::Kreis,
        "verband" => AreaLevel::Association,
        "gemeinde" => AreaLevel::Municipality,
        _ => {
            table.wrong(
                "level",
                "expected bund, land, regierungsbezirk, kreis, verband or gemeinde".to_owned(),
            );
            return None;
        }
    };
    Some(Area {
        ars: table.key("ars")?,
        ags: table.optional_key("ags"),
        level,
        name: table.required("name")?,
        parent: table.optional_key("parent_ars"),
        postcode: table.optional_key("plz_sitz"),
    })
}

fn service(table: &mut Table<'_>) -> Option<Service> {
    let (valid_from, valid_to) = (table.instant("valid_from"), table.instant("valid_to"));
    let specifications = table.list("service_specification_uri");
    Some(Service {
        id: table.key("ozg_id")?,
        name: table.required("name")?,
        leika: table.list("leika_key"),
        exclusive_central: table.flag("exclusive_central"),
        specifications: specifications
            .into_iter()
            .map(|uri| ServiceSpecification { uri, valid_from, valid_to })
            .collect(),
    })
}

fn authority(table: &mut Table<'_>) -> Option<(Organization, Vec<Responsibility>)> {
    let key: PartyId = table.key("organization_key")?;
    let (valid_from, valid_to) = (table.instant("valid_from"), table.instant("valid_to"));
    let priority = match table.optional("priority").map(str::parse) {
        None => 0,
        Some(Ok(priority)) => priority,
        Some(Err(_)) => {
            table.wrong("priority", "expected a whole number".to_owned());
            0
        }
    };
    let (services, areas): (Vec<OzgId>, Vec<Ars>) = (table.list("services"), table.list("covers"));
    let rows = services.iter().flat_map(|service| {
        areas.iter().map(|area| Responsibility {
            service: service.clone(),
            area: area.clone(),
            organization: key.clone(),
            priority,
            valid_from,
            valid_to,
        })
    });
    let rows = rows.collect();
    let organization = Organization {
        key: key.clone(),
        additional_keys: table.list("additional_keys"),
        name: table.required("name")?,
        category: table.optional("category").map(str::to_owned),
    };
    Some((organization, rows))
}
