//! What core needs from the outside, in core's words. One trait and its error per file. Stores run the contract suite
//! of the test kit; the doubles there show what the other ports promise.

mod channel;
mod clock;
mod directory;
mod entropy;
mod note;
mod observe;
mod seal;
mod search;
mod store;

pub use channel::{
    Channel, DeliveryOutcome, ExchangeOutcome, Exchanger, Handover, HandoverPart, InstantAnswer,
};
pub use clock::Clock;
pub use directory::{
    CertificateDirectory, Directory, DirectoryAnswer, DirectoryRecord, DirectoryUnavailable, ServiceQuery,
};
pub use entropy::Entropy;
pub use note::{KeptNote, Note, NoteKind};
pub use observe::{IntakeOutcome, Observation, Observer, Silent};
pub use seal::{Receipt, ReceiptPart, ReceiptSigner, SealError, SealRequest, Sealer};
pub use search::{
    Facet, FacetValue, Found, InvalidSearch, Search, SearchPage, SearchText, delivery_facets, facets,
    last_failure, parse,
};
pub use store::{
    Acceptance, Accepted, Change, CommitError, Cursor, DeadCursor, DuplicateOf, HeadEntry, MailboxPlace,
    MessageStore, PartReader, PayloadWriter, Staged, StagedFile, StoreError, StoreStatus, StoredMessage,
    SubmissionFilter, Tallies, Tally, Timer,
};
