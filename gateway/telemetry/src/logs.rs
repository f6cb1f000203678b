//! Logs by `tracing`: text for people, JSON for machines.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Filter such as `info` or `info,amtsbote_store_sled=debug`.
    pub level: String,
    /// Format.
    pub format: LogFormat,
}

impl LogOptions {
    /// Whether the filter can be read.
    pub fn is_valid(&self) -> bool {
        EnvFilter::try_new(&self.level).is_ok()
    }
}

/// The logs cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogProblem {
    /// The filter is malformed.
    #[error("the log level cannot be read: {0}")]
    Level(String),
    /// They run already.
    #[error("logs were started twice")]
    Twice,
}

/// Starts logging to standard error, for the whole process.
///
/// # Errors
/// When the filter is malformed or logs run already.
pub fn start_logs(options: &LogOptions) -> Result<(), LogProblem> {
    let filter = EnvFilter::try_new(&options.level).map_err(|error| LogProblem::Level(error.to_string()))?;
    let colours = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let started = match options.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| LogProblem::Twice)
}
