//! One broker: a connection made when needed, channels with one message in flight each, rest after failures.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::port::Clock;
use amtsbote_tls::ClientConfig;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{AsyncTcpStream, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::{Mutex, Semaphore};

use crate::address::Target;
use crate::message::Publication;

/// Messages in flight to one broker.
const CHANNELS: usize = 16;
/// Time for connecting, with TLS and login.
const CONNECT: Duration = Duration::from_secs(10);
/// Time for a confirm.
const CONFIRM: Duration = Duration::from_secs(15);
/// First and longest rest after a failed connection.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Seconds between heartbeats.
const HEARTBEAT: u16 = 10;

/// A value that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: String) -> Self {
        Self(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// How we prove who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// User name and password.
    Password {
        /// Name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// The client certificate of the TLS connection (SASL EXTERNAL).
    Certificate,
}

/// How a broker is reached.
#[derive(Clone)]
pub struct BrokerOptions {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Virtual host.
    pub vhost: String,
    /// TLS; absent: plain.
    pub tls: Option<Arc<ClientConfig>>,
    /// Login.
    pub login: Login,
    /// Whether queues are declared (durable, quorum) before the first message; otherwise they have to exist.
    pub declare_queues: bool,
}

impl BrokerOptions {
    /// A broker without TLS and with the guest login, as laboratories have it.
    pub fn plain(host: &str, port: u16, vhost: &str) -> Self {
        let login =
            Login::Password { username: "guest".to_owned(), password: Secret::new("guest".to_owned()) };
        Self { host: host.to_owned(), port, vhost: vhost.to_owned(), tls: None, login, declare_queues: false }
    }

    fn uri(&self) -> AMQPUri {
        let (username, password, mechanism) = match &self.login {
            Login::Password { username, password } => {
                (username.clone(), password.0.clone(), SASLMechanism::Plain)
            }
            Login::Certificate => (String::new(), String::new(), SASLMechanism::External),
        };
        AMQPUri {
            scheme: if self.tls.is_some() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo { username, password },
                host: self.host.clone(),
                port: self.port,
            },
            vhost: self.vhost.clone(),
            query: AMQPQueryString {
                heartbeat: Some(HEARTBEAT),
                auth_mechanism: Some(mechanism),
                ..AMQPQueryString::default()
            },
        }
    }
}

/// Why a message was not handed over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("the broker is left alone for {} s after a failure", .0.as_secs())]
    Resting(Duration),
    #[error("the broker cannot be reached: {0}")]
    Connect(String),
    #[error("the broker has blocked publishing (out of memory or disk)")]
    Blocked,
    #[error("the broker returned the message: {reason}")]
    Returned { reason: String },
    #[error("the broker refused the message (negative confirm)")]
    Nacked,
    #[error("the connection ended before the confirm: {0}")]
    Unknown(String),
    #[error("the broker refuses: {reason}")]
    Refused { reason: String, too_large: bool },
    #[error("the message cannot be encoded: {0}")]
    NotEncodable(&'static str),
}

/// A connection, and a handle to end it when the library would wait for ever.
pub(crate) struct Live {
    pub(crate) connection: Connection,
    socket: Arc<StdMutex<Option<TcpStream>>>,
    idle: StdMutex<Vec<Channel>>,
    /// Queues declared over this connection.
    declared: StdMutex<BTreeSet<String>>,
    /// Set when we ended the connection; the library notices later.
    ended: AtomicBool,
}

impl Live {
    /// Ends the connection now, whatever it is waiting for.
    pub(crate) fn cut(&self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(socket) = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It may be gone already.
            drop(socket.shutdown(Shutdown::Both));
        }
    }

    fn is_usable(&self) -> bool {
        !self.ended.load(Ordering::Relaxed) && self.connection.status().connected()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.cut();
    }
}

/// A publish that was given up may still be sent later, behind a repetition of it; only the end of the connection makes sure that
/// it is not.
struct CutUnlessAnswered<'a>(Option<&'a Live>);

