//! The `amtsbote` binary.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use amtsbote::config::{Config, ConfigIssue, REFERENCE};
use amtsbote::console::ConsoleLinkArguments;
use amtsbote::demo::{self, DemoOptions};
use amtsbote::doctor::DoctorArguments;
use amtsbote::operator::{CommandError, OperatorCommand};
use amtsbote::party::{MailboxArguments, SubmitArguments};
use amtsbote::probe::HealthArguments;
use amtsbote::{Gateway, StartError, SystemClock, service};
use amtsbote_certs::{Folder, KeyKind, Purpose};
use amtsbote_core::port::Clock as _;
use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Bodies are allocated on one thread and freed on another, which the C library's allocator does not like; and what is freed
/// goes back to the system, which others do too late.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit codes: 0 done, 64 bad usage or configuration, 70 internal, 75 a dependency is missing or busy.
const USAGE: u8 = 64;
const INTERNAL: u8 = 70;
const UNAVAILABLE: u8 = 75;
/// The doctor found something hurt.
const HURT: u8 = 1;

/// How often it is looked whether all parts of the gateway live.
const WATCH: Duration = Duration::from_secs(5);

/// Threads for what blocks: reading the store and signing, which limit themselves, large bodies, and resolving names, which may
/// hang when nobody answers. More would only take memory.
const BLOCKING_THREADS: usize = 64;

/// Message routing gateway for German e-government.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 64 bad usage or configuration, 70 internal error, 75 a dependency is missing or busy."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway. SIGHUP re-reads accounts, certificates, routing tables and engine.hold; SIGTERM ends it
    Serve {
        /// Configuration (TOML)
        #[arg(long)]
        config: PathBuf,
        /// Write the bound addresses as JSON to this file once everything is ready; `-` is standard output
        #[arg(long)]
        ready_file: Option<PathBuf>,
    },
    /// Check a configuration file and everything it names
    CheckConfig {
        /// Configuration (TOML)
        #[arg(long)]
        config: PathBuf,
    },
    /// Print the commented reference configuration
    Reference,
    /// Print the OpenAPI document of the interface for portals and departments
    Openapi {
        /// The one for operators instead
        #[arg(long)]
        operator: bool,
    },
    /// Run a laboratory: directory, gateway, portals and departments on this machine
    Demo {
        /// Folder of the laboratory; emptied first if it holds an earlier one
        #[arg(long, default_value = "amtsbote-demo")]
        dir: PathBuf,
        /// End after the summary
        #[arg(long)]
        once: bool,
        /// Put some departments on queues of this RabbitMQ, such as amqp://guest:guest@127.0.0.1:5672/%2f
        #[arg(long, value_parser = plain_amqp)]
        rabbitmq: Option<url::Url>,
    },
    /// Examine the store of a gateway that does not run: checksums, references, the index against the journal. Exit code 1 if
    /// something that was acknowledged is hurt
    Doctor(DoctorArguments),
    /// Hand in a folder of documents as a portal does; can be cut off and goes on
    Submit(SubmitArguments),
    /// Empty a mailbox into a folder as a department does; can be cut off and goes on
    Mailbox(MailboxArguments),
    /// Commands of operators, which ask a running gateway
    #[command(flatten)]
    Operator(OperatorCommand),
    /// Ask whether the gateway on this host is ready; for health checks of containers
    Health(HealthArguments),
    /// Make a one-time link that signs a browser in to the console of the gateway that runs on this host
    ConsoleLink(ConsoleLinkArguments),
    /// Print completions for a shell
    Completions {
        /// Which
        shell: Shell,
    },
    /// Print the manual page, or write one for each command
    Man {
        /// Folder for amtsbote.1, amtsbote-serve.1 and so on; absent: amtsbote.1 on standard output
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Development certificates
    Certs {
        #[command(subcommand)]
        command: CertsCommand,
    },
}

