//! From a question to a route one can act on: tables, then the directory, then the channel rule.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::resolve::{Decision, RouteRequest};
use super::tables::RoutingTables;
use super::{ChannelKind, Destination, Endpoint, Evidence, OrganizationRef, OutcomeKind, Route};
use crate::account::{AccountBook, LocalChannel};
use crate::key::{OzgId, PartyId, ServiceKey, SpecificationUri};
use crate::message::Metadata;
use crate::port::{Channel, Directory, DirectoryAnswer, DirectoryRecord, ServiceQuery};

/// What a sender wants routed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupRequest {
    /// Find the responsible authority.
    Responsible(RouteRequest),
    /// The recipient is known.
    Recipient {
        /// For what.
        service: ServiceKey,
        /// Any of its keys.
        recipient: PartyId,
    },
    /// Into the recipient's mailbox here, whatever it is for.
    Mailbox {
        /// Whose mailbox.
        recipient: PartyId,
    },
    /// To an address the sender knows.
    Given {
        /// Whose address.
        recipient: PartyId,
        /// The address.
        endpoint: Endpoint,
    },
    /// An answer into the mailbox of a party of this gateway.
    Reply {
        /// For what.
        service: ServiceKey,
        /// Whose mailbox.
        recipient: PartyId,
    },
}

impl LookupRequest {
    /// The question a submission's metadata asks; `None` if it names neither area nor recipient.
    pub fn of(metadata: &Metadata) -> Option<Self> {
        let service = metadata.service.clone();
        match (&metadata.recipient, &metadata.area) {
            (Some(recipient), _) => Some(Self::Recipient { service, recipient: recipient.clone() }),
            (None, Some(area)) => Some(Self::Responsible(RouteRequest { service, area: area.clone() })),
            (None, None) => None,
        }
    }
}

/// How a look-up ended, with everything `/v1/routes` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// How.
    pub outcome: OutcomeKind,
    /// The route, exactly when resolved.
    pub route: Option<Box<Route>>,
    /// What the tables decided, if they were asked.
    pub decision: Option<Decision>,
    /// Name of the responsible authority, as far as it is known.
    pub organization: Option<OrganizationRef>,
    /// Endpoint configured on this gateway.
    pub local: Option<Endpoint>,
    /// Endpoints the directory lists, best first.
    pub listed: Vec<Endpoint>,
    /// Why the directory could not be asked, if so.
    pub unavailable: Option<String>,
    /// Steps, for people.
    pub trace: Vec<String>,
}

impl Resolution {
    fn ended(outcome: OutcomeKind, decision: Option<Decision>, trace: Vec<String>) -> Self {
        Self {
            outcome,
            route: None,
            decision,
            organization: None,
            local: None,
            listed: Vec::new(),
            unavailable: None,
            trace,
        }
    }
}

/// Answer to [`Router::recheck`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recheck {
    /// Nothing changed, or the directory cannot be asked now.
    Same,
    /// Same organisation and channel, new endpoint.
    Moved(Box<Route>),
    /// The record is gone or leads elsewhere; an operator has to decide.
    Withdrawn(String),
}

/// Resolves routes. Tables and accounts are replaced as whole snapshots while it runs.
pub struct Router {
    tables: ArcSwap<RoutingTables>,
    accounts: Arc<ArcSwap<AccountBook>>,
    directory: Arc<dyn Directory>,
    channels: Vec<Arc<dyn Channel>>,
}

/// A recipient with the questions to ask a directory about it.
struct Candidate {
    service: String,
    organization: OrganizationRef,
    lookup_keys: Vec<PartyId>,
    specifications: Vec<SpecificationUri>,
}

enum Listing {
    Found { key: PartyId, specification: SpecificationUri, record: DirectoryRecord },
    Missing { not_valid: bool, certificate: bool, at: Timestamp },
    Down(String),
}

impl Router {
    /// The accounts in force.
    pub fn accounts(&self) -> Arc<AccountBook> {
        self.accounts.load_full()
    }

