//! Header blocks every kind of message may have (OSCI-Transport 1.2, "Header-Elemente", with the supplement of 2017).

use amtsbote_soap::canonical::{canonical, escape_text, escape_value};
use amtsbote_soap::document::{Document, DocumentLimits, ElementRef};

use super::certificate::Certificate;
use super::code::Language;
use super::encryption::{decode, encode};
use super::envelope::Envelope;
use super::names::{ACTOR_NEXT, ACTOR_NONE, DS, META, NS5, NS6, OSCI, OSCI_2017};
use super::problem::Problem;

/// Bytes of a challenge, a conversation id and the like.
const TOKEN_MAX: usize = 200;
/// Certificates of one message.
const CERTIFICATES_MAX: usize = 64;
/// Custom header blocks of one message, and bytes of each.
const CUSTOM_MAX: usize = 32;
const CUSTOM_BYTES: usize = 64 << 10;

/// Text for an attribute.
pub(crate) fn attribute(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    escape_value(text, &mut escaped);
    escaped
}

/// Text for content.
pub(crate) fn content(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    escape_text(text, &mut escaped);
    escaped
}

fn actor() -> String {
    format!("soap:actor=\"{ACTOR_NEXT}\" soap:mustUnderstand=\"1\"")
}

/// A header block of OSCI with an id that is its name in lower case.
pub(crate) fn block(name: &str, inner: &str) -> String {
    block_with(name, &name.to_ascii_lowercase(), "", inner)
}

/// The same with another id and attributes whose names come after `Id`.
pub(crate) fn block_with(name: &str, id: &str, attributes: &str, inner: &str) -> String {
    let actor = actor();
    format!("<osci:{name}{NS5} Id=\"{id}\"{attributes} {actor}>{inner}</osci:{name}>")
}

/// A header block of the supplement of 2017.
pub(crate) fn block_2017(name: &str, inner: &str) -> String {
    let (id, actor) = (name.to_ascii_lowercase(), actor());
    format!("<osci2017:{name}{NS6} Id=\"{id}\" {actor}>{inner}</osci2017:{name}>")
}

/// Where a message stands in a dialog (section "ControlBlock").
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControlBlock {
    /// The challenge it answers.
    pub response: Option<String>,
    /// What the other side has to answer.
    pub challenge: Option<String>,
    /// Digits.
    pub conversation: Option<String>,
    /// From 0.
    pub sequence: Option<u64>,
}

impl ControlBlock {
    /// Reads it.
    ///
    /// # Errors
    /// [`Problem::Structure`] and, for values that cannot belong to any dialog, [`Problem::Dialog`].
    pub fn read(envelope: &Envelope) -> Result<Self, Problem> {
        let block = envelope.block(OSCI, "ControlBlock").ok_or(Problem::Structure("no ControlBlock"))?;
        let text = |local| {
            let text = block.child(OSCI, local).map(|one| one.text().trim().to_owned());
            match text {
                Some(text) if text.is_empty() || text.len() > TOKEN_MAX => {
                    Err(Problem::Structure("a challenge or response of no usable length"))
                }
                text => Ok(text),
            }
        };
        let conversation = block.attribute("ConversationId").map(|id| match id {
            id if id.len() <= TOKEN_MAX && !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(id.to_owned())
            }
            _ => Err(Problem::Dialog("the ConversationId is no number")),
        });
        let sequence = block
            .attribute("SequenceNumber")
            .map(|number| number.parse().map_err(|_| Problem::Dialog("the SequenceNumber is no number")));
        Ok(Self {
            response: text("Response")?,
            challenge: text("Challenge")?,
            conversation: conversation.transpose()?,
            sequence: sequence.transpose()?,
        })
    }

    /// Writes it.
    pub fn write(&self) -> String {
        let given = |name: &str, text: Option<&str>| {
            text.map(|text| format!("<osci:{name}>{}</osci:{name}>", content(text))).unwrap_or_default()
        };
        let conversation = self.conversation.as_deref();
        let conversation = conversation.map(|id| format!(" ConversationId=\"{}\"", attribute(id)));
        let sequence = self.sequence.map(|number| format!(" SequenceNumber=\"{number}\""));
        let (conversation, sequence) = (conversation.unwrap_or_default(), sequence.unwrap_or_default());
        let (response, challenge) =
            (given("Response", self.response.as_deref()), given("Challenge", self.challenge.as_deref()));
        format!(
            "<osci:ControlBlock{NS5}{conversation} Id=\"controlblock\"{sequence} {}>{response}{challenge}</osci:ControlBlock>",
            actor()
        )
    }
}

