//! A directory in memory that can be switched off.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use amtsbote_core::Timestamp;
use amtsbote_core::key::PartyId;
use amtsbote_core::port::{Directory, DirectoryAnswer, DirectoryRecord, DirectoryUnavailable, ServiceQuery};
use amtsbote_core::route::{Endpoint, RecordRef};
use async_trait::async_trait;

/// Answers for organisations it was told about, whatever the specification; everything else is not listed.
#[derive(Debug, Default)]
pub struct FakeDirectory {
    entries: Mutex<HashMap<PartyId, DirectoryAnswer>>,
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
        if self.down.load(Ordering::Relaxed) {
            return Err(DirectoryUnavailable { reason: "switched off".to_owned() });
        }
        let entries = self.entries.lock().unwrap();
        Ok(entries.get(&query.organization).cloned().unwrap_or(DirectoryAnswer::NotListed))
    }
}
