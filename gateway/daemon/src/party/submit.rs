//! Hands in a folder of documents.
//!
//! ```text
//! NAME.json            metadata; or --metadata for all
//! NAME.xml             document, any other extension
//! NAME.attachments/    attachments, in the order of their names
//! NAME.accepted.json   the gateway's answer: done, and left out next time
//! NAME.refused.json    why not; tried again next time
//! ```
//!
//! The key of a submission is made of its name and contents, so that handing in again what may have arrived makes no second message.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;

use super::{Party, PartyConnection, ProgressBar, failed_to, refusal};
use crate::demo::write_atomically;
use crate::operator::CommandError;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
/// Longest wait for a gateway that asks to come back later.
const PATIENCE: Duration = Duration::from_secs(300);

/// Hands in every document of a folder; what was accepted is left out next time.
#[derive(Debug, Args)]
pub struct SubmitArguments {
    /// Folder with documents, metadata beside them: a.xml, a.json, a.attachments/
    folder: PathBuf,
    /// Metadata (JSON) for documents that have none of their own
    #[arg(long)]
    metadata: Option<PathBuf>,
    /// Submissions at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    parallel: u8,
    /// Print what happened to each as one JSON object per line
    #[arg(long)]
    json: bool,
    /// Where the gateway is, and as whom to speak
    #[command(flatten)]
    at: PartyConnection,
}

/// A submission as it lies in the folder.
#[derive(Debug)]
struct Draft {
    name: String,
    metadata: Vec<u8>,
    /// Document first.
    parts: Vec<PathBuf>,
}

/// What became of it.
enum Outcome {
    Accepted(Value),
    Refused(String),
}

impl SubmitArguments {
    /// Carries it out.
    ///
    /// # Errors
    /// [`CommandError::Incomplete`] when some were refused.
    pub async fn run(self) -> Result<(), CommandError> {
        let drafts = self.drafts()?;
        let party = self.at.connect()?;
        let (bar, folder) = (ProgressBar::new(drafts.len()), self.folder.as_path());
        let party = &party;
        let work = drafts.into_iter().map(|draft| async move {
            let outcome = hand_in(party, &draft).await?;
            note(folder, &draft.name, &outcome)?;
            Ok::<_, CommandError>((draft.name, outcome))
        });
        let mut work = stream::iter(work).buffer_unordered(usize::from(self.parallel));
        let (mut done, mut refused) = (0, 0);
        while let Some(ended) = work.next().await {
            // Whoever cannot be reached now cannot be reached for the others; they keep.
            let (name, outcome) = ended?;
            done += 1;
            refused += usize::from(matches!(outcome, Outcome::Refused(_)));
            self.tell(&name, &outcome);
            bar.show(done);
        }
        bar.end();
        match refused {
            0 => Ok(()),
            refused => Err(CommandError::Incomplete(format!(
                "{refused} of {done} were refused; see NAME.refused.json"
            ))),
        }
    }

    fn tell(&self, name: &str, outcome: &Outcome) {
        let line = match (outcome, self.json) {
            (Outcome::Accepted(answer), true) => {
                serde_json::json!({ "name": name, "accepted": answer }).to_string()
            }
            (Outcome::Refused(why), true) => serde_json::json!({ "name": name, "refused": why }).to_string(),
            (Outcome::Accepted(answer), false) => {
                format!("{name}: accepted as {}", answer["id"].as_str().unwrap_or("?"))
            }
            (Outcome::Refused(why), false) => format!("{name}: refused: {why}"),
        };
        crate::operator::say(&line);
    }

    /// What is to be handed in, in the order of the names.
    fn drafts(&self) -> Result<Vec<Draft>, CommandError> {
        let failed = failed_to("reading", &self.folder);
        let usual = self
            .metadata
            .as_ref()
            .map(|path| std::fs::read(path).map_err(failed_to("reading", path)))
            .transpose()?;
        let mut documents: BTreeMap<String, PathBuf> = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder).map_err(&failed)? {
            let path = entry.map_err(&failed)?.path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !path.is_file() || hidden || path.extension().is_some_and(|extension| extension == "json") {
                continue;
            }
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let unreadable =
                || CommandError::Usage(format!("{}: the name is not UTF-8; rename it", path.display()));
            let stem = stem.ok_or_else(unreadable)?;
            if let Some(other) = documents.insert(stem.to_owned(), path.clone()) {
                let (one, other) = (path.display(), other.display());
                return Err(CommandError::Usage(format!(
                    "{one} and {other} have the same name; one submission has one document"
                )));
            }
        }
        let mut drafts = Vec::new();
        for (name, document) in documents {
            if self.folder.join(format!("{name}.accepted.json")).exists() {
                continue;
            }
            let own = self.folder.join(format!("{name}.json"));
            let metadata = match (std::fs::read(&own), &usual) {
                (Ok(metadata), _) => metadata,
                (Err(error), Some(usual)) if error.kind() == std::io::ErrorKind::NotFound => usual.clone(),
                (Err(error), _) => return Err(failed_to("reading", &own)(error)),
            };
            let mut parts = vec![document];
            parts.extend(attachments(&self.folder.join(format!("{name}.attachments")))?);
            drafts.push(Draft { name, metadata, parts });
        }
        Ok(drafts)
    }
}

fn attachments(folder: &Path) -> Result<Vec<PathBuf>, CommandError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>());
    let mut found = entries.map_err(failed_to("reading", folder))?;
    found.retain(|path| path.is_file());
    found.sort();
    Ok(found)
}

