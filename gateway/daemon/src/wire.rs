//! Puts the gateway together from its configuration, and lets it end in good order.

mod parts;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use amtsbote_console::ConsolePorts;
use amtsbote_core::Timestamp;
use amtsbote_core::account::{AccountBook, LocalChannel};
use amtsbote_core::control::Controls;
use amtsbote_core::engine::{Engine, EnginePorts};
use amtsbote_core::exchange::{ExchangePorts, Exchanges};
use amtsbote_core::intake::Intake;
use amtsbote_core::mailbox::Mailboxes;
use amtsbote_core::operations::{OperationPorts, Operations};
use amtsbote_core::port::{Clock, Entropy};
use amtsbote_core::remote::Following;
use amtsbote_core::reservation::Reservations;
use amtsbote_core::route::{ChannelKind, Router};
use amtsbote_core::submissions::Submissions;
use amtsbote_core::wake::Wake;
use amtsbote_dvdv::EntryPath;
use amtsbote_folder::{Acknowledgement, FolderChannel, FolderWatcher};
use amtsbote_http::{InFlight, Listener, Quotas, serve};
use amtsbote_osci::dialogs::Dialogs;
use amtsbote_osci::{OsciPusher, PushPorts};
use amtsbote_rest::{AdminServices, Services};
use amtsbote_seal::Seal;
use amtsbote_telemetry::{Health, Metrics};
use amtsbote_tls::{ClientAuth, Identity, ServerTls};
use amtsbote_xta::{Cursors, Poller};
use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Insight};
use crate::config::{Config, DirectoryConfig, TlsListener};
use crate::console;
use crate::system::{SystemClock, SystemEntropy};
use crate::vitals::Watcher;

pub(crate) use parts::client_tls;
use parts::{
    Channels, bind, build_broker, build_channels, build_directory, build_tls, build_webhook,
    build_xta_client, chain, configuration, load_accounts, load_tables, open_store, push_client, server_tls,
    tls_material, ways,
};

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What the configuration names cannot be used.
    #[error("{what}: {detail}")]
    Configuration {
        /// Which part.
        what: String,
        /// What is wrong.
        detail: String,
    },
    /// Something the gateway depends on is missing or busy.
    #[error("{what}: {detail}")]
    Dependency {
        /// Which.
        what: String,
        /// What is wrong.
        detail: String,
    },
}

/// A running gateway.
pub struct Gateway {
    /// Where portals and departments reach it.
    pub exchange: SocketAddr,
    /// Where clients of OSCI reach it.
    pub osci: Option<SocketAddr>,
    /// Where operators reach it.
    pub operator: Option<SocketAddr>,
    /// Metrics and health.
    pub telemetry: Option<SocketAddr>,
    stop: CancellationToken,
    listeners: Vec<JoinHandle<()>>,
    engine_task: JoinHandle<usize>,
    /// Retention, bulk operations, and the count of what waits.
    upkeep: Vec<JoinHandle<()>>,
    reloadable: Reloadable,
    health: Arc<Health>,
    wake: Arc<Wake>,
}

/// What can be replaced while running.
struct Reloadable {
    accounts: Arc<ArcSwap<AccountBook>>,
    router: Arc<Router>,
    seal: Arc<Seal>,
    exchange: Arc<ServerTls>,
    operator: Option<Arc<ServerTls>>,
    engine: Arc<Engine>,
    health: Arc<Health>,
    /// Brokers, servers, intermediaries and folders that were configured at the start.
    ways: BTreeSet<(ChannelKind, String)>,
}

