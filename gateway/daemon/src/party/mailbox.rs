//! Empties a mailbox into a folder.
//!
//! ```text
//! UUID/message.json    what the gateway says about the message, names of files among it
//! UUID/document
//! UUID/attachment-1    and so on
//! UUID/signature.p7s   the seal over the document
//! ```
//!
//! A message's folder appears as a whole and is on stable storage before the message is acknowledged. One that is there already was cut
//! off before its acknowledgement, which is made up for.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{Party, PartyConnection, failed_to, refusal};
use crate::operator::CommandError;

/// Seconds a lease lasts; it is as long as the slowest download of a batch may take.
const LEASE: u32 = 1_800;

/// Takes every message of a mailbox into a folder and acknowledges it.
#[derive(Debug, Args)]
pub struct MailboxArguments {
    /// Folder that gets one folder for each message
    folder: PathBuf,
    /// Messages taken at a time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    max: u32,
    /// Go on waiting for messages instead of ending when the mailbox is empty
    #[arg(long)]
    follow: bool,
    /// Print what was taken as one JSON object per line
    #[arg(long)]
    json: bool,
    /// Where the gateway is, and as whom to speak
    #[command(flatten)]
    at: PartyConnection,
}

impl MailboxArguments {
    /// Carries it out.
    ///
    /// # Errors
    /// [`CommandError::Incomplete`] when some messages could not be taken.
    pub async fn run(self) -> Result<(), CommandError> {
        let party = self.at.connect()?;
        std::fs::create_dir_all(&self.folder).map_err(failed_to("making", &self.folder))?;
        let wait = if self.follow { 60 } else { 0 };
        let mut failed = 0;
        loop {
            let (lease, messages) = lease(&party, self.max, wait).await?;
            if messages.is_empty() && !self.follow {
                break;
            }
            for message in messages {
                match take(&party, &self.folder, &lease, &message).await {
                    Ok(place) => self.tell(&message, &place),
                    // The place is full or gone; nothing further can be taken.
                    Err(error @ (CommandError::Output(_) | CommandError::Unavailable { .. })) => {
                        return Err(error);
                    }
                    Err(error) => {
                        failed += 1;
                        eprintln!("amtsbote: {}: {error}", message["id"].as_str().unwrap_or_default());
                    }
                }
            }
            if failed > 0 && !self.follow {
                break;
            }
        }
        match failed {
            0 => Ok(()),
            failed => Err(CommandError::Incomplete(format!(
                "{failed} messages could not be taken; they stay in the mailbox"
            ))),
        }
    }

    fn tell(&self, message: &Value, place: &Path) {
        let id = message["id"].as_str().unwrap_or_default();
        let line = match self.json {
            true => json!({ "id": id, "folder": place, "message": message }).to_string(),
            false => format!("{id}: {}", place.display()),
        };
        crate::operator::say(&line);
    }
}

fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))])
}

fn refused(status: http::StatusCode, body: &[u8]) -> CommandError {
    CommandError::Refused { status: status.as_u16(), title: refusal(status, body), detail: None }
}

async fn lease(party: &Party, max: u32, wait: u32) -> Result<(String, Vec<Value>), CommandError> {
    let body = Bytes::from(json!({ "max": max, "seconds": LEASE, "wait": wait }).to_string());
    let answer = party.exchange(Method::POST, "/v1/mailbox/leases", json_headers(), body).await?;
    if !answer.status.is_success() {
        return Err(refused(answer.status, &answer.body));
    }
    let mut answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let messages = answer["messages"].as_array_mut().map(std::mem::take).unwrap_or_default();
    Ok((answer["lease"].as_str().unwrap_or_default().to_owned(), messages))
}

/// Brings a message into its folder, unless it is there, and acknowledges it.
async fn take(party: &Party, folder: &Path, lease: &str, message: &Value) -> Result<PathBuf, CommandError> {
    let id = message["id"].as_str().unwrap_or_default();
    let uuid =
        id.strip_prefix("urn:uuid:").filter(|uuid| uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'));
    let uuid = uuid.ok_or_else(|| CommandError::Usage(format!("the gateway named a message {id}")))?;
    let place = folder.join(uuid);
    if !place.exists() {
        fetch(party, &place, message).await?;
    }
    let mut headers = HeaderMap::new();
    if let Ok(lease) = HeaderValue::from_str(lease) {
        headers.insert("Amtsbote-Lease", lease);
    }
    let path = format!("/v1/mailbox/messages/{id}/acknowledge");
    let answer = party.exchange(Method::POST, &path, headers, Bytes::new()).await?;
    if answer.status.is_success() { Ok(place) } else { Err(refused(answer.status, &answer.body)) }
}

/// Downloads everything into a folder that appears when it is complete and durable.
async fn fetch(party: &Party, place: &Path, message: &Value) -> Result<(), CommandError> {
    let failed = failed_to("writing", place);
    let half = place.with_extension("part");
    if half.exists() {
        std::fs::remove_dir_all(&half).map_err(&failed)?;
    }
    std::fs::create_dir(&half).map_err(&failed)?;
    let text = Bytes::from(format!("{message:#}\n"));
    write(&half.join("message.json"), stream::once(async { Ok(text) }).boxed()).await.map_err(&failed)?;
    let attachments = message["attachments"].as_array().map_or(&[][..], Vec::as_slice);
    let numbered =
        attachments.iter().enumerate().map(|(n, one)| (format!("attachment-{}", n + 1), &one["href"]));
    let first = [
        ("document".to_owned(), &message["document"]["href"]),
        ("signature.p7s".to_owned(), &message["signature"]),
    ];
    for (name, href) in first.into_iter().chain(numbered) {
        let Some(href) = href.as_str() else { continue };
        let empty = stream::empty().boxed();
        let answer = party.stream(Method::GET, href, HeaderMap::new(), empty).await?;
        if !answer.status.is_success() {
            return Err(refused(answer.status, b""));
        }
        write(&half.join(&name), answer.body).await.map_err(failed_to("fetching into", &half.join(name)))?;
    }
    let sync = |folder: &Path| std::fs::File::open(folder)?.sync_all();
    sync(&half).and_then(|()| std::fs::rename(&half, place)).map_err(&failed)?;
    place.parent().map_or(Ok(()), sync).map_err(failed)
}

async fn write(
    path: &Path,
    mut body: stream::BoxStream<'static, std::io::Result<Bytes>>,
) -> std::io::Result<()> {
    let mut file = tokio::fs::File::create_new(path).await?;
    while let Some(piece) = body.next().await {
        file.write_all(&piece?).await?;
    }
    file.flush().await?;
    file.sync_all().await
}