/// Whose certificate it is, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateRole {
    /// Answers are encrypted for it; it identifies who sent the delivery.
    CipherOriginator,
    /// Of an author that is not the originator.
    CipherOtherAuthor,
    /// It identifies who gets the delivery.
    CipherAddressee,
    /// Of a reader that is not the addressee.
    CipherOtherReader,
    /// Signed the order.
    SignatureOriginator,
    /// Signed contents.
    SignatureOtherAuthor,
    /// Signs the answer to a push.
    SignatureAddressee,
    /// The intermediary's, in pushes.
    CipherIntermediary,
    /// The intermediary's.
    SignatureIntermediary,
}

/// Role, name of the element, beginning of its id.
const ROLES: &[(CertificateRole, &str, &str)] = &[
    (CertificateRole::CipherOriginator, "CipherCertificateOriginator", "originator_cipher"),
    (CertificateRole::CipherOtherAuthor, "CipherCertificateOtherAuthor", "author_cipher"),
    (CertificateRole::CipherAddressee, "CipherCertificateAddressee", "addressee_cipher"),
    (CertificateRole::CipherOtherReader, "CipherCertificateOtherReader", "reader_cipher"),
    (CertificateRole::SignatureOriginator, "SignatureCertificateOriginator", "originator_signature"),
    (CertificateRole::SignatureOtherAuthor, "SignatureCertificateOtherAuthor", "author_signature"),
    (CertificateRole::SignatureAddressee, "SignatureCertificateAddressee", "addressee_signature"),
    (CertificateRole::CipherIntermediary, "CipherCertificateIntermediary", "intermed_cipher"),
    (CertificateRole::SignatureIntermediary, "SignatureCertificateIntermediary", "intermed_signature"),
];

impl CertificateRole {
    fn element(self) -> &'static str {
        ROLES.iter().find(|(role, ..)| *role == self).map_or("", |(_, element, _)| element)
    }

    /// The id of a certificate in this role, as deployed software makes them.
    pub fn id_of(self, certificate: &Certificate) -> String {
        let prefix = ROLES.iter().find(|(role, ..)| *role == self).map_or("", |(.., prefix)| prefix);
        format!("{prefix}_{}", hex::encode(certificate.fingerprint()))
    }
}

/// A certificate in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateEntry {
    /// Whose it is, and what for.
    pub role: CertificateRole,
    /// What references name.
    pub id: String,
    /// The certificate.
    pub certificate: Certificate,
}

/// The certificates of a message, or of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Certificates(pub Vec<CertificateEntry>);

impl Certificates {
    /// Reads those of both blocks.
    ///
    /// # Errors
    /// [`Problem::Structure`] and [`Problem::Certificate`].
    pub fn read(envelope: &Envelope) -> Result<Self, Problem> {
        let blocks = ["NonIntermediaryCertificates", "IntermediaryCertificates"];
        Self::read_blocks(blocks.into_iter().filter_map(|name| envelope.block(OSCI, name)))
    }

    /// Reads a block that was kept by itself.
    ///
    /// # Errors
    /// [`Problem::Xml`], [`Problem::Structure`] and [`Problem::Certificate`].
    pub fn from_block(text: &str) -> Result<Self, Problem> {
        let document = Document::parse(text.as_bytes().to_vec(), DocumentLimits::default())?;
        Self::read_blocks(std::iter::once(document.root()))
    }

