//! Every key there is.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use amtsbote_core::account::{Account, Credential, LocalChannel, Role};
use amtsbote_core::delivery::{DeadHead, RetryPolicy};
use amtsbote_core::engine::{BreakerPolicy, DestinationPolicy, EngineOptions, Policies, Retention};
use amtsbote_core::intake::DEADLINE_WARNING;
use amtsbote_core::route::{ChannelKind, Destination};
use amtsbote_dvdv::EntryPath;
use amtsbote_http::Limits;
use amtsbote_rest::RestLimits;
use amtsbote_store_sled::RoomLimits;
use amtsbote_telemetry::{LogFormat, LogOptions};
use toml::Table;
use url::Url;

use super::reader::{ConfigIssue, Findings, Section};
use super::{
    AccountConfig, BrokerConfig, BrokerTls, Config, DirectoryConfig, FolderConfig, KeyPair, LoginConfig,
    OsciPeerConfig, RoutingConfig, TlsListener, WebhookConfig, XtaServerConfig,
};
use super::{folder, osci, webhook, xta};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const ADDRESS: &str = "write an address such as \"0.0.0.0:8443\"";

/// Reads the file; also tells which keys exist.
pub(super) fn read(text: &str, base: &Path) -> (Result<Config, Vec<ConfigIssue>>, BTreeSet<String>) {
    let mut findings = Findings::default();
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            let issue = ConfigIssue {
                key: "file".to_owned(),
                problem: format!("is no TOML: {}", error.message()),
                remedy: "compare it with the reference file".to_owned(),
            };
            return (Err(vec![issue]), BTreeSet::new());
        }
    };
    let config = root(Section::root(table, base), &mut findings);
    let result = match config {
        Some(config) if findings.issues.is_empty() => Ok(config),
        _ => Err(findings.issues),
    };
    (result, findings.asked)
}

fn root(mut root: Section<'_>, findings: &mut Findings) -> Option<Config> {
    let (store, room) = store(root.section(findings, "store"), findings);
    let exchange = listener(root.section(findings, "exchange"), findings, None);
    let operator_section = root.section(findings, "operator");
    let operator = if operator_section.is_empty() {
        listener_keys(operator_section, findings);
        None
    } else {
        listener(operator_section, findings, Some("127.0.0.1:9443"))
    };
    let telemetry = telemetry(root.section(findings, "telemetry"), findings);
    let (limits, rest) = limits(root.section(findings, "limits"), findings);
    let xta = xta::face(root.section(findings, "xta"), findings, rest.body);
    let osci = osci::intermediary(root.section(findings, "osci"), findings, rest.body);
    let seal = key_pair(root.section(findings, "seal"), findings);
    let directory = directory(root.section(findings, "directory"), findings);
    let (routing, route_retry, route_max_wait) = routing(root.section(findings, "routing"), findings);
    let mut retry_section = root.section(findings, "retry");
    let retry = retry(&mut retry_section, findings, &RetryPolicy::default());
    retry_section.close(findings);
    let mut breaker_section = root.section(findings, "breaker");
    let breaker = breaker(&mut breaker_section, findings, &BreakerPolicy::default());
    breaker_section.close(findings);
    let retention = retention(root.section(findings, "retention"), findings);
    let engine_section = root.section(findings, "engine");
    let recheck_after = directory.as_ref().map_or(600 * SECOND, |directory| directory.fresh);
    let (engine, hold, drain, deadline_warning) = engine(engine_section, findings);
    let usual = DestinationPolicy { retry, breaker, ..engine.policies.usual };
    let special = destinations(&mut root, findings, &usual);
    let policies = Policies { usual, special };
    let engine = EngineOptions { policies, retention, route_retry, route_max_wait, recheck_after, ..engine };
    let inline_max = amqp(root.section(findings, "amqp"), findings);
    let brokers = brokers(&mut root, findings);
    let xta_servers = xta::servers(&mut root, findings);
    let osci_peers = osci::peers(&mut root, findings);
    let folders = folder::folders(&mut root, findings);
    let webhooks = webhook::webhooks(&mut root, findings);
    let log = log(root.section(findings, "log"), findings);
    let accounts = accounts(
        &mut root,
        findings,
        Named {
            brokers: &brokers,
            xta: &xta_servers,
            osci: &osci_peers,
            folders: &folders,
            webhooks: &webhooks,
        },
    );
    root.close(findings);
    Some(Config {
        store: store?,
        room,
        exchange: exchange?,
        operator,
        telemetry,
        limits,
        rest,
        xta,
        osci,
        seal: seal?,
        directory: directory?,
        routing: routing?,
        engine,
        hold,
        drain,
        deadline_warning,
        brokers,
        xta_servers,
        osci_peers,
        folders,
        webhooks,
        inline_max,
        accounts,
        log,
    })
}