    /// A router over tables, accounts, a directory and the channels that can deliver.
    pub fn new(
        tables: RoutingTables,
        accounts: Arc<ArcSwap<AccountBook>>,
        directory: Arc<dyn Directory>,
        channels: Vec<Arc<dyn Channel>>,
    ) -> Self {
        Self { tables: ArcSwap::from_pointee(tables), accounts, directory, channels }
    }

    /// Puts new tables into force.
    pub fn replace_tables(&self, tables: RoutingTables) {
        self.tables.store(Arc::new(tables));
    }

    /// The tables in force.
    pub fn tables(&self) -> Arc<RoutingTables> {
        self.tables.load_full()
    }

    /// Resolves at an instant. Idempotent and cancel-safe; takes as long as the directory's time bound at most.
    pub async fn resolve(&self, request: &LookupRequest, at: Timestamp) -> Resolution {
        let tables = self.tables.load_full();
        let mut trace = Vec::new();
        let (candidate, decision) = match request {
            LookupRequest::Responsible(request) => {
                let decision = tables.resolve(request, at);
                trace.clone_from(&decision.trace);
                match responsible(&tables, &decision) {
                    Some(candidate) => (candidate, Some(decision)),
                    None => return Resolution::ended(decision.outcome, Some(decision), trace),
                }
            }
            LookupRequest::Recipient { service, recipient } => {
                let Some((services, specifications)) = tables.specifications_of(service, at, &mut trace)
                else {
                    return Resolution::ended(OutcomeKind::ServiceUnknown, None, trace);
                };
                trace.push(format!("recipient named by the sender: {recipient}"));
                (named(&tables, recipient, &services, specifications), None)
            }
            LookupRequest::Mailbox { recipient } => {
                let candidate = named(&tables, recipient, &[], Vec::new());
                trace.push(format!("recipient named by the sender, no service: {recipient}"));
                return match self.local(&candidate) {
                    (key, Some(endpoint)) => here(candidate, &key, endpoint, at, trace),
                    (_, None) => Resolution::ended(OutcomeKind::NoChannel, None, trace),
                };
            }
            LookupRequest::Given { recipient, endpoint } => {
                let candidate = named(&tables, recipient, &[], Vec::new());
                trace.push(format!("recipient and address named by the sender: {recipient}"));
                return here(candidate, recipient, endpoint.clone(), at, trace);
            }
            LookupRequest::Reply { service, recipient } => {
                // Also for a service that is not in the catalogue any more.
                let (services, specifications) =
                    tables.specifications_of(service, at, &mut trace).unwrap_or_default();
                let candidate = named(&tables, recipient, &services, specifications);
                trace.push(format!("reply into the mailbox of {recipient}"));
                let endpoint = Endpoint::new(ChannelKind::Mailbox, recipient.to_string());
                return here(candidate, recipient, endpoint, at, trace);
            }
        };
        self.reach(candidate, decision, at, trace).await
    }