    fn read_blocks<'d>(blocks: impl Iterator<Item = ElementRef<'d>>) -> Result<Self, Problem> {
        let mut entries = Vec::new();
        for element in blocks.flat_map(ElementRef::children) {
            let row = ROLES.iter().find(|(_, name, _)| element.is(OSCI, name));
            let (role, ..) = row.ok_or(Problem::Structure("an unknown certificate"))?;
            let id = element.attribute("Id").ok_or(Problem::Structure("a certificate without Id"))?;
            let data = element.child(DS, "X509Data").and_then(|data| data.child(DS, "X509Certificate"));
            let der = data.and_then(|data| decode(&data.text()));
            let der = der.ok_or(Problem::Certificate("not readable"))?;
            entries.push(CertificateEntry {
                role: *role,
                id: id.to_owned(),
                certificate: Certificate::from_der(&der)?,
            });
            if entries.len() > CERTIFICATES_MAX {
                return Err(Problem::Structure("too many certificates"));
            }
        }
        let single = |role| entries.iter().filter(|one| one.role == role).count() <= 1;
        let many = [
            CertificateRole::CipherOtherAuthor,
            CertificateRole::CipherOtherReader,
            CertificateRole::SignatureOtherAuthor,
        ];
        if ROLES.iter().all(|(role, ..)| many.contains(role) || single(*role)) {
            Ok(Self(entries))
        } else {
            Err(Problem::Structure("two certificates in one role"))
        }
    }

    /// The certificate in a role that only one can have, or the first.
    pub fn get(&self, role: CertificateRole) -> Option<&Certificate> {
        self.0.iter().find(|one| one.role == role).map(|one| &one.certificate)
    }

    /// The entry of an id.
    pub fn by_id(&self, id: &str) -> Option<&CertificateEntry> {
        self.0.iter().find(|one| one.id == id)
    }

    /// Adds a certificate under the usual id.
    #[must_use]
    pub fn with(mut self, role: CertificateRole, certificate: &Certificate) -> Self {
        let id = role.id_of(certificate);
        self.0.push(CertificateEntry { role, id, certificate: certificate.clone() });
        self
    }

    /// Writes the block of those that are not an intermediary's.
    pub fn write_others(&self) -> String {
        self.write("NonIntermediaryCertificates")
    }

    /// Writes a block of them, in the order of the schema.
    pub(crate) fn write(&self, name: &str) -> String {
        let mut inner = String::new();
        for (role, element, _) in ROLES {
            for one in self.0.iter().filter(|one| one.role == *role) {
                let (id, der) = (attribute(&one.id), encode(one.certificate.der()));
                inner += &format!(
                    "<osci:{element} Id=\"{id}\"><ds:X509Data><ds:X509Certificate>{der}</ds:X509Certificate></ds:X509Data></osci:{element}>"
                );
            }
        }
        let id = name.to_ascii_lowercase();
        format!(
            "<osci:{name}{NS5} Id=\"{id}\" soap:actor=\"{ACTOR_NONE}\" soap:mustUnderstand=\"1\">{inner}</osci:{name}>"
        )
    }

    /// The element of a role, for error texts.
    pub fn name_of(role: CertificateRole) -> &'static str {
        role.element()
    }
}

/// A thing the other side can do (supplement of 2017).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Transport parts need not be base64.
    DisableBase64,
    /// RSA-OAEP.
    Oaep,
    /// SHA-3.
    Sha3,
    /// GCM.
    Gcm,
    /// Transfer in chunks.
    Partial,
    /// Vectors of 12 bytes.
    Iv12,
}

