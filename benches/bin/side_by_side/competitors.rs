//! What Amtsbote is compared with.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use amtsbote_benches::load::crowd;
use amtsbote_benches::result::{Outcome, Recorder};
use amtsbote_core::port::{Accepted, MessageStore};
use amtsbote_core::route::ChannelKind;
use amtsbote_store_sled::StoreOptions;
use amtsbote_testkit::rabbitmq::{Rabbitmq, RabbitmqOptions};
use amtsbote_testkit::samples::Acceptances;
use anyhow::Context as _;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use tokio::sync::oneshot;

/// A log that appends whatever has queued up and syncs once per group.
pub(crate) struct RawLog;

type Line = (Arc<Vec<u8>>, oneshot::Sender<()>);

impl RawLog {
    pub(crate) async fn measure(
        folder: &Path,
        clients: usize,
        size: usize,
        duration: Duration,
    ) -> anyhow::Result<Outcome> {
        let path = folder.join("raw.log");
        let mut file = File::create(&path)?;
        let (sender, receiver) = mpsc::channel::<Line>();
        let writer = std::thread::spawn(move || -> std::io::Result<()> {
            while let Ok(first) = receiver.recv() {
                let mut group = vec![first];
                group.extend(receiver.try_iter().take(1023));
                let lines: Vec<u8> = group.iter().flat_map(|(line, _)| line.iter().copied()).collect();
                file.write_all(&lines)?;
                file.sync_data()?;
                for (_, done) in group {
                    // A client that has stopped does not wait.
                    done.send(()).ok();
                }
            }
            Ok(())
        });
        let line = Arc::new(vec![b'x'; size]);
        let outcome = crowd(clients, size, duration, |_, stop| {
            let (sender, line) = (sender.clone(), Arc::clone(&line));
            async move {
                let mut recorder = Recorder::default();
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    let (done, waiting) = oneshot::channel();
                    sender.send((Arc::clone(&line), done)).context("the log ended")?;
                    waiting.await?;
                    recorder.success(started.elapsed());
                }
                Ok(recorder)
            }
        })
        .await?;
        drop(sender);
        writer.join().map_err(|_| anyhow::anyhow!("the log died"))??;
        std::fs::remove_file(path)?;
        Ok(outcome)
    }
}

/// A RabbitMQ quorum queue, plain TCP, one connection per client with one outstanding confirm.
pub(crate) struct Queue(Rabbitmq);

impl Queue {
    pub(crate) async fn start() -> Self {
        Self(Rabbitmq::start(&RabbitmqOptions::default()).await)
    }

    pub(crate) async fn measure(
        &self,
        clients: usize,
        size: usize,
        duration: Duration,
    ) -> anyhow::Result<Outcome> {
        let url = self.0.url();
        let control = Connection::connect(&url, ConnectionProperties::default()).await?;
        let channel = control.create_channel().await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare("bench".into(), QueueDeclareOptions::durable(), arguments).await?;
        let body = Arc::new(vec![b'x'; size]);
        let outcome = crowd(clients, size, duration, |_, stop| {
            let (url, body) = (url.clone(), Arc::clone(&body));
            async move {
                let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
                let channel = connection.create_channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                let mut recorder = Recorder::default();
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                    let properties = BasicProperties::default().with_delivery_mode(2);
                    let confirm =
                        channel.basic_publish("".into(), "bench".into(), options, &body, properties).await?;
                    match confirm.await? {
                        Confirmation::Ack(None) => recorder.success(started.elapsed()),
                        _ => recorder.failure(),
                    }
                }
                connection.close(200, "done".into()).await?;
                Ok(recorder)
            }
        })
        .await?;
        channel.queue_delete("bench".into(), lapin::options::QueueDeleteOptions::default()).await?;
        control.close(200, "done".into()).await?;
        Ok(outcome)
    }
}

