//! The OSCI intermediary.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use amtsbote_core::key::{AccountName, PartyId};
use amtsbote_osci::DIALOG_IDLE;
use url::Url;

use super::KeyPair;
use super::reader::{Findings, Section};
use super::schema::optional_pair_of;

const ADDRESS: &str = "write an address such as \"0.0.0.0:8444\"";
const URL: &str = "write a URL such as \"https://intermediary.example/osci\"";
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
    /// Clients without an account.
    pub guests: Option<OsciGuests>,
    /// The directory is asked about addressees whose certificate no account has.
    pub directory_addressees: bool,
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
    /// Authorities of their servers, for HTTPS.
    pub push_authorities: Vec<PathBuf>,
}

/// What clients without an account may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsciGuests {
    /// In whose name they store.
    pub account: AccountName,
    /// Accounts they may store for.
    pub addressees: Vec<AccountName>,
    /// The directory has to know them as clients of one of these categories, if there are any.
    pub categories: Vec<String>,
}

fn pair(section: &mut Section<'_>, findings: &mut Findings, name: &str) -> Option<KeyPair> {
    let certificate = section.path(findings, &format!("{name}_certificate"));
    let key = section.path(findings, &format!("{name}_key"));
    Some(KeyPair { certificate: certificate?, key: key? })
}

fn optional_pair(section: &mut Section<'_>, findings: &mut Findings, name: &str) -> Option<KeyPair> {
    optional_pair_of(section, findings, &format!("{name}_certificate"), &format!("{name}_key"))
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
    let categories = section.texts(findings, "guest_categories");
    if guest.is_none() && !categories.is_empty() {
        section.issue(findings, "guest_account", "is missing", "name the account of unknown senders");
    }
    let directory_addressees = section.flag(findings, "directory_addressees", false);
    let guests = match (guest, addressees.is_empty()) {
        (Some(account), false) => Some(OsciGuests { account, addressees, categories }),
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
    let push_authorities = section.paths(findings, "push_ca");
    if push_authorities.is_empty() && push_to.iter().any(|url| url.scheme() == "https") {
        section.issue(
            findings,
            "push_ca",
            "is empty",
            "name the authorities of the recipients' certificates",
        );
    }
    section.close(findings);
    Some(OsciConfig {
        listen: listen?,
        tls,
        cipher: [cipher?].into_iter().chain(previous).collect(),
        signature: signature?,
        authorities,
        guests,
        directory_addressees,
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
        push_authorities,
    })
}

/// Another intermediary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsciPeerConfig {
    /// Address.
    pub url: Url,
    /// Orders are encrypted for it.
    pub intermediary_cipher: PathBuf,
    /// Its responses are signed with it.
    pub intermediary_signature: PathBuf,
    /// Our cipher key there; it owns our mailbox.
    pub cipher: KeyPair,
    /// Our signature key there.
    pub signature: KeyPair,
    /// Authorities of its server, for HTTPS.
    pub authorities: Vec<PathBuf>,
    /// Cipher certificate of the recipient of everything that goes there without the directory.
    pub recipient: Option<PathBuf>,
    /// Contents of our own making are signed.
    pub sign: bool,
    /// They are encrypted for the recipient.
    pub encrypt: bool,
    /// Time for one exchange.
    pub attempt: Duration,
    /// It is asked so often what became of deliveries.
    pub follow: Duration,
    /// Deliveries come in from there.
    pub inbound: Option<OsciInbound>,
}

/// How deliveries come in from another intermediary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsciInbound {
    /// Our mailbox there is fetched so often.
    pub poll: Option<Duration>,
    /// It may push to us.
    pub push: bool,
    /// In whose name deliveries come in.
    pub account: AccountName,
    /// Organisation they are for.
    pub organization: PartyId,
}

/// Other intermediaries by name.
pub(super) fn peers(root: &mut Section<'_>, findings: &mut Findings) -> BTreeMap<String, OsciPeerConfig> {
    let named = root.named(findings, "osci_peers");
    named.into_iter().filter_map(|(name, section)| Some((name, peer(section, findings)?))).collect()
}

fn peer(mut section: Section<'_>, findings: &mut Findings) -> Option<OsciPeerConfig> {
    let url = section.needed::<Url>(findings, "url", URL);
    if url.as_ref().is_some_and(|url| !matches!(url.scheme(), "http" | "https") || url.host_str().is_none()) {
        section.issue(findings, "url", "is no HTTP address", URL);
    }
    let intermediary_cipher = section.path(findings, "intermediary_cipher");
    let intermediary_signature = section.path(findings, "intermediary_signature");
    let cipher = pair(&mut section, findings, "cipher");
    let signature = pair(&mut section, findings, "signature");
    let authorities = section.paths(findings, "ca");
    if authorities.is_empty() && url.as_ref().is_some_and(|url| url.scheme() == "https") {
        section.issue(findings, "ca", "is empty", "name the authorities of the server's certificate");
    }
    let recipient = section.optional_path(findings, "recipient");
    let sign = section.flag(findings, "sign_content", false);
    let encrypt = section.flag(findings, "encrypt_content", false);
    let attempt = section.duration(findings, "attempt", Duration::from_secs(60));
    let follow = section.duration(findings, "follow", Duration::from_secs(5 * 60));
    let polled = section.has("poll");
    let every = section.duration(findings, "poll", Duration::from_secs(60));
    let push = section.flag(findings, "accept_pushes", false);
    let account = section.parsed::<AccountName>(
        findings,
        "account",
        "name the account in whose name deliveries come in",
    );
    let organization =
        section.parsed::<PartyId>(findings, "organization", "name the organisation they are for");
    let inbound = match (polled || push, account, organization) {
        (true, Some(account), Some(organization)) => {
            Some(OsciInbound { poll: polled.then_some(every), push, account, organization })
        }
        (true, None, _) => {
            section.issue(
                findings,
                "account",
                "is missing",
                "name the account in whose name deliveries come in",
            );
            None
        }
        (true, _, None) => {
            section.issue(findings, "organization", "is missing", "name the organisation they are for");
            None
        }
        (false, ..) => None,
    };
    section.close(findings);
    Some(OsciPeerConfig {
        url: url?,
        intermediary_cipher: intermediary_cipher?,
        intermediary_signature: intermediary_signature?,
        cipher: cipher?,
        signature: signature?,
        authorities,
        recipient,
        sign,
        encrypt,
        attempt,
        follow,
        inbound,
    })
}

/// Names the keys of an absent section, so that the reference file is complete.
fn mention(section: &mut Section<'_>, findings: &mut Findings) {
    for key in ["listen", "cipher_certificate", "cipher_key", "signature_certificate", "signature_key"] {
        section.text(findings, key);
    }
}