/// Feature, key, the version that brought it.
const FEATURES: &[(Feature, &str, &str)] = &[
    (Feature::DisableBase64, "DisableBase64", "1.2.0"),
    (Feature::Oaep, "OAEPEncryption", "1.6.0"),
    (Feature::Sha3, "SHA3HashAlgo", "1.6.3"),
    (Feature::Gcm, "GCMPaddingModus", "1.7.0"),
    (Feature::Partial, "PartialMessageTransmission", "1.8.0"),
    (Feature::Iv12, "Support96Bit12ByteIV", "1.9.0"),
];

/// What one side says it can do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features {
    /// Those that are known.
    pub features: Vec<Feature>,
    /// KiB of a chunk.
    pub max_chunk: Option<u64>,
    /// KiB of a chunk.
    pub min_chunk: Option<u64>,
    /// KiB of a message in chunks.
    pub max_message: Option<u64>,
    /// Seconds a message in chunks may take.
    pub timeout: Option<u64>,
}

impl Features {
    /// Everything, without bounds.
    pub fn all() -> Self {
        Self { features: FEATURES.iter().map(|(one, ..)| *one).collect(), ..Self::default() }
    }

    /// Reads it, if it is there. Unknown keys are passed over.
    ///
    /// # Errors
    /// [`Problem::Structure`] if a bound is no number.
    pub fn read(envelope: &Envelope) -> Result<Option<Self>, Problem> {
        let Some(block) = envelope.block(OSCI_2017, "FeatureDescription") else { return Ok(None) };
        let number = |names: &[&str]| {
            let text = names.iter().find_map(|name| block.attribute(name));
            text.map(|text| {
                text.trim().parse::<u64>().map_err(|_| Problem::Structure("a bound is no number"))
            })
            .transpose()
        };
        let supported = block.child(OSCI_2017, "SupportedFeatures");
        let keys =
            supported.into_iter().flat_map(ElementRef::children).filter_map(|one| one.attribute("Key"));
        let features =
            keys.filter_map(|key| FEATURES.iter().find(|(_, name, _)| *name == key).map(|(one, ..)| *one));
        Ok(Some(Self {
            features: features.collect(),
            max_chunk: number(&["MaxChunkSize"])?,
            min_chunk: number(&["MinChunkSize"])?,
            max_message: number(&["MaxMessageSize"])?,
            // The schema spells it in one way, deployed software in another.
            timeout: number(&["ChunkMessageTimeout", "ChunkMessageTimeOut"])?,
        }))
    }

    /// Writes it.
    pub fn write(&self) -> String {
        let given = |name: &str, value: Option<u64>| {
            value.map(|value| format!(" {name}=\"{value}\"")).unwrap_or_default()
        };
        let known = FEATURES.iter().filter(|(one, ..)| self.features.contains(one));
        let inner: String = known
            .map(|(_, key, version)| {
                format!("<osci2017:Feature Key=\"{key}\" Version=\"{version}\"></osci2017:Feature>")
            })
            .collect();
        format!(
            "<osci2017:FeatureDescription{NS6}{timeout} Id=\"featuredescription\"{chunk}{message}{least}><osci2017:SupportedFeatures>{inner}</osci2017:SupportedFeatures></osci2017:FeatureDescription>",
            timeout = given("ChunkMessageTimeout", self.timeout),
            chunk = given("MaxChunkSize", self.max_chunk),
            message = given("MaxMessageSize", self.max_message),
            least = given("MinChunkSize", self.min_chunk),
        )
    }
}

/// Which timestamps a client wants. Signed ones are answered with plain ones, as the standard leaves to the supplier.
pub(crate) struct TimestampWishes;

impl TimestampWishes {
    /// Plain ones of creation and reception.
    pub(crate) fn write_plain() -> String {
        Self::write("creation") + &Self::write("reception")
    }

    /// A plain one of the creation.
    pub(crate) fn write_plain_creation() -> String {
        Self::write("creation")
    }

    fn write(service: &str) -> String {
        let actor = actor();
        format!(
            "<osci:QualityOfTimestamp{NS5} Id=\"qualityoftimestamp_{service}\" Quality=\"plain\" Service=\"{service}\" {actor}></osci:QualityOfTimestamp>"
        )
    }
}

