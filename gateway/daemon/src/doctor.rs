//! `amtsbote doctor`: examines and, when asked to, repairs the store of a gateway that does not run.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use amtsbote_store_sled::{
    Examination, OpenError, OpenReport, StoreOptions, discard_index, examine, open, put_aside,
};
use clap::Args;
use serde_json::json;

use crate::config::Config;

/// What to examine and what to do about it.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Configuration that names the store (TOML)
    #[arg(long, required_unless_present = "store")]
    config: Option<PathBuf>,
    /// The store itself
    #[arg(long, conflicts_with = "config")]
    store: Option<PathBuf>,
    /// Copy what cannot be read to the quarantine, and build the index anew if it is wrong
    #[arg(long)]
    repair: bool,
    /// Build the index anew, so that it takes no more room than it needs
    #[arg(long)]
    compact: bool,
    /// Report in JSON
    #[arg(long)]
    json: bool,
}

/// The doctor could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The configuration cannot be read.
    #[error("{0}")]
    Configuration(String),
    /// The store is in use, has another format, or cannot be read.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The report cannot be written.
    #[error("the report cannot be written")]
    Output(#[from] std::io::Error),
}

impl DoctorError {
    /// Exit code: 64 bad usage, 70 internal, 75 busy.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) | Self::Store(OpenError::Format { .. } | OpenError::FormatHurt { .. }) => {
                64
            }
            Self::Store(_) => 75,
            Self::Output(_) => 70,
        }
    }
}

impl DoctorArguments {
    /// Examines, repairs if asked to, and reports. Whether nothing that was acknowledged is hurt.
    ///
    /// # Errors
    /// [`DoctorError`]; nothing was changed then, unless a repair was asked for.
    pub fn run(&self) -> Result<bool, DoctorError> {
        let store = self.store()?;
        let live = std::io::stderr().is_terminal();
        let progress = |what: &str, done: u64, total: u64| {
            if live {
                eprint!("\r{what}: {done} of {total}        ");
            }
        };
        let found = examine(&store, &progress)?;
        if live {
            eprintln!();
        }
        let index_is_wrong = found.findings.iter().any(|finding| finding.kind == "index");
        let opened = match (self.repair, self.compact) {
            (false, false) => None,
            (repair, compact) => {
                if repair {
                    put_aside(&store, &found)?;
                }
                if compact || index_is_wrong {
                    discard_index(&store)?;
                }
                Some(open(&store, StoreOptions::default())?.1)
            }
        };
        let mut out = std::io::stdout().lock();
        if self.json {
            let repaired = opened.as_ref().map(|report| {
                json!({ "quarantined": report.damaged, "lost": report.lost, "indexRebuilt": report.rebuilt.is_some() })
            });
            writeln!(
                out,
                "{:#}",
                json!({ "examination": found, "sound": found.is_sound(), "repair": repaired })
            )?;
        } else {
            write_text(&mut out, &found)?;
            match &opened {
                Some(report) => write_repair(&mut out, report)?,
                None if !found.findings.is_empty() => {
                    writeln!(
                        out,
                        "Nothing was changed. --repair copies what cannot be read to the quarantine and builds a wrong index anew."
                    )?;
                }
                None => {}
            }
        }
        Ok(found.is_sound())
    }

    fn store(&self) -> Result<PathBuf, DoctorError> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let path = self.config.clone().unwrap_or_default();
        let config = Config::load(&path).map_err(|issues| {
            let issues: Vec<String> = issues.iter().map(ToString::to_string).collect();
            DoctorError::Configuration(issues.join("; "))
        })?;
        Ok(config.store)
    }
}

fn write_text(out: &mut impl std::io::Write, found: &Examination) -> std::io::Result<()> {
    let Examination {
        segments,
        journal_bytes,
        frames,
        messages,
        payload_files,
        index_bytes,
        quarantined,
        ..
    } = found;
    writeln!(out, "journal:    {segments} segments, {journal_bytes} bytes, {frames} intact frames")?;
    writeln!(out, "messages:   {messages}, {payload_files} of them with a sound payload file")?;
    writeln!(out, "index:      {index_bytes} bytes")?;
    writeln!(out, "quarantine: {quarantined} things")?;
    for finding in &found.findings {
        let mark = if finding.serious { "HURT" } else { "note" };
        let message = finding.message.map(|id| format!(" message {id}:")).unwrap_or_default();
        writeln!(out, "{mark} {}:{message} {}", finding.kind, finding.detail)?;
    }
    match (found.is_sound(), found.findings.is_empty()) {
        (true, true) => writeln!(out, "The store is sound."),
        (true, false) => writeln!(out, "Nothing that was acknowledged is hurt."),
        (false, _) => writeln!(out, "Something that was acknowledged is hurt."),
    }
}

fn write_repair(out: &mut impl std::io::Write, report: &OpenReport) -> std::io::Result<()> {
    for damage in &report.damaged {
        writeln!(out, "quarantined: {damage}")?;
    }
    if let Some(reason) = &report.rebuilt {
        writeln!(out, "index built anew: {reason}")?;
    }
    writeln!(out, "The store opens: {} frames replayed.", report.replayed)?;
    writeln!(out, "What was hurt is copied and listed in the folder `quarantine`; hurt messages stay hurt.")
}