fn store(mut section: Section<'_>, findings: &mut Findings) -> (Option<std::path::PathBuf>, RoomLimits) {
    let usual = RoomLimits::default();
    let path = section.path(findings, "path");
    let min_free = section.number(findings, "min_free_bytes", usual.min_free, 0..=1 << 50);
    let low_free = section.number(findings, "low_free_bytes", usual.low_free.max(min_free), 0..=1 << 50);
    let max_journal = section
        .has("max_journal_bytes")
        .then(|| section.number(findings, "max_journal_bytes", 1 << 40, 256 << 20..=1 << 50));
    if low_free < min_free {
        let problem = "is below min_free_bytes";
        section.issue(findings, "low_free_bytes", problem, "warn before nothing more is accepted");
    }
    section.close(findings);
    (path, RoomLimits { min_free, low_free, max_journal })
}

pub(super) fn key_pair_of(section: &mut Section<'_>, findings: &mut Findings) -> Option<KeyPair> {
    let (certificate, key) = (section.path(findings, "certificate"), section.path(findings, "key"));
    Some(KeyPair { certificate: certificate?, key: key? })
}

/// A certificate with its key, or neither.
pub(super) fn optional_pair_of(
    section: &mut Section<'_>,
    findings: &mut Findings,
    certificate_key: &str,
    key_key: &str,
) -> Option<KeyPair> {
    match (section.optional_path(findings, certificate_key), section.optional_path(findings, key_key)) {
        (Some(certificate), Some(key)) => Some(KeyPair { certificate, key }),
        (None, None) => None,
        (None, Some(_)) => {
            section.issue(findings, certificate_key, "is missing", "name certificate and key");
            None
        }
        (Some(_), None) => {
            section.issue(findings, key_key, "is missing", "name certificate and key");
            None
        }
    }
}

fn key_pair(mut section: Section<'_>, findings: &mut Findings) -> Option<KeyPair> {
    let pair = key_pair_of(&mut section, findings);
    section.close(findings);
    pair
}

/// Mentions the keys of an absent section, so that the reference file is complete.
fn listener_keys(mut section: Section<'_>, findings: &mut Findings) {
    for key in ["listen", "certificate", "key", "client_ca"] {
        section.text(findings, key);
    }
}

fn listener(mut section: Section<'_>, findings: &mut Findings, default: Option<&str>) -> Option<TlsListener> {
    let listen = match default {
        Some(default) if !section.has("listen") => default.parse().ok(),
        _ => section.needed(findings, "listen", ADDRESS),
    };
    let identity = key_pair_of(&mut section, findings);
    let client_authorities = section.paths(findings, "client_ca");
    section.close(findings);
    Some(TlsListener { listen: listen?, identity: identity?, client_authorities })
}

fn telemetry(mut section: Section<'_>, findings: &mut Findings) -> Option<std::net::SocketAddr> {
    let listen = section.parsed(findings, "listen", ADDRESS);
    section.close(findings);
    listen
}

