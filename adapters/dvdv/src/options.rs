//! How to reach the directory.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

/// Which door of a server is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryPath {
    /// Inside the operator's data centre; no token.
    Intern,
    /// The normal case: a token issued by the same server, for a registered client certificate.
    Standalone {
        /// Client certificate (PEM), whose fingerprint is registered in DVDV.
        certificate: PathBuf,
        /// Its key (PEM, PKCS#8).
        key: PathBuf,
        /// Audience of the assertion; by default the URL of the token endpoint that is asked.
        audience: Option<String>,
    },
    /// A token from elsewhere, read from a file before each use.
    Bundesmaster {
        /// File with the token.
        token: PathBuf,
    },
}

impl EntryPath {
    pub(crate) fn segment(&self) -> &'static str {
        match self {
            Self::Intern => "intern/directory",
            Self::Standalone { .. } => "extern/standaloneauth/directory",
            Self::Bundesmaster { .. } => "extern/bundesmasterauth/directory",
        }
    }
}

/// Settings of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DvdvOptions {
    /// Base URLs including the context path, primary first.
    pub servers: Vec<Url>,
    /// Which door.
    pub entry: EntryPath,
    /// Time for one request.
    pub attempt: Duration,
    /// Time for one look-up with all its retries and servers.
    pub total: Duration,
    /// Further tries after a technical error.
    pub retries: u32,
    /// First pause between tries; doubles, at most 2 s here because a sender waits.
    pub pause: Duration,
    /// After this time a secondary server gives way to the primary.
    pub return_to_primary: Duration,
    /// After a failed look-up nobody asks for so long.
    pub rest: Duration,
    /// How long a hit is fresh.
    pub fresh: Duration,
    /// How long a miss is believed; at most as long as a hit.
    pub negative: Duration,
    /// How old a hit may be that is used while all servers are down.
    pub grace: Duration,
    /// Entries kept.
    pub entries: u64,
}

/// Settings that contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDvdvOptions {
    /// Nobody to ask.
    #[error("at least one server is needed")]
    NoServer,
    /// Only HTTP.
    #[error("server addresses must be http or https URLs")]
    Scheme,
    /// A miss must not be believed longer than a hit.
    #[error("a miss must not be believed longer than a hit is fresh")]
    Negative,
}

impl DvdvOptions {
    /// The usual settings for some servers.
    pub fn new(servers: Vec<Url>, entry: EntryPath) -> Self {
        let seconds = Duration::from_secs;
        Self {
            servers,
            entry,
            attempt: seconds(5),
            total: seconds(15),
            retries: 2,
            pause: Duration::from_millis(200),
            return_to_primary: seconds(180),
            rest: seconds(5),
            fresh: seconds(600),
            negative: seconds(300),
            grace: seconds(24 * 3600),
            entries: 100_000,
        }
    }

    pub(crate) fn check(&self) -> Result<(), InvalidDvdvOptions> {
        if self.servers.is_empty() {
            return Err(InvalidDvdvOptions::NoServer);
        }
        if self.servers.iter().any(|url| !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base())
        {
            return Err(InvalidDvdvOptions::Scheme);
        }
        if self.negative > self.fresh {
            return Err(InvalidDvdvOptions::Negative);
        }
        Ok(())
    }
}
