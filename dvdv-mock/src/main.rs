//! `dvdv-mock`: a DVDV2 directory server for laboratories.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use amtsbote_http::{Limits, Listener, serve};
use amtsbote_tls::{ClientAuth, Identity, ServerTls, Trusted};
use anyhow::Context as _;
use clap::Parser;
use dvdv_mock::{AudienceCheck, Directory, FaultRule, Miss, Mock, MockOptions, Now, example};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio_util::sync::CancellationToken;

/// A DVDV2 directory server (API v2) with an example directory. For tests and laboratories only.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:18090")]
    listen: SocketAddr,
    /// Path in front of everything
    #[arg(long, default_value = "/dvdv2-backend")]
    prefix: String,
    /// Certificate chain for TLS (PEM); plain HTTP without
    #[arg(long, requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Key for TLS (PEM)
    #[arg(long, requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Client certificate that may ask for tokens, as FILE or FILE=CATEGORY; repeatable
    #[arg(long = "client", value_name = "FILE[=CATEGORY]")]
    clients: Vec<String>,
    /// Token accepted on the Bundesmaster path; repeatable
    #[arg(long = "bearer", value_name = "TOKEN")]
    bearers: Vec<String>,
    /// Authorities (CSV, columns as in the example)
    #[arg(long)]
    authorities: Option<PathBuf>,
    /// Services (CSV, columns as in the example)
    #[arg(long)]
    services: Option<PathBuf>,
    /// Tree of categories (JSON)
    #[arg(long)]
    categories: Option<PathBuf>,
    /// Time the mock believes it is, such as 2026-01-15T12:00:00Z
    #[arg(long)]
    now: Option<jiff::Timestamp>,
    /// Status of a lookup without a hit
    #[arg(long, default_value = "404", value_parser = ["404", "204"])]
    miss: String,
    /// Seconds a token lives
    #[arg(long, default_value_t = 86_400)]
    token_life: u32,
    /// Audience of assertions: off, own, or a URL; a URL is repeatable
    #[arg(long, default_value = "own")]
    audience: Vec<String>,
    /// Accept only RS256 assertions, as the published interface says
    #[arg(long)]
    rs256_only: bool,
    /// Refuse an assertion that was used before
    #[arg(long)]
    refuse_replay: bool,
    /// Fault rule as JSON, such as '{"function":"version","times":3,"fault":{"status":{"code":503}}}'; repeatable
    #[arg(long = "fault", value_name = "JSON")]
    faults: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(arguments)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dvdv-mock: {error:#}");
            ExitCode::from(64)
        }
    }
}

fn directory(arguments: &Arguments) -> anyhow::Result<Directory> {
    let read = |path: &Option<PathBuf>, example: &str| match path {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display())),
        None => Ok(example.to_owned()),
    };
    let authorities = read(&arguments.authorities, example::AUTHORITIES)?;
    let services = read(&arguments.services, example::SERVICES)?;
    let categories = read(&arguments.categories, example::CATEGORIES)?;
    Ok(Directory::load(&authorities, &services, &categories)?)
}

fn options(arguments: &Arguments) -> MockOptions {
    MockOptions {
        prefix: arguments.prefix.trim_end_matches('/').to_owned(),
        now: arguments.now.map_or(Now::System, Now::Fixed),
        miss: if arguments.miss == "204" { Miss::NoContent } else { Miss::NotFound },
        token_life: arguments.token_life,
        audience: match arguments.audience.as_slice() {
            [one] if one == "off" => AudienceCheck::Off,
            [one] if one == "own" => AudienceCheck::OwnUrl,
            list => AudienceCheck::OneOf(list.to_vec()),
        },
        accept_elliptic: !arguments.rs256_only,
        refuse_replay: arguments.refuse_replay,
        bearers: arguments.bearers.iter().cloned().collect(),
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mock = Mock::new(directory(&arguments)?, options(&arguments))?;
    for client in &arguments.clients {
        let (path, category) = client.split_once('=').unwrap_or((client, "Vermittlungsstelle"));
        let der = CertificateDer::from_pem_file(path).with_context(|| format!("reading {path}"))?;
        mock.register_client(der.to_vec(), category);
    }
    let rules: Result<Vec<FaultRule>, _> =
        arguments.faults.iter().map(|rule| serde_json::from_str(rule)).collect();
    mock.script(rules.context("a fault rule is not readable")?);
    let tls = match (&arguments.tls_certificate, &arguments.tls_key) {
        (Some(certificate), Some(key)) => {
            let identity = Identity::load(certificate, key)?;
            Some(Arc::new(ServerTls::new(identity, Trusted::default(), ClientAuth::Requested)?))
        }
        _ => None,
    };
    let socket = tokio::net::TcpListener::bind(arguments.listen).await;
    let socket = socket.with_context(|| format!("listening on {}", arguments.listen))?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    println!("{scheme}://{}{}", socket.local_addr()?, mock.options_prefix());
    let stop = CancellationToken::new();
    let listener = Listener { name: "dvdv", socket, tls, router: mock.router(), limits: Limits::default() };
    let serving = tokio::spawn(serve(listener, stop.clone()));
    let mut reload = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = reload.recv() => match directory(&arguments) {
                Ok(directory) => mock.replace_directory(directory),
                Err(error) => tracing::error!("The directory was not read again: {error:#}"),
            },
            _ = terminate.recv() => break,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                break;
            }
        }
    }
    stop.cancel();
    serving.await?;
    Ok(())
}
