//! Reads GV100AD, the fixed-width format in which Destatis publishes the directory of municipalities (GV-ISys).
//!
//! Columns used, counted from 1: 1-2 record type, 3-10 date, 11-12 Land, 13 Regierungsbezirk, 14-15 Kreis, 16-18 municipality,
//! 19-22 association, 23-72 name, 123-124 kind, 166-170 postcode of the seat. Record types: 10 Land, 20 Regierungsbezirk, 30 region
//! (planning only, not part of the ARS), 40 Kreis, 50 association, 60 municipality. Since 2019 the files are UTF-8, before
//! that ISO 8859-1.

use std::borrow::Cow;
use std::collections::HashSet;

use super::sources::SourceProblem;
use super::tables::{Area, AreaLevel};
use crate::key::{Ars, InvalidKey};

const FILE: &str = "areas";
/// Kind of an association that is none: a municipality that belongs to no association is listed a second time.
const NO_ASSOCIATION: &str = "50";

/// Text of an area table: UTF-8, or ISO 8859-1 as Destatis wrote before 2019.
pub fn decode(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

/// Whether a text begins with a record of this format: type and date, no comma.
pub(super) fn recognised(text: &str) -> bool {
    let head: Vec<u8> = text.bytes().take(10).collect();
    head.len() == 10 && head.iter().all(u8::is_ascii_digit)
}

/// A line with its columns.
struct Record<'a> {
    number: u64,
    line: &'a str,
}

impl Record<'_> {
    /// Columns `from` to `to`, both included, without surrounding blanks; empty where the line is shorter.
    fn columns(&self, from: usize, to: usize) -> String {
        let field: String = self.line.chars().skip(from - 1).take(to + 1 - from).collect();
        field.trim().to_owned()
    }

    fn wrong(&self, column: &'static str, detail: String) -> SourceProblem {
        SourceProblem::Value { file: FILE, line: self.number, column, detail }
    }
}

/// The areas of a file. Municipalities outside every listed Kreis (extra-territorial places) are left out with a warning.
pub(super) fn read(text: &str, warnings: &mut Vec<String>, problems: &mut Vec<SourceProblem>) -> Vec<Area> {
    let mut areas: Vec<Area> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        match area(&Record { number, line }) {
            Ok(found) => areas.extend(found),
            Err(problem) => problems.push(problem),
        }
    }
    place(areas, warnings)
}

fn area(record: &Record<'_>) -> Result<Option<Area>, SourceProblem> {
    let (land, region, kreis) = (record.columns(11, 12), record.columns(13, 13), record.columns(14, 15));
    let (municipality, association) = (record.columns(16, 18), record.columns(19, 22));
    let (level, ars, ags) = match record.columns(1, 2).as_str() {
        "10" => (AreaLevel::Land, land.clone(), Some(land)),
        "20" => (AreaLevel::Regierungsbezirk, format!("{land}{region}"), Some(format!("{land}{region}"))),
        "30" => return Ok(None),
        "40" => (AreaLevel::Kreis, format!("{land}{region}{kreis}"), Some(format!("{land}{region}{kreis}"))),
        "50" if record.columns(123, 124) == NO_ASSOCIATION => return Ok(None),
        "50" => (AreaLevel::Association, format!("{land}{region}{kreis}{association}"), None),
        "60" => (
            AreaLevel::Municipality,
            format!("{land}{region}{kreis}{association}{municipality}"),
            Some(format!("{land}{region}{kreis}{municipality}")),
        ),
        _ => {
            return Err(record.wrong("Satzart", "expected 10, 20, 30, 40, 50 or 60".to_owned()));
        }
    };
    let malformed = |column| move |error: InvalidKey| record.wrong(column, error.to_string());
    let name = record.columns(23, 72);
    if name.is_empty() {
        return Err(record.wrong("Bezeichnung", "a value is required".to_owned()));
    }
    let postcode =
        Some(record.columns(166, 170)).filter(|code| level == AreaLevel::Municipality && !code.is_empty());
    Ok(Some(Area {
        ars: ars.parse().map_err(malformed("ARS"))?,
        ags: ags.map(|ags| ags.parse().map_err(malformed("AGS"))).transpose()?,
        level,
        name,
        parent: None,
        postcode: postcode.map(|code| code.parse().map_err(malformed("Postleitzahl"))).transpose()?,
    }))
}

/// Gives every area the next listed area above it.
fn place(mut areas: Vec<Area>, warnings: &mut Vec<String>) -> Vec<Area> {
    let listed: HashSet<Ars> = areas.iter().map(|area| area.ars.clone()).collect();
    areas.retain_mut(|area| {
        let above: &[usize] = match area.level {
            AreaLevel::Bund => &[],
            AreaLevel::Land => {
                area.parent = "00".parse().ok();
                return true;
            }
            AreaLevel::Regierungsbezirk => &[2],
            AreaLevel::Kreis => &[3, 2],
            AreaLevel::Association => &[5],
            AreaLevel::Municipality => &[9, 5],
        };
        let mut candidates =
            above.iter().filter_map(|length| area.ars.as_str()[..*length].parse::<Ars>().ok());
        area.parent = candidates.find(|ars| listed.contains(ars));
        if area.parent.is_none() {
            warnings.push(format!("area {} lies in no listed area and is left out", area.ars));
        }
        area.parent.is_some()
    });
    areas
}