impl CutUnlessAnswered<'_> {
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for CutUnlessAnswered<'_> {
    fn drop(&mut self) {
        if let Some(live) = self.0 {
            live.cut();
        }
    }
}

struct Rest {
    until: Timestamp,
    pause: Duration,
}

pub(crate) struct Broker {
    name: String,
    options: BrokerOptions,
    clock: Arc<dyn Clock>,
    live: Mutex<Option<Arc<Live>>>,
    rest: StdMutex<Rest>,
    slots: Semaphore,
}

impl Broker {
    pub(crate) fn new(name: String, options: BrokerOptions, clock: Arc<dyn Clock>) -> Self {
        let rest = StdMutex::new(Rest { until: Timestamp::MIN, pause: REST.0 });
        Self { name, options, clock, live: Mutex::new(None), rest, slots: Semaphore::new(CHANNELS) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn options(&self) -> &BrokerOptions {
        &self.options
    }

    /// Publishes and waits for the confirm. If cancelled, the outcome is unknown and the connection ends.
    pub(crate) async fn publish(
        &self,
        target: &Target,
        publication: Publication,
    ) -> Result<(), PublishError> {
        let name = |text: &str| {
            ShortString::try_new(text).map_err(|_| PublishError::NotEncodable("a name is too long"))
        };
        let (exchange, key) = (name(&target.exchange)?, name(&target.key)?);
        let _slot = self.slots.acquire().await.map_err(|error| PublishError::Connect(error.to_string()))?;
        let live = self.connected().await?;
        if live.connection.status().blocked() {
            return Err(PublishError::Blocked);
        }
        let frame_max = live.connection.configuration().frame_max();
        if frame_max > 0 && publication.head > frame_max as usize {
            let reason = format!("its headers need {} bytes, a frame has {frame_max}", publication.head);
            return Err(PublishError::Refused { reason, too_large: true });
        }
        let id = publication.id.clone();
        let cut = CutUnlessAnswered(Some(&live));
        let declare = self.options.declare_queues && target.exchange.is_empty();
        let exchanging = async {
            if declare {
                declare_once(&live, &key).await?;
            }
            exchange_one(&live, exchange, key, publication).await
        };
        let exchanged = tokio::time::timeout(CONFIRM, exchanging).await;
        match exchanged {
            Ok(Ok((channel, confirmation))) => {
                cut.answered();
                let result = judge(confirmation, &id);
                live.idle.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
                result
            }
            Ok(Err(error)) => {
                cut.answered();
                Err(classify(&error))
            }
            Err(_) if live.connection.status().blocked() => Err(PublishError::Blocked),
            Err(_) => Err(PublishError::Unknown("no confirm in time".to_owned())),
        }
    }

    async fn connected(&self) -> Result<Arc<Live>, PublishError> {
        let mut live = self.live.lock().await;
        if let Some(live) = live.as_ref().filter(|live| live.is_usable()) {
            return Ok(Arc::clone(live));
        }
        *live = None;
        let now = self.clock.now();
        let resting = {
            let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
            let left = Duration::try_from(rest.until.duration_since(now)).ok();
            // More than the longest rest is left only when the wall clock was set back.
            left.filter(|left| !left.is_zero() && *left <= REST.1)
        };
        if let Some(left) = resting {
            return Err(PublishError::Resting(left));
        }
        match connect(&self.options, &self.name).await {
            Ok(fresh) => {
                tracing::info!(broker = self.name, "Connected to the broker.");
                self.rest.lock().unwrap_or_else(PoisonError::into_inner).pause = REST.0;
                let fresh = Arc::new(fresh);
                *live = Some(Arc::clone(&fresh));
                Ok(fresh)
            }
            Err(detail) => {
                // From the end of the attempt: a slow failure would use up the rest before it began.
                let now = self.clock.now();
                let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
                rest.until = now.checked_add(rest.pause).unwrap_or(Timestamp::MAX);
                rest.pause = (rest.pause * 2).min(REST.1);
                Err(PublishError::Connect(detail))
            }
        }
    }
}

/// Connects and logs in, bounded in time.
pub(crate) async fn connect(options: &BrokerOptions, name: &str) -> Result<Live, String> {
    let socket: Arc<StdMutex<Option<TcpStream>>> = Arc::default();
    let keep = Arc::clone(&socket);
    let tls = options.tls.clone();
    let runtime = lapin::runtime::default_runtime().map_err(|error| error.to_string())?;
    let properties = ConnectionProperties::default().with_connection_name(format!("amtsbote {name}").into());
    let connecting = Connection::connector(
        options.uri(),
        runtime,
        async move |uri: AMQPUri, runtime| {
            let host = uri.authority.host.clone();
            let addresses = runtime.to_socket_addrs((host.clone(), uri.authority.port));
            let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
            if let AsyncTcpStream::Plain(plain) = &stream {
                let copy = plain.get_ref().as_fd().try_clone_to_owned()?;
                *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(TcpStream::from(copy));
            }
            match &tls {
                None => Ok(stream),
                Some(config) => Ok(stream
                    .into_rustls(&lapin::tcp::RustlsConnector::from(Arc::clone(config)), &host)
                    .await?),
            }
        },
        properties,
    );
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(Ok(connection)) => Ok(Live {
            connection,
            socket,
            idle: StdMutex::default(),
            declared: StdMutex::default(),
            ended: AtomicBool::new(false),
        }),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            if let Some(socket) = socket.lock().unwrap_or_else(PoisonError::into_inner).take() {
                // Without this the library's thread would wait for the broker for ever.
                drop(socket.shutdown(Shutdown::Both));
            }
            Err("no answer in time".to_owned())
        }
    }
}

