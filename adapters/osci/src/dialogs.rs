//! Explicit dialogs: conversation, sequence, challenge (OSCI-Transport 1.2, "Dialoge").
//!
//! A dialog is in one of two hands: this table's, or those of the one request that is being processed. A request that does not fit
//! breaks it; so does one that comes while another is being processed. Dialogs live in memory: after a restart clients are told 9400,
//! open new ones, and what they had not received is offered again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::id::MessageId;
use amtsbote_core::port::Entropy;
use subtle::ConstantTimeEq as _;

use crate::clients::Client;
use crate::codec::Problem;
use crate::codec::block::ControlBlock;
use crate::codec::order::FetchRule;

/// Dialogs of all clients together.
const DIALOGS_MAX: usize = 20_000;
/// Dialogs of one client.
const PER_CLIENT: usize = 100;

/// One client's dialog between two of its requests.
#[derive(Debug, Clone)]
pub struct Dialog {
    /// Who.
    pub client: Client,
    /// What the next request has to answer.
    pub challenge: String,
    /// The number the next request has to have.
    pub sequence: u64,
    /// What the last response handed over.
    pub handed_over: Option<MessageId>,
    /// What is being handed over in chunks.
    pub transfer: Option<Transfer>,
    /// When the client was last heard of.
    pub last_heard: Timestamp,
}

impl Dialog {
    /// Whether its challenge was never answered.
    fn is_unproven(&self) -> bool {
        self.sequence == 0
    }
}

/// A delivery that is being handed over in chunks.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// Which.
    pub id: MessageId,
    /// How the client asks for it.
    pub rule: FetchRule,
    /// KiB of a chunk.
    pub size: u64,
    /// Chunks that were sent, or that the client has from before.
    pub sent: BTreeSet<u64>,
}

/// The dialogs that are open.
pub struct Dialogs {
    open: Mutex<HashMap<String, Dialog>>,
    idle: Duration,
}

/// A challenge, from 24 random bytes.
pub fn challenge(entropy: &dyn Entropy) -> String {
    use base64::Engine as _;
    let mut bytes = [0; 24];
    entropy.fill(&mut bytes);
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A conversation id: digits nobody guesses.
pub fn conversation(entropy: &dyn Entropy) -> String {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes);
    u128::from_be_bytes(bytes).to_string()
}

impl Dialogs {
    /// A table whose dialogs end when nothing is heard for so long.
    pub fn new(idle: Duration) -> Self {
        Self { open: Mutex::default(), idle }
    }

    /// How long nothing may be heard.
    pub fn idle(&self) -> Duration {
        self.idle
    }

    fn is_over(&self, dialog: &Dialog, now: Timestamp) -> bool {
        now.duration_since(dialog.last_heard).unsigned_abs() > self.idle
    }

    /// Puts a new dialog into the table; `false` if there is no room for another.
    ///
    /// Anybody can open a dialog in the name of anybody's certificate, but only its owner can read the challenge. So dialogs nobody has
    /// proven to own make room for others, the oldest first.
    pub fn open(&self, conversation: String, dialog: Dialog) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let now = dialog.last_heard;
        if open.len() >= DIALOGS_MAX {
            open.retain(|_, one| !self.is_over(one, now));
        }
        let alive = open.values().filter(|one| !self.is_over(one, now));
        let of_client = alive.filter(|one| one.client.is(&dialog.client)).count();
        let full = open.len() >= DIALOGS_MAX;
        if full || of_client >= PER_CLIENT {
            let unproven = open.iter().filter(|(_, one)| one.is_unproven());
            let replaceable = unproven.filter(|(_, one)| full || one.client.is(&dialog.client));
            let oldest = replaceable.min_by_key(|(_, one)| one.last_heard);
            let Some(oldest) = oldest.map(|(conversation, _)| conversation.clone()) else { return false };
            open.remove(&oldest);
        }
        open.insert(conversation, dialog);
        true
    }

    /// Puts a dialog back after one of its requests.
    pub fn put_back(&self, conversation: String, dialog: Dialog) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(conversation, dialog);
    }

    /// Takes the dialog a request belongs to out of the table. Whatever does not fit ends it.
    ///
    /// # Errors
    /// [`Problem::Dialog`].
    pub fn take(&self, control: &ControlBlock, now: Timestamp) -> Result<Dialog, Problem> {
        let conversation = control.conversation.as_deref().unwrap_or_default();
        let taken = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(conversation);
        let dialog = taken.ok_or(Problem::Dialog("the conversation is not open"))?;
        if self.is_over(&dialog, now) {
            return Err(Problem::Dialog("the conversation is over"));
        }
        let response = control.response.as_deref().unwrap_or_default();
        if !bool::from(response.as_bytes().ct_eq(dialog.challenge.as_bytes())) {
            return Err(Problem::Dialog("the challenge is not answered"));
        }
        if control.sequence != Some(dialog.sequence) {
            return Err(Problem::Dialog("the number is not the next"));
        }
        Ok(dialog)
    }
}
