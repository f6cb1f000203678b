//! OSCI-Transport 1.2 as bytes: packages, encryption, signatures, messages. No I/O, no clock, no state.
//!
//! The way in: [`mime`] takes a body apart, [`encryption`] opens an encrypted one, [`envelope`] parses the XML part once into one tree,
//! [`signature`] says whether somebody vouches for all of that tree, [`block`], [`order`] and [`content`] read it. The way out: [`compose`]
//! and [`draft`] put blocks together and sign them, [`encryption`] and [`mime`] wrap them up.

pub mod algorithm;
pub mod block;
pub mod card;
pub mod certificate;
pub mod cipher;
pub mod code;
pub mod compose;
pub mod content;
pub mod draft;
pub mod encryption;
pub mod envelope;
pub mod mime;
mod names;
pub mod order;
mod problem;
pub mod signature;

pub use problem::{Problem, Undecryptable};
