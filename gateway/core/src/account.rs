//! Who may talk to this gateway, as which party, and whose mailboxes they may open. Deny by default.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::key::{AccountName, PartyId};
use crate::route::ChannelKind;

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Submit messages and follow them.
    Author,
    /// Fetch messages for the organisations it serves.
    Reader,
    /// Look at operations.
    Viewer,
    /// Hold, release, re-drive.
    Operator,
    /// Change what operators may do.
    Administrator,
}

/// Proof of identity an account accepts. Two of a kind are normal while a certificate is rolled over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// The client certificate with this SHA-256 over its DER.
    Pinned([u8; 32]),
    /// Any client certificate of the configured client CA with this subject (RFC 4514 text).
    Subject(Box<str>),
    /// The cipher certificate of OSCI with this SHA-256 over its DER: whoever reads what is encrypted for it.
    OsciCipher([u8; 32]),
    /// The signature certificate of OSCI with this SHA-256 over its DER.
    OsciSignature([u8; 32]),
}

/// How an organisation that is served here gets its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalChannel {
    /// Into its mailbox on this gateway.
    Mailbox,
    /// To an address of the configuration: `amqp://<broker>?queue=…`, `amqp://<broker>?exchange=…&key=…`, `xta://<server>`.
    Push(ChannelKind, Box<str>),
}

/// An account of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Unique name.
    pub name: AccountName,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// Parties it speaks for; the first is the default sender.
    pub parties: Vec<PartyId>,
    /// Organisations whose messages it takes.
    pub serves: Vec<PartyId>,
    /// How those organisations get their messages.
    pub channel: LocalChannel,
    /// What it proves itself with.
    pub credentials: Vec<Credential>,
    /// Bytes of one message it may hand in over faces that have a limit of their own, instead of that.
    pub message_limit: Option<u64>,
}

impl Account {
    /// Whether the account has the role.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether the account speaks for the party.
    pub fn owns(&self, party: &PartyId) -> bool {
        self.parties.contains(party)
    }

    /// Mailboxes the account may open: its own parties' and, as reader, those of the organisations it serves.
    pub fn mailboxes(&self) -> impl Iterator<Item = &PartyId> {
        let served = if self.has(Role::Reader) { self.serves.as_slice() } else { &[] };
        let own = self.parties.iter().filter(|party| !served.contains(party));
        own.chain(served)
    }

    /// Whether the account may open the mailbox.
    pub fn opens(&self, mailbox: &PartyId) -> bool {
        self.mailboxes().any(|one| one == mailbox)
    }
}

/// Name under which the gateway itself acts; no account may have it.
pub const GATEWAY: &str = "amtsbote";

/// The accounts in force; replaced as a whole when the configuration is read again.
#[derive(Debug, Default)]
pub struct AccountBook {
    accounts: Vec<Arc<Account>>,
    by_credential: HashMap<Credential, Arc<Account>>,
    by_organization: HashMap<PartyId, Arc<Account>>,
}

/// Two accounts contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountConflict {
    /// Two accounts have the same name.
    #[error("account {0} is defined twice")]
    Name(AccountName),
    /// The name belongs to the gateway itself.
    #[error("account {0} needs another name: this one is the gateway's own")]
    Reserved(AccountName),
    /// Two accounts accept the same credential.
    #[error("accounts {0} and {1} accept the same certificate")]
    Credential(AccountName, AccountName),
    /// Two accounts serve the same organisation in different ways.
    #[error("accounts {0} and {1} serve {2} over different channels")]
    Channel(AccountName, AccountName, PartyId),
}

