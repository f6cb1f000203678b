//! Responsibility resolution: service X, place Y -> which authority, over which channel. Never guesses (promise P4).
//!
//! `tables` holds what the operator supplies, `resolve` is the pure decision over it, `router` adds the directory and the
//! channel rule. Not here: how a directory is asked (a port) and how anything is delivered (channels).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::key::{Ars, PartyId, SpecificationUri};

mod gv100ad;
mod resolve;
mod router;
mod sources;
mod tables;

pub use gv100ad::decode as decode_area_table;
pub use resolve::{Decision, RouteRequest};
pub use router::{LookupRequest, Recheck, Resolution, Router};
pub use sources::{Loaded, SourceProblem, Sources};
pub use tables::{
    Area, AreaLevel, Organization, Responsibility, RoutingTables, Service, ServiceSpecification,
    TableConflict,
};

/// How a destination is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelKind {
    /// Polled from this gateway.
    Mailbox,
    /// Queue of a broker.
    Amqp,
    /// Remote XTA 2 server.
    Xta,
    /// OSCI-Transport 1.2.
    Osci,
    /// HTTPS POST.
    Webhook,
    /// Hot folder.
    Folder,
}

impl ChannelKind {
    /// The kind as it is written in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mailbox => "mailbox",
            Self::Amqp => "amqp",
            Self::Xta => "xta",
            Self::Osci => "osci",
            Self::Webhook => "webhook",
            Self::Folder => "folder",
        }
    }
}

/// The text is no destination, `channel/prefix:key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a destination such as amqp/wgb:073150000000")]
pub struct InvalidDestination;

impl FromStr for ChannelKind {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Mailbox, Self::Amqp, Self::Xta, Self::Osci, Self::Webhook, Self::Folder];
        all.into_iter().find(|kind| kind.as_str() == text).ok_or(InvalidDestination)
    }
}

impl fmt::Display for ChannelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One authority reached over one channel: the unit of queueing, limits and fairness.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Key of the organisation; names the mailbox for the mailbox channel.
    pub organization: PartyId,
    /// How it is reached.
    pub channel: ChannelKind,
}

impl FromStr for Destination {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (channel, organization) = text.split_once('/').ok_or(InvalidDestination)?;
        let organization = organization.parse().map_err(|_| InvalidDestination)?;
        Ok(Self { organization, channel: channel.parse()? })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.channel, self.organization)
    }
}

/// Technical address of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// How it is reached.
    pub channel: ChannelKind,
    /// Address in the channel's own form: mailbox key, broker URI, URL.
    pub address: String,
    /// Certificates that belong to the address, as the directory lists them: DER in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<EndpointCertificate, String>,
}

impl Endpoint {
    /// An address without certificates.
    pub fn new(channel: ChannelKind, address: impl Into<String>) -> Self {
        Self { channel, address: address.into(), certificates: BTreeMap::new() }
    }
}

/// Whose certificate an endpoint lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointCertificate {
    /// Messages are encrypted for the recipient.
    Recipient,
    /// Messages are encrypted for the intermediary that takes them.
    Intermediary,
}

/// Authority a decision names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrganizationRef {
    /// Primary key.
    pub key: PartyId,
    /// Display name.
    pub name: String,
    /// Category (Organisationskategorie), if the tables know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
}

/// The directory record a route was based on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Name of the source, for example `dvdv`.
    pub source: String,
    /// When the source answered.
    pub fetched_at: Timestamp,
    /// Whether the answer was kept beyond its time because the source is down.
    #[serde(default)]
    pub stale: bool,
    /// What it answered: `found`, or `not-listed` for an organisation served here without an entry.
    pub answer: String,
    /// The record's own id and validity, as the source tells them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordRef>,
}

/// Identity and validity of a directory record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordRef {
    /// Id inside the source.
    pub id: String,
    /// Name inside the source.
    pub name: String,
    /// Start of validity, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<Timestamp>,
    /// End of validity, exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_to: Option<Timestamp>,
}

/// A decision with everything needed to act on it and to defend it later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Service as the catalogue names it.
    pub service: String,
    /// Service specification the directory was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specification: Option<SpecificationUri>,
    /// Responsible authority.
    pub organization: OrganizationRef,
    /// Key under which the directory was asked.
    pub lookup_key: PartyId,
    /// Area whose registration matched; absent for a named recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched_area: Option<Ars>,
    /// Unit of queueing.
    pub destination: Destination,
    /// Technical address.
    pub endpoint: Endpoint,
    /// What the directory said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// When the decision was made.
    pub decided_at: Timestamp,
    /// Steps of the decision, for people.
    pub trace: Vec<String>,
}

/// How responsibility resolution can end (routing reference, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutcomeKind {
    /// Exactly one organisation and channel.
    Resolved,
    /// Several equally specific organisations.
    Ambiguous,
    /// A postcode leads to areas with different answers.
    AreaAmbiguous,
    /// Nobody at or above the area, but offices below it.
    AreaTooCoarse,
    /// Nobody registered on the whole chain.
    NotResponsible,
    /// Only entries outside their validity match.
    NotValid,
    /// The organisation is known, but there is no usable channel.
    NoChannel,
    /// Revoked, expired or unusable certificate.
    CertificateUnusable,
    /// Well-formed, but not in the area table.
    AreaUnknown,
    /// Well-formed, but not in the service catalogue.
    ServiceUnknown,
    /// Malformed, or not exactly one selector.
    BadRequest,
    /// The directory is down and nothing usable is cached.
    DirectoryUnavailable,
}

impl OutcomeKind {
    /// The outcome as it is written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolved => "RESOLVED",
            Self::Ambiguous => "AMBIGUOUS",
            Self::AreaAmbiguous => "AREA_AMBIGUOUS",
            Self::AreaTooCoarse => "AREA_TOO_COARSE",
            Self::NotResponsible => "NOT_RESPONSIBLE",
            Self::NotValid => "NOT_VALID",
            Self::NoChannel => "NO_CHANNEL",
            Self::CertificateUnusable => "CERTIFICATE_UNUSABLE",
            Self::AreaUnknown => "AREA_UNKNOWN",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
            Self::BadRequest => "BAD_REQUEST",
            Self::DirectoryUnavailable => "DIRECTORY_UNAVAILABLE",
        }
    }
}