#[derive(Debug, Subcommand)]
enum CertsCommand {
    /// Make authorities and certificates for a server, a portal, a department, an operator and the seal
    Init {
        /// Folder; must not hold certificates yet
        dir: PathBuf,
        /// Names and addresses of the server
        #[arg(long = "name", default_values = ["localhost", "127.0.0.1", "::1"])]
        names: Vec<String>,
        /// Make the seal's key RSA 3072 instead of ECDSA P-256
        #[arg(long)]
        rsa_seal: bool,
    },
}

fn plain_amqp(text: &str) -> Result<url::Url, String> {
    let url: url::Url = text.parse().map_err(|error| format!("{error}"))?;
    match url.scheme() {
        "amqp" if url.has_host() => Ok(url),
        _ => Err("the demo speaks plain AMQP only; write amqp://USER:PASSWORD@HOST:PORT/VHOST".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            // A closed pipe is no reason to complain.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match arguments.command {
        Command::Serve { config, ready_file } => with_runtime(serve(&config, ready_file.as_deref())),
        Command::CheckConfig { config } => check_config(&config),
        Command::Reference => {
            print!("{REFERENCE}");
            ExitCode::SUCCESS
        }
        Command::Openapi { operator } => {
            let document = if operator { amtsbote_rest::admin_document() } else { amtsbote_rest::document() };
            match document {
                Ok(document) => {
                    print!("{document}");
                    ExitCode::SUCCESS
                }
                Err(error) => fail(INTERNAL, &error.into()),
            }
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "amtsbote", &mut text);
            print(&text)
        }
        Command::Man { dir } => manual(dir.as_deref()),
        Command::Doctor(arguments) => match arguments.run() {
            Ok(sound) => ExitCode::from(if sound { 0 } else { HURT }),
            Err(error) => fail(error.exit_code(), &error.into()),
        },
        Command::ConsoleLink(arguments) => match arguments.run() {
            Ok(link) => print(format!("{link}\n").as_bytes()),
            Err(error) => fail(error.exit_code(), &error.into()),
        },
        Command::Health(arguments) => with_runtime(run_command(arguments.run())),
        Command::Submit(arguments) => with_runtime(run_command(arguments.run())),
        Command::Mailbox(arguments) => with_runtime(run_command(arguments.run())),
        Command::Operator(command) => with_runtime(run_command(command.run())),
        Command::Demo { dir, once, rabbitmq } => with_runtime(run_demo(DemoOptions { dir, once, rabbitmq })),
        Command::Certs { command: CertsCommand::Init { dir, names, rsa_seal } } => {
            certs_init(&dir, names, rsa_seal)
        }
    }
}

/// Writes to standard output; whoever has read enough may go.
fn print(text: &[u8]) -> ExitCode {
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => fail(INTERNAL, &error.into()),
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

fn manual(folder: Option<&Path>) -> ExitCode {
    let command = Arguments::command();
    let Some(folder) = folder else {
        let mut text = Vec::new();
        return match clap_mangen::Man::new(command).render(&mut text) {
            Ok(()) => print(&text),
            Err(error) => fail(INTERNAL, &error.into()),
        };
    };
    match std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(USAGE, &anyhow::Error::from(error).context(folder.display().to_string())),
    }
}

fn fail(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("amtsbote: {error:#}");
    ExitCode::from(code)
}

fn with_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    match runtime.enable_all().max_blocking_threads(BLOCKING_THREADS).build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => fail(INTERNAL, &error.into()),
    }
}

fn report(issues: &[ConfigIssue]) -> ExitCode {
    for issue in issues {
        eprintln!("amtsbote: {issue}");
    }
    eprintln!(
        "amtsbote: {} problem(s) in the configuration; `amtsbote reference` prints all keys",
        issues.len()
    );
    ExitCode::from(USAGE)
}

fn start_failed(error: &StartError) -> ExitCode {
    eprintln!("amtsbote: {error}");
    ExitCode::from(match error {
        StartError::Configuration { .. } => USAGE,
        StartError::Dependency { .. } => UNAVAILABLE,
    })
}