/// The languages a client wants feedback in.
///
/// # Errors
/// [`Problem::Structure`] in a request without the block.
pub fn languages(envelope: &Envelope) -> Result<Language, Problem> {
    let block = envelope.block(OSCI, "DesiredLanguages");
    let block = block.ok_or(Problem::Structure("no DesiredLanguages"))?;
    Ok(Language::of(block.attribute("LanguagesList").unwrap_or_default()))
}

/// Writes the block.
pub fn write_languages(list: &str) -> String {
    let list = format!(" LanguagesList=\"{}\"", attribute(list));
    block_with("DesiredLanguages", "desiredlanguages", &list, "")
}

/// A header block nobody here knows; it goes to the recipient as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomHeader {
    /// Namespace and local name.
    pub name: (String, String),
    /// Its canonical form, which means the same anywhere.
    pub text: String,
}

impl CustomHeader {
    /// Whether it is the metadata of XTA.
    pub fn is_metadata(&self) -> bool {
        self.name.0 == META && self.name.1 == "MessageMetaData"
    }
}

/// Ids every message that hands a delivery on has by itself. A delivery that brings one of them could not be handed on.
const TAKEN: &[&str] = &[
    "controlblock",
    "clientsignature",
    "suppliersignature",
    "desiredlanguages",
    "qualityoftimestamp_creation",
    "qualityoftimestamp_reception",
    "intermediarycertificates",
    "nonintermediarycertificates",
    "featuredescription",
    "body",
    "storedelivery",
    "forwarddelivery",
    "mediatedelivery",
    "acceptdelivery",
    "processdelivery",
    "responsetofetchdelivery",
    "responsetomediatedelivery",
    "responsetoprocessdelivery",
];

/// Whether the ids of everything that goes on leave room for those of the message around it.
///
/// # Errors
/// [`Problem::Structure`].
pub fn check_ids(envelope: &Envelope) -> Result<(), Problem> {
    let element = envelope.element()?;
    let package = envelope.body()?.children();
    let custom = envelope.blocks().filter(|one| *one != element && is_custom(*one));
    let certificates = envelope.block(OSCI, "NonIntermediaryCertificates");
    let inside = package.chain(custom).flat_map(ElementRef::descendants);
    let of_certificates = certificates.into_iter().flat_map(ElementRef::children);
    let mut ids = inside.chain(of_certificates).filter_map(|one| one.attribute("Id"));
    match ids.any(|id| TAKEN.contains(&id) || id.starts_with("intermed_")) {
        true => Err(Problem::Structure("an Id that is taken in every message")),
        false => Ok(()),
    }
}

fn is_custom(block: ElementRef<'_>) -> bool {
    let known = block.namespace() == OSCI && KNOWN.contains(&block.local());
    !known && !block.is(OSCI_2017, "FeatureDescription")
}

const KNOWN: &[&str] = &[
    "ControlBlock",
    "ClientSignature",
    "SupplierSignature",
    "DesiredLanguages",
    "QualityOfTimestamp",
    "NonIntermediaryCertificates",
    "IntermediaryCertificates",
];

/// All header blocks nobody here knows.
///
/// # Errors
/// [`Problem::Structure`] if there are too many or one is too long.
pub fn custom_headers(envelope: &Envelope) -> Result<Vec<CustomHeader>, Problem> {
    let element = envelope.element()?;
    let unknown = envelope.blocks().filter(|one| *one != element && is_custom(*one));
    let mut headers = Vec::new();
    for block in unknown {
        let text = canonical(block);
        if headers.len() >= CUSTOM_MAX || text.len() > CUSTOM_BYTES {
            return Err(Problem::Structure("too many custom header blocks, or one too long"));
        }
        headers.push(CustomHeader { name: (block.namespace().to_owned(), block.local().to_owned()), text });
    }
    Ok(headers)
}
