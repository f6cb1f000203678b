//! A laboratory on one machine: directory server, gateway, two portals, and the departments that serve the organisations used.
//!
//! Nothing needs to be installed. Everything runs on free loopback ports in one process, over the same mutual TLS and the same
//! interfaces as in production; the portals and departments are clients like any other.

mod documents;
mod lab;
mod plan;
mod simulators;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::port::Clock as _;
use amtsbote_http::{Limits, Listener, serve};
use dvdv_mock::{Directory, Mock, MockOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{Gateway, StartError, SystemClock};

pub use lab::write_atomically;

/// Longest time for the 35 round trips.
const PATIENCE: Duration = Duration::from_secs(120);

/// What `amtsbote demo` was asked for.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Folder of the laboratory.
    pub dir: PathBuf,
    /// End after the summary.
    pub once: bool,
    /// Broker for some departments.
    pub rabbitmq: Option<Url>,
}

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The folder holds something else.
    #[error("{0} is not empty and holds no earlier laboratory; choose another folder with --dir")]
    Foreign(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Certificates cannot be made.
    #[error("cannot make certificates")]
    Certs(#[from] amtsbote_certs::CertsError),
    /// The directory server does not start.
    #[error("the directory server does not start: {0}")]
    Directory(String),
    /// The gateway does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The broker of `--rabbitmq` cannot be used.
    #[error("the broker cannot be used: {0}")]
    Broker(String),
    /// A simulated portal or department got an unexpected answer.
    #[error("{who}: {what}")]
    Simulator {
        /// Which.
        who: String,
        /// What went wrong.
        what: String,
    },
    /// Not everything arrived in time.
    #[error("only {acknowledged} of {submitted} messages were acknowledged in time")]
    Lost {
        /// Handed in.
        submitted: usize,
        /// Arrived.
        acknowledged: usize,
    },
}

impl DemoError {
    /// Exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Foreign(_) | Self::Write { .. } => 64,
            Self::Start(StartError::Dependency { .. }) | Self::Broker(_) => 75,
            Self::Certs(_)
            | Self::Directory(_)
            | Self::Start(_)
            | Self::Simulator { .. }
            | Self::Lost { .. } => 70,
        }
    }
}

pub(crate) fn write_error(path: &Path) -> impl FnOnce(std::io::Error) -> DemoError {
    let path = path.to_owned();
    move |source| DemoError::Write { path, source }
}

/// Runs the demo.
///
/// # Errors
/// [`DemoError`].
pub async fn run(options: DemoOptions) -> Result<(), DemoError> {
    let logs = amtsbote_telemetry::LogOptions {
        level: "warn,lapin=off".to_owned(),
        format: amtsbote_telemetry::LogFormat::Text,
    };
    if let Err(error) = amtsbote_telemetry::start_logs(&logs) {
        eprintln!("amtsbote: {error}");
    }
    let dir = lab::prepare_folder(&options.dir)?;
    let plan = plan::make(options.rabbitmq.is_some(), SystemClock.now());
    println!("Amtsbote laboratory in {}", dir.display());
    println!("  making certificates for {} accounts", plan.departments.len() + 3);
    let pki = lab::make_certificates(&dir, &plan)?;
    let stop = CancellationToken::new();
    let (directory_url, directory_task) = start_directory(&pki.dvdv_client, &stop).await?;
    println!("  directory server   {directory_url}");
    let config = lab::write_configuration(&dir, &plan, &directory_url, options.rabbitmq.as_ref())?;
    let gateway = Gateway::start(&config).await?;
    println!("  gateway            https://{}", gateway.exchange);
    let queues = simulators::Queues::open(&plan, options.rabbitmq.as_ref()).await?;
    let lab = lab::describe(&dir, &plan, &gateway, &directory_url, options.rabbitmq.as_ref());
    write_atomically(&dir.join("lab.json"), &lab).map_err(write_error(&dir.join("lab.json")))?;

    let world = Arc::new(simulators::World::new(&dir, &gateway, &plan)?);
    println!("  submitting {} applications\n", plan.routes.len());
    let played = tokio::time::timeout(PATIENCE, simulators::play(&world, &plan, queues)).await;
    let result = match played {
        Ok(result) => result?,
        Err(_) => world.progress(),
    };
    if let Some(first) = &result.first {
        world.show_process_card(first).await?;
    }
    let lost = result.submitted - result.acknowledged;
    println!(
        "submitted={} delivered={} acknowledged={} lost={lost}",
        result.submitted, result.delivered, result.acknowledged
    );
    if lost > 0 {
        return Err(DemoError::Lost { submitted: result.submitted, acknowledged: result.acknowledged });
    }
    if !options.once {
        lab::print_how_to(&dir, &plan, &gateway);
        if let Err(error) = wait_for_the_end().await {
            eprintln!("amtsbote: signals cannot be waited for: {error}");
        }
    }
    gateway.stop().await;
    stop.cancel();
    directory_task.await.map_err(|error| DemoError::Directory(error.to_string()))
}

async fn wait_for_the_end() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}

async fn start_directory(
    client: &[u8],
    stop: &CancellationToken,
) -> Result<(Url, tokio::task::JoinHandle<()>), DemoError> {
    let failed = |error: &dyn std::error::Error| DemoError::Directory(error.to_string());
    let directory = Directory::example().map_err(|error| failed(&error))?;
    let mock = Mock::new(directory, MockOptions::default()).map_err(|error| failed(&error))?;
    mock.register_client(client.to_vec(), "Vermittlungsstelle");
    let socket = TcpListener::bind("127.0.0.1:0").await.map_err(|error| failed(&error))?;
    let address = socket.local_addr().map_err(|error| failed(&error))?;
    let url = format!("http://{address}{}", mock.options_prefix())
        .parse()
        .map_err(|error: url::ParseError| failed(&error))?;
    let limits = Limits { drain: Duration::from_secs(1), ..Limits::default() };
    let listener = Listener { name: "dvdv", socket, tls: None, router: mock.router(), limits };
    Ok((url, tokio::spawn(serve(listener, stop.clone()))))
}
