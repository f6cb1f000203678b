//! Addresses: `amqp://<broker>?queue=q` names a configured broker; `amqps://host:port/vhost?exchange=e&key=k` must match one.

use percent_encoding::percent_decode_str;
use url::Url;

use crate::broker::BrokerOptions;

/// Where a message is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Empty: the default exchange, which leads straight to the queue named by the key.
    pub exchange: String,
    /// Routing key.
    pub key: String,
}

/// The address says nothing usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Not an AMQP URI.
    #[error("expected an amqp or amqps address")]
    Scheme,
    /// Neither queue nor exchange, or both.
    #[error("expected ?queue=… or ?exchange=…&key=…")]
    Target,
    /// AMQP names have at most 255 bytes.
    #[error("names in AMQP have at most 255 bytes")]
    TooLong,
}

/// Host, port and vhost of an address; port and vhost may be left out.
pub(crate) struct Place {
    host: String,
    port: Option<u16>,
    tls: bool,
    vhost: Option<String>,
}

impl Place {
    pub(crate) fn names(&self, broker: &str) -> bool {
        self.host == broker && self.port.is_none() && self.vhost.is_none()
    }

    pub(crate) fn into_name(self) -> Option<String> {
        (self.port.is_none() && self.vhost.is_none()).then_some(self.host)
    }

    pub(crate) fn is(&self, options: &BrokerOptions) -> bool {
        let port = self.port.unwrap_or(if self.tls { 5671 } else { 5672 });
        let vhost = self.vhost.as_deref().unwrap_or("/");
        self.tls == options.tls.is_some()
            && self.host == options.host
            && port == options.port
            && vhost == options.vhost
    }
}

/// Splits an AMQP URI into place and target; credentials in it are ignored, they come from the configuration.
pub(crate) fn parse(address: &str) -> Result<(Place, Target), InvalidAddress> {
    let url: Url = address.parse().map_err(|_| InvalidAddress::Scheme)?;
    let tls = match url.scheme() {
        "amqp" => false,
        "amqps" => true,
        _ => return Err(InvalidAddress::Scheme),
    };
    let host = url.host_str().ok_or(InvalidAddress::Scheme)?.to_owned();
    let path = url.path().strip_prefix('/').unwrap_or_default();
    let vhost = (!path.is_empty()).then(|| percent_decode_str(path).decode_utf8_lossy().into_owned());
    let value = |wanted: &str| {
        url.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let target = match (value("queue"), value("exchange")) {
        (Some(queue), None) if !queue.is_empty() => Target { exchange: String::new(), key: queue },
        (None, Some(exchange)) if !exchange.is_empty() => {
            Target { exchange, key: value("key").unwrap_or_default() }
        }
        _ => return Err(InvalidAddress::Target),
    };
    if target.exchange.len() > 255 || target.key.len() > 255 {
        return Err(InvalidAddress::TooLong);
    }
    Ok((Place { host, port: url.port(), tls, vhost }, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(address: &str) -> Result<Target, InvalidAddress> {
        parse(address).map(|(_, target)| target)
    }

    #[test]
    fn both_forms_are_read() {
        let queue = Target { exchange: String::new(), key: "dept.q".to_owned() };
        assert_eq!(target("amqp://main?queue=dept.q"), Ok(queue));
        let exchange = Target { exchange: "ex".to_owned(), key: "a.b".to_owned() };
        assert_eq!(target("amqps://broker.example:5671/%2f?exchange=ex&key=a.b"), Ok(exchange));
    }

    #[test]
    fn useless_addresses_are_refused() {
        assert_eq!(target("https://x?queue=q"), Err(InvalidAddress::Scheme));
        assert_eq!(target("amqp://x"), Err(InvalidAddress::Target));
        assert_eq!(target("amqp://x?queue=q&exchange=e"), Err(InvalidAddress::Target));
        assert_eq!(target(&format!("amqp://x?queue={}", "q".repeat(256))), Err(InvalidAddress::TooLong));
    }

    #[test]
    fn a_directory_address_must_match_host_port_vhost_and_tls() {
        let options = BrokerOptions::plain("broker.example", 5672, "/");
        let is = |address: &str| parse(address).unwrap().0.is(&options);
        assert!(is("amqp://broker.example/%2f?queue=q"));
        assert!(is("amqp://broker.example:5672?queue=q"));
        assert!(!is("amqps://broker.example:5672?queue=q"));
        assert!(!is("amqp://broker.example:5673?queue=q"));
        assert!(!is("amqp://other.example?queue=q"));
        assert!(!is("amqp://broker.example/other?queue=q"));
    }
}