impl Gateway {
    /// Starts everything; returns once all listeners accept connections.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let (wake, health) = (Arc::new(Wake::default()), Arc::new(Health::default()));
        let metrics = Metrics::new(Arc::clone(&health)).map_err(|error| configuration("metrics")(&error))?;
        let metrics = Arc::new(metrics);
        let accounts = Arc::new(ArcSwap::from_pointee(load_accounts(config)?));
        let seal = Seal::load(&config.seal.certificate, &config.seal.key);
        let seal = Arc::new(seal.map_err(|error| configuration("seal")(&error))?);
        let store = open_store(config, &metrics)?;
        let Channels { push: mut channels, answering } = build_channels(config, &clock, &entropy)?;
        let folders = config.folders.iter().map(|(name, one)| (name.clone(), one.folder.clone())).collect();
        channels.push(Arc::new(FolderChannel::new(folders, Arc::clone(&store), Arc::clone(&clock))));
        channels.push(Arc::new(crate::osci::channel(&config.osci_peers, &store, &entropy, &config.store)?));
        let (directory, certificates) =
            build_directory(&config.directory, &clock, &entropy, (&health, &metrics))?;
        let tables = load_tables(&config.routing)?;
        let router = Arc::new(Router::new(tables, Arc::clone(&accounts), directory, channels.clone()));
        let (exchange_tls, exchange_expires) =
            build_tls(&config.exchange, &accounts.load(), ClientAuth::Required)?;
        let operator_tls = match &config.operator {
            Some(listener) => Some(build_tls(listener, &accounts.load(), ClientAuth::Requested)?),
            None => None,
        };
        let operator_expires = operator_tls.as_ref().and_then(|(_, expires)| *expires);
        let operator_tls = operator_tls.map(|(tls, _)| tls);
        let unusable = |error: amtsbote_core::port::StoreError| StartError::Dependency {
            what: "store".to_owned(),
            detail: chain(&error),
        };
        let controls = Controls::load(Arc::clone(&store), Arc::clone(&entropy), Arc::clone(&wake));
        let controls = controls.await.map_err(unusable)?;
        let newest = store.newest().await.map_err(unusable)?;
        let operations = Operations::new(OperationPorts {
            store: Arc::clone(&store),
            controls: Arc::clone(&controls),
            router: Arc::clone(&router),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            wake: Arc::clone(&wake),
            policies: config.engine.policies.clone(),
        });

