//! Who talks to us: certificates, the accounts that own them, and what is known of them.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::account::{Account, AccountBook, Credential};
use amtsbote_core::key::AccountName;

use crate::codec::block::{CertificateRole, Certificates};
use crate::codec::card::{Inspection, MathResult};
use crate::codec::certificate::Certificate;
use crate::codec::code::Code;

/// Somebody with a cipher certificate and an account.
#[derive(Debug, Clone)]
pub struct Client {
    /// In whose name it acts.
    pub account: Arc<Account>,
    /// Answers are encrypted for it.
    pub cipher: Certificate,
    /// The account is that of all whom nobody here knows.
    pub guest: bool,
}

impl Client {
    /// Whose calls are counted. Whoever only shows a certificate is not counted as its owner, and guests share some quotas by their
    /// certificates: one of them cannot keep all others out, and all of them together cannot fill the memory.
    pub(crate) fn quota(&self, proven: bool) -> String {
        let name = self.account.name.as_str();
        match (proven, self.guest) {
            (false, _) => format!("{name} (unproven)"),
            (true, false) => name.to_owned(),
            (true, true) => format!("{name} ({:02x})", self.cipher.fingerprint()[0]),
        }
    }

    /// Whether it is the same client.
    pub fn is(&self, other: &Self) -> bool {
        self.account.name == other.account.name && (!self.guest || self.cipher == other.cipher)
    }
}

/// What becomes of orders from clients nobody here knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Unknown {
    /// They are refused.
    #[default]
    Refuse,
    /// They may store for some addressees, in the name of an account.
    StoreFor {
        /// In whose name.
        account: AccountName,
        /// Accounts of the addressees.
        addressees: Vec<AccountName>,
        /// The directory has to know their cipher certificate as that of a client of one of these categories; empty: nobody is asked.
        categories: Vec<String>,
    },
}

/// Whom we trust.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Clients without an account.
    pub unknown: Unknown,
    /// Certificates of authorities whose signatures on certificates can be checked here.
    pub authorities: Vec<Certificate>,
}

impl Trust {
    /// The client of a cipher certificate.
    pub fn client(&self, accounts: &AccountBook, cipher: &Certificate) -> Option<Client> {
        if let Some(account) = accounts.authenticate(&Credential::OsciCipher(cipher.fingerprint())) {
            return Some(Client { account: Arc::clone(account), cipher: cipher.clone(), guest: false });
        }
        let Unknown::StoreFor { account, .. } = &self.unknown else { return None };
        let account = accounts.iter().find(|one| one.name == *account)?;
        Some(Client { account: Arc::clone(account), cipher: cipher.clone(), guest: true })
    }

    /// Categories one of which a client's certificate has to belong to.
    pub fn categories(&self, client: &Client) -> &[String] {
        match &self.unknown {
            Unknown::StoreFor { categories, .. } if client.guest => categories,
            _ => &[],
        }
    }

    /// Whether a client may store for an account.
    pub fn may_store_for(&self, client: &Client, addressee: &Account) -> bool {
        match &self.unknown {
            Unknown::StoreFor { addressees, .. } if client.guest => addressees.contains(&addressee.name),
            _ => !client.guest,
        }
    }

    /// Whether a signature certificate is one of the client's. Whoever has no account brings its own.
    pub fn may_sign(&self, accounts: &AccountBook, client: &Client, signature: &Certificate) -> bool {
        let known = accounts.authenticate(&Credential::OsciSignature(signature.fingerprint()));
        match known {
            Some(account) => account.name == client.account.name && !client.guest,
            None => client.guest,
        }
    }

    /// Whether a certificate was signed by its issuer, as far as the issuer is known.
    pub fn math(&self, certificate: &Certificate) -> MathResult {
        let issuer = certificate.issuer();
        let own = (certificate.subject() == issuer).then_some(certificate);
        let known = self.authorities.iter().filter(|one| one.subject() == issuer);
        let mut candidates = known.chain(own).peekable();
        if candidates.peek().is_none() {
            return MathResult::Indeterminate;
        }
        match candidates.any(|issuer| certificate.is_signed_by(issuer)) {
            true => MathResult::Ok,
            false => MathResult::Corrupted,
        }
    }

    /// Looks at all certificates of a delivery: what was found, and the codes that follow. An error among them means: do not store.
    pub fn inspect(&self, certificates: &Certificates, now: Timestamp) -> (Vec<Inspection>, Vec<Code>) {
        let mut codes: Vec<Code> = Vec::new();
        let mut inspections = Vec::new();
        for entry in &certificates.0 {
            let inspection = Inspection::of(&entry.certificate, self.math(&entry.certificate), now);
            let (corrupted, expired) = codes_of(entry.role);
            let found = match (inspection.math, inspection.valid) {
                (MathResult::Corrupted, _) => corrupted,
                (_, false) => expired,
                _ => None,
            };
            codes.extend(found.filter(|code| !codes.contains(code)));
            inspections.push(inspection);
        }
        (inspections, codes)
    }
}

/// The codes for a certificate that its issuer did not sign, and for one outside of its validity.
fn codes_of(role: CertificateRole) -> (Option<Code>, Option<Code>) {
    let (corrupted, expired) = match role {
        CertificateRole::CipherOriginator => (Code::ClientCipherUnchecked, Code::ClientCipherExpired),
        CertificateRole::CipherOtherAuthor => (Code::AuthorCipherInvalid, Code::AuthorCipherExpired),
        CertificateRole::CipherAddressee => (Code::AddresseeCipherInvalid, Code::AddresseeCipherExpired),
        CertificateRole::CipherOtherReader => (Code::ReaderCipherInvalid, Code::ReaderCipherExpired),
        CertificateRole::SignatureOriginator => (Code::ClientSignatureInvalid, Code::ClientSignatureExpired),
        CertificateRole::SignatureOtherAuthor => (Code::AuthorSignatureInvalid, Code::AuthorSignatureExpired),
        CertificateRole::SignatureAddressee => {
            (Code::RecipientSignatureInvalid, Code::RecipientSignatureExpired)
        }
        CertificateRole::CipherIntermediary | CertificateRole::SignatureIntermediary => return (None, None),
    };
    (Some(corrupted), Some(expired))
}
