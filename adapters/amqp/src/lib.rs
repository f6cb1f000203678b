//! Hands messages over to RabbitMQ: persistent, mandatory, confirmed (design section 8).
//!
//! A message counts as handed over only after the broker's confirm. A returned message (no queue takes it) or a negative confirm
//! is a failure with its reason. Every channel has one message in flight, because a return cannot be told apart otherwise.
//! When the broker blocks the connection, nothing is published until it recovers.

mod address;
mod broker;
mod message;
mod queue;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::delivery::{FailureClass, Proof};
use amtsbote_core::port::{Channel, Clock, DeliveryOutcome, Handover};
use amtsbote_core::route::{ChannelKind, Endpoint};
use async_trait::async_trait;

pub use address::{InvalidAddress, Target};
pub use broker::{BrokerOptions, Login, Secret};
pub use queue::{QueueReader, Received};

use broker::{Broker, PublishError};

/// Largest document that may travel inside a message; RabbitMQ closes the channel far above.
pub const INLINE_LIMIT: u64 = 16 << 20;

const NO_BROKER: &str = "no broker with this host, port and vhost is configured";

/// Checks an address of the configuration, `amqp://NAME?queue=…` or `amqp://NAME?exchange=…&key=…`; the name of the broker.
///
/// # Errors
/// When it names no broker, or neither queue nor exchange.
pub fn broker_of(address: &str) -> Result<String, InvalidAddress> {
    let (place, _) = address::parse(address)?;
    place.into_name().ok_or(InvalidAddress::Scheme)
}

/// The AMQP channel over named brokers.
pub struct AmqpChannel {
    brokers: BTreeMap<String, Broker>,
    inline_max: u64,
}

impl AmqpChannel {
    /// A channel over some brokers. Connects when first needed. `inline_max` is the largest document inside a message; it is
    /// cut to [`INLINE_LIMIT`].
    pub fn new(brokers: BTreeMap<String, BrokerOptions>, inline_max: u64, clock: &Arc<dyn Clock>) -> Self {
        let brokers = brokers.into_iter().map(|(name, options)| {
            let broker = Broker::new(name.clone(), options, Arc::clone(clock));
            (name, broker)
        });
        Self { brokers: brokers.collect(), inline_max: inline_max.min(INLINE_LIMIT) }
    }

    /// The broker and the target an address means: by host, port and vhost, or, in an address of the configuration, by name.
    fn find(&self, address: &str) -> Result<(&Broker, Target), String> {
        let (place, target) = address::parse(address).map_err(|error| error.to_string())?;
        let by_place = self.brokers.values().find(|broker| place.is(broker.options()));
        let by_name = || self.brokers.values().find(|broker| place.names(broker.name()));
        let broker = by_place.or_else(by_name).ok_or(NO_BROKER)?;
        Ok((broker, target))
    }
}

#[async_trait]
impl Channel for AmqpChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Amqp
    }

    fn accepts(&self, endpoint: &Endpoint) -> Result<(), String> {
        // Asked about addresses of the directory, which know nothing of our names.
        let (place, _) = address::parse(&endpoint.address).map_err(|error| error.to_string())?;
        let known = self.brokers.values().any(|broker| place.is(broker.options()));
        if known { Ok(()) } else { Err(NO_BROKER.to_owned()) }
    }

    async fn deliver(&self, handover: &Handover) -> DeliveryOutcome {
        let (broker, target) = match self.find(&handover.route.endpoint.address) {
            Ok(found) => found,
            Err(detail) => return DeliveryOutcome::failed(FailureClass::Destination, "no-broker", detail),
        };
        let publication = match message::build(handover, self.inline_max).await {
            Ok(publication) => publication,
            Err(outcome) => return *outcome,
        };
        match broker.publish(&target, publication).await {
            Ok(()) => DeliveryOutcome::Delivered(Proof(format!("confirmed by broker {}", broker.name()))),
            Err(error) => failure(&error),
        }
    }
}

/// Which class each failure is of.
fn failure(error: &PublishError) -> DeliveryOutcome {
    let (class, code) = match error {
        PublishError::Resting(_) | PublishError::Connect(_) => {
            (FailureClass::Destination, "broker-unreachable")
        }
        PublishError::Blocked => (FailureClass::Destination, "broker-blocked"),
        PublishError::Returned { .. } => (FailureClass::Destination, "returned"),
        PublishError::Nacked => (FailureClass::Transient, "nacked"),
        PublishError::Unknown(_) => (FailureClass::Transient, "outcome-unknown"),
        PublishError::Refused { too_large: true, .. } => (FailureClass::Permanent, "too-large-for-broker"),
        PublishError::Refused { too_large: false, .. } => (FailureClass::Destination, "broker-refuses"),
        PublishError::NotEncodable(_) => (FailureClass::Permanent, "not-encodable"),
    };
    let retry_after = match error {
        PublishError::Resting(wait) => Some(*wait),
        _ => None::<Duration>,
    };
    match DeliveryOutcome::failed(class, code, error.to_string()) {
        DeliveryOutcome::Failed { class, reason, .. } => {
            DeliveryOutcome::Failed { class, reason, retry_after }
        }
        delivered @ DeliveryOutcome::Delivered(_) => delivered,
    }
}