/// A private Postfix that relays to a sink.
pub(crate) struct Postfix {
    folder: PathBuf,
    port: u16,
    sink: Child,
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Postfix {
    /// Starts it; `None` when the package is missing or this is not root.
    pub(crate) fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        if !Path::new("/usr/sbin/postfix").exists() || !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let folder = folder.join("postfix");
        let (config, queue, data) = (folder.join("etc"), folder.join("spool"), folder.join("data"));
        for path in [&config, &queue, &data] {
            std::fs::create_dir_all(path)?;
        }
        let (port, sink_port) = (free_port()?, free_port()?);
        std::fs::write(
            config.join("main.cf"),
            format!(
                "compatibility_level = 3.6\nqueue_directory = {}\ndata_directory = {}\ncommand_directory = /usr/sbin\n\
                 daemon_directory = /usr/lib/postfix/sbin\nmail_owner = postfix\nsetgid_group = postdrop\n\
                 inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmyhostname = bench.example\nmydestination =\n\
                 mynetworks = 127.0.0.0/8\nrelayhost = [127.0.0.1]:{sink_port}\nmaillog_file = /dev/stdout\n\
                 smtpd_client_connection_count_limit = 0\nsmtpd_client_connection_rate_limit = 0\n\
                 default_process_limit = 200\nsmtpd_recipient_restrictions = permit_mynetworks, reject\n",
                queue.display(),
                data.display(),
            ),
        )?;
        let services = [
            ("cleanup", "unix", "n - n - 0 cleanup"),
            ("qmgr", "unix", "n - n 300 1 qmgr"),
            ("rewrite", "unix", "- - n - - trivial-rewrite"),
            ("bounce", "unix", "- - n - 0 bounce"),
            ("defer", "unix", "- - n - 0 bounce"),
            ("trace", "unix", "- - n - 0 bounce"),
            ("verify", "unix", "- - n - 1 verify"),
            ("proxymap", "unix", "- - n - - proxymap"),
            ("smtp", "unix", "- - n - - smtp"),
            ("relay", "unix", "- - n - - smtp"),
            ("error", "unix", "- - n - - error"),
            ("retry", "unix", "- - n - - error"),
            ("anvil", "unix", "- - n - 1 anvil"),
            ("scache", "unix", "- - n - 1 scache"),
            ("postlog", "unix-dgram", "n - n - 1 postlogd"),
        ];
        let mut master = format!("127.0.0.1:{port} inet n - n - - smtpd\n");
        for (name, kind, rest) in services {
            master.push_str(&format!("{name} {kind} {rest}\n"));
        }
        std::fs::write(config.join("master.cf"), master)?;
        Self::control(&config, "set-permissions").ok();
        Command::new("chown").args(["postfix:postfix"]).arg(&data).status()?;
        let sink = Command::new("/usr/sbin/smtp-sink")
            .args([&format!("127.0.0.1:{sink_port}"), "1000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let postfix = Self { folder, port, sink };
        Self::control(&config, "start").context("starting Postfix")?;
        Ok(Some(postfix))
    }

    fn control(config: &Path, action: &str) -> anyhow::Result<()> {
        let output = Command::new("/usr/sbin/postfix").arg("-c").arg(config).arg(action).output()?;
        anyhow::ensure!(
            output.status.success(),
            "postfix {action}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Mails accepted per second by `smtp-source`, which ends after a number of mails.
    pub(crate) async fn measure(
        &self,
        clients: usize,
        size: usize,
        duration: Duration,
    ) -> anyhow::Result<Outcome> {
        let (mut done, started) = (0, Instant::now());
        let batch = if clients == 1 { 200 } else { 2_000 };
        while started.elapsed() < duration {
            let status = tokio::process::Command::new("/usr/sbin/smtp-source")
                .args(["-s", &clients.to_string(), "-m", &batch.to_string(), "-l", &size.to_string()])
                .args(["-f", "portal@bench.example", "-t", "department@bench.example"])
                .arg(format!("127.0.0.1:{}", self.port))
                .status()
                .await?;
            anyhow::ensure!(status.success(), "smtp-source failed");
            done += batch;
        }
        let seconds = started.elapsed().as_secs_f64();
        let per_mail = seconds * 1000.0 * clients as f64 / done as f64;
        Ok(Outcome {
            clients,
            size,
            done,
            failed: 0,
            seconds,
            rate: done as f64 / seconds,
            p50_ms: per_mail,
            p99_ms: f64::NAN,
        })
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // The temp folder goes anyway; what has ended needs no ending.
        drop(Self::control(&self.folder.join("etc"), "stop"));
        drop(self.sink.kill());
        drop(self.sink.wait());
    }
}

/// The store alone: durable accept without network, parsing or routing.
pub(crate) async fn committer(
    folder: &Path,
    clients: usize,
    size: usize,
    duration: Duration,
) -> anyhow::Result<Outcome> {
    let (store, _) = amtsbote_store_sled::open(&folder.join("committer"), StoreOptions::default())?;
    let store: Arc<dyn MessageStore> = Arc::new(store);
    let samples = Arc::new(Acceptances::default());
    let document = Arc::new(vec![b'x'; size]);
    crowd(clients, size, duration, |number, stop| {
        let (store, samples, document) = (Arc::clone(&store), Arc::clone(&samples), Arc::clone(&document));
        async move {
            let mut recorder = Recorder::default();
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                let acceptance =
                    samples.routed(&format!("{number}-{count}"), &document, ChannelKind::Mailbox);
                let started = Instant::now();
                match store.accept(acceptance).await? {
                    Accepted::First => recorder.success(started.elapsed()),
                    Accepted::Seen(_) => recorder.failure(),
                }
            }
            Ok(recorder)
        }
    })
    .await
}