/// Declares a quorum queue, once per connection. On a channel of its own, because a refusal closes the channel.
async fn declare_once(live: &Live, queue: &ShortString) -> Result<(), lapin::Error> {
    let known = || live.declared.lock().unwrap_or_else(PoisonError::into_inner);
    if known().contains(queue.as_str()) {
        return Ok(());
    }
    let channel = live.connection.create_channel().await?;
    declare_queue(&channel, queue.clone()).await?;
    known().insert(queue.as_str().to_owned());
    channel.close(200, "declared".into()).await
}

pub(crate) async fn declare_queue(channel: &Channel, queue: ShortString) -> Result<(), lapin::Error> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from("quorum")));
    channel.queue_declare(queue, QueueDeclareOptions::durable(), arguments).await.map(drop)
}

async fn exchange_one(
    live: &Live,
    exchange: ShortString,
    key: ShortString,
    publication: Publication,
) -> Result<(Channel, Confirmation), lapin::Error> {
    let idle = live.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let channel = match idle.filter(|channel| channel.status().connected()) {
        Some(channel) => channel,
        None => {
            let channel = live.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            channel
        }
    };
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirm =
        channel.basic_publish(exchange, key, options, &publication.body, publication.properties).await?;
    let confirmation = confirm.await?;
    Ok((channel, confirmation))
}

fn judge(confirmation: Confirmation, id: &str) -> Result<(), PublishError> {
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
            debug_assert!(
                returned.delivery.properties.message_id().as_ref().is_none_or(|one| one.as_str() == id)
            );
            let reason = format!("{} {}", returned.reply_code, returned.reply_text);
            Err(PublishError::Returned { reason })
        }
        Confirmation::Nack(None) => Err(PublishError::Nacked),
        Confirmation::NotRequested => Err(PublishError::Unknown("the channel does not confirm".to_owned())),
    }
}

fn classify(error: &lapin::Error) -> PublishError {
    let reason = error.to_string();
    if error.is_amqp_soft_error() {
        // The broker's own limit; it closes the channel with PRECONDITION_FAILED and says so in words only.
        let too_large = reason.contains("larger than");
        return PublishError::Refused { reason, too_large };
    }
    PublishError::Unknown(reason)
}
