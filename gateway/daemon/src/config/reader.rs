//! Reads a TOML table key by key and remembers what was asked for, so that whatever is left is an unknown key.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

/// A key, what is wrong with it, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigIssue {
    /// Such as `retry.longest`.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for ConfigIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.problem, self.remedy)
    }
}

/// Problems and keys, shared by all sections.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) issues: Vec<ConfigIssue>,
    pub(super) asked: BTreeSet<String>,
}

/// One table of the file.
pub(super) struct Section<'a> {
    path: String,
    /// Path with indexes and names of entries left out, for the list of known keys.
    known: String,
    table: Table,
    base: &'a Path,
}

impl<'a> Section<'a> {
    pub(super) fn root(table: Table, base: &'a Path) -> Self {
        Self { path: String::new(), known: String::new(), table, base }
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn ask(&self, findings: &mut Findings, key: &str) {
        let known = if self.known.is_empty() { key.to_owned() } else { format!("{}.{key}", self.known) };
        findings.asked.insert(known);
    }

    pub(super) fn issue(
        &self,
        findings: &mut Findings,
        key: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        findings.issues.push(ConfigIssue {
            key: self.name(key),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    fn take(&mut self, findings: &mut Findings, key: &str) -> Option<Value> {
        self.ask(findings, key);
        self.table.remove(key)
    }

    fn required<T>(&self, findings: &mut Findings, key: &str, value: Option<T>, had: bool) -> Option<T> {
        if value.is_none() && !had {
            self.issue(findings, key, "is missing", "set it; see the reference file");
        }
        value
    }

    /// A sub-table; an absent one reads as empty.
    pub(super) fn section(&mut self, findings: &mut Findings, key: &str) -> Self {
        let path = self.name(key);
        let known = if self.known.is_empty() { key.to_owned() } else { format!("{}.{key}", self.known) };
        let table = match self.table.remove(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.issue(findings, key, "is no table", format!("write [{path}]"));
                Table::new()
            }
        };
        Section { path, known, table, base: self.base }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Tables of a list such as `[[accounts]]`.
    pub(super) fn sections(&mut self, findings: &mut Findings, key: &str) -> Vec<Self> {
        let list = match self.table.remove(key) {
            None => Vec::new(),
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.issue(findings, key, "is no list of tables", format!("write [[{key}]]"));
                Vec::new()
            }
        };
        let mut sections = Vec::new();
        for (number, value) in list.into_iter().enumerate() {
            match value {
                Value::Table(table) => sections.push(Section {
                    path: format!("{key}[{number}]"),
                    known: key.to_owned(),
                    table,
                    base: self.base,
                }),
                _ => self.issue(findings, key, "is no list of tables", format!("write [[{key}]]")),
            }
        }
        sections
    }

    /// Named sub-tables such as `[brokers.main]`.
    pub(super) fn named(&mut self, findings: &mut Findings, key: &str) -> Vec<(String, Self)> {
        let table = match self.table.remove(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.issue(findings, key, "is no table", format!("write [{key}.NAME]"));
                Table::new()
            }
        };
        let mut sections = Vec::new();
        for (name, value) in table {
            let path = format!("{key}.{name}");
            match value {
                Value::Table(table) => {
                    sections.push((name, Section { path, known: key.to_owned(), table, base: self.base }));
                }
                _ => self.issue(findings, &path, "is no table", format!("write [{path}]")),
            }
        }
        sections
    }

    pub(super) fn text(&mut self, findings: &mut Findings, key: &str) -> Option<String> {
        match self.take(findings, key)? {
            Value::String(text) => Some(text),
            _ => {
                self.issue(findings, key, "is no text", "put it in quotes");
                None
            }
        }
    }

    pub(super) fn texts(&mut self, findings: &mut Findings, key: &str) -> Vec<String> {
        let Some(value) = self.take(findings, key) else { return Vec::new() };
        let Value::Array(list) = value else {
            self.issue(findings, key, "is no list", "write [\"…\", \"…\"]");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for value in list {
            match value {
                Value::String(text) => texts.push(text),
                _ => {
                    self.issue(findings, key, "holds something that is no text", "put every entry in quotes")
                }
            }
        }
        texts
    }

    /// A value parsed from text.
    pub(super) fn parsed<T: std::str::FromStr>(
        &mut self,
        findings: &mut Findings,
        key: &str,
        remedy: &str,
    ) -> Option<T> {
        let text = self.text(findings, key)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.issue(findings, key, "cannot be read", remedy);
        }
        parsed
    }

    /// A list parsed from texts.
    pub(super) fn list<T: std::str::FromStr>(
        &mut self,
        findings: &mut Findings,
        key: &str,
        remedy: &str,
    ) -> Vec<T> {
        let mut list = Vec::new();
        for text in self.texts(findings, key) {
            match text.parse() {
                Ok(value) => list.push(value),
                Err(_) => self.issue(findings, key, "holds an entry that cannot be read", remedy),
            }
        }
        list
    }

    pub(super) fn needed<T: std::str::FromStr>(
        &mut self,
        findings: &mut Findings,
        key: &str,
        remedy: &str,
    ) -> Option<T> {
        let had = self.has(key);
        let value = self.parsed(findings, key, remedy);
        self.required(findings, key, value, had)
    }

    pub(super) fn flag(&mut self, findings: &mut Findings, key: &str, default: bool) -> bool {
        match self.take(findings, key) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(_) => {
                self.issue(findings, key, "is neither true nor false", "write true or false");
                default
            }
        }
    }

    pub(super) fn number(
        &mut self,
        findings: &mut Findings,
        key: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> u64 {
        let value = match self.take(findings, key) {
            None => return default,
            Some(Value::Integer(number)) => {
                u64::try_from(number).ok().filter(|number| range.contains(number))
            }
            Some(_) => None,
        };
        value.unwrap_or_else(|| {
            let remedy = format!("write a whole number from {} to {}", range.start(), range.end());
            self.issue(findings, key, "is out of range or no number", remedy);
            default
        })
    }

    pub(super) fn float(&mut self, findings: &mut Findings, key: &str, default: f64) -> f64 {
        match self.take(findings, key) {
            None => default,
            Some(Value::Float(number)) => number,
            Some(Value::Integer(number)) => f64::from(i32::try_from(number).unwrap_or(i32::MAX)),
            Some(_) => {
                self.issue(findings, key, "is no number", "write a number such as 2.0");
                default
            }
        }
    }

    pub(super) fn duration(&mut self, findings: &mut Findings, key: &str, default: Duration) -> Duration {
        let Some(text) = self.text(findings, key) else { return default };
        let remedy = "write a number above 0 with ms, s, m, h or d, such as \"30s\"";
        match parse_duration(&text) {
            Some(duration) if !duration.is_zero() => return duration,
            Some(_) => self.issue(findings, key, "is zero", remedy),
            None => self.issue(findings, key, "is no duration", remedy),
        }
        default
    }

    /// A path, relative to the folder of the file.
    pub(super) fn path(&mut self, findings: &mut Findings, key: &str) -> Option<PathBuf> {
        let had = self.has(key);
        let text = self.text(findings, key);
        self.required(findings, key, text, had).map(|text| self.base.join(text))
    }

    pub(super) fn optional_path(&mut self, findings: &mut Findings, key: &str) -> Option<PathBuf> {
        self.text(findings, key).map(|text| self.base.join(text))
    }

    pub(super) fn paths(&mut self, findings: &mut Findings, key: &str) -> Vec<PathBuf> {
        self.texts(findings, key).into_iter().map(|text| self.base.join(text)).collect()
    }

    /// Reports whatever nobody asked for.
    pub(super) fn close(self, findings: &mut Findings) {
        for key in self.table.keys() {
            let near = nearest(key, &self.known, &findings.asked);
            let remedy = match near {
                Some(near) => format!("did you mean {near}?"),
                None => "remove it; see the reference file".to_owned(),
            };
            self.issue(findings, key, "is unknown", remedy);
        }
    }
}

/// The known key of the same section that shares most letters at its beginning.
fn nearest(key: &str, section: &str, asked: &BTreeSet<String>) -> Option<String> {
    let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
    let common = |known: &str| known.chars().zip(key.chars()).take_while(|(a, b)| a == b).count();
    let candidates =
        asked.iter().filter_map(|known| known.strip_prefix(&prefix)).filter(|known| !known.contains('.'));
    let best = candidates.max_by_key(|known| common(known))?;
    (common(best) >= 3).then(|| best.to_owned())
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}