        let ports = EnginePorts {
            store: Arc::clone(&store),
            router: Arc::clone(&router),
            sealer: Arc::clone(&seal) as _,
            controls: Arc::clone(&controls),
            channels,
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            observer: Arc::clone(&metrics) as _,
            wake: Arc::clone(&wake),
        };
        let engine = Engine::new(ports, config.engine.clone());
        engine.hold_all(config.hold);
        let intake = Intake::new(
            Arc::clone(&store),
            Arc::clone(&router),
            Arc::clone(&clock),
            Arc::clone(&entropy),
            Arc::clone(&metrics) as _,
            Arc::clone(&wake),
        );
        let intake =
            Arc::new(intake.going_on_after(newest).warning_before_deadlines(config.deadline_warning));
        let mut answering = answering;
        let intermediary = match &config.osci {
            None => None,
            Some(osci) => {
                let intermediary = crate::osci::Intermediary::load(osci, &config.store)?;
                for (role, expires) in intermediary.expiries() {
                    health.certificate(role, expires);
                }
                let pusher = PushPorts {
                    http: push_client(&osci.push_authorities, config.xta.answer_within)?,
                    store: Arc::clone(&store),
                    entropy: Arc::clone(&entropy),
                    clock: Arc::clone(&clock),
                    accounts: Arc::clone(&accounts),
                    trust: intermediary.trust.clone(),
                    keys: Arc::clone(&intermediary.keys),
                    metadata: Arc::new(crate::osci::XtaMetadata),
                    limits: intermediary.options.limits(),
                };
                answering.push(Arc::new(OsciPusher::new(pusher, osci.push_to.clone())));
                Some((osci, intermediary))
            }
        };
        let exchanges = ExchangePorts {
            intake: Arc::clone(&intake),
            store: Arc::clone(&store),
            sealer: Arc::clone(&seal) as _,
            controls: Arc::clone(&controls),
            exchangers: answering,
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            observer: Arc::clone(&metrics) as _,
        };
        let exchanges = Exchanges::new(exchanges, config.xta.answer_within);
        let submissions = Submissions::new(Arc::clone(&store), Arc::clone(&clock), Arc::clone(&wake));
        let submissions = Arc::new(submissions);
        let mailboxes = Arc::new(Mailboxes::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            Arc::clone(&entropy),
            controls,
            Arc::clone(&wake),
        ));
        let in_flight = Arc::new(InFlight::new(config.rest.in_flight));
        let quotas = Arc::new(Quotas::new(config.rest.requests));
        let xta = amtsbote_xta::Services {
            intake: Arc::clone(&intake),
            exchanges: Arc::clone(&exchanges),
            submissions: Arc::clone(&submissions),
            mailboxes: Arc::clone(&mailboxes),
            reservations: Reservations::new(Arc::clone(&store), Arc::clone(&clock), Arc::clone(&entropy)),
            router: Arc::clone(&router),
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            accounts: Arc::clone(&accounts),
            quotas: Arc::clone(&quotas),
            in_flight: Arc::clone(&in_flight),
            options: config.xta.clone(),
            cursors: Cursors::default(),
        };
        let partners = crate::osci::Surroundings {
            intake: &intake,
            store: &store,
            clock: &clock,
            entropy: &entropy,
            accounts: &accounts.load(),
        };
        let crate::osci::Partners { pollers: osci_pollers, followers, recipients } =
            crate::osci::partners(config, &partners)?;
        let osci = match intermediary {
            None => None,
            Some((osci, intermediary)) => Some(amtsbote_osci::Services {
                intake: Arc::clone(&intake),
                exchanges: Arc::clone(&exchanges),
                submissions: Arc::clone(&submissions),
                mailboxes: Arc::clone(&mailboxes),
                ids: Arc::new(Reservations::new(
                    Arc::clone(&store),
                    Arc::clone(&clock),
                    Arc::clone(&entropy),
                )),
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                entropy: Arc::clone(&entropy),
                accounts: Arc::clone(&accounts),
                recipients,
                transfers: intermediary.transfers(osci, clock.now())?,
                trust: intermediary.trust,
                directory: certificates,
                keys: intermediary.keys,
                metadata: Arc::new(crate::osci::XtaMetadata),
                quotas: Arc::clone(&quotas),
                in_flight: Arc::clone(&in_flight),
                options: intermediary.options,
                dialogs: Dialogs::new(osci.dialog_idle),
                large: Arc::new(Semaphore::new(crate::osci::LARGE_AT_ONCE)),
            }),
        };
        let mut pollers = Vec::new();
        for (name, server) in &config.xta_servers {
            let Some(poll) = &server.poll else { continue };
            pollers.push(Poller {
                name: name.clone(),
                client: build_xta_client(name, server, &entropy)?,
                account: poll.account.clone(),
                every: poll.every,
                most: config.rest.body,
                intake: Arc::clone(&intake),
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
            });
        }
        let watched = config.folders.iter();
        let watched = watched.filter(|(_, one)| one.folder.acknowledgement != Acknowledgement::None);
        let watchers: Vec<_> = watched
            .map(|(name, one)| FolderWatcher {
                name: name.clone(),
                folder: one.folder.clone(),
                following: Following::new(Arc::clone(&store), Arc::clone(&clock)),
                every: one.look,
                clock: Arc::clone(&clock),
            })
            .collect();
        let services = Services {
            intake: Arc::clone(&intake),
            submissions: Arc::clone(&submissions),
            mailboxes: Arc::clone(&mailboxes),
            router: Arc::clone(&router),
            store: Arc::clone(&store),
            receipts: Arc::clone(&seal) as _,
            clock: Arc::clone(&clock),
            accounts: Arc::clone(&accounts),
            in_flight,
            quotas,
            limits: config.rest,
        };
        let insight = Arc::new(Insight {
            store: Arc::clone(&store),
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
            clock: Arc::clone(&clock),
        });
        let watcher = Watcher::new(&store, &health, &metrics, &clock);
        let admin = AdminServices {
            operations: Arc::clone(&operations),
            accounts: Arc::clone(&accounts),
            vitals: Arc::clone(&watcher) as _,
            started: clock.now(),
            clock: Arc::clone(&clock),
        };
        let reloadable = Reloadable {
            accounts,
            router,
            seal,
            exchange: Arc::clone(&exchange_tls),
            operator: operator_tls.clone(),
            engine: Arc::clone(&engine),
            health: Arc::clone(&health),
            ways: ways(config),
        };
        reloadable.note_certificates(exchange_expires, operator_expires, &config.directory);
        let (exchange_socket, exchange) = bind("exchange", config.exchange.listen).await?;
        let operator_socket = match &config.operator {
            Some(listener) => Some(bind("operator", listener.listen).await?),
            None => None,
        };
        let osci_socket = match &config.osci {
            Some(osci) => Some(bind("osci", osci.listen).await?),
            None => None,
        };
        let osci_tls = match config.osci.as_ref().and_then(|osci| osci.tls.as_ref()) {
            Some(pair) => Some(server_tls(pair)?),
            None => None,
        };
        let telemetry_socket = match config.telemetry {
            Some(address) => Some(bind("telemetry", address).await?),
            None => None,
        };
        let stop = CancellationToken::new();
        let listen = |name, socket, tls, router| {
            tokio::spawn(serve(Listener { name, socket, tls, router, limits: config.limits }, stop.clone()))
        };
        let mut listeners = vec![listen(
            "exchange",
            exchange_socket,
            Some(exchange_tls),
            amtsbote_xta::router(Arc::new(xta)).fallback_service(amtsbote_rest::router(Arc::new(services))),
        )];
        let osci_address = osci_socket.as_ref().map(|(_, address)| *address);
        if let (Some((socket, _)), Some(services)) = (osci_socket, osci) {
            listeners.push(listen("osci", socket, osci_tls, amtsbote_osci::router(Arc::new(services))));
        }
        let (operator, telemetry) = (
            operator_socket.as_ref().map(|(_, address)| *address),
            telemetry_socket.as_ref().map(|(_, address)| *address),
        );
        if let Some((socket, address)) = operator_socket {
            let (known, asked) = (Arc::clone(&reloadable.accounts), Arc::clone(&reloadable.accounts));
            let console = amtsbote_console::router(ConsolePorts {
                operations: Arc::clone(&operations),
                store,
                vitals: Arc::clone(&watcher) as _,
                accounts: Box::new(move || known.load_full()),
                identify: Box::new(move |peer| amtsbote_rest::authenticate(peer, &asked.load())),
                links: console::open(&config.store, address, entropy.as_ref()),
                clock: Arc::clone(&clock),
                entropy: Arc::clone(&entropy),
                ending: stop.clone(),
            });
            let router = admin::operator(Arc::new(admin), console);
            listeners.push(listen("operator", socket, operator_tls, router));
        }
        if let Some((socket, _)) = telemetry_socket {
            listeners.push(listen("telemetry", socket, None, admin::telemetry(insight)));
        }
        let engine_task = tokio::spawn(Arc::clone(&engine).run(stop.clone(), config.drain));
        let mut upkeep = vec![
            tokio::spawn(engine.run_retention(stop.clone())),
            tokio::spawn(Arc::clone(&operations).run_jobs(stop.clone())),
            tokio::spawn(Arc::clone(&watcher).count(operations, stop.clone())),
            tokio::spawn(watcher.sample(stop.clone())),
        ];
        upkeep.extend(pollers.into_iter().map(|poller| tokio::spawn(poller.run(stop.clone()))));
        upkeep.extend(watchers.into_iter().map(|watcher| tokio::spawn(watcher.run(stop.clone()))));
        upkeep.extend(followers.into_iter().map(|follower| tokio::spawn(follower.run(stop.clone()))));
        upkeep.extend(osci_pollers.into_iter().map(|poller| tokio::spawn(poller.run(stop.clone()))));
        tracing::info!(%exchange, osci = ?osci_address, operator = ?operator, telemetry = ?telemetry, held = config.hold, "The gateway is running.");
        Ok(Self {
            exchange,
            osci: osci_address,
            operator,
            telemetry,
            stop,
            listeners,
            engine_task,
            upkeep,
            reloadable,
            health,
            wake,
        })
    }

    /// Takes accounts, certificates, routing tables and `engine.hold` from a configuration that was read again. Everything else
    /// needs a restart.
    ///
    /// # Errors
    /// What cannot be used; everything stays as it was then.
    pub fn reload(&self, config: &Config) -> Result<(), StartError> {
        self.reloadable.apply(config)
    }

    /// Whether a part has ended by itself, which only a bug can do.
    pub fn has_failed(&self) -> bool {
        self.engine_task.is_finished()
            || self.upkeep.iter().any(JoinHandle::is_finished)
            || self.listeners.iter().any(JoinHandle::is_finished)
    }

    /// Stops intake, lets running work end within its time, closes the store. Returns the number of attempts cut off.
    pub async fn stop(self) -> usize {
        self.health.ending();
        self.wake.close();
        self.stop.cancel();
        for listener in self.listeners {
            if let Err(error) = listener.await {
                tracing::error!(error = &error as &dyn std::error::Error, "A listener died.");
            }
        }
        let cut = self.engine_task.await.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "The engine died.");
            0
        });
        for task in self.upkeep {
            if let Err(error) = task.await {
                tracing::error!(error = &error as &dyn std::error::Error, "A part of the upkeep died.");
            }
        }
        cut
    }
}

