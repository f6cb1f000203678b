//! The `Directory` port over DVDV2.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use amtsbote_core::port::{Clock, Directory, DirectoryAnswer, DirectoryUnavailable, Entropy, ServiceQuery};
use amtsbote_http::Client;
use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Mutex;

use crate::cache::{Learnt, Memory};
use crate::certificates::CertificateMemory;
use crate::options::{DvdvOptions, InvalidDvdvOptions};
use crate::outage::Outage;
use crate::servers::{AskError, Said, Servers};
use crate::wire::{ServiceReply, answer};

/// DVDV2 as a directory: cached, one question at a time per service, surviving outages within a grace time.
pub struct DvdvDirectory {
    pub(crate) servers: Servers,
    pub(crate) certificates: CertificateMemory,
    memory: Memory,
    asking: Mutex<HashMap<ServiceQuery, Weak<Mutex<()>>>>,
    outage: Outage,
}

impl DvdvDirectory {
    /// A client for some servers.
    ///
    /// # Errors
    /// When the settings contradict each other.
    pub fn new(
        client: Client,
        options: DvdvOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, InvalidDvdvOptions> {
        options.check()?;
        let memory = Memory::new(&options);
        let outage = Outage::new(&options);
        let certificates = CertificateMemory::new(&options);
        let servers = Servers::new(client, options, clock, entropy);
        Ok(Self { servers, certificates, memory, asking: Mutex::default(), outage })
    }

    async fn ask(&self, query: &ServiceQuery) -> Result<Learnt, AskError> {
        let question = json!({
            "organizationKey": query.organization.as_str(),
            "serviceSpecificationUri": query.specification.as_str(),
        });
        match self.servers.ask("findservicedescription", &question).await? {
            Said::Nothing { warning: None } => Ok(Learnt::NotListed),
            Said::Nothing { warning: Some(warning) } => Ok(Learnt::NotValid { warning }),
            Said::Body(body) => {
                let garbled = |_| AskError::Garbled { what: "the description of a service" };
                let reply: ServiceReply = serde_json::from_slice(&body).map_err(garbled)?;
                let entry = reply.into_entry(self.servers.clock.now());
                Ok(Learnt::Entry(entry.map_err(|_| AskError::Garbled { what: "the validity of a service" })?))
            }
        }
    }

    /// The lock that lets one task ask while others with the same question wait.
    async fn turn(&self, query: &ServiceQuery) -> Arc<Mutex<()>> {
        let mut asking = self.asking.lock().await;
        if let Some(turn) = asking.get(query).and_then(Weak::upgrade) {
            return turn;
        }
        asking.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Mutex::new(()));
        asking.insert(query.clone(), Arc::downgrade(&turn));
        turn
    }
}

#[async_trait]
impl Directory for DvdvDirectory {
    fn name(&self) -> &'static str {
        "dvdv"
    }

    fn cached(&self, query: &ServiceQuery) -> Option<DirectoryAnswer> {
        self.memory.fresh(query, self.servers.clock.now())
    }

    async fn find(&self, query: &ServiceQuery) -> Result<DirectoryAnswer, DirectoryUnavailable> {
        let kept = |now| self.memory.stale(query, now);
        let turn = self.turn(query).await;
        let _asking = turn.lock().await;
        if let Some(answer) = self.cached(query) {
            return Ok(answer);
        }
        let now = self.servers.clock.now();
        if let Some(reason) = self.outage.goes_on(now) {
            return kept(now).ok_or(DirectoryUnavailable { reason });
        }
        let asked = self.ask(query).await;
        let now = self.servers.clock.now();
        match asked {
            Ok(learnt) => {
                self.outage.is_over();
                let answer = match &learnt {
                    Learnt::Entry(entry) => answer(entry, now, now, false),
                    Learnt::NotValid { warning } => DirectoryAnswer::NotValid { warning: warning.clone() },
                    Learnt::NotListed => DirectoryAnswer::NotListed,
                };
                self.memory.keep(query.clone(), learnt, now);
                Ok(answer)
            }
            Err(error) => {
                self.outage.begins(now, error.to_string());
                let kept = kept(now);
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    kept = kept.is_some(),
                    "The directory cannot be asked."
                );
                kept.ok_or_else(|| DirectoryUnavailable { reason: error.to_string() })
            }
        }
    }
}
