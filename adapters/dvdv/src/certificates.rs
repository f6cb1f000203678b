//! The `CertificateDirectory` port over DVDV2. DVDV names certificates by the SHA-1 of their DER.

use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::key::PartyId;
use amtsbote_core::port::{CertificateDirectory, DirectoryUnavailable};
use async_trait::async_trait;
use moka::sync::Cache;
use serde_json::json;
use sha1::{Digest, Sha1};
use tokio::sync::Semaphore;

use crate::directory::DvdvDirectory;
use crate::options::DvdvOptions;
use crate::outage::Outage;
use crate::servers::{AskError, Said};
use crate::wire::{OrganizationReply, VerificationReply};

/// How long an answer is believed. There is no grace: a withdrawn permission has to show.
const BELIEVED: Duration = Duration::from_secs(5 * 60);
/// Questions at the same time.
const AT_ONCE: usize = 2;
/// Answers that are kept; strangers cannot make it more.
const ENTRIES: u64 = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Question {
    Category { fingerprint: String, category: String },
    Addressees { fingerprint: String },
}

#[derive(Debug, Clone)]
enum Answer {
    Belongs(bool),
    Addressees(Arc<[PartyId]>),
}

/// Answers about certificates. Their outages are their own: a server that refuses these questions still answers for services.
pub(crate) struct CertificateMemory {
    kept: Cache<Question, (Answer, Timestamp)>,
    outage: Outage,
    /// Strangers cause these questions; they do not crowd out others.
    asking: Semaphore,
}

impl CertificateMemory {
    pub(crate) fn new(options: &DvdvOptions) -> Self {
        Self { kept: Cache::new(ENTRIES), outage: Outage::new(options), asking: Semaphore::new(AT_ONCE) }
    }

    fn fresh(&self, question: &Question, now: Timestamp) -> Option<Answer> {
        let (answer, at) = self.kept.get(question)?;
        (now.duration_since(at).unsigned_abs() < BELIEVED).then_some(answer)
    }
}

impl DvdvDirectory {
    /// Whether a client certificate (SHA-1 fingerprint, any spelling) belongs to an organisation of a category. Never answered
    /// from a cache.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn verify_category(&self, fingerprint: &str, category: &str) -> Result<bool, AskError> {
        let fingerprint: String =
            fingerprint.chars().filter(char::is_ascii_hexdigit).map(|c| c.to_ascii_lowercase()).collect();
        let question = json!({ "fingerPrint": fingerprint, "category": category });
        match self.servers.ask("verifycategory", &question).await? {
            Said::Nothing { .. } => Ok(false),
            Said::Body(body) => serde_json::from_slice::<VerificationReply>(&body)
                .map(|reply| reply.verify_category)
                .map_err(|_| AskError::Garbled { what: "the answer to verifycategory" }),
        }
    }

    /// Keys of all organisations with an OSCI addressee of this cipher certificate (SHA-1 fingerprint). Keys that are none of ours to know
    /// are left out.
    async fn organizations(&self, fingerprint: &str) -> Result<Vec<PartyId>, AskError> {
        let question = json!({
            "serviceElementType": "OSCI_ADDRESSEE",
            "parameterType": "CIPHER_CERTIFICATE",
            "parameterValue": fingerprint,
        });
        match self.servers.ask("findOrganizationsByServiceElement", &question).await? {
            Said::Nothing { .. } => Ok(Vec::new()),
            Said::Body(body) => {
                let garbled =
                    |_| AskError::Garbled { what: "the answer to findOrganizationsByServiceElement" };
                let found: Vec<OrganizationReply> = serde_json::from_slice(&body).map_err(garbled)?;
                let keys = found.iter().filter_map(|one| one.organization_keys.as_ref()).flatten();
                Ok(keys.filter_map(|key| key.parse().ok()).collect())
            }
        }
    }

    async fn answer(&self, question: Question) -> Result<Answer, DirectoryUnavailable> {
        if let Some(answer) = self.certificates.fresh(&question, self.servers.clock.now()) {
            return Ok(answer);
        }
        let _turn = self.certificates.asking.acquire().await;
        // Somebody may have asked the same meanwhile.
        if let Some(answer) = self.certificates.fresh(&question, self.servers.clock.now()) {
            return Ok(answer);
        }
        if let Some(reason) = self.certificates.outage.goes_on(self.servers.clock.now()) {
            return Err(DirectoryUnavailable { reason });
        }
        let asked = match &question {
            Question::Category { fingerprint, category } => {
                self.verify_category(fingerprint, category).await.map(Answer::Belongs)
            }
            Question::Addressees { fingerprint } => {
                self.organizations(fingerprint).await.map(|found| Answer::Addressees(found.into()))
            }
        };
        let now = self.servers.clock.now();
        match asked {
            Ok(answer) => {
                self.certificates.outage.is_over();
                self.certificates.kept.insert(question, (answer.clone(), now));
                Ok(answer)
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "The directory cannot be asked about a certificate."
                );
                self.certificates.outage.begins(now, reason.clone());
                Err(DirectoryUnavailable { reason })
            }
        }
    }
}

fn fingerprint(certificate: &[u8]) -> String {
    hex::encode(Sha1::digest(certificate))
}

#[async_trait]
impl CertificateDirectory for DvdvDirectory {
    async fn belongs_to(&self, certificate: &[u8], category: &str) -> Result<bool, DirectoryUnavailable> {
        let question =
            Question::Category { fingerprint: fingerprint(certificate), category: category.to_owned() };
        Ok(matches!(self.answer(question).await?, Answer::Belongs(true)))
    }

    async fn addressed_by(&self, certificate: &[u8]) -> Result<Vec<PartyId>, DirectoryUnavailable> {
        match self.answer(Question::Addressees { fingerprint: fingerprint(certificate) }).await? {
            Answer::Addressees(found) => Ok(found.to_vec()),
            Answer::Belongs(_) => Ok(Vec::new()),
        }
    }
}
