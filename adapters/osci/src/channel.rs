//! Delivery over other people's intermediaries: the gateway is the originator there.
//!
//! Each hand-over is a dialog of its own. The id comes from the intermediary and is remembered before anything is stored under it: a
//! repetition uses the same id, and what the intermediary then says about it is believed (design section 4.2).

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use amtsbote_core::delivery::{FailureClass, Proof};
use amtsbote_core::message::{CarriedKind, Message};
use amtsbote_core::port::{Channel, DeliveryOutcome, Handover, MessageStore, StoreError, StoredMessage};
use amtsbote_core::remote::{RemoteId, RemoteIds};
use amtsbote_core::route::{ChannelKind, Endpoint, EndpointCertificate};
use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use url::Url;

use crate::codec::Problem;
use crate::codec::block::{CertificateEntry, CertificateRole, Certificates};
use crate::codec::certificate::{Certificate, Identity};
use crate::codec::cipher::{Encryptor, generate_key};
use crate::codec::code::Code;
use crate::codec::content::{NewContainer, NewContent};
use crate::codec::encryption::{Method, decode};
use crate::codec::order::{Push, Request};
use crate::deliveries::{PartOut, contents, render};
use crate::respond::{Content, Outgoing};
use crate::services::MetadataCodec;
use crate::session::{DialogError, Freight, OsciClient, Peer, Session, first_digits};

/// How the gateway protects contents of its own making. What came by OSCI goes on as it is.
#[derive(Debug, Clone, Default)]
pub struct Protection {
    /// Signs contents.
    pub sign: Option<Identity>,
    /// Contents are encrypted for the recipient, so that the intermediary cannot read them.
    pub encrypt: bool,
}

/// A configured intermediary.
pub struct OsciPeer {
    /// The client with our keys.
    pub client: OsciClient,
    /// Where it is.
    pub peer: Peer,
    /// The recipient of everything that is sent here without the directory.
    pub recipient: Option<Certificate>,
    /// How contents are protected.
    pub protection: Protection,
}

/// The OSCI channel over named intermediaries.
pub struct OsciChannel {
    peers: BTreeMap<String, OsciPeer>,
    store: Arc<dyn MessageStore>,
    ids: RemoteIds,
    metadata: Arc<dyn MetadataCodec>,
    /// Where encrypted parts lie while they are sent.
    folder: PathBuf,
}

/// Where a hand-over goes.
struct Target<'a> {
    name: &'a str,
    peer: &'a OsciPeer,
    recipient: Certificate,
    /// Address the intermediary pushes to; absent: a mailbox.
    receiver: Option<String>,
}

fn failed(class: FailureClass, code: &str, detail: impl Into<String>) -> DeliveryOutcome {
    DeliveryOutcome::failed(class, code, detail)
}

/// What a code means for the next attempt.
fn classify(digits: &str) -> (FailureClass, &'static str) {
    use FailureClass::{Destination, Permanent, Transient};
    match Code::parse(digits) {
        // Something is wrong between the intermediary and us, whatever is sent.
        Some(Code::NotOsci | Code::NoKey | Code::KeyRevoked | Code::Undecryptable | Code::NotAnOrder) => {
            (Destination, "not-understood")
        }
        Some(
            Code::ClientCipherMissing
            | Code::ClientCipherInvalid
            | Code::ClientCipherRevoked
            | Code::NotSigned
            | Code::SignatureInvalid
            | Code::NotAllSigned
            | Code::ClientSignatureInvalid
            | Code::ClientSignatureRevoked,
        ) => (Destination, "account-refused"),
        Some(
            Code::AddresseeCipherInvalid
            | Code::AddresseeCipherRevoked
            | Code::RecipientSignatureInvalid
            | Code::RecipientSignatureRevoked,
        ) => (Permanent, "recipient-refused"),
        Some(
            Code::AuthorCipherInvalid
            | Code::AuthorCipherRevoked
            | Code::ReaderCipherInvalid
            | Code::ReaderCipherRevoked
            | Code::NoMessageId
            | Code::NotAccepted
            | Code::NoAnswer
            | Code::MessageTooLarge,
        ) => (Permanent, "delivery-refused"),
        _ => (Transient, "intermediary-failed"),
    }
}

fn of_dialog(error: &DialogError) -> DeliveryOutcome {
    match error {
        DialogError::Unreachable(_) => failed(FailureClass::Destination, "unreachable", error.to_string()),
        DialogError::Unknown(_) => failed(FailureClass::Transient, "outcome-unknown", error.to_string()),
        DialogError::Answer(_) => failed(FailureClass::Destination, "answer-unusable", error.to_string()),
        DialogError::Order(_) => failed(FailureClass::Ours, "order-impossible", error.to_string()),
        DialogError::Fault(digits) => {
            let (class, code) = classify(digits);
            failed(class, code, format!("the intermediary answered with code {digits}"))
        }
    }
}