fn limits(mut section: Section<'_>, findings: &mut Findings) -> (Limits, RestLimits) {
    let (limits, rest) = (Limits::default(), RestLimits::default());
    let connections = section.number(findings, "connections", limits.connections as u64, 1..=1_000_000);
    let metadata = section.number(findings, "metadata_bytes", rest.metadata as u64, 1024..=16 << 20);
    let body = section.number(findings, "body_bytes", rest.body, 1024..=1 << 40);
    let attachments = section.number(findings, "attachments", rest.attachments as u64, 0..=65_000);
    let requests = section.number(findings, "requests_per_second", rest.requests.get().into(), 1..=1_000_000);
    let in_flight = section.number(findings, "in_flight_bytes", rest.in_flight, 16 << 20..=1 << 40);
    let stall = section.duration(findings, "stall", rest.stall);
    let limits = Limits {
        connections: usize::try_from(connections).unwrap_or(limits.connections),
        handshake: section.duration(findings, "handshake", limits.handshake),
        header: section.duration(findings, "header", limits.header),
        stall,
        drain: limits.drain,
    };
    let rest = RestLimits {
        metadata: usize::try_from(metadata).unwrap_or(rest.metadata),
        body,
        attachments: usize::try_from(attachments).unwrap_or(rest.attachments),
        stall,
        in_flight,
        requests: NonZeroU32::new(u32::try_from(requests).unwrap_or(u32::MAX)).unwrap_or(rest.requests),
    };
    section.close(findings);
    (limits, rest)
}

fn directory(mut section: Section<'_>, findings: &mut Findings) -> Option<DirectoryConfig> {
    let servers: Vec<Url> =
        section.list(findings, "servers", "write base URLs such as \"https://dvdv.example/dvdv2-backend\"");
    if servers.is_empty() {
        section.issue(findings, "servers", "names no server", "name at least one base URL");
    }
    let entry_name = section.text(findings, "entry").unwrap_or_else(|| "standalone".to_owned());
    let (certificate, key) =
        (section.optional_path(findings, "certificate"), section.optional_path(findings, "key"));
    let (audience, token) =
        (section.text(findings, "audience"), section.optional_path(findings, "token_file"));
    let entry = match (entry_name.as_str(), certificate, key, token) {
        ("intern", ..) => Some(EntryPath::Intern),
        ("standalone", Some(certificate), Some(key), _) => {
            Some(EntryPath::Standalone { certificate, key, audience })
        }
        ("standalone", ..) => {
            section.issue(
                findings,
                "certificate",
                "is missing, or its key",
                "name the registered client certificate and its key",
            );
            None
        }
        ("bundesmaster", _, _, Some(token)) => Some(EntryPath::Bundesmaster { token }),
        ("bundesmaster", ..) => {
            section.issue(findings, "token_file", "is missing", "name the file with the token");
            None
        }
        _ => {
            section.issue(
                findings,
                "entry",
                "is unknown",
                "write \"standalone\", \"intern\" or \"bundesmaster\"",
            );
            None
        }
    };
    let authorities = section.paths(findings, "ca");
    if servers.iter().any(|url| !matches!(url.scheme(), "http" | "https")) {
        section.issue(findings, "servers", "holds an address that is not http or https", "write https://…");
    }
    if authorities.is_empty() && servers.iter().any(|url| url.scheme() == "https") {
        section.issue(findings, "ca", "is empty", "name the authorities of the servers' certificates");
    }
    let attempt = section.duration(findings, "attempt", 5 * SECOND);
    let total = section.duration(findings, "total", 15 * SECOND);
    let retries = u32::try_from(section.number(findings, "retries", 2, 0..=20)).unwrap_or(2);
    let fresh = section.duration(findings, "fresh", 600 * SECOND);
    let negative = section.duration(findings, "negative", 300 * SECOND);
    let grace = section.duration(findings, "grace", DAY);
    if negative > fresh {
        section.issue(
            findings,
            "negative",
            "is longer than fresh",
            "believe a miss at most as long as a hit",
        );
    }
    section.close(findings);
    Some(DirectoryConfig {
        servers,
        entry: entry?,
        authorities,
        attempt,
        total,
        retries,
        fresh,
        negative,
        grace,
    })
}

