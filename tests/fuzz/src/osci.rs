//! Targets of OSCI: trees and their canonical form, packages with everything inside, ciphertext.

use amtsbote_osci::codec::Problem;
use amtsbote_osci::codec::algorithm::{Policy, Symmetric};
use amtsbote_osci::codec::block::{
    Certificates, ControlBlock, Features, check_ids, custom_headers, languages,
};
use amtsbote_osci::codec::cipher::{Decryptor, IvLength};
use amtsbote_osci::codec::content::ContentPackage;
use amtsbote_osci::codec::order::{Request, Response};
use amtsbote_osci::reception::{Incoming, Limits, Reception, ReceptionError};
use amtsbote_soap::canonical::canonical;
use amtsbote_soap::document::{Document, DocumentLimits};

/// Any document: its canonical form is its own, and every element means the same by itself.
///
/// # Panics
/// When a promise is broken.
pub fn document(bytes: &[u8]) {
    let Ok(document) = Document::parse(bytes.to_vec(), DocumentLimits::default()) else { return };
    for element in document.elements().take(20) {
        let once = canonical(element);
        let again = Document::parse(once.clone().into_bytes(), DocumentLimits::default());
        // What is inherited is written on it, and may be more than one element may have.
        if let Ok(again) = again {
            assert_eq!(canonical(again.root()), once, "the canonical form has another");
        }
    }
}

fn receive(bytes: &[u8], piece: usize) -> Result<Incoming, String> {
    let policy = Policy { legacy_ciphers: true, rsa15: true };
    let limits = Limits { xml: 1 << 20, message: 1 << 20, policy, folder: std::env::temp_dir() };
    let mut reception = Reception::new(limits);
    let shown = |error: ReceptionError| error.to_string();
    for piece in bytes.chunks(piece.max(1)) {
        reception.feed(piece).map_err(shown)?;
        if reception.locked().is_some() {
            return Err(Problem::ForeignKey.to_string());
        }
    }
    reception.finish().map_err(shown)
}

/// A message as it comes from strangers, read to the end.
///
/// # Panics
/// When a promise is broken.
pub fn osci_message(bytes: &[u8]) {
    let message = match (receive(bytes, bytes.len()), receive(bytes, 7)) {
        (Ok(Incoming::Message(one)), Ok(Incoming::Message(other))) => {
            assert_eq!(one.envelope.kind(), other.envelope.kind(), "pieces matter");
            assert_eq!(one.part_ids(), other.part_ids(), "pieces matter");
            one
        }
        (Ok(Incoming::Fault(one)), Ok(Incoming::Fault(other))) => {
            assert_eq!(one, other, "pieces matter");
            return;
        }
        // Which of several faults is found first may depend on what came already.
        (Err(_), Err(_)) => return,
        (one, other) => panic!("pieces matter: {one:?} {other:?}"),
    };
    let envelope = &message.envelope;
    drop((ControlBlock::read(envelope), languages(envelope), Features::read(envelope), check_ids(envelope)));
    drop((Request::read(envelope), Response::read(envelope), custom_headers(envelope)));
    let certificates = Certificates::read(envelope).unwrap_or_default();
    for part in message.parts() {
        let mut content = message.content(part);
        while let Ok(Some(_)) = content.next_piece() {}
    }
    let Ok(package) = ContentPackage::of(envelope) else { return };
    drop((package.check(&certificates, &message.part_ids(), &*message), package.items()));
    let children = format!("<p>{}</p>", package.canonical_children());
    let again = Document::parse(children.into_bytes(), DocumentLimits::default());
    if let Ok(again) = again {
        let children: String = again.root().children().map(canonical).collect();
        assert_eq!(children, package.canonical_children(), "put elsewhere it is another");
    }
}

/// What somebody says is encrypted: however it is cut, the outcome is the same, and only GCM's own tag opens it.
///
/// # Panics
/// When a promise is broken.
pub fn ciphertext(bytes: &[u8]) {
    for symmetric in Symmetric::all() {
        for iv in [IvLength::Twelve, IvLength::Sixteen] {
            let open = |piece: usize| -> Result<Vec<u8>, String> {
                let key = vec![7; symmetric.key];
                let mut decryptor =
                    Decryptor::new(symmetric, iv, key).map_err(|problem| problem.to_string())?;
                let mut plain = Vec::new();
                for piece in bytes.chunks(piece.max(1)) {
                    plain.extend(decryptor.update(piece).map_err(|problem| problem.to_string())?);
                }
                plain.extend(decryptor.finish().map_err(|problem| problem.to_string())?);
                Ok(plain)
            };
            assert_eq!(open(bytes.len()), open(5), "pieces matter");
        }
    }
}