impl Reloadable {
    fn apply(&self, config: &Config) -> Result<(), StartError> {
        // Everything is tried out first, so that nothing is half changed.
        if let Some(error) = check_files(config).into_iter().next() {
            return Err(error);
        }
        let accounts = load_accounts(config)?;
        self.check_ways(&accounts)?;
        let tables = load_tables(&config.routing)?;
        let failed = |error: amtsbote_tls::MaterialError| configuration("TLS")(&error);
        let replace = |tls: &ServerTls, listener: &TlsListener, auth| {
            let (identity, trusted) = tls_material(listener, &accounts)?;
            let expires = identity.expires().and_then(|at| Timestamp::try_from(at).ok());
            tls.replace(identity, trusted, auth).map_err(failed)?;
            Ok::<_, StartError>(expires)
        };
        let exchange = replace(&self.exchange, &config.exchange, ClientAuth::Required)?;
        let operator = match (&self.operator, &config.operator) {
            (Some(tls), Some(listener)) => replace(tls, listener, ClientAuth::Requested)?,
            _ => None,
        };
        let seal = self.seal.replace(&config.seal.certificate, &config.seal.key);
        seal.map_err(|error| configuration("seal")(&error))?;
        self.accounts.store(Arc::new(accounts));
        self.router.replace_tables(tables);
        self.engine.hold_all(config.hold);
        self.note_certificates(exchange, operator, &config.directory);
        Ok(())
    }