fn of_store(error: &StoreError) -> DeliveryOutcome {
    failed(FailureClass::Ours, "store", error.to_string())
}

impl OsciChannel {
    /// A channel over some intermediaries. Connects when first needed.
    pub fn new(
        peers: BTreeMap<String, OsciPeer>,
        store: Arc<dyn MessageStore>,
        metadata: Arc<dyn MetadataCodec>,
        folder: PathBuf,
    ) -> Self {
        let ids = RemoteIds::new(Arc::clone(&store));
        Self { peers, store, ids, metadata, folder }
    }

    /// The intermediary an address means: `osci://NAME` of the configuration, or the URL of the directory before the mark.
    fn find(&self, address: &str) -> Option<(&str, &OsciPeer)> {
        if let Some(name) = address.strip_prefix("osci://") {
            return self.peers.get_key_value(name).map(|(name, peer)| (name.as_str(), peer));
        }
        let url = address.split('#').next().and_then(|url| url.parse::<Url>().ok())?;
        self.peers.iter().find(|(_, peer)| peer.peer.url == url).map(|(name, peer)| (name.as_str(), peer))
    }

    fn target(&self, endpoint: &Endpoint) -> Result<Target<'_>, DeliveryOutcome> {
        let nobody = || {
            let detail = "no intermediary with this address is configured";
            failed(FailureClass::Destination, "no-intermediary", detail)
        };
        let (name, peer) = self.find(&endpoint.address).ok_or_else(nobody)?;
        let listed = endpoint.certificates.get(&EndpointCertificate::Recipient);
        let listed = listed.and_then(|text| Certificate::from_der(&decode(text)?).ok());
        let recipient = listed.or_else(|| peer.recipient.clone()).ok_or_else(|| {
            failed(
                FailureClass::Destination,
                "no-certificate",
                "no usable certificate of the recipient is known",
            )
        })?;
        let receiver = endpoint.address.split_once('#').map(|(_, receiver)| receiver);
        let receiver = receiver.filter(|uri| uri.starts_with("https://") || uri.starts_with("http://"));
        Ok(Target { name, peer, recipient, receiver: receiver.map(str::to_owned) })
    }

    async fn hand_over(&self, handover: &Handover) -> Result<Proof, DeliveryOutcome> {
        let target = self.target(&handover.route.endpoint)?;
        let message = &handover.message;
        let mut session =
            target.peer.client.open(target.peer.peer.clone()).await.map_err(|error| of_dialog(&error))?;
        let known = self.ids.get(message.id).await.map_err(|error| of_store(&error))?;
        // An operator may have sent it another way meanwhile.
        let known =
            known.filter(|known| known.place.is_empty() || known.place == target.name).map(|known| known.id);
        let id = match &known {
            Some(id) => id.clone(),
            None => self.new_id(&mut session, &target, message).await?,
        };
        let mut answered = self.store_as(&mut session, &target, handover, &id).await?;
        let mut id = id;
        if answered == Code::MessageIdUnusable.digits() && known.is_some() {
            // It was used: by an earlier attempt, or it was given out too long ago.
            if is_there(&mut session, &target, &id).await? {
                return Ok(done(session, &target, &id).await);
            }
            id = self.new_id(&mut session, &target, message).await?;
            answered = self.store_as(&mut session, &target, handover, &id).await?;
        }
        if !answered.starts_with('0') {
            if target.receiver.is_some() {
                // It would be answered the same under this id for ever; another is pushed anew.
                self.ids.forget(message.id).await.map_err(|error| of_store(&error))?;
            }
            let (class, code) = classify(&answered);
            return Err(failed(class, code, format!("the intermediary answered with code {answered}")));
        }
        Ok(done(session, &target, &id).await)
    }

    /// An id of the intermediary, remembered before it is used.
    async fn new_id(
        &self,
        session: &mut Session,
        target: &Target<'_>,
        message: &Message,
    ) -> Result<String, DeliveryOutcome> {
        let id = session.message_id().await.map_err(|error| of_dialog(&error))?;
        let remote = RemoteId { place: target.name.to_owned(), id };
        self.ids.keep(message.id, &remote).await.map_err(|error| of_store(&error))?;
        Ok(remote.id)
    }

    /// Stores, or has it pushed; the code of the answer.
    async fn store_as(
        &self,
        session: &mut Session,
        target: &Target<'_>,
        handover: &Handover,
        id: &str,
    ) -> Result<String, DeliveryOutcome> {
        let freight = self.freight(target, handover).await?;
        let (id, subject) = (Some(id.to_owned()), handover.message.metadata.subject.clone());
        let order = match &target.receiver {
            None => Request::StoreDelivery { id, subject },
            Some(receiver) => Request::ForwardDelivery(Push { receiver: receiver.clone(), id, subject }),
        };
        let answered = session.ask(&order, freight).await.map_err(|error| of_dialog(&error))?;
        Ok(first_digits(&answered.response))
    }

    async fn freight(&self, target: &Target<'_>, handover: &Handover) -> Result<Freight, DeliveryOutcome> {
        let message = &handover.message;
        let recipient = CertificateRole::CipherAddressee;
        let unusable = |problem: Problem| failed(FailureClass::Ours, "content-unusable", problem.to_string());
        if let Some(block) = message.carried(CarriedKind::OsciCertificates) {
            let rendered =
                render(self.store.as_ref(), message, None).await.map_err(|error| of_store(&error))?;
            let own = Certificates::from_block(block).map_err(unusable)?;
            let mut freight = Freight::delivery(rendered.package, handed_on(&own, &target.recipient));
            for header in rendered.custom {
                freight = freight.with_header(header);
            }
            let parts =
                rendered.parts.into_iter().map(|part| Outgoing::stored(&self.store, message.id, part));
            return Ok(freight.with_parts(parts));
        }
        let stored = StoredMessage {
            message: Arc::clone(message),
            delivery: amtsbote_core::delivery::Delivery::new(message, Some(&handover.route)),
            events: vec![amtsbote_core::delivery::Event {
                at: message.received_at,
                kind: amtsbote_core::delivery::EventKind::Routed { route: handover.route.clone() },
            }],
        };
        let metadata = match message.carried(CarriedKind::XtaMetadata) {
            Some(_) => None,
            None => Some(self.metadata.write(&stored).await),
        };
        let headers =
            render(self.store.as_ref(), message, metadata).await.map_err(|error| of_store(&error))?.custom;
        let (inline, parts) =
            contents(self.store.as_ref(), message).await.map_err(|error| of_store(&error))?;
        let certificates = Certificates::default().with(recipient, &target.recipient);
        let (package, parts) = self.protect(target, message, inline, parts).await?;
        let mut freight = Freight::delivery(package, certificates).with_parts(parts.into_iter());
        for header in headers {
            freight = freight.with_header(header);
        }
        Ok(freight)
    }

    /// Signs and encrypts contents as configured.
    async fn protect(
        &self,
        target: &Target<'_>,
        message: &Message,
        inline: Option<Vec<u8>>,
        parts: Vec<PartOut>,
    ) -> Result<(String, Vec<Outgoing>), DeliveryOutcome> {
        let Protection { sign, encrypt } = target.peer.protection.clone();
        let unusable = |problem: Problem| failed(FailureClass::Ours, "content-unusable", problem.to_string());
        let mut container = NewContainer { contents: inline.map(NewContent::Inline).into_iter().collect() };
        let (mut outgoing, mut keys) = (Vec::new(), Vec::new());
        for part in parts {
            let id = part.head.id.clone();
            let plain = Outgoing::stored(&self.store, message.id, part);
            let digest = match &sign {
                None => None,
                Some(author) => {
                    let algorithm = author.preferred().digest;
                    let digests = crate::respond::digests(std::slice::from_ref(&plain), algorithm).await;
                    let digests =
                        digests.map_err(|error| failed(FailureClass::Ours, "store", error.to_string()))?;
                    digests.into_iter().next().map(|(_, value)| value)
                }
            };
            container.contents.push(NewContent::Part(id.clone(), digest));
            if encrypt {
                let (sealed, key) = self.encrypt(plain).await?;
                outgoing.push(sealed);
                keys.push((id, key));
            } else {
                outgoing.push(plain);
            }
        }
        let reader = (CertificateRole::CipherAddressee.id_of(&target.recipient), target.recipient.clone());
        let made = spawn_blocking(move || match encrypt {
            true => container.seal(sign.as_ref(), &[reader], Method::default(), &keys),
            false => container.finish(sign.as_ref()),
        });
        let made =
            made.await.map_err(|_| failed(FailureClass::Ours, "content-unusable", "a worker ended"))?;
        Ok((made.map_err(unusable)?, outgoing))
    }

    /// Encrypts a part into a file without a name; its key.
    async fn encrypt(&self, plain: Outgoing) -> Result<(Outgoing, Vec<u8>), DeliveryOutcome> {
        let broken = |detail: String| failed(FailureClass::Ours, "content-unusable", detail);
        let method = Method::default();
        let key = generate_key(method.symmetric).map_err(|problem| broken(problem.to_string()))?;
        let encryptor = Encryptor::new(method.symmetric, method.iv, &key);
        let mut encryptor = encryptor.map_err(|problem| broken(problem.to_string()))?;
        let mut reader = plain.open().await.map_err(|error| of_store(&error))?;
        let file = tempfile::tempfile_in(&self.folder).map_err(|error| broken(error.to_string()))?;
        let (mut file, mut hasher, mut size) = (file, Sha256::new(), 0_u64);
        loop {
            let Some(piece) = reader.next().await.map_err(|error| of_store(&error))? else { break };
            let sealed = encryptor.update(&piece).map_err(|problem| broken(problem.to_string()))?;
            hasher.update(&sealed);
            size += sealed.len() as u64;
            file = append(file, sealed).await.map_err(broken)?;
        }
        let rest = encryptor.finish().map_err(|problem| broken(problem.to_string()))?;
        hasher.update(&rest);
        size += rest.len() as u64;
        let file = append(file, rest).await.map_err(broken)?;
        let content = Content::File { file: Arc::new(file), from: 0 };
        let sealed = Outgoing { head: plain.head, size, sha256: hasher.finalize().into(), content };
        Ok((sealed, key))
    }
}

