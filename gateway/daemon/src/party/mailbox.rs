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

use amtsbote_core::id::MessageId;
use bytes::Bytes;
use clap::Args;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::{Party, PartyConnection, failed_to, refusal};
use crate::operator::CommandError;

/// Seconds a lease lasts; as long as one message takes at most. It is renewed before each.
const LEASE: u32 = 600;

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
        // They stay leased meanwhile, so that they do not come again and again before the others.
        let mut failed: Vec<(String, Value)> = Vec::new();
        loop {
            let (lease, messages) = lease(&party, self.max, wait).await?;
            if messages.is_empty() && !self.follow {
                break;
            }
            let mut messages = messages.into_iter();
            while let Some(message) = messages.next() {
                match take(&party, &self.folder, &lease, &message).await {
                    Ok(place) => self.tell(&message, &place),
                    // The place is full or gone, or the gateway is: nothing further can be taken, and others may.
                    Err(error @ (CommandError::Output(_) | CommandError::Unavailable { .. })) => {
                        for message in std::iter::once(message).chain(messages) {
                            release(&party, &lease, &message).await;
                        }
                        return Err(error);
                    }
                    Err(error) => {
                        eprintln!("amtsbote: {}: {error}", message["id"].as_str().unwrap_or_default());
                        // Who follows gets it again when its lease is over.
                        if !self.follow {
                            failed.push((lease.clone(), message));
                        }
                    }
                }
            }
        }
        for (lease, message) in &failed {
            release(&party, lease, message).await;
        }
        match failed.len() {
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

fn with_lease(lease: &str) -> HeaderMap {
    let mut headers = json_headers();
    if let Ok(lease) = HeaderValue::from_str(lease) {
        headers.insert("Amtsbote-Lease", lease);
    }
    headers
}

/// Gives a message back; whoever cannot is told by the next one who asks for it.
async fn release(party: &Party, lease: &str, message: &Value) {
    let path = format!("/v1/mailbox/messages/{}/release", message["id"].as_str().unwrap_or_default());
    if let Err(error) = party.exchange(Method::POST, &path, with_lease(lease), Bytes::new()).await {
        eprintln!("amtsbote: a message stays leased for a while: {error}");
    }
}

/// What the gateway says makes no sense.
fn nonsense(what: &str) -> CommandError {
    CommandError::Refused {
        status: 502,
        title: format!("the gateway's answer makes no sense: {what}"),
        detail: None,
    }
}

/// Brings a message into its folder, unless it is there, and acknowledges it when it is on stable storage.
async fn take(party: &Party, folder: &Path, lease: &str, message: &Value) -> Result<PathBuf, CommandError> {
    let id: MessageId = message["id"].as_str().unwrap_or_default().parse().map_err(|_| nonsense("its id"))?;
    let extended = format!("/v1/mailbox/leases/{}", super::encode(lease));
    let seconds = Bytes::from(json!({ "seconds": LEASE }).to_string());
    party.exchange(Method::PATCH, &extended, with_lease(lease), seconds).await?;
    let place = folder.join(id.uuid().to_string());
    if !place.exists() {
        fetch(party, &place, message).await?;
    }
    // Also one that is there already: nobody knows whether it was made durable.
    let sync = |folder: &Path| std::fs::File::open(folder)?.sync_all();
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for folder in [place.as_path(), folder, above] {
        sync(folder).map_err(failed_to("syncing", folder))?;
    }
    let path = format!("/v1/mailbox/messages/{id}/acknowledge");
    let answer = party.exchange(Method::POST, &path, with_lease(lease), Bytes::new()).await?;
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
    write(&half.join("message.json"), stream::once(async { Ok(text) }).boxed(), None).await?;
    let attachments = message["attachments"].as_array().map_or(&[][..], Vec::as_slice);
    let numbered = attachments.iter().enumerate().map(|(n, one)| (format!("attachment-{}", n + 1), one));
    for (name, part) in std::iter::once(("document".to_owned(), &message["document"])).chain(numbered) {
        download(party, &part["href"], &half.join(name), part["sha256"].as_str()).await?;
    }
    download(party, &message["signature"], &half.join("signature.p7s"), None).await?;
    std::fs::File::open(&half).and_then(|folder| folder.sync_all()).map_err(&failed)?;
    std::fs::rename(&half, place).map_err(failed)
}

/// One file; only from the gateway itself, which is shown the certificate.
async fn download(party: &Party, href: &Value, to: &Path, sha256: Option<&str>) -> Result<(), CommandError> {
    let href = href.as_str().filter(|href| href.starts_with('/') && !href.starts_with("//"));
    let href = href.ok_or_else(|| nonsense("an address of a part"))?;
    let answer = party.stream(Method::GET, href, HeaderMap::new(), stream::empty().boxed()).await?;
    if !answer.status.is_success() {
        return Err(refused(answer.status, b""));
    }
    write(to, answer.body, sha256).await
}

/// Writes a body, which must have the digest. What goes wrong on the way concerns this message only; what goes wrong here concerns all.
async fn write(
    path: &Path,
    mut body: stream::BoxStream<'static, std::io::Result<Bytes>>,
    sha256: Option<&str>,
) -> Result<(), CommandError> {
    let failed = failed_to("writing", path);
    let mut file = tokio::fs::File::create_new(path).await.map_err(&failed)?;
    let mut hasher = Sha256::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| nonsense(&format!("it was cut off: {error}")))?;
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(&failed)?;
    }
    file.flush().await.map_err(&failed)?;
    file.sync_all().await.map_err(&failed)?;
    match sha256 {
        Some(wanted) if hex::encode(hasher.finalize()) != wanted => Err(nonsense("the digest of a part")),
        _ => Ok(()),
    }
}