    /// Connections to brokers and servers are made from the configuration of the start.
    fn check_ways(&self, accounts: &AccountBook) -> Result<(), StartError> {
        for account in accounts.iter() {
            let LocalChannel::Push(kind, address) = &account.channel else { continue };
            let name = match kind {
                ChannelKind::Amqp => amtsbote_amqp::broker_of(address).ok(),
                _ => address.split_once("://").map(|(_, name)| name.to_owned()),
            };
            if !name.is_some_and(|name| self.ways.contains(&(*kind, name))) {
                let what = format!("account {}", account.name);
                let detail = "its channel was not configured at the start; restart the gateway";
                return Err(StartError::Configuration { what, detail: detail.to_owned() });
            }
        }
        Ok(())
    }

    fn note_certificates(
        &self,
        exchange: Option<Timestamp>,
        operator: Option<Timestamp>,
        directory: &DirectoryConfig,
    ) {
        let seal = Timestamp::try_from(self.seal.expires()).ok();
        let client = match &directory.entry {
            EntryPath::Standalone { certificate, key, .. } => Identity::load(certificate, key).ok(),
            EntryPath::Intern | EntryPath::Bundesmaster { .. } => None,
        };
        let client = client.and_then(|identity| Timestamp::try_from(identity.expires()?).ok());
        for (role, expires) in
            [("server", exchange), ("operator", operator), ("seal", seal), ("directory-client", client)]
        {
            if let Some(expires) = expires {
                self.health.certificate(role, expires);
            }
        }
    }
}

/// Loads everything a configuration names, without starting anything; everything that cannot be used.
pub fn check_files(config: &Config) -> Vec<StartError> {
    let mut problems = Vec::new();
    let mut note = |result: Result<(), StartError>| problems.extend(result.err());
    let accounts = load_accounts(config);
    note(load_tables(&config.routing).map(drop));
    let nobody = AccountBook::default();
    let known = accounts.as_ref().unwrap_or(&nobody);
    note(build_tls(&config.exchange, known, ClientAuth::Required).map(drop));
    if let Some(listener) = &config.operator {
        note(build_tls(listener, known, ClientAuth::Requested).map(drop));
    }
    note(accounts.map(drop));
    let seal = Seal::load(&config.seal.certificate, &config.seal.key);
    note(seal.map(drop).map_err(|error| configuration("seal")(&error)));
    note(client_tls(&config.directory.authorities).map(drop));
    note(check_entry(&config.directory.entry));
    for (name, broker) in &config.brokers {
        note(build_broker(name, broker).map(drop));
    }
    for (name, webhook) in &config.webhooks {
        note(build_webhook(name, webhook).map(drop));
    }
    for peer in config.osci_peers.values() {
        note(crate::osci::check_peer(peer));
    }
    if let Some(osci) = &config.osci {
        note(crate::osci::check(osci));
        note(osci.tls.as_ref().map_or(Ok(()), |pair| server_tls(pair).map(drop)));
    }
    problems
}

/// Files with which the gateway proves to the directory who it is.
fn check_entry(entry: &EntryPath) -> Result<(), StartError> {
    match entry {
        EntryPath::Intern => Ok(()),
        EntryPath::Standalone { certificate, key, .. } => {
            Identity::load(certificate, key).map(drop).map_err(|error| configuration("directory")(&error))
        }
        EntryPath::Bundesmaster { token } => std::fs::read_to_string(token)
            .map(drop)
            .map_err(|error| configuration(format!("directory: {}", token.display()))(&error)),
    }
}