impl AccountBook {
    /// Checks the accounts against each other.
    ///
    /// # Errors
    /// Every conflict found.
    pub fn try_new(accounts: Vec<Account>) -> Result<Self, Vec<AccountConflict>> {
        let mut book = Self::default();
        let mut conflicts = Vec::new();
        for account in accounts.into_iter().map(Arc::new) {
            if book.accounts.iter().any(|other| other.name == account.name) {
                conflicts.push(AccountConflict::Name(account.name.clone()));
                continue;
            }
            if account.name.as_str() == GATEWAY {
                conflicts.push(AccountConflict::Reserved(account.name.clone()));
                continue;
            }
            for credential in &account.credentials {
                if let Some(other) = book.by_credential.insert(credential.clone(), Arc::clone(&account)) {
                    conflicts.push(AccountConflict::Credential(other.name.clone(), account.name.clone()));
                }
            }
            let served = if account.has(Role::Reader) { account.serves.as_slice() } else { &[] };
            for organization in served {
                match book.by_organization.get(organization) {
                    Some(other) if other.channel != account.channel => {
                        conflicts.push(AccountConflict::Channel(
                            other.name.clone(),
                            account.name.clone(),
                            organization.clone(),
                        ))
                    }
                    Some(_) => {}
                    None => {
                        book.by_organization.insert(organization.clone(), Arc::clone(&account));
                    }
                }
            }
            book.accounts.push(account);
        }
        if conflicts.is_empty() { Ok(book) } else { Err(conflicts) }
    }

    /// The account that accepts the credential.
    pub fn authenticate(&self, credential: &Credential) -> Option<&Arc<Account>> {
        self.by_credential.get(credential)
    }

    /// The account of whoever has proven to possess a certificate with this fingerprint. `vouched` is its subject if our own authority
    /// vouches for it; without that a subject means nothing.
    pub fn identify(&self, fingerprint: [u8; 32], vouched: Option<&str>) -> Option<&Arc<Account>> {
        let pinned = self.authenticate(&Credential::Pinned(fingerprint));
        pinned.or_else(|| self.authenticate(&Credential::Subject(vouched?.into())))
    }

    /// How messages for the organisation leave this gateway, if an account here serves it.
    pub fn local_channel(&self, organization: &PartyId) -> Option<&LocalChannel> {
        self.by_organization.get(organization).map(|account| &account.channel)
    }

    /// Fingerprints of all pinned certificates.
    pub fn pinned(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.by_credential.keys().filter_map(|credential| match credential {
            Credential::Pinned(fingerprint) => Some(fingerprint),
            Credential::Subject(_) | Credential::OsciCipher(_) | Credential::OsciSignature(_) => None,
        })
    }

    /// All accounts, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.accounts.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str, pin: u8, serves: &[&str], channel: LocalChannel) -> Account {
        Account {
            name: name.parse().unwrap(),
            roles: BTreeSet::from([Role::Reader]),
            parties: Vec::new(),
            serves: serves.iter().map(|key| key.parse().unwrap()).collect(),
            channel,
            credentials: vec![Credential::Pinned([pin; 32])],
            message_limit: None,
        }
    }

    #[test]
    fn every_conflict_is_reported() {
        let conflicts = AccountBook::try_new(vec![
            account("a", 1, &["wgb:073150000000"], LocalChannel::Mailbox),
            account("a", 2, &[], LocalChannel::Mailbox),
            account("b", 1, &[], LocalChannel::Mailbox),
            account(
                "c",
                3,
                &["wgb:073150000000"],
                LocalChannel::Push(ChannelKind::Amqp, "amqp://x?queue=q".into()),
            ),
        ])
        .unwrap_err();
        assert_eq!(conflicts.len(), 3, "{conflicts:?}");
    }

    #[test]
    fn serving_needs_the_reader_role() {
        let mut author = account("a", 1, &["wgb:073150000000"], LocalChannel::Mailbox);
        author.roles = BTreeSet::from([Role::Author]);
        author.parties = vec!["ags:07315000".parse().unwrap()];
        let book = AccountBook::try_new(vec![author.clone()]).unwrap();
        assert_eq!(book.local_channel(&"wgb:073150000000".parse().unwrap()), None);
        assert!(!author.opens(&"wgb:073150000000".parse().unwrap()));
        assert!(author.opens(&"ags:07315000".parse().unwrap()), "replies land in the author's own mailbox");
    }
}
