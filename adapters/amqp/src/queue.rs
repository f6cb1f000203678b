//! The other side, for laboratories and the demo: makes a queue and reads from it.

use futures::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};

use crate::broker::{BrokerOptions, Live, connect, declare_queue};

/// A message as a department system sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Property message-id.
    pub message_id: String,
    /// The document.
    pub body: Vec<u8>,
    /// Header amtsbote-document-sha256.
    pub sha256: String,
}

/// Reads one queue, acknowledging what it has read.
pub struct QueueReader {
    consumer: Consumer,
    _channel: Channel,
    _live: Live,
}

impl QueueReader {
    /// Declares a durable quorum queue and begins to read it.
    ///
    /// # Errors
    /// A sentence, when the broker cannot be used.
    pub async fn open(options: &BrokerOptions, queue: &str) -> Result<Self, String> {
        let live = connect(options, "reader").await?;
        let failed = |error: lapin::Error| error.to_string();
        let channel = live.connection.create_channel().await.map_err(failed)?;
        declare_queue(&channel, queue.into()).await.map_err(failed)?;
        let consumer = channel
            .basic_consume(
                queue.into(),
                "amtsbote".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(failed)?;
        Ok(Self { consumer, _channel: channel, _live: live })
    }

    /// The next message, acknowledged.
    ///
    /// # Errors
    /// A sentence, when the connection has ended.
    pub async fn next(&mut self) -> Result<Received, String> {
        let delivery =
            self.consumer.next().await.ok_or("the queue was closed")?.map_err(|error| error.to_string())?;
        delivery.ack(BasicAckOptions::default()).await.map_err(|error| error.to_string())?;
        let properties = &delivery.properties;
        let header = |name: &str| {
            let value = properties.headers().as_ref().and_then(|headers| headers.inner().get(name));
            value.and_then(|value| value.as_long_string()).map(ToString::to_string).unwrap_or_default()
        };
        Ok(Received {
            message_id: properties.message_id().as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default(),
            sha256: header("amtsbote-document-sha256"),
            body: delivery.data,
        })
    }
}
