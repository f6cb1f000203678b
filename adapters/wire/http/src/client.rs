//! HTTP client. Follows no redirects, bounds time and size, and reaches internal addresses only where configuration says so.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use amtsbote_tls::ClientConfig;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::{HeaderMap, Method, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Which addresses may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Public addresses only: for addresses that come from others (SSRF guard).
    PublicOnly,
    /// Any address: for addresses from the operator's own configuration.
    Anywhere,
}

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Which addresses may be called.
    pub reach: Reach,
    /// Time for connecting.
    pub connect: Duration,
    /// Time for one whole exchange.
    pub total: Duration,
    /// Largest answer body.
    pub body: usize,
}

/// A client could not be built or an exchange failed before there was an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is internal and this client may not call it.
    #[error("the address is not public")]
    Forbidden,
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// Connection or protocol failed.
    #[error("the exchange failed")]
    Failed(#[source] reqwest::Error),
    /// The answer could not be read.
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// The body of an answer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Larger than allowed.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The connection broke.
    #[error("the answer was cut off")]
    Cut(#[source] reqwest::Error),
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Whole body.
    pub body: Bytes,
}

/// An answer whose body is still to be read.
pub struct Streamed {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The body as it comes; the reader bounds it.
    pub body: BoxStream<'static, std::io::Result<Bytes>>,
}

/// The client. Cheap to clone; keeps connections open.
#[derive(Debug, Clone)]
pub struct Client {
    inner: reqwest::Client,
    options: ClientOptions,
}

struct PublicResolver;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(Box::new(ClientError::Forbidden) as Box<dyn std::error::Error + Send + Sync>);
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Whether an address lies in the public Internet. Everything special is not.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (18..20).contains(&b))
                || (a == 192 && b == 0 && v4.octets()[2] == 0))
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = v6.to_ipv4() {
                return is_public(IpAddr::V4(v4));
            }
            let first = v6.segments()[0];
            let global_unicast = first & 0xe000 == 0x2000;
            let (documentation, nat64_or_6to4) =
                (first == 0x2001 && v6.segments()[1] == 0x0db8, first == 0x2002);
            global_unicast && !documentation && !nat64_or_6to4
        }
    }
}

impl Client {
    /// Builds a client, for HTTPS with the given TLS configuration.
    ///
    /// # Errors
    /// When the TLS configuration cannot be used.
    pub fn new(tls: ClientConfig, options: ClientOptions) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(options.connect)
            .timeout(options.total)
            .user_agent(concat!("amtsbote/", env!("CARGO_PKG_VERSION")));
        if options.reach == Reach::PublicOnly {
            builder = builder.dns_resolver(Arc::new(PublicResolver));
        }
        let inner = builder.build().map_err(ClientError::Failed)?;
        Ok(Self { inner, options })
    }

    /// One exchange; the answer is read to its end, whatever its status. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError`]; a status such as 500 is an answer, not an error.
    pub async fn exchange(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Reply, ClientError> {
        self.check(&url)?;
        let request = self.inner.request(method, url).headers(headers).body(body);
        let mut response = request.send().await.map_err(classify)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut content = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(BodyError::Cut)? {
            if content.len() + piece.len() > self.options.body {
                return Err(BodyError::TooLarge(self.options.body).into());
            }
            content.extend_from_slice(&piece);
        }
        Ok(Reply { status, headers, body: content.freeze() })
    }

    /// One exchange whose bodies stream in both directions. The time for the whole exchange covers the reading of the answer. If it is
    /// cancelled, nobody knows whether the other side took the request.
    ///
    /// # Errors
    /// [`ClientError`]; a status such as 500 is an answer, not an error.
    pub async fn stream(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<Streamed, ClientError> {
        self.check(&url)?;
        let body = reqwest::Body::wrap_stream(body);
        let response = self.inner.request(method, url).headers(headers).body(body).send().await;
        let response = response.map_err(classify)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes_stream().map(|piece| piece.map_err(std::io::Error::other)).boxed();
        Ok(Streamed { status, headers, body })
    }

    /// A literal address never reaches the resolver, so it is checked here.
    fn check(&self, url: &Url) -> Result<(), ClientError> {
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        };
        match (self.options.reach, literal) {
            (Reach::PublicOnly, Some(address)) if !is_public(address) => Err(ClientError::Forbidden),
            _ => Ok(()),
        }
    }
}

fn classify(error: reqwest::Error) -> ClientError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(one) = cause {
        if one.downcast_ref::<ClientError>().is_some_and(|one| matches!(one, ClientError::Forbidden)) {
            return ClientError::Forbidden;
        }
        cause = one.source();
    }
    if error.is_timeout() { ClientError::Timeout } else { ClientError::Failed(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(reach: Reach) -> ClientOptions {
        ClientOptions { reach, connect: Duration::from_secs(2), total: Duration::from_secs(5), body: 64 }
    }

    fn client(reach: Reach) -> Client {
        Client::new(amtsbote_tls::client_config(Vec::new(), None).unwrap(), options(reach)).unwrap()
    }

    #[test]
    fn special_addresses_are_not_public() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "2001:db8::1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["8.8.8.8", "193.99.144.80", "2a00:1450:4001::1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn internal_addresses_are_refused_by_literal_and_by_name() {
        for url in ["http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost:1/", "http://2130706433:1/"] {
            let client = client(Reach::PublicOnly);
            let refused = client.exchange(Method::GET, url.parse().unwrap(), HeaderMap::new(), Bytes::new());
            assert!(matches!(refused.await, Err(ClientError::Forbidden)), "{url}");
        }
    }

    async fn answering(answer: &'static str) -> Url {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", socket.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = socket.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(read > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        url
    }

    async fn get(url: Url) -> Result<Reply, ClientError> {
        client(Reach::Anywhere).exchange(Method::GET, url, HeaderMap::new(), Bytes::new()).await
    }

    #[tokio::test]
    async fn redirects_are_answers_and_large_bodies_are_refused() {
        let redirect =
            get(answering("HTTP/1.1 302 x\r\nlocation: http://10.0.0.1/\r\ncontent-length: 0\r\n\r\n").await)
                .await;
        assert_eq!(redirect.unwrap().status, StatusCode::FOUND);
        let large = get(answering("HTTP/1.1 200 x\r\ncontent-length: 65\r\n\r\n01234567890123456789012345678901234567890123456789012345678901234").await).await;
        assert!(matches!(large, Err(ClientError::Body(BodyError::TooLarge(64)))));
        let cut = get(answering("HTTP/1.1 200 x\r\ncontent-length: 60\r\n\r\n0123").await).await;
        assert!(matches!(cut, Err(ClientError::Body(BodyError::Cut(_)))));
    }
}
