//! One listener: accepts connections under a bound, shakes hands under a deadline, serves HTTP/1.1, and ends in good order.

use std::sync::Arc;
use std::time::Duration;

use amtsbote_tls::{Peer, ServerTls};
use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use tower_http::timeout::RequestBodyTimeoutLayer;

/// Bounds of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time; further ones wait in the backlog.
    pub connections: usize,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time for the header of a request, also between requests of one connection.
    pub header: Duration,
    /// Pause in the body of a request, and time in which a client takes nothing of an answer.
    pub stall: Duration,
    /// How long connections may go on after the stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(75),
            stall: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// A bound socket with everything needed to serve it.
pub struct Listener {
    /// For logs.
    pub name: &'static str,
    /// The socket.
    pub socket: TcpListener,
    /// TLS, or plain HTTP.
    pub tls: Option<Arc<ServerTls>>,
    /// What is served. Handlers find the [`Peer`] among the request extensions if it showed a certificate.
    pub router: Router,
    /// Bounds.
    pub limits: Limits,
}

/// Handlers that watch their bodies themselves answer before the listener cuts them off.
const NET: Duration = Duration::from_secs(5);

/// Marker for requests on connections without a client certificate; the counterpart of [`Peer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nobody;

/// Largest header block, and unit of reading.
const BUFFER: usize = 64 << 10;
const HEADERS: usize = 64;

/// Serves until stopped; then lets running requests end within the drain time.
pub async fn serve(listener: Listener, stop: CancellationToken) {
    let Listener { name, socket, tls, router, limits } = listener;
    let router = router.layer(RequestBodyTimeoutLayer::new(limits.stall + NET));
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&socket, &slots) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: give connections time to end.
                tracing::warn!(
                    listener = name,
                    error = &error as &dyn std::error::Error,
                    "A connection was not accepted."
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            let _held = permit;
            if let Err(error) = connection(stream, tls, router, limits, stop).await {
                tracing::debug!(listener = name, error = &*error, "A connection ended early.");
            }
        });
    }
    drop(socket);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain, drained).await.is_err() {
        tracing::warn!(listener = name, cut = connections.len(), "Connections were cut off at shutdown.");
    }
}

async fn accept(
    socket: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(slots).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = socket.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    stream: TcpStream,
    tls: Option<Arc<ServerTls>>,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(limits.stall));
    let stream = Box::pin(stream);
    match tls {
        None => http(stream, None, router, limits, stop).await,
        Some(tls) => {
            let (stream, peer) = tokio::time::timeout(limits.handshake, tls.accept(stream)).await??;
            http(stream, peer, router, limits, stop).await
        }
    }
}

async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Option<Peer>,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let peer = peer.map(Arc::new);
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        match &peer {
            Some(peer) => request.extensions_mut().insert(Arc::clone(peer)).is_some(),
            None => request.extensions_mut().insert(Nobody).is_some(),
        };
        let mut router = router.clone();
        async move { router.call(request).await }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(BUFFER)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        () = stop.cancelled() => None,
    };
    match ended {
        Some(ended) => ended?,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await?;
        }
    }
    Ok(())
}
