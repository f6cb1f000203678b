//! What operators see of the gateway: logs, metrics, health. Never payloads, never personal data (promise P9).

mod health;
mod history;
mod logs;
mod metrics;

pub use health::{Health, Readiness};
pub use history::{History, Totals};
pub use logs::{LogFormat, LogOptions, LogProblem, start_logs};
pub use metrics::{DirectoryOutcome, Metrics};
