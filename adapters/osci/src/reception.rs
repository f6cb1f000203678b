//! A message on its way in: bytes are fed, a key is asked for, and in the end there is one message with its parts.
//!
//! Plaintext lies in a [`Spool`] until its tag was verified; only then anything looks at it. Nothing here waits: whoever feeds decides
//! where the work is done.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use amtsbote_soap::base64::Base64Decoder;
use amtsbote_soap::document::DocumentLimits;
use openssl::hash::Hasher;

use crate::codec::algorithm::{Digest, Mode, Policy};
use crate::codec::cipher::Decryptor;
use crate::codec::encryption::{EncryptedData, Method, PART_ID, read_envelope};
use crate::codec::envelope::{Envelope, Parsed, PeerFault, parse};
use crate::codec::mime::{Encoding, Event, MimeError, MimeReader, PartHead};
use crate::codec::signature::PartDigests;
use crate::codec::{Problem, Undecryptable};
use crate::spool::{Spool, Spooled};

/// Bytes looked at at a time.
const PIECE: usize = 256 << 10;

/// What is taken.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the XML part.
    pub xml: usize,
    /// Bytes of all of it, as it comes.
    pub message: u64,
    /// Algorithms besides the usual.
    pub policy: Policy,
    /// Where files without a name may lie.
    pub folder: PathBuf,
}

/// Why a message was not received.
#[derive(Debug, thiserror::Error)]
pub enum ReceptionError {
    /// Something is wrong with it.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The disk fails.
    #[error("the disk failed")]
    Io(#[from] io::Error),
}

impl From<MimeError> for ReceptionError {
    fn from(error: MimeError) -> Self {
        Self::Problem(error.into())
    }
}

impl From<Undecryptable> for ReceptionError {
    fn from(error: Undecryptable) -> Self {
        Self::Problem(error.into())
    }
}

/// A part of a received message.
#[derive(Debug, Clone)]
pub struct Part {
    /// What was said about it.
    pub head: PartHead,
    /// Where it lies, encoded.
    from: u64,
    length: u64,
}

/// A message that came in whole.
#[derive(Debug)]
pub struct Received {
    /// The XML part.
    pub envelope: Envelope,
    /// How it was encrypted on its way.
    pub encrypted: Option<Method>,
    parts: Vec<Part>,
    spooled: Spooled,
}

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    /// A message.
    Message(Box<Received>),
    /// A fault.
    Fault(PeerFault),
}

enum Stage {
    /// The XML part is being collected.
    Root(Vec<u8>),
    /// Its parts go by.
    Plain(Box<Envelope>),
    /// A key is needed for what comes.
    Locked(Box<EncryptedData>),
    /// The encrypted part goes by.
    Cipher(Method, Box<Decryptor>),
    /// It is over and genuine.
    Opened(Method),
    Fault(PeerFault),
}

/// Takes a message in.
pub struct Reception {
    limits: Limits,
    reader: MimeReader,
    stage: Stage,
    total: u64,
    spool: Spool,
    parts: Vec<Part>,
    base64: Option<Base64Decoder>,
}

impl Reception {
    /// Begins.
    pub fn new(limits: Limits) -> Self {
        let (reader, spool) = (MimeReader::default(), Spool::new(&limits.folder));
        let stage = Stage::Root(Vec::new());
        Self { limits, reader, stage, total: 0, spool, parts: Vec::new(), base64: None }
    }