/// The id stays remembered: the delivery is not yet known to be done, and is followed afterwards.
async fn done(session: Session, target: &Target<'_>, id: &str) -> Proof {
    // Nothing depends on it.
    if let Err(error) = session.close().await {
        tracing::debug!(error = &error as &dyn std::error::Error, "A dialog did not end in good order.");
    }
    Proof(format!("stored at OSCI intermediary {} as {id}", target.name))
}

async fn append(mut file: File, bytes: Vec<u8>) -> Result<File, String> {
    let written = spawn_blocking(move || std::io::Write::write_all(&mut file, &bytes).map(|()| file));
    written.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Whether the intermediary has a delivery of this id. One that it was to push counts only if it was received: otherwise nobody will
/// push it again.
async fn is_there(session: &mut Session, target: &Target<'_>, id: &str) -> Result<bool, DeliveryOutcome> {
    let cards = session.cards(vec![id.to_owned()]).await.map_err(|error| of_dialog(&error))?;
    let card = cards.iter().find(|card| card.message_id == id);
    Ok(card.is_some_and(|card| match target.receiver {
        None => card.creation.is_some(),
        Some(_) => card.reception.is_some(),
    }))
}

/// The certificates of a delivery as it goes on: the gateway is the originator now, and whoever was is an author. Ids stay, or signatures
/// and keys would not find their certificates.
fn handed_on(certificates: &Certificates, recipient: &Certificate) -> Certificates {
    let mut entries: Vec<CertificateEntry> = Vec::new();
    for entry in &certificates.0 {
        let role = match entry.role {
            CertificateRole::CipherOriginator => CertificateRole::CipherOtherAuthor,
            CertificateRole::SignatureOriginator => CertificateRole::SignatureOtherAuthor,
            CertificateRole::CipherAddressee if entry.certificate == *recipient => {
                CertificateRole::CipherAddressee
            }
            CertificateRole::CipherAddressee => CertificateRole::CipherOtherReader,
            other => other,
        };
        entries.push(CertificateEntry { role, ..entry.clone() });
    }
    let handed_on = Certificates(entries);
    match handed_on.get(CertificateRole::CipherAddressee) {
        Some(_) => handed_on,
        None => handed_on.with(CertificateRole::CipherAddressee, recipient),
    }
}

#[async_trait]
impl Channel for OsciChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Osci
    }

    fn accepts(&self, endpoint: &Endpoint) -> Result<(), String> {
        let found = self.find(&endpoint.address);
        found.map(drop).ok_or_else(|| "no OSCI intermediary with this address is configured".to_owned())
    }

    async fn deliver(&self, handover: &Handover) -> DeliveryOutcome {
        match self.hand_over(handover).await {
            Ok(proof) => DeliveryOutcome::Delivered(proof),
            Err(outcome) => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_class() {
        for (digits, class) in [
            ("9000", FailureClass::Transient),
            ("9100", FailureClass::Destination),
            ("9200", FailureClass::Destination),
            ("9400", FailureClass::Transient),
            ("9501", FailureClass::Destination),
            ("9601", FailureClass::Destination),
            ("9700", FailureClass::Destination),
            ("9706", FailureClass::Permanent),
            ("9800", FailureClass::Permanent),
            ("9801", FailureClass::Transient),
            ("9805", FailureClass::Permanent),
            ("9810", FailureClass::Transient),
            ("4711", FailureClass::Transient),
        ] {
            assert_eq!(classify(digits).0, class, "{digits}");
        }
    }
}
