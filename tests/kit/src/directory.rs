//! A directory in memory that can be switched off.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use amtsbote_core::Timestamp;
use amtsbote_core::key::PartyId;
use amtsbote_core::port::{
    CertificateDirectory, Directory, DirectoryAnswer, DirectoryRecord, DirectoryUnavailable, ServiceQuery,
};
use amtsbote_core::route::{Endpoint, RecordRef};
use async_trait::async_trait;

/// Answers for organisations it was told about, whatever the specification; everything else is not listed.
#[derive(Debug, Default)]
pub struct FakeDirectory {
    entries: Mutex<HashMap<PartyId, DirectoryAnswer>>,
    clients: Mutex<Vec<(Vec<u8>, String)>>,
    addressees: Mutex<Vec<(Vec<u8>, PartyId)>>,
    down: AtomicBool,
}

impl FakeDirectory {
    /// Lists an organisation with one endpoint.
    pub fn list(&self, organization: &str, endpoint: Endpoint) {
        let record = DirectoryRecord {
            record: RecordRef {
                id: "1".to_owned(),
                name: "test".to_owned(),
                valid_from: None,
                valid_to: None,
            },
            endpoints: vec![endpoint],
            fetched_at: Timestamp::UNIX_EPOCH,
            stale: false,
        };
        self.answer(organization, DirectoryAnswer::Found(record));
    }

    /// Answers something particular for an organisation.
    pub fn answer(&self, organization: &str, answer: DirectoryAnswer) {
        self.entries.lock().unwrap().insert(organization.parse().unwrap(), answer);
    }

    /// Lists a client certificate.
    pub fn list_client(&self, certificate: &[u8], category: &str) {
        self.clients.lock().unwrap().push((certificate.to_vec(), category.to_owned()));
    }

    /// Lists the certificate of an OSCI addressee.
    pub fn list_addressee(&self, certificate: &[u8], organization: &str) {
        self.addressees.lock().unwrap().push((certificate.to_vec(), organization.parse().unwrap()));
    }

    fn is_up(&self) -> Result<(), DirectoryUnavailable> {
        match self.down.load(Ordering::Relaxed) {
            true => Err(DirectoryUnavailable { reason: "switched off".to_owned() }),
            false => Ok(()),
        }
    }

    /// Switches the directory off or on again.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }
}

#[async_trait]
impl Directory for FakeDirectory {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn cached(&self, _: &ServiceQuery) -> Option<DirectoryAnswer> {
        None
    }

    async fn find(&self, query: &ServiceQuery) -> Result<DirectoryAnswer, DirectoryUnavailable> {
        self.is_up()?;
        let entries = self.entries.lock().unwrap();
        Ok(entries.get(&query.organization).cloned().unwrap_or(DirectoryAnswer::NotListed))
    }
}

#[async_trait]
impl CertificateDirectory for FakeDirectory {
    async fn belongs_to(&self, certificate: &[u8], category: &str) -> Result<bool, DirectoryUnavailable> {
        self.is_up()?;
        let clients = self.clients.lock().unwrap();
        Ok(clients.iter().any(|(one, of)| one == certificate && of == category))
    }

    async fn addressed_by(&self, certificate: &[u8]) -> Result<Vec<PartyId>, DirectoryUnavailable> {
        self.is_up()?;
        let addressees = self.addressees.lock().unwrap();
        Ok(addressees.iter().filter(|(one, _)| one == certificate).map(|(_, of)| of.clone()).collect())
    }
}