    /// Takes some bytes.
    ///
    /// # Errors
    /// See [`ReceptionError`]; nothing more is taken then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ReceptionError> {
        self.total += bytes.len() as u64;
        if self.total > self.limits.message {
            return Err(Problem::TooLarge.into());
        }
        self.reader.feed(bytes);
        self.advance()
    }

    /// What has to be opened before anything goes on.
    pub fn locked(&self) -> Option<&EncryptedData> {
        match &self.stage {
            Stage::Locked(data) => Some(data),
            _ => None,
        }
    }

    /// Goes on with the key.
    ///
    /// # Errors
    /// See [`ReceptionError`].
    pub fn unlock(&mut self, decryptor: Decryptor) -> Result<(), ReceptionError> {
        if let Stage::Locked(data) = &self.stage {
            self.stage = Stage::Cipher(data.method, Box::new(decryptor));
        }
        self.advance()
    }

    fn advance(&mut self) -> Result<(), ReceptionError> {
        while !matches!(self.stage, Stage::Locked(_)) {
            let Some(event) = self.reader.next_event()? else { break };
            match event {
                Event::Part(head) => self.begin(head)?,
                Event::Data(data) => self.data(&data)?,
                Event::PartEnd => self.end()?,
                Event::End => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, head: PartHead) -> Result<(), ReceptionError> {
        match &self.stage {
            Stage::Root(xml) if xml.is_empty() && head.encoding == Encoding::Raw => Ok(()),
            Stage::Plain(_) => {
                self.parts.push(Part { head, from: self.spool.len(), length: 0 });
                Ok(())
            }
            Stage::Cipher(..) if head.id == PART_ID => {
                self.base64 = (head.encoding == Encoding::Base64).then(Base64Decoder::default);
                Ok(())
            }
            _ => Err(Problem::Structure("a part that is not expected").into()),
        }
    }

    fn data(&mut self, data: &[u8]) -> Result<(), ReceptionError> {
        match &mut self.stage {
            Stage::Root(xml) => {
                if xml.len() + data.len() > self.limits.xml {
                    return Err(Problem::TooLarge.into());
                }
                xml.extend_from_slice(data);
            }
            Stage::Plain(_) => {
                self.spool.write(data)?;
                if let Some(part) = self.parts.last_mut() {
                    part.length += data.len() as u64;
                }
            }
            Stage::Cipher(_, decryptor) => {
                let plain = match &mut self.base64 {
                    Some(base64) => decryptor.update(&base64.feed(data).map_err(|_| Undecryptable)?)?,
                    None => decryptor.update(data)?,
                };
                self.spool.write(&plain)?;
            }
            Stage::Locked(_) | Stage::Opened(_) | Stage::Fault(_) => {}
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), ReceptionError> {
        let stage = std::mem::replace(&mut self.stage, Stage::Root(Vec::new()));
        self.stage = match stage {
            Stage::Root(xml) => match parse(xml, xml_limits(self.limits.xml))? {
                Parsed::Message(envelope) => Stage::Plain(Box::new(envelope)),
                Parsed::Encrypted(document) => {
                    Stage::Locked(Box::new(read_envelope(&document, self.limits.policy)?))
                }
                Parsed::Fault(fault) => Stage::Fault(fault),
            },
            Stage::Cipher(method, decryptor) => {
                if let Some(base64) = self.base64.take() {
                    base64.finish().map_err(|_| Undecryptable)?;
                }
                self.spool.write(&decryptor.finish()?)?;
                Stage::Opened(method)
            }
            other => other,
        };
        Ok(())
    }

    /// Everything came.
    ///
    /// # Errors
    /// See [`ReceptionError`].
    pub fn finish(self) -> Result<Incoming, ReceptionError> {
        self.reader.finish()?;
        match self.stage {
            Stage::Plain(envelope) => {
                let (parts, spooled) = (self.parts, self.spool.finish()?);
                Ok(Incoming::Message(Box::new(Received {
                    envelope: *envelope,
                    encrypted: None,
                    parts,
                    spooled,
                })))
            }
            Stage::Opened(method) => match open(&self.limits, method, self.spool.finish()?) {
                // Without a tag what came out may be garbage, and what is wrong with it would tell something about it.
                Err(ReceptionError::Problem(_)) if method.symmetric.mode != Mode::Gcm => {
                    Err(Undecryptable.into())
                }
                opened => opened,
            },
            Stage::Fault(fault) => Ok(Incoming::Fault(fault)),
            Stage::Root(_) | Stage::Locked(_) | Stage::Cipher(..) => {
                Err(Problem::Structure("the encrypted part is missing").into())
            }
        }
    }
}

fn xml_limits(bytes: usize) -> DocumentLimits {
    DocumentLimits { bytes, ..DocumentLimits::default() }
}

/// Takes what was decrypted apart.
fn open(limits: &Limits, method: Method, spooled: Spooled) -> Result<Incoming, ReceptionError> {
    let mut reader = MimeReader::default();
    let (mut xml, mut envelope) = (Vec::new(), None);
    let (mut parts, mut at): (Vec<Part>, u64) = (Vec::new(), 0);
    while at < spooled.len() {
        let piece = spooled.read(at, PIECE)?;
        at += piece.len() as u64;
        reader.feed(&piece);
        while let Some(event) = reader.next_event().map_err(|_| Problem::NotAnOrder("no package"))? {
            match event {
                Event::Part(head) if envelope.is_some() => {
                    let from = at - reader.waiting();
                    parts.push(Part { head, from, length: 0 });
                }
                Event::Part(head) if head.encoding == Encoding::Raw => {}
                Event::Part(_) => return Err(Problem::NotAnOrder("an encoded XML part").into()),
                Event::Data(data) => match parts.last_mut() {
                    Some(part) => {
                        // The first bytes of a part come right behind its header.
                        if part.length == 0 {
                            part.from = at - reader.waiting() - data.len() as u64;
                        }
                        part.length += data.len() as u64;
                    }
                    None if xml.len() + data.len() > limits.xml => return Err(Problem::TooLarge.into()),
                    None => xml.extend_from_slice(&data),
                },
                Event::PartEnd if envelope.is_none() => {
                    envelope = match parse(std::mem::take(&mut xml), xml_limits(limits.xml))? {
                        Parsed::Message(envelope) => Some(envelope),
                        Parsed::Encrypted(_) => return Err(Problem::NotAnOrder("encrypted twice").into()),
                        Parsed::Fault(_) => return Err(Problem::NotAnOrder("an encrypted fault").into()),
                    };
                }
                Event::PartEnd | Event::End => {}
            }
        }
    }
    reader.finish().map_err(|_| Problem::NotAnOrder("no package"))?;
    let envelope = envelope.ok_or(Problem::NotAnOrder("no XML part"))?;
    Ok(Incoming::Message(Box::new(Received { envelope, encrypted: Some(method), parts, spooled })))
}

impl Received {
    /// Content ids of all parts.
    pub fn part_ids(&self) -> BTreeSet<&str> {
        self.parts.iter().map(|part| part.head.id.as_str()).collect()
    }

    /// All parts besides the XML part.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The part of an id.
    pub fn part(&self, id: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.head.id == id)
    }

    /// Bytes of a part; for one in base64, what it will be at most.
    pub fn decoded_length(&self, part: &Part) -> u64 {
        match part.head.encoding {
            Encoding::Raw => part.length,
            Encoding::Base64 => part.length / 4 * 3,
        }
    }

    /// The decoded bytes of a part, piece by piece.
    pub fn content(&self, part: &Part) -> PartContent {
        PartContent {
            spooled: self.spooled.clone(),
            next: part.from,
            end: part.from + part.length,
            base64: (part.head.encoding == Encoding::Base64).then(Base64Decoder::default),
        }
    }
}

/// The bytes of a part.
pub struct PartContent {
    spooled: Spooled,
    next: u64,
    end: u64,
    base64: Option<Base64Decoder>,
}

impl PartContent {
    /// Whether reading touches no disk.
    pub fn is_in_memory(&self) -> bool {
        self.spooled.is_in_memory()
    }

    /// The next piece; `None` at the end. Blocks if it lies in a file.
    ///
    /// # Errors
    /// When the disk fails, or what says it is base64 is none.
    pub fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.next >= self.end {
            return match self.base64.take().map(Base64Decoder::finish) {
                Some(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
                _ => Ok(None),
            };
        }
        let length = usize::try_from(self.end - self.next).unwrap_or(usize::MAX).min(PIECE);
        let piece = self.spooled.read(self.next, length)?;
        self.next += piece.len() as u64;
        match &mut self.base64 {
            Some(base64) => {
                let decoded = base64.feed(&piece);
                Ok(Some(decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?))
            }
            None => Ok(Some(piece)),
        }
    }
}

impl PartDigests for Received {
    fn digest(&self, id: &str, algorithm: Digest) -> io::Result<Option<Vec<u8>>> {
        let Some(part) = self.part(id) else { return Ok(None) };
        let mut hasher = Hasher::new(algorithm.message_digest())?;
        let mut content = self.content(part);
        while let Some(piece) = content.next_piece()? {
            hasher.update(&piece)?;
        }
        Ok(Some(hasher.finish()?.to_vec()))
    }
}