fn routing(mut section: Section<'_>, findings: &mut Findings) -> (Option<RoutingConfig>, Duration, Duration) {
    let (areas, services) = (section.path(findings, "areas"), section.path(findings, "services"));
    let authorities = section.path(findings, "authorities");
    let retry = section.duration(findings, "retry", 30 * SECOND);
    let max_wait = section.duration(findings, "max_wait", DAY);
    section.close(findings);
    let files = (|| Some(RoutingConfig { areas: areas?, services: services?, authorities: authorities? }))();
    (files, retry, max_wait)
}

fn retry(section: &mut Section<'_>, findings: &mut Findings, usual: &RetryPolicy) -> RetryPolicy {
    let first = section.duration(findings, "first", usual.first());
    let growth = section.float(findings, "growth", usual.growth());
    let longest = section.duration(findings, "longest", usual.cap());
    let jitter = section.float(findings, "jitter", usual.jitter());
    let attempts = section.number(findings, "max_attempts", usual.max_attempts().into(), 1..=100_000);
    let attempts = u32::try_from(attempts).unwrap_or(usual.max_attempts());
    let age = section.duration(findings, "max_age", usual.max_age());
    RetryPolicy::try_new(first, growth, longest, jitter, attempts, age).unwrap_or_else(|error| {
        let remedy = "make first, growth, longest and jitter fit together";
        section.issue(findings, "first", error.to_string(), remedy);
        usual.clone()
    })
}

fn breaker(section: &mut Section<'_>, findings: &mut Findings, usual: &BreakerPolicy) -> BreakerPolicy {
    let failures = whole(section, findings, "out_of_order_after", usual.failures, 1_000);
    let first = section.duration(findings, "probe_first", usual.first);
    let longest = section.duration(findings, "probe_longest", usual.longest);
    if first.is_zero() || first > longest {
        let problem = "is zero or longer than probe_longest";
        section.issue(findings, "probe_first", problem, "make the first wait the shortest");
        return *usual;
    }
    BreakerPolicy { failures, first, longest }
}

fn whole(
    section: &mut Section<'_>,
    findings: &mut Findings,
    key: &str,
    usual: NonZeroU32,
    most: u64,
) -> NonZeroU32 {
    let number = section.number(findings, key, usual.get().into(), 1..=most);
    u32::try_from(number).ok().and_then(NonZeroU32::new).unwrap_or(usual)
}

fn dead_head(section: &mut Section<'_>, findings: &mut Findings, usual: DeadHead) -> DeadHead {
    match section.text(findings, "ordering_dead").as_deref() {
        None => usual,
        Some("block") => DeadHead::Block,
        Some("skip") => DeadHead::Skip,
        Some(_) => {
            section.issue(findings, "ordering_dead", "is unknown", "write \"block\" or \"skip\"");
            usual
        }
    }
}

/// Destinations that are served in a way of their own; what an entry leaves out is as usual.
fn destinations(
    root: &mut Section<'_>,
    findings: &mut Findings,
    usual: &DestinationPolicy,
) -> BTreeMap<Destination, DestinationPolicy> {
    let mut special = BTreeMap::new();
    for mut section in root.sections(findings, "destinations") {
        let name = section.needed::<Destination>(
            findings,
            "destination",
            "write CHANNEL/KEY, such as \"amqp/wgb:073150000000\"",
        );
        let concurrency = section.number(findings, "concurrency", usual.concurrency as u64, 1..=10_000);
        let rate = section.has("rate").then(|| section.number(findings, "rate", 1, 1..=100_000));
        let weight = whole(&mut section, findings, "weight", usual.weight, 100);
        let release_rate = whole(&mut section, findings, "release_rate", usual.release_rate, 100_000);
        let policy = DestinationPolicy {
            concurrency: usize::try_from(concurrency).unwrap_or(usual.concurrency),
            rate: rate.and_then(|rate| NonZeroU32::new(u32::try_from(rate).unwrap_or(u32::MAX))),
            weight,
            retry: retry(&mut section, findings, &usual.retry),
            breaker: breaker(&mut section, findings, &usual.breaker),
            release_rate,
            dead_head: dead_head(&mut section, findings, usual.dead_head),
        };
        if let Some(name) = name
            && special.insert(name, policy).is_some()
        {
            section.issue(findings, "destination", "is listed twice", "keep one entry");
        }
        section.close(findings);
    }
    special
}