/// Writes down what became of a submission.
fn note(folder: &Path, name: &str, outcome: &Outcome) -> Result<(), CommandError> {
    let (accepted, refused) =
        (folder.join(format!("{name}.accepted.json")), folder.join(format!("{name}.refused.json")));
    match outcome {
        Outcome::Accepted(answer) => {
            write_atomically(&accepted, &format!("{answer:#}\n")).map_err(failed_to("writing", &accepted))?;
            match std::fs::remove_file(&refused) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(failed_to("removing", &refused)(error))
                }
                Ok(()) | Err(_) => Ok(()),
            }
        }
        Outcome::Refused(why) => {
            let text = serde_json::json!({ "refused": why }).to_string() + "\n";
            write_atomically(&refused, &text).map_err(failed_to("writing", &refused))
        }
    }
}

/// A key that is the same for the same name and contents.
fn key(draft: &Draft) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    for bytes in [draft.name.as_bytes(), &draft.metadata] {
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    }
    let mut buffer = vec![0; CHUNK];
    for part in &draft.parts {
        let mut file = std::fs::File::open(part)?;
        hasher.update(file.metadata()?.len().to_be_bytes());
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
    }
    Ok(format!("submit-{}", hex::encode(&hasher.finalize()[..16])))
}

/// Hands one in, and comes back as long as the gateway asks for that.
async fn hand_in(party: &Party, draft: &Draft) -> Result<Outcome, CommandError> {
    let unreadable = |error: std::io::Error| CommandError::Output(format!("{}: {error}", draft.name));
    let key = key(draft).map_err(unreadable)?;
    let began = tokio::time::Instant::now();
    loop {
        let (headers, body) = form(draft, &key);
        let answer = party.stream(Method::POST, "/v1/submissions", headers, body).await?;
        let (status, wait) = (answer.status, retry_after(&answer.headers));
        let body = answer.body.map(|piece| piece.map(|bytes| bytes.to_vec())).collect::<Vec<_>>().await;
        let cut = |error: std::io::Error| CommandError::Unavailable {
            url: party.url.clone(),
            problem: format!("broke off its answer: {error}"),
        };
        let body = body.into_iter().collect::<std::io::Result<Vec<_>>>().map_err(cut)?.concat();
        match status {
            StatusCode::ACCEPTED | StatusCode::OK => {
                return Ok(Outcome::Accepted(serde_json::from_slice(&body).unwrap_or_default()));
            }
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::INSUFFICIENT_STORAGE
                if began.elapsed() + wait < PATIENCE =>
            {
                tokio::time::sleep(wait).await;
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE => {
                let problem = refusal(status, &body);
                return Err(CommandError::Unavailable { url: party.url.clone(), problem });
            }
            status => return Ok(Outcome::Refused(refusal(status, &body))),
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1).clamp(1, 60))
}

type FormBody = stream::BoxStream<'static, std::io::Result<Bytes>>;

/// The form of a submission. Nothing of it is in memory as a whole.
fn form(draft: &Draft, key: &str) -> (HeaderMap, FormBody) {
    // Contents cannot hold a boundary that is made of their digest.
    let boundary = format!("amtsbote-{key}");
    let mut pieces: Vec<FormBody> = Vec::new();
    let text = |text: String| stream::once(async move { Ok(Bytes::from(text)) }).boxed();
    let head = |name: &str, file: Option<&str>, media_type: &str| {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\nContent-Type: {media_type}\r\n\r\n"
        )
    };
    pieces.push(text(head("metadata", None, "application/json")));
    let metadata = draft.metadata.clone();
    pieces.push(stream::once(async move { Ok(Bytes::from(metadata)) }).boxed());
    for (number, path) in draft.parts.iter().enumerate() {
        let name = path.file_name().map(|name| name.to_string_lossy().replace(['"', '\r', '\n', '\\'], "_"));
        let field = if number == 0 { "document" } else { "attachment" };
        pieces.push(text("\r\n".to_owned() + &head(field, name.as_deref(), media_type(path))));
        pieces.push(contents(path.clone()));
    }
    pieces.push(text(format!("\r\n--{boundary}--\r\n")));
    let mut headers = HeaderMap::new();
    let content_type = format!("multipart/form-data; boundary={boundary}");
    for (name, value) in [(header::CONTENT_TYPE, content_type.as_str()), (super::IDEMPOTENCY_KEY, key)] {
        // Visible ASCII only.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    (headers, stream::iter(pieces).flatten().boxed())
}

fn contents(path: PathBuf) -> FormBody {
    let opened = async move { tokio::fs::File::open(path).await };
    stream::once(opened)
        .flat_map(|file| match file {
            Err(error) => stream::once(async { Err(error) }).boxed(),
            Ok(file) => stream::try_unfold(file, |mut file| async move {
                let mut buffer = bytes::BytesMut::with_capacity(CHUNK);
                let read = file.read_buf(&mut buffer).await?;
                Ok((read > 0).then(|| (buffer.freeze(), file)))
            })
            .boxed(),
        })
        .boxed()
}

/// What a file most likely is, by its extension.
fn media_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("xml") => "application/xml",
        Some("json") => "application/json",
        Some("pdf") => "application/pdf",
        Some("txt") => "text/plain",
        Some("csv") => "text/csv",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("zip") => "application/zip",
        _ => "application/octet-stream",
    }
}
