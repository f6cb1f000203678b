//! A private RabbitMQ: own ports, own folders, own epmd; gone when dropped.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How the broker is set up.
#[derive(Debug, Clone, Default)]
pub struct RabbitmqOptions {
    /// Certificate chain, key and client authority for a TLS listener.
    pub tls: Option<(PathBuf, PathBuf, PathBuf)>,
    /// Largest message, bytes.
    pub max_message_size: Option<u64>,
    /// Queues to declare, as `(name, is full)`; a full one refuses every message.
    pub queues: Vec<(String, bool)>,
}

/// A running broker.
pub struct Rabbitmq {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    server: Child,
    epmd: Child,
    /// Port for plain AMQP.
    pub port: u16,
    /// Port for AMQP over TLS.
    pub tls_port: u16,
}

/// A port that was free a moment ago. It lies below those the system hands out by itself: until the broker has it, nobody but another
/// broker could take it.
fn free_port() -> u16 {
    loop {
        let port = 10_000 + u16::try_from(RandomState::new().hash_one(()) % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Brokers that are begun before one is given up: each has ports of its own.
const BEGINNINGS: usize = 3;

const BINARIES: &str = "/usr/lib/rabbitmq/bin";

impl Rabbitmq {
    /// Starts a broker and waits until it accepts connections.
    pub async fn start(options: &RabbitmqOptions) -> Self {
        for _ in 0..BEGINNINGS {
            let mut broker = Self::begin(options);
            let port = if options.tls.is_some() { broker.tls_port } else { broker.port };
            match broker.wait_until_open(port).await {
                Ok(()) => return broker,
                // Somebody was faster with one of the ports.
                Err(log) => eprintln!("RabbitMQ ended before it was ready: {log}"),
            }
        }
        panic!("RabbitMQ did not start");
    }

    fn begin(options: &RabbitmqOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("rabbitmq").tempdir().unwrap();
        let base = folder.path();
        let (port, tls_port, epmd_port) = (free_port(), free_port(), free_port());
        std::fs::create_dir(base.join("home")).unwrap();
        std::fs::write(base.join("rabbitmq.conf"), configuration(base, options, port, tls_port)).unwrap();
        std::fs::write(base.join("definitions.json"), definitions(options)).unwrap();
        std::fs::write(base.join("enabled_plugins"), "[rabbitmq_auth_mechanism_ssl].").unwrap();
        let environment = environment(base, epmd_port);
        let epmd = Command::new("epmd")
            .args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("epmd comes with rabbitmq-server; tests/run installs it");
        let server = spawn(base, &environment);
        Self { folder, environment, server, epmd, port, tls_port }
    }

    /// Fails with what the broker said if it ended instead.
    async fn wait_until_open(&mut self, port: u16) -> Result<(), String> {
        let log = self.folder.path().join("server.out");
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let open = async {
            // The broker has no event to wait for; this polls its socket, bounded below.
            let mut every = tokio::time::interval(Duration::from_millis(50));
            loop {
                every.tick().await;
                if self.server.try_wait().unwrap().is_some() {
                    return Err(said());
                }
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Ok(());
                }
            }
        };
        let opened = tokio::time::timeout(Duration::from_secs(90), open).await;
        opened.unwrap_or_else(|_| panic!("RabbitMQ neither started nor ended: {}", said()))
    }

    /// AMQP URL with the guest login.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Runs rabbitmqctl.
    pub async fn control(&self, arguments: &[&str]) -> String {
        let output = tokio::process::Command::new(format!("{BINARIES}/rabbitmqctl"))
            .arg("-q")
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Ends the broker as its service manager would and waits until it is gone. (A node that is killed seconds after it was made
    /// sometimes never elects a leader for its quorum queues again, which says nothing about us.)
    pub fn stop(&mut self) {
        let stopped = Command::new("kill").args(["-TERM", &self.server.id().to_string()]).status().unwrap();
        assert!(stopped.success());
        self.server.wait().unwrap();
    }

    /// Sends the broker a signal.
    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([&format!("-{name}"), &self.server.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Kills the broker and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.server.wait().unwrap();
    }

    /// Starts it again on the same ports and data.
    pub async fn start_again(&mut self) {
        self.server = spawn(self.folder.path(), &self.environment);
        if let Err(log) = self.wait_until_open(self.port).await {
            panic!("RabbitMQ did not start again: {log}");
        }
    }
}

impl Drop for Rabbitmq {
    fn drop(&mut self) {
        // Both may have ended already.
        for child in [&mut self.server, &mut self.epmd] {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn spawn(base: &Path, environment: &[(String, String)]) -> Child {
    let log = std::fs::File::create(base.join("server.out")).unwrap();
    Command::new(format!("{BINARIES}/rabbitmq-server"))
        .env_clear()
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("rabbitmq-server is missing; tests/run installs it")
}

fn environment(base: &Path, epmd_port: u16) -> Vec<(String, String)> {
    let path = |name: &str| base.join(name).display().to_string();
    let (ctl_min, dist) = (free_port(), free_port());
    [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("HOME", path("home")),
        ("ERL_EPMD_PORT", epmd_port.to_string()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_NODENAME", format!("test{epmd_port}@localhost")),
        ("RABBITMQ_DIST_PORT", dist.to_string()),
        ("RABBITMQ_CTL_DIST_PORT_MIN", ctl_min.to_string()),
        ("RABBITMQ_CTL_DIST_PORT_MAX", (ctl_min.saturating_add(10)).to_string()),
        ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
        ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config")),
        ("RABBITMQ_CONFIG_FILES", path("conf.d")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
        ("RABBITMQ_MNESIA_BASE", path("mnesia")),
        ("RABBITMQ_LOG_BASE", path("log")),
        ("RABBITMQ_PID_FILE", path("pid")),
        // Makes the script become the server, so that killing the child kills the broker.
        ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn configuration(base: &Path, options: &RabbitmqOptions, port: u16, tls_port: u16) -> String {
    let mut text = format!(
        "listeners.tcp.1 = 127.0.0.1:{port}\nlog.console = false\nload_definitions = {}\n\
         auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\n",
        base.join("definitions.json").display()
    );
    if let Some((chain, key, authority)) = &options.tls {
        text.push_str(&format!(
            "listeners.ssl.1 = 127.0.0.1:{tls_port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n\
             ssl_cert_login_from = common_name\n",
            authority.display(),
            chain.display(),
            key.display(),
        ));
    }
    if let Some(size) = options.max_message_size {
        text.push_str(&format!("max_message_size = {size}\n"));
    }
    text
}

fn definitions(options: &RabbitmqOptions) -> String {
    let queues: Vec<_> = options
        .queues
        .iter()
        .map(|(name, full)| {
            let mut arguments = serde_json::json!({ "x-queue-type": "quorum" });
            if *full {
                arguments = serde_json::json!({ "x-max-length": 0, "x-overflow": "reject-publish" });
            }
            serde_json::json!({ "name": name, "vhost": "/", "durable": true, "auto_delete": false, "arguments": arguments })
        })
        .collect();
    let user = |name: &str| serde_json::json!({ "name": name, "password": name, "tags": "administrator", "limits": {} });
    let permission = |name: &str| serde_json::json!({ "user": name, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*" });
    serde_json::json!({
        "users": [user("guest"), user("gateway")], "vhosts": [{ "name": "/" }],
        "permissions": [permission("guest"), permission("gateway")], "queues": queues,
    })
    .to_string()
}