fn check_config(path: &Path) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(issues) => return report(&issues),
    };
    let problems = amtsbote::check_files(&config);
    if problems.is_empty() {
        println!("The configuration is complete and everything it names can be used.");
        return ExitCode::SUCCESS;
    }
    for problem in &problems {
        eprintln!("amtsbote: {problem}");
    }
    eprintln!("amtsbote: {} problem(s) in what the configuration names", problems.len());
    ExitCode::from(USAGE)
}

async fn serve(path: &Path, ready_file: Option<&Path>) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(issues) => return report(&issues),
    };
    if let Err(error) = amtsbote_telemetry::start_logs(&config.log) {
        return fail(USAGE, &error.into());
    }
    // Before anything starts: a signal that comes early must not end the process without farewell.
    let signals = match Signals::take() {
        Ok(signals) => signals,
        Err(error) => return fail(INTERNAL, &error.into()),
    };
    let gateway = match Gateway::start(&config).await {
        Ok(gateway) => gateway,
        Err(error) => return start_failed(&error),
    };
    match run(gateway, path, ready_file, signals).await {
        Ok(code) => code,
        Err(error) => fail(INTERNAL, &error),
    }
}

/// What the process listens to.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn take() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

async fn run(
    gateway: Gateway,
    path: &Path,
    ready_file: Option<&Path>,
    mut signals: Signals,
) -> anyhow::Result<ExitCode> {
    if let Some(file) = ready_file {
        let addresses = serde_json::json!({
            "pid": std::process::id(), "exchange": gateway.exchange, "osci": gateway.osci, "operator": gateway.operator, "telemetry": gateway.telemetry,
        });
        if file == Path::new("-") {
            println!("{addresses}");
        } else {
            demo::write_atomically(file, &addresses.to_string()).context("writing the ready file")?;
        }
    }
    service::ready();
    let pace = service::pace().map_or(WATCH, |pace| pace.min(WATCH));
    let mut watch = tokio::time::interval(pace);
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => {
                service::reloading();
                reload(&gateway, path);
                service::ready();
            }
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = watch.tick() => {
                if gateway.has_failed() {
                    tracing::error!("A part of the gateway has ended by itself; it stops so that it is started anew.");
                    gateway.stop().await;
                    return Ok(ExitCode::from(INTERNAL));
                }
                service::alive();
            }
        }
    }
    service::stopping();
    tracing::info!("The gateway is shutting down.");
    let cut = gateway.stop().await;
    tracing::info!(cut, "The gateway has ended.");
    Ok(ExitCode::SUCCESS)
}

fn reload(gateway: &Gateway, path: &Path) {
    match Config::load(path) {
        Ok(config) => match gateway.reload(&config) {
            Ok(()) => tracing::info!("Accounts, certificates and routing tables were read again."),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "Nothing was changed."),
        },
        Err(issues) => {
            for issue in issues {
                tracing::error!(%issue, "The configuration was not read again; nothing was changed.");
            }
        }
    }
}

async fn run_command(work: impl Future<Output = Result<(), CommandError>>) -> ExitCode {
    match work.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.exit_code(), &error.into()),
    }
}

async fn run_demo(options: DemoOptions) -> ExitCode {
    match demo::run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.exit_code(), &error.into()),
    }
}

fn certs_init(dir: &Path, names: Vec<String>, rsa_seal: bool) -> ExitCode {
    let make = || -> anyhow::Result<()> {
        let folder = Folder::create(dir, SystemClock.now().into())?;
        let seal = if rsa_seal { KeyKind::Rsa3072 } else { KeyKind::P256 };
        folder.add("server", &Purpose::Server(names), KeyKind::P256)?;
        for client in ["portal", "department", "operator"] {
            folder.add(client, &Purpose::Client, KeyKind::P256)?;
        }
        folder.add("seal", &Purpose::Seal, seal)?;
        folder.add("dvdv-client", &Purpose::Client, KeyKind::Rsa3072)?;
        println!("Certificates for a laboratory are in {}. Do not use them elsewhere.", dir.display());
        Ok(())
    };
    match make() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(USAGE, &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_fit_together() {
        Arguments::command().debug_assert();
    }
}
