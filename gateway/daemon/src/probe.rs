//! Asks a running gateway whether it is ready; for containers, whose health checks have nothing else at hand.

use std::time::Duration;

use amtsbote_http::{Client, ClientOptions, Reach};
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, Method};
use serde_json::Value;
use url::Url;

use crate::operator::CommandError;
use crate::wire::client_tls;

/// Longest answer.
const ANSWER: usize = 64 << 10;

/// Asks whether the gateway is ready. Exit code 1 if it is not.
#[derive(Debug, Args)]
pub struct HealthArguments {
    /// Address of the telemetry listener
    #[arg(long, env = "AMTSBOTE_TELEMETRY_URL", default_value = "http://127.0.0.1:9464")]
    url: Url,
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

impl HealthArguments {
    /// Prints how the gateway is.
    ///
    /// # Errors
    /// [`CommandError::Incomplete`] when it is not ready or does not answer.
    pub async fn run(self) -> Result<(), CommandError> {
        let usage = |error: &dyn std::fmt::Display| CommandError::Usage(error.to_string());
        let total = Duration::from_secs(self.timeout);
        let options = ClientOptions { reach: Reach::Anywhere, connect: total, total, body: ANSWER };
        let tls = client_tls(&[]).map_err(|error| usage(&error))?;
        let client = Client::new(tls, options).map_err(|error| usage(&error))?;
        let url = self.url.join("/health/ready").map_err(|error| usage(&error))?;
        let answer = client.exchange(Method::GET, url, HeaderMap::new(), Bytes::new()).await;
        let answer = answer
            .map_err(|error| CommandError::Incomplete(format!("{} does not answer: {error}", self.url)))?;
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let reasons =
            said["reasons"].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_str);
        let words: Vec<&str> =
            std::iter::once(said["status"].as_str().unwrap_or("unknown")).chain(reasons).collect();
        match answer.status.is_success() {
            true => {
                crate::operator::say(&words.join("; "));
                Ok(())
            }
            false => Err(CommandError::Incomplete(words.join("; "))),
        }
    }
}