    async fn reach(
        &self,
        candidate: Candidate,
        decision: Option<Decision>,
        at: Timestamp,
        mut trace: Vec<String>,
    ) -> Resolution {
        let listing = self.list(&candidate, at, &mut trace).await;
        let (key, local) = self.local(&candidate);
        let mut resolution = Resolution::ended(OutcomeKind::Resolved, decision, Vec::new());
        resolution.organization = Some(candidate.organization.clone());
        resolution.local.clone_from(&local);
        let matched_area = resolution.decision.as_ref().and_then(|decision| decision.matched_area.clone());
        let (endpoint, lookup_key, specification, evidence) = match listing {
            Listing::Down(reason) => {
                trace.push("directory unavailable".to_owned());
                resolution.outcome = OutcomeKind::DirectoryUnavailable;
                resolution.unavailable = Some(reason);
                resolution.trace = trace;
                return resolution;
            }
            Listing::Missing { not_valid, certificate, at: asked_at } => {
                resolution.outcome = match (&local, not_valid, certificate) {
                    (_, _, true) => OutcomeKind::CertificateUnusable,
                    (Some(_), true, _) => OutcomeKind::NotValid,
                    (None, _, _) => OutcomeKind::NoChannel,
                    (Some(_), false, false) => OutcomeKind::Resolved,
                };
                let evidence = Evidence {
                    source: self.directory.name().to_owned(),
                    fetched_at: asked_at,
                    stale: false,
                    answer: "not-listed".to_owned(),
                    record: None,
                };
                let lookup_key = candidate.lookup_keys.first().cloned();
                (local, lookup_key, candidate.specifications.first().cloned(), evidence)
            }
            Listing::Found { key, specification, record } => {
                let usable = self.usable(&record.endpoints, &mut trace);
                resolution.listed.clone_from(&record.endpoints);
                let endpoint = local.or(usable);
                if endpoint.is_none() {
                    resolution.outcome = OutcomeKind::NoChannel;
                }
                let evidence = Evidence {
                    source: self.directory.name().to_owned(),
                    fetched_at: record.fetched_at,
                    stale: record.stale,
                    answer: "found".to_owned(),
                    record: Some(record.record),
                };
                (endpoint, Some(key), Some(specification), evidence)
            }
        };
        if let (OutcomeKind::Resolved, Some(endpoint), Some(lookup_key)) =
            (resolution.outcome, endpoint, lookup_key)
        {
            trace.push(format!(
                "channel {} ({})",
                endpoint.channel,
                if resolution.local.is_some() { "served here" } else { "directory" }
            ));
            let organization = match endpoint.channel {
                ChannelKind::Mailbox => key,
                _ => candidate.organization.key.clone(),
            };
            resolution.route = Some(Box::new(Route {
                service: candidate.service,
                specification,
                organization: candidate.organization,
                lookup_key,
                matched_area,
                destination: Destination { organization, channel: endpoint.channel },
                endpoint,
                evidence: Some(evidence),
                decided_at: at,
                trace: trace.clone(),
            }));
        }
        resolution.trace = trace;
        resolution
    }

    /// The key of the organisation an account here serves, and the channel configured for it.
    fn local(&self, candidate: &Candidate) -> (PartyId, Option<Endpoint>) {
        let accounts = self.accounts.load();
        let keys = std::iter::once(&candidate.organization.key).chain(&candidate.lookup_keys);
        for key in keys {
            if let Some(channel) = accounts.local_channel(key) {
                let endpoint = match channel {
                    LocalChannel::Mailbox => Endpoint::new(ChannelKind::Mailbox, key.to_string()),
                    LocalChannel::Push(channel, address) => Endpoint::new(*channel, address.to_string()),
                };
                return (key.clone(), Some(endpoint));
            }
        }
        (candidate.organization.key.clone(), None)
    }

    /// First listed endpoint whose channel this gateway can use.
    fn usable(&self, endpoints: &[Endpoint], trace: &mut Vec<String>) -> Option<Endpoint> {
        endpoints
            .iter()
            .find(|endpoint| match self.channels.iter().find(|channel| channel.kind() == endpoint.channel) {
                None => {
                    trace.push(format!("listed channel {} has no adapter here", endpoint.channel));
                    false
                }
                Some(channel) => match channel.accepts(endpoint) {
                    Ok(()) => true,
                    Err(reason) => {
                        trace.push(format!("listed channel {} cannot be used: {reason}", endpoint.channel));
                        false
                    }
                },
            })
            .cloned()
    }

    /// Asks the directory for each specification in order, then once with the primary key (5.7).
    async fn list(&self, candidate: &Candidate, at: Timestamp, trace: &mut Vec<String>) -> Listing {
        let (mut not_valid, mut certificate) = (false, false);
        for key in &candidate.lookup_keys {
            for specification in &candidate.specifications {
                let query = ServiceQuery { organization: key.clone(), specification: specification.clone() };
                let answer = match self.directory.cached(&query) {
                    Some(answer) => answer,
                    None => match self.directory.find(&query).await {
                        Ok(answer) => answer,
                        Err(down) => return Listing::Down(down.reason),
                    },
                };
                match answer {
                    DirectoryAnswer::Found(record) => {
                        let age = if record.stale { ", kept while the directory is down" } else { "" };
                        trace.push(format!("directory lists {key} with {specification}{age}"));
                        return Listing::Found {
                            key: key.clone(),
                            specification: specification.clone(),
                            record,
                        };
                    }
                    DirectoryAnswer::NotValid { warning } => {
                        trace.push(format!("directory: {key} exists but is not valid ({warning})"));
                        not_valid = true;
                    }
                    DirectoryAnswer::CertificateUnusable { reason } => {
                        trace.push(format!("directory: certificate of {key} cannot be used ({reason})"));
                        certificate = true;
                    }
                    DirectoryAnswer::NotListed => {
                        trace.push(format!("directory does not list {key} with {specification}"));
                    }
                }
            }
        }
        Listing::Missing { not_valid, certificate, at }
    }