fn retention(mut section: Section<'_>, findings: &mut Findings) -> Retention {
    let default = Retention::default();
    let payload = section.duration(findings, "payload", default.payload);
    let record = section.duration(findings, "record", default.record);
    let interval = section.duration(findings, "interval", default.interval);
    if record < payload {
        section.issue(
            findings,
            "record",
            "is shorter than payload",
            "keep records at least as long as payloads",
        );
    }
    section.close(findings);
    Retention { payload, record, interval }
}

/// Options of the engine, whether it is held, time to drain, and how long before a deadline somebody is told.
fn engine(mut section: Section<'_>, findings: &mut Findings) -> (EngineOptions, bool, Duration, Duration) {
    let default = EngineOptions::default();
    let mut size = |section: &mut Section<'_>, key: &str, default: usize| {
        usize::try_from(section.number(findings, key, default as u64, 1..=10_000)).unwrap_or(default)
    };
    let prepare_concurrency = size(&mut section, "prepare_concurrency", default.prepare_concurrency);
    let attempt_concurrency = size(&mut section, "attempt_concurrency", default.attempt_concurrency);
    let usual = DestinationPolicy::default();
    let concurrency = size(&mut section, "destination_concurrency", usual.concurrency);
    let attempt_lease = section.duration(findings, "attempt_lease", default.attempt_lease);
    let release_rate = whole(&mut section, findings, "release_rate", usual.release_rate, 100_000);
    let dead_head = dead_head(&mut section, findings, usual.dead_head);
    let hold = section.flag(findings, "hold", false);
    let drain = section.duration(findings, "drain", 20 * SECOND);
    let warning = section.duration(findings, "deadline_warning", DEADLINE_WARNING);
    section.close(findings);
    let options = EngineOptions {
        prepare_concurrency,
        attempt_concurrency,
        policies: Policies {
            usual: DestinationPolicy { concurrency, release_rate, dead_head, ..usual },
            ..Policies::default()
        },
        attempt_lease,
        ..default
    };
    (options, hold, drain, warning)
}

fn amqp(mut section: Section<'_>, findings: &mut Findings) -> u64 {
    let inline = section.number(findings, "inline_max_bytes", 1 << 20, 0..=amtsbote_amqp::INLINE_LIMIT);
    section.close(findings);
    inline
}

fn brokers(root: &mut Section<'_>, findings: &mut Findings) -> BTreeMap<String, BrokerConfig> {
    let named = root.named(findings, "brokers");
    named.into_iter().filter_map(|(name, section)| Some((name, broker(section, findings)?))).collect()
}

