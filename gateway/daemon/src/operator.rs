//! Commands of operators: thin clients of the operators' interface. They decide nothing; what the gateway answers is shown as
//! a table or, with `--json`, as it came.

mod client;
mod print;
mod table;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::port::Clock as _;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use crate::SystemClock;
use client::OperatorClient;
pub use client::{CommandError, Connection};
use print::{
    hold_line, members, print_accounts, print_audit, print_certificates, print_dead_letters, print_holds,
    print_job, print_jobs, print_message, print_messages, print_overview, print_queues, print_route,
    print_trace,
};
pub(crate) use table::say;
use table::text;

/// What operators can do.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Show what waits, per destination, and what stands in the way
    Queues {
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// Hold a destination, a service, an account or a message; without a target, list all holds
    Hold {
        /// destination, service, account or message
        #[arg(requires = "key")]
        scope: Option<String>,
        /// Such as amqp/wgb:073150000000, ozg:10092, portal-a, urn:uuid:…
        #[arg(requires = "reason")]
        key: Option<String>,
        /// Why, for other operators
        #[arg(long, requires = "key")]
        reason: Option<String>,
        /// When it ends by itself, such as 2027-01-04T07:00:00+01:00
        #[arg(long, requires = "key", conflicts_with = "length")]
        until: Option<Timestamp>,
        /// How long it lasts, such as 90m or 3d
        #[arg(long = "for", requires = "key", value_parser = duration)]
        length: Option<Duration>,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// Release what is held; it goes on slowly, earliest deadline first
    Release {
        /// destination, service, account or message
        scope: String,
        /// As it was held
        key: String,
        /// Why, for other operators
        #[arg(long)]
        reason: Option<String>,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// Look at dead letters, send them again, give them up
    DeadLetters {
        /// What
        #[command(subcommand)]
        command: DeadLetterCommand,
    },
    /// List messages by what is known of them, newest first
    Messages {
        /// Which
        #[command(flatten)]
        search: SearchArguments,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// Watch the gateway: health, traffic, what waits
    Top {
        /// Show it once; the same as without a terminal
        #[arg(long)]
        once: bool,
        /// Seconds between two looks
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
        every: u64,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// Show a message with everything that happened to it, by any id it has
    Trace {
        /// urn:uuid:…, or an id of XTA or OSCI
        id: String,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// Explain which authority a service and an area lead to
    Routes {
        /// Such as ozg:10092
        service: String,
        /// Such as ars:073150000000, ags:07315000 or plz:55116
        area: String,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// List accounts
    Accounts {
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// List the certificates of the gateway, those that expire first first
    Certificates {
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// Do something with many dead letters; it survives a restart of the gateway
    Bulk {
        /// What
        #[command(subcommand)]
        command: BulkCommand,
    },
    /// Show who did what, newest first
    Audit {
        /// Lines
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
}

/// Which messages; all conditions must hold.
#[derive(Debug, Clone, Args)]
pub struct SearchArguments {
    /// Handed in by this account
    #[arg(long)]
    account: Option<String>,
    /// Of one case
    #[arg(long)]
    case: Option<String>,
    /// Submitted for this party or going to it, such as ags:07315000
    #[arg(long)]
    party: Option<String>,
    /// On the way to this destination, such as amqp/wgb:073150000000
    #[arg(long)]
    destination: Option<String>,
    /// For this service, such as ozg:10092
    #[arg(long)]
    service: Option<String>,
    /// In this state, such as waiting or dead
    #[arg(long)]
    state: Option<String>,
    /// Whose last failure has this code
    #[arg(long)]
    code: Option<String>,
    /// Whose last failure has this in its code or explanation
    #[arg(long)]
    text: Option<String>,
    /// Not with their department although the deadline is near or over
    #[arg(long)]
    at_risk: bool,
    /// Accepted at or after this time
    #[arg(long)]
    since: Option<Timestamp>,
    /// Accepted before this time
    #[arg(long)]
    before: Option<Timestamp>,
}

impl SearchArguments {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let pairs = [
            ("account", self.account.clone()),
            ("caseId", self.case.clone()),
            ("party", self.party.clone()),
            ("destination", self.destination.clone()),
            ("service", self.service.clone()),
            ("state", self.state.clone()),
            ("code", self.code.clone()),
            ("text", self.text.clone()),
            ("atRisk", self.at_risk.then(|| "true".to_owned())),
            ("since", self.since.map(|at| at.to_string())),
            ("before", self.before.map(|at| at.to_string())),
        ];
        pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// Which dead letters; all conditions must hold.
#[derive(Debug, Clone, Args)]
pub struct FilterArguments {
    /// For one destination, such as amqp/wgb:073150000000
    #[arg(long)]
    destination: Option<String>,
    /// Of one sender's account
    #[arg(long)]
    account: Option<String>,
    /// Of one case
    #[arg(long)]
    case: Option<String>,
    /// With this code of the last failure
    #[arg(long)]
    code: Option<String>,
    /// That died before this time
    #[arg(long)]
    before: Option<Timestamp>,
}

impl FilterArguments {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let pairs = [
            ("destination", self.destination.clone()),
            ("account", self.account.clone()),
            ("caseId", self.case.clone()),
            ("code", self.code.clone()),
            ("before", self.before.map(|at| at.to_string())),
        ];
        pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn json(&self) -> Value {
        self.pairs().into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect()
    }
}

/// Dead letters, one by one.
#[derive(Debug, Subcommand)]
pub enum DeadLetterCommand {
    /// List them, those that died first first
    List {
        /// Which
        #[command(flatten)]
        filter: FilterArguments,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// Show one with everything that happened to it
    Show {
        /// urn:uuid:…
        id: String,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// Send one on its way again
    Redrive(OneArguments),
    /// Find the way of one anew and send it there
    Reroute(OneArguments),
    /// Give one up; its sender is told
    Cancel(OneArguments),
    /// Write them with their whole history, one JSON object per line; without payloads
    Export {
        /// Which
        #[command(flatten)]
        filter: FilterArguments,
        /// Into this file instead of standard output
        #[arg(long)]
        to: Option<PathBuf>,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
}

/// One message and why.
#[derive(Debug, Args)]
pub struct OneArguments {
    /// urn:uuid:…
    id: String,
    /// Why, for other operators
    #[arg(long)]
    reason: String,
    /// Where the gateway is
    #[command(flatten)]
    at: Connection,
}

/// Many dead letters at once.
#[derive(Debug, Subcommand)]
pub enum BulkCommand {
    /// Begin: redrive, reroute or cancel what a filter matches
    Start {
        /// redrive, reroute or cancel
        action: String,
        /// Which
        #[command(flatten)]
        filter: FilterArguments,
        /// Really all of them; needed without any filter
        #[arg(long)]
        all: bool,
        /// Messages per second
        #[arg(long)]
        rate: Option<u32>,
        /// Why, for other operators
        #[arg(long, required_unless_present = "dry_run")]
        reason: Option<String>,
        /// Only count what it would touch
        #[arg(long)]
        dry_run: bool,
        /// Show how it goes on until it ends
        #[arg(long, conflicts_with = "dry_run")]
        wait: bool,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// List all that are remembered
    List {
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// Show one
    Show {
        /// Its name
        job: String,
        /// Show how it goes on until it ends
        #[arg(long)]
        wait: bool,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
    /// Stop one; what it has done stays done
    Stop {
        /// Its name
        job: String,
        /// Where the gateway is
        #[command(flatten)]
        at: Connection,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().or_else(|_| {
        // Days have no fixed length in general; for a hold they do.
        let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
        let hours = days.map(|days: i32| jiff::SignedDuration::from_hours(24 * i64::from(days)));
        hours.ok_or("write 30s, 90m, 12h or 3d")
    })?;
    Duration::try_from(span).map_err(|_| "must be positive".to_owned())
}

impl OperatorCommand {
    /// Carries it out.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Queues { at } => {
                let answer = at.client()?.get("/admin/v1/destinations", &[]).await?;
                show(&at, &answer, print_queues)
            }
            Self::Hold { scope: Some(scope), key: Some(key), reason, until, length, at } => {
                let now = SystemClock.now();
                let too_long = |_| CommandError::Usage("--for reaches beyond the year 9999".to_owned());
                let end = length.map(|length| now.checked_add(length).map_err(too_long)).transpose()?;
                let until = until.or(end);
                let path = hold_path(&scope, &key);
                let body = json!({ "reason": reason, "until": until });
                let answer = at.client()?.send(Method::PUT, &path, Some(&body)).await?;
                show(&at, &answer, |hold| say(&format!("held: {}", hold_line(hold))))
            }
            Self::Hold { at, .. } => {
                let answer = at.client()?.get("/admin/v1/holds", &[]).await?;
                show(&at, &answer, print_holds)
            }
            Self::Release { scope, key, reason, at } => {
                let body = reason.map(|reason| json!({ "reason": reason }));
                let path = hold_path(&scope, &key);
                let answer = at.client()?.send(Method::DELETE, &path, body.as_ref()).await?;
                show(&at, &answer, |hold| say(&format!("released: {}", hold_line(hold))))
            }
            Self::DeadLetters { command } => command.run().await,
            Self::Messages { search, limit, at } => {
                let answer =
                    pages(&at.client()?, "/admin/v1/messages", "messages", &search.pairs(), limit).await?;
                show(&at, &answer, print_messages)
            }
            Self::Top { once, every, at } => top(&at, once, Duration::from_secs(every)).await,
            Self::Trace { id, at } => trace(&id, &at).await,
            Self::Routes { service, area, at } => {
                let question = [("service", service), ("area", area)];
                let answer = at.client()?.get("/admin/v1/routes", &question).await?;
                show(&at, &answer, print_route)
            }
            Self::Accounts { at } => {
                let answer = at.client()?.get("/admin/v1/accounts", &[]).await?;
                show(&at, &answer, print_accounts)
            }
            Self::Certificates { at } => {
                let answer = at.client()?.get("/admin/v1/certificates", &[]).await?;
                show(&at, &answer, print_certificates)
            }
            Self::Bulk { command } => command.run().await,
            Self::Audit { limit, at } => {
                let answer = pages(&at.client()?, "/admin/v1/audit", "entries", &[], limit).await?;
                show(&at, &answer, print_audit)
            }
        }
    }
}

impl DeadLetterCommand {
    async fn run(self) -> Result<(), CommandError> {
        match self {
            Self::List { filter, limit, at } => {
                let path = "/admin/v1/dead-letters";
                let answer = pages(&at.client()?, path, "deadLetters", &filter.pairs(), limit).await?;
                show(&at, &answer, print_dead_letters)
            }
            Self::Show { id, at } => {
                let answer = at.client()?.get(&message_path(&id, ""), &[]).await?;
                show(&at, &answer, print_message)
            }
            Self::Redrive(one) => one.act("redrive").await,
            Self::Reroute(one) => one.act("reroute").await,
            Self::Cancel(one) => one.act("cancel").await,
            Self::Export { filter, to, at } => {
                let lines = at.client()?.get_raw("/admin/v1/dead-letters/export", &filter.pairs()).await?;
                let Some(path) = to else {
                    let mut out = std::io::stdout().lock();
                    let written = out.write_all(&lines).and_then(|()| out.flush());
                    return written.map_err(|error| CommandError::Output(error.to_string()));
                };
                replace(&path, &lines)?;
                let count = lines.iter().filter(|byte| **byte == b'\n').count();
                say(&format!("{count} dead letters written to {}", path.display()));
                Ok(())
            }
        }
    }
}

impl OneArguments {
    async fn act(self, action: &str) -> Result<(), CommandError> {
        let body = json!({ "reason": self.reason });
        let path = message_path(&self.id, &format!("/{action}"));
        let answer = self.at.client()?.send(Method::POST, &path, Some(&body)).await?;
        show(&self.at, &answer, |after| say(&format!("{}: now {}", text(after, "id"), text(after, "state"))))
    }
}

impl BulkCommand {
    async fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Start { action, filter, all, rate, reason, dry_run, wait, at } => {
                let body = json!({
                    "action": action, "filter": filter.json(), "all": all, "rate": rate,
                    "dryRun": dry_run, "reason": reason,
                });
                let client = at.client()?;
                let answer = client.send(Method::POST, "/admin/v1/bulk", Some(&body)).await?;
                match answer["job"].as_str() {
                    Some(job) if wait => follow(&client, &at, job).await,
                    Some(_) => show(&at, &answer, |taken| {
                        say(&format!("bulk operation {}: {} messages", text(taken, "job"), taken["count"]));
                    }),
                    None => {
                        show(&at, &answer, |counted| say(&format!("{} messages match", counted["count"])))
                    }
                }
            }
            Self::List { at } => {
                let answer = at.client()?.get("/admin/v1/bulk", &[]).await?;
                show(&at, &answer, |answer| print_jobs(members(answer, "jobs")))
            }
            Self::Show { job, wait: true, at } => follow(&at.client()?, &at, &job).await,
            Self::Show { job, wait: false, at } => {
                let answer = at.client()?.get(&job_path(&job), &[]).await?;
                show(&at, &answer, print_job)
            }
            Self::Stop { job, at } => {
                let answer = at.client()?.send(Method::DELETE, &job_path(&job), None).await?;
                show(&at, &answer, print_job)
            }
        }
    }
}

/// Shows the gateway at a glance, again and again on a terminal.
async fn top(at: &Connection, once: bool, every: Duration) -> Result<(), CommandError> {
    let client = at.client()?;
    let live = !once && !at.json && std::io::stdout().is_terminal();
    loop {
        let answer = client.get("/admin/v1/overview", &[]).await?;
        if live {
            // To the upper left corner of an empty screen.
            print!("\x1b[2J\x1b[H");
        }
        show(at, &answer, print_overview)?;
        if !live {
            return Ok(());
        }
        tokio::time::sleep(every).await;
    }
}

/// Shows every message that has an id.
async fn trace(id: &str, at: &Connection) -> Result<(), CommandError> {
    let client = at.client()?;
    let found = client.get("/admin/v1/messages", &[("id", id.to_owned())]).await?;
    let mut messages = Vec::new();
    for line in members(&found, "messages") {
        messages.push(client.get(&format!("/admin/v1/messages/{}", encode(text(line, "id"))), &[]).await?);
    }
    if messages.is_empty() {
        return Err(CommandError::Usage(format!("no message has the id {id}")));
    }
    show(at, &Value::from(messages), |messages| {
        for message in messages.as_array().into_iter().flatten() {
            print_trace(message);
        }
    })
}

/// Pages of a list up to a limit, as one answer.
async fn pages(
    client: &OperatorClient,
    path: &str,
    name: &str,
    filter: &[(&'static str, String)],
    limit: usize,
) -> Result<Value, CommandError> {
    let (mut found, mut cursor, mut behind) = (Vec::new(), None::<String>, None);
    while found.len() < limit {
        let mut query = filter.to_vec();
        query.push(("limit", (limit - found.len()).min(1_000).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let mut page = client.get(path, &query).await?;
        found.extend(page[name].as_array_mut().map(std::mem::take).unwrap_or_default());
        behind = page.get("behindBytes").cloned();
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    let mut answer = json!({ name: found, "next": cursor });
    if let Some(behind) = behind {
        if behind != 0 {
            eprintln!("amtsbote: the search does not know the last {behind} bytes of the journal yet");
        }
        answer["behindBytes"] = behind;
    }
    Ok(answer)
}

/// Shows how a bulk operation goes on until it ends.
async fn follow(client: &OperatorClient, at: &Connection, job: &str) -> Result<(), CommandError> {
    let live = std::io::stderr().is_terminal();
    loop {
        let answer = client.get(&job_path(job), &[]).await?;
        if answer["state"] != "running" {
            if live {
                eprintln!();
            }
            show(at, &answer, print_job)?;
            return match (text(&answer, "state"), answer["failed"].as_u64()) {
                ("done", Some(0)) => Ok(()),
                (state, _) => {
                    let failed = &answer["failed"];
                    Err(CommandError::Incomplete(format!("the operation is {state}, {failed} failed")))
                }
            };
        }
        if live {
            eprint!("\r{} of {} done, {} failed ", answer["done"], answer["total"], answer["failed"]);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Writes a file whole or not at all; what was there stays until then. Devices and pipes are written to.
fn replace(path: &Path, content: &[u8]) -> Result<(), CommandError> {
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if path.exists() && !path.is_file() {
        let written = std::fs::write(path, content);
        return written.map_err(|error| CommandError::Output(format!("{}: {error}", path.display())));
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
        file.write_all(content)?;
        file.persist(path).map_err(|error| error.error)
    });
    written.map(drop).map_err(|error| CommandError::Output(format!("{}: {error}", path.display())))
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn hold_path(scope: &str, key: &str) -> String {
    format!("/admin/v1/holds/{}/{}", encode(scope), encode(key))
}

fn message_path(id: &str, action: &str) -> String {
    format!("/admin/v1/dead-letters/{}{action}", encode(id))
}

fn job_path(job: &str) -> String {
    format!("/admin/v1/bulk/{}", encode(job))
}

/// As a table for people, or as it came.
fn show(at: &Connection, answer: &Value, print: impl FnOnce(&Value)) -> Result<(), CommandError> {
    if at.json {
        say(&format!("{answer:#}"));
    } else {
        print(answer);
    }
    Ok(())
}