    /// Whether a stored route still holds; asked before an attempt when the decision is older than the directory's cache.
    pub async fn recheck(&self, route: &Route, at: Timestamp) -> Recheck {
        let (Some(specification), Some(_)) = (&route.specification, &route.evidence) else {
            return Recheck::Same;
        };
        let candidate = Candidate {
            service: route.service.clone(),
            organization: route.organization.clone(),
            lookup_keys: vec![route.lookup_key.clone()],
            specifications: vec![specification.clone()],
        };
        let resolution = self.reach(candidate, None, at, Vec::new()).await;
        match (resolution.outcome, resolution.route) {
            (OutcomeKind::DirectoryUnavailable, _) => Recheck::Same,
            (OutcomeKind::Resolved, Some(now)) if now.destination != route.destination => {
                Recheck::Withdrawn(format!("now leads to {}", now.destination))
            }
            (OutcomeKind::Resolved, Some(now)) if now.endpoint == route.endpoint => Recheck::Same,
            (OutcomeKind::Resolved, Some(mut now)) => {
                now.matched_area.clone_from(&route.matched_area);
                Recheck::Moved(now)
            }
            (outcome, _) => Recheck::Withdrawn(format!("directory now answers {}", outcome.as_str())),
        }
    }
}

fn responsible(tables: &RoutingTables, decision: &Decision) -> Option<Candidate> {
    let (Some(organization), Some(lookup_key), OutcomeKind::Resolved) =
        (&decision.organization, &decision.lookup_key, decision.outcome)
    else {
        return None;
    };
    let mut lookup_keys = vec![lookup_key.clone()];
    if lookup_key != organization {
        lookup_keys.push(organization.clone());
    }
    Some(Candidate {
        service: join(&decision.services),
        organization: describe(tables, organization),
        lookup_keys,
        specifications: decision.specifications.clone(),
    })
}

fn named(
    tables: &RoutingTables,
    recipient: &PartyId,
    services: &[OzgId],
    specifications: Vec<SpecificationUri>,
) -> Candidate {
    let primary = tables.by_key.get(recipient).unwrap_or(recipient);
    let mut lookup_keys = vec![recipient.clone()];
    if primary != recipient {
        lookup_keys.push(primary.clone());
    }
    Candidate {
        service: join(services),
        organization: describe(tables, primary),
        lookup_keys,
        specifications,
    }
}

/// A route to somebody this gateway serves itself, without asking a directory.
fn here(
    candidate: Candidate,
    key: &PartyId,
    endpoint: Endpoint,
    at: Timestamp,
    trace: Vec<String>,
) -> Resolution {
    let mut resolution = Resolution::ended(OutcomeKind::Resolved, None, trace.clone());
    resolution.route = Some(Box::new(Route {
        service: candidate.service,
        specification: candidate.specifications.into_iter().next(),
        destination: Destination { organization: key.clone(), channel: endpoint.channel },
        lookup_key: key.clone(),
        organization: candidate.organization,
        matched_area: None,
        endpoint,
        evidence: None,
        decided_at: at,
        trace,
    }));
    resolution
}

fn join(services: &[OzgId]) -> String {
    let ids: Vec<&str> = services.iter().map(OzgId::as_str).collect();
    ids.join("+")
}

fn describe(tables: &RoutingTables, key: &PartyId) -> OrganizationRef {
    let known = tables.organizations.get(key);
    OrganizationRef {
        key: key.clone(),
        name: known.map_or_else(|| key.to_string(), |known| known.name.clone()),
        category: known.and_then(|known| known.category.clone()),
    }
}
