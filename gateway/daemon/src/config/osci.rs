//! The OSCI intermediary.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use amtsbote_core::key::AccountName;
use amtsbote_osci::DIALOG_IDLE;
use url::Url;

use super::KeyPair;
use super::reader::{Findings, Section};

const ADDRESS: &str = "write an address such as \"0.0.0.0:8444\"";
const MIB: u64 = 1 << 20;

/// What `[osci]` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsciConfig {
    /// Address.
    pub listen: SocketAddr,
    /// TLS, if not plain HTTP.
    pub tls: Option<KeyPair>,
    /// What others encrypt for; then older ones that are still opened.
    pub cipher: Vec<KeyPair>,
    /// Signs all responses.
    pub signature: KeyPair,
    /// Authorities whose signatures on certificates can be checked.
    pub authorities: Vec<PathBuf>,
    /// In whose name clients without an account may store, and for which accounts.
    pub guests: Option<(AccountName, Vec<AccountName>)>,
    /// CBC and Triple DES are decrypted.
    pub legacy_ciphers: bool,
    /// Keys wrapped with PKCS#1 v1.5 are unwrapped.
    pub rsa15: bool,
    /// Orders outside of dialogs need no signature.
    pub unsigned_orders: bool,
    /// Bytes of the XML part.
    pub xml_limit: u64,
    /// Bytes of a message.
    pub message_limit: u64,
    /// Time without a word after which a dialog ends.
    pub dialog_idle: Duration,
    /// KiB of a chunk.
    pub max_chunk: u64,
    /// KiB of a chunk that is not the last.
    pub min_chunk: u64,
    /// Time a message in chunks may take.
    pub chunk_timeout: Duration,
    /// Beginnings of addresses deliveries may be pushed to.
    pub push_to: Vec<Url>,
}

fn pair(section: &mut Section<'_>, findings: &mut Findings, name: &str) -> Option<KeyPair> {
    let certificate = section.path(findings, &format!("{name}_certificate"));
    let key = section.path(findings, &format!("{name}_key"));
    Some(KeyPair { certificate: certificate?, key: key? })
}

fn optional_pair(section: &mut Section<'_>, findings: &mut Findings, name: &str) -> Option<KeyPair> {
    let (certificate, key) = (format!("{name}_certificate"), format!("{name}_key"));
    match (section.optional_path(findings, &certificate), section.optional_path(findings, &key)) {
        (Some(certificate), Some(key)) => Some(KeyPair { certificate, key }),
        (None, None) => None,
        (None, Some(_)) => {
            section.issue(findings, &certificate, "is missing", "name certificate and key");
            None
        }
        (Some(_), None) => {
            section.issue(findings, &key, "is missing", "name certificate and key");
            None
        }
    }
}

/// The section; absent: no intermediary.
pub(super) fn intermediary(
    mut section: Section<'_>,
    findings: &mut Findings,
    most: u64,
) -> Option<OsciConfig> {
    if section.is_empty() {
        mention(&mut section, findings);
        return None;
    }
    let listen = section.needed(findings, "listen", ADDRESS);
    let tls = optional_pair(&mut section, findings, "tls");
    let cipher = pair(&mut section, findings, "cipher");
    let previous = optional_pair(&mut section, findings, "previous_cipher");
    let signature = pair(&mut section, findings, "signature");
    let authorities = section.paths(findings, "ca");
    let guest =
        section.parsed::<AccountName>(findings, "guest_account", "name the account of unknown senders");
    let addressees =
        section.list::<AccountName>(findings, "guest_addressees", "name accounts they may store for");
    let guests = match (guest, addressees.is_empty()) {
        (Some(account), false) => Some((account, addressees)),
        (None, true) => None,
        (Some(_), true) => {
            let remedy = "name the accounts unknown senders may store for";
            section.issue(findings, "guest_addressees", "is empty", remedy);
            None
        }
        (None, false) => {
            section.issue(findings, "guest_account", "is missing", "name the account of unknown senders");
            None
        }
    };
    let legacy_ciphers = section.flag(findings, "legacy_ciphers", false);
    let rsa15 = section.flag(findings, "dangerously_accept_rsa15", false);
    let unsigned_orders = section.flag(findings, "dangerously_accept_unsigned_orders", false);
    let xml_limit = section.number(findings, "xml_bytes", 64 * MIB, 64 << 10..=256 * MIB);
    let message_limit =
        section.number(findings, "message_bytes", (1 << 30) + 64 * MIB, 64 << 10..=most.max(1 << 40));
    let dialog_idle = section.duration(findings, "dialog_idle", DIALOG_IDLE);
    let max_chunk = section.number(findings, "max_chunk_kib", 10 * 1024, 1..=1 << 20);
    let min_chunk = section.number(findings, "min_chunk_kib", 1, 1..=max_chunk);
    let chunk_timeout = section.duration(findings, "chunk_timeout", Duration::from_secs(3600));
    let push_to: Vec<Url> =
        section.list(findings, "push_to", "write URLs such as \"https://recipient.example/osci\"");
    section.close(findings);
    Some(OsciConfig {
        listen: listen?,
        tls,
        cipher: [cipher?].into_iter().chain(previous).collect(),
        signature: signature?,
        authorities,
        guests,
        legacy_ciphers,
        rsa15,
        unsigned_orders,
        xml_limit,
        message_limit,
        dialog_idle,
        max_chunk,
        min_chunk,
        chunk_timeout,
        push_to,
    })
}

/// Names the keys of an absent section, so that the reference file is complete.
fn mention(section: &mut Section<'_>, findings: &mut Findings) {
    for key in ["listen", "cipher_certificate", "cipher_key", "signature_certificate", "signature_key"] {
        section.text(findings, key);
    }
}