fn broker(mut section: Section<'_>, findings: &mut Findings) -> Option<BrokerConfig> {
    let url: Option<Url> =
        section.needed(findings, "url", "write a URL such as \"amqps://broker.example:5671/%2f\"");
    let authority = section.optional_path(findings, "ca");
    let (certificate, key) =
        (section.optional_path(findings, "certificate"), section.optional_path(findings, "key"));
    let (username, password) =
        (section.text(findings, "username"), section.optional_path(findings, "password_file"));
    let declare_queues = section.flag(findings, "declare_queues", false);
    let url = url?;
    let secure = url.scheme() == "amqps";
    if !matches!(url.scheme(), "amqp" | "amqps") || url.host_str().is_none() {
        section.issue(findings, "url", "is no AMQP address", "write amqp://host:port/vhost or amqps://…");
    }
    if url.password().is_some() {
        section.issue(findings, "url", "holds a password", "use username and password_file");
    }
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(KeyPair { certificate, key }),
        (None, None) => None,
        _ => {
            section.issue(
                findings,
                "certificate",
                "needs its key, and the other way round",
                "set both or none",
            );
            None
        }
    };
    let tls = match (secure, authority) {
        (true, Some(authority)) => Some(BrokerTls { authority, identity: identity.clone() }),
        (true, None) => {
            section.issue(findings, "ca", "is missing", "name the authority of the broker's certificate");
            None
        }
        (false, _) => None,
    };
    let login = match (username, password, &identity) {
        (Some(username), Some(password_file), _) => Some(LoginConfig::Password { username, password_file }),
        (None, None, Some(_)) if secure => Some(LoginConfig::Certificate),
        _ => {
            section.issue(
                findings,
                "username",
                "is missing, or password_file",
                "set both, or a client certificate",
            );
            None
        }
    };
    section.close(findings);
    let vhost = url.path().strip_prefix('/').filter(|path| !path.is_empty()).unwrap_or("%2f");
    Some(BrokerConfig {
        host: url.host_str().unwrap_or_default().to_owned(),
        port: url.port().unwrap_or(if secure { 5671 } else { 5672 }),
        vhost: percent_encoding::percent_decode_str(vhost).decode_utf8_lossy().into_owned(),
        tls,
        login: login?,
        declare_queues,
    })
}

fn log(mut section: Section<'_>, findings: &mut Findings) -> LogOptions {
    let level = section.text(findings, "level").unwrap_or_else(|| "info".to_owned());
    let format = match section.text(findings, "format").as_deref() {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(_) => {
            section.issue(findings, "format", "is unknown", "write \"text\" or \"json\"");
            LogFormat::Text
        }
    };
    let options = LogOptions { level, format };
    if !options.is_valid() {
        let remedy =
            "write error, warn, info, debug or trace, or a filter such as \"info,amtsbote_dvdv=debug\"";
        section.issue(findings, "level", "cannot be read", remedy);
    }
    section.close(findings);
    options
}

fn accounts(root: &mut Section<'_>, findings: &mut Findings, named: Named<'_>) -> Vec<AccountConfig> {
    let sections = root.sections(findings, "accounts");
    sections.into_iter().filter_map(|section| account(section, findings, named)).collect()
}

/// What the channel of an account may name.
#[derive(Clone, Copy)]
struct Named<'a> {
    brokers: &'a BTreeMap<String, BrokerConfig>,
    xta: &'a BTreeMap<String, XtaServerConfig>,
    osci: &'a BTreeMap<String, OsciPeerConfig>,
    folders: &'a BTreeMap<String, FolderConfig>,
    webhooks: &'a BTreeMap<String, WebhookConfig>,
}

