//! One message out, one message back, over HTTP.

use std::io;
use std::sync::Arc;

use amtsbote_core::port::{Entropy, StoreError};
use amtsbote_http::{Client as HttpClient, ClientError};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use futures::StreamExt as _;
use tokio::task::spawn_blocking;
use url::Url;

use crate::codec::Problem;
use crate::codec::certificate::{Certificate, Identity};
use crate::codec::encryption::{Method as Encryption, find_key};
use crate::codec::envelope::PeerFault;
use crate::reception::{Incoming, Limits, Received, Reception, ReceptionError};
use crate::respond::{Outgoing, Wire};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nothing was sent.
    #[error("the other side cannot be reached")]
    Unreachable(#[source] ClientError),
    /// It was sent, and nobody knows what became of it.
    #[error("the answer did not come")]
    Unknown(#[source] io::Error),
    /// The other side sent a fault.
    #[error("a fault with code {}", .0.digits)]
    Fault(PeerFault),
    /// The answer is none of OSCI.
    #[error("the answer came with status {0}")]
    Status(StatusCode),
    /// The answer cannot be understood.
    #[error("the answer: {0}")]
    Answer(#[source] Problem),
    /// The request cannot be made.
    #[error("the request: {0}")]
    Request(#[source] Problem),
    /// What is to be sent cannot be read.
    #[error("the content cannot be read")]
    Content(#[source] StoreError),
    /// A worker ended without a word.
    #[error("a worker ended without a word")]
    Worker,
}

/// Sends messages.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) http: HttpClient,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) limits: Limits,
}

impl Caller {
    /// Sends a message, encrypted for a certificate, and brings the answer. `keys` open it.
    pub(crate) async fn call(
        &self,
        url: Url,
        xml: String,
        parts: Vec<Outgoing>,
        encrypt: Option<(Encryption, &Certificate)>,
        keys: Vec<Identity>,
    ) -> Result<Received, CallError> {
        let wire = Wire::new(xml, parts, encrypt, self.entropy.as_ref()).map_err(CallError::Request)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(wire.length));
        let body = wire.stream().map(|piece| piece.map_err(io::Error::other)).boxed();
        let answer = self.http.stream(Method::POST, url, headers, body).await;
        let answer = answer.map_err(|error| match error {
            ClientError::Failed(inner) if !inner.is_connect() => CallError::Unknown(io::Error::other(inner)),
            ClientError::Timeout => CallError::Unknown(io::ErrorKind::TimedOut.into()),
            error => CallError::Unreachable(error),
        })?;
        if answer.status != StatusCode::OK {
            return Err(CallError::Status(answer.status));
        }
        let policy = self.limits.policy;
        let mut reception = Reception::new(self.limits.clone());
        let mut body = answer.body;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(CallError::Unknown)?;
            let keys = keys.clone();
            let fed = spawn_blocking(move || -> Result<Reception, ReceptionError> {
                reception.feed(&piece)?;
                if let Some(data) = reception.locked() {
                    let decryptor = data.open(find_key(data, &keys)?, policy)?;
                    reception.unlock(decryptor)?;
                }
                Ok(reception)
            });
            reception = fed.await.map_err(|_| CallError::Worker)?.map_err(of_reception)?;
        }
        let finished = spawn_blocking(move || reception.finish()).await.map_err(|_| CallError::Worker)?;
        match finished.map_err(of_reception)? {
            Incoming::Message(received) => Ok(*received),
            Incoming::Fault(fault) => Err(CallError::Fault(fault)),
        }
    }
}

fn of_reception(error: ReceptionError) -> CallError {
    match error {
        ReceptionError::Problem(problem) => CallError::Answer(problem),
        ReceptionError::Io(error) => CallError::Unknown(error),
    }
}