fn account(mut section: Section<'_>, findings: &mut Findings, named: Named<'_>) -> Option<AccountConfig> {
    let name = section.needed(findings, "name", "use 1 to 64 of a-z, 0-9, - and _");
    let mut roles = BTreeSet::new();
    for text in section.texts(findings, "roles") {
        match text.as_str() {
            "author" => roles.insert(Role::Author),
            "reader" => roles.insert(Role::Reader),
            "viewer" => roles.insert(Role::Viewer),
            "operator" => roles.insert(Role::Operator),
            "administrator" => roles.insert(Role::Administrator),
            _ => {
                section.issue(
                    findings,
                    "roles",
                    "names an unknown role",
                    "use author, reader, viewer, operator, administrator",
                );
                false
            }
        };
    }
    let key = "write keys such as \"ags:07315000\"";
    let (parties, serves) = (section.list(findings, "parties", key), section.list(findings, "serves", key));
    if roles.contains(&Role::Author) && parties.is_empty() {
        section.issue(findings, "parties", "is empty", "an author needs at least one party");
    }
    if !serves.is_empty() && !roles.contains(&Role::Reader) {
        section.issue(findings, "serves", "needs the role reader", "add \"reader\" to roles");
    }
    let channel = match section.text(findings, "channel").as_deref() {
        None | Some("mailbox") => LocalChannel::Mailbox,
        Some(address) if address.starts_with("amqp://") => {
            let remedy = "add [brokers.NAME] and write amqp://NAME?queue=… or amqp://NAME?exchange=…&key=…";
            match amtsbote_amqp::broker_of(address) {
                Ok(name) if named.brokers.contains_key(&name) => {}
                Ok(_) => section.issue(findings, "channel", "names no configured broker", remedy),
                Err(_) => section.issue(findings, "channel", "is no address of a queue or exchange", remedy),
            }
            LocalChannel::Push(ChannelKind::Amqp, address.into())
        }
        Some(address) if address.starts_with("xta://") => {
            if !named.xta.contains_key(&address["xta://".len()..]) {
                let remedy = "add [xta_servers.NAME] and write xta://NAME";
                section.issue(findings, "channel", "names no configured server", remedy);
            }
            LocalChannel::Push(ChannelKind::Xta, address.into())
        }
        Some(address) if address.starts_with("osci://") => {
            if !named.osci.contains_key(&address["osci://".len()..]) {
                let remedy = "add [osci_peers.NAME] and write osci://NAME";
                section.issue(findings, "channel", "names no configured intermediary", remedy);
            }
            LocalChannel::Push(ChannelKind::Osci, address.into())
        }
        Some(address) if address.starts_with("webhook://") => {
            if !named.webhooks.contains_key(&address["webhook://".len()..]) {
                let remedy = "add [webhooks.NAME] and write webhook://NAME";
                section.issue(findings, "channel", "names no configured webhook", remedy);
            }
            LocalChannel::Push(ChannelKind::Webhook, address.into())
        }
        Some(address) if address.starts_with("folder://") => {
            if !named.folders.contains_key(&address["folder://".len()..]) {
                let remedy = "add [folders.NAME] and write folder://NAME";
                section.issue(findings, "channel", "names no configured folder", remedy);
            }
            LocalChannel::Push(ChannelKind::Folder, address.into())
        }
        Some(_) => {
            section.issue(
                findings,
                "channel",
                "is unknown",
                "write \"mailbox\", \"amqp://BROKER?queue=QUEUE\", \"xta://SERVER\", \"osci://INTERMEDIARY\", \"webhook://WEBHOOK\" or \"folder://FOLDER\"",
            );
            LocalChannel::Mailbox
        }
    };
    let certificates = section.paths(findings, "certificates");
    let mut credentials = Vec::new();
    for text in section.texts(findings, "fingerprints") {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let mut fingerprint = [0; 32];
        match hex::decode_to_slice(digits.to_lowercase(), &mut fingerprint) {
            Ok(()) => credentials.push(Credential::Pinned(fingerprint)),
            Err(_) => {
                section.issue(findings, "fingerprints", "holds no SHA-256 fingerprint", "write 64 hex digits")
            }
        }
    }
    credentials
        .extend(section.texts(findings, "subjects").into_iter().map(|text| Credential::Subject(text.into())));
    let osci_cipher = section.paths(findings, "osci_cipher");
    let osci_signature = section.paths(findings, "osci_signature");
    if certificates.is_empty() && credentials.is_empty() && osci_cipher.is_empty() {
        section.issue(findings, "certificates", "is empty", "name certificates, fingerprints or subjects");
    }
    let limited = section.has("message_bytes");
    let message_limit = section.number(findings, "message_bytes", 40 << 20, 1024..=1 << 40);
    let message_limit = limited.then_some(message_limit);
    section.close(findings);
    Some(AccountConfig {
        account: Account { name: name?, roles, parties, serves, channel, credentials, message_limit },
        certificates,
        osci_cipher,
        osci_signature,
    })
}
