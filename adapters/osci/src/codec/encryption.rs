//! `xenc:EncryptedData` as OSCI uses it: around whole messages, and around contents for their readers (XML Encryption 1.1).

use amtsbote_soap::document::{Document, ElementRef};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::algorithm::{Digest, KeyTransport, Policy, Symmetric, mask_uri, parse_mask};
use super::certificate::{Certificate, Identity};
use super::cipher::{Decryptor, IvLength};
use super::envelope::schema_location;
use super::names::{BASE64, DS, OSCI_128, SOAP, X509_DATA, XENC, XENC11};
use super::problem::{Problem, Undecryptable};

/// Content id of the encrypted part.
pub const PART_ID: &str = "osci_enc";

/// Bytes of base64 text, white space anywhere.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let dense: String = text.chars().filter(|c| !matches!(c, ' ' | '\t' | '\r' | '\n')).collect();
    STANDARD.decode(dense).ok()
}

/// Base64 in lines as deployed software writes it.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let dense = STANDARD.encode(bytes);
    let mut text = String::with_capacity(dense.len() + dense.len() / 76 + 1);
    let mut rest = dense.as_str();
    while rest.len() > 76 {
        let (line, others) = rest.split_at(76);
        text.push_str(line);
        text.push('\n');
        rest = others;
    }
    text.push_str(rest);
    text
}

/// How something is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// Algorithm.
    pub symmetric: Symmetric,
    /// Vector of GCM.
    pub iv: IvLength,
    /// How the key is wrapped.
    pub transport: KeyTransport,
}

impl Default for Method {
    fn default() -> Self {
        Self { symmetric: Symmetric::DEFAULT, iv: IvLength::Twelve, transport: KeyTransport::DEFAULT }
    }
}

/// Whose key opens something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOwner {
    /// This certificate's.
    Certificate(Vec<u8>),
    /// That of the certificate with this id in the message.
    Id(String),
}

/// What `EncryptedData` says before the ciphertext.
#[derive(Debug)]
pub struct EncryptedData {
    /// How it is encrypted.
    pub method: Method,
    /// Whose key opens it.
    pub owner: KeyOwner,
    /// The key, wrapped.
    pub wrapped: Vec<u8>,
}

fn algorithm(element: ElementRef<'_>) -> Result<&str, Problem> {
    element.attribute("Algorithm").ok_or(Problem::Structure("an encryption without algorithm"))
}

/// Algorithm and vector of an `EncryptionMethod`.
pub(crate) fn read_symmetric(data: ElementRef<'_>, policy: Policy) -> Result<(Symmetric, IvLength), Problem> {
    let method = data.child(XENC, "EncryptionMethod").ok_or(Problem::Structure("no EncryptionMethod"))?;
    let symmetric = Symmetric::parse(algorithm(method)?, policy)?;
    let iv = match method.child(OSCI_128, "IvLength").and_then(|one| one.attribute("Value")) {
        Some("12") => IvLength::Twelve,
        None | Some("16") => IvLength::Sixteen,
        Some(_) => return Err(Problem::Algorithm),
    };
    Ok((symmetric, iv))
}

fn read_transport(key: ElementRef<'_>) -> Result<KeyTransport, Problem> {
    let method = key.child(XENC, "EncryptionMethod").ok_or(Problem::Structure("no EncryptionMethod"))?;
    match algorithm(method)? {
        KeyTransport::RSA_15 => Ok(KeyTransport::Rsa15),
        KeyTransport::OAEP => {
            // Without them the standard means SHA-1, which is not accepted.
            let digest = method.child(DS, "DigestMethod").ok_or(Problem::Algorithm)?;
            let mgf = method.child(XENC11, "MGF").ok_or(Problem::Algorithm)?;
            let digest = Digest::parse(algorithm(digest)?).map_err(|_| Problem::Algorithm)?;
            Ok(KeyTransport::Oaep { digest, mgf: parse_mask(algorithm(mgf)?)? })
        }
        _ => Err(Problem::Algorithm),
    }
}

fn owner(key: ElementRef<'_>) -> Result<KeyOwner, Problem> {
    let info = key.child(DS, "KeyInfo").ok_or(Problem::Structure("a key of nobody"))?;
    if let Some(reference) = info.child(DS, "RetrievalMethod") {
        let id = reference.attribute("URI").and_then(|uri| uri.strip_prefix('#'));
        return Ok(KeyOwner::Id(id.ok_or(Problem::Structure("a key of nobody"))?.to_owned()));
    }
    let data = info.child(DS, "X509Data").and_then(|data| data.child(DS, "X509Certificate"));
    let der = data.and_then(|data| decode(&data.text())).ok_or(Problem::Structure("a key of nobody"))?;
    Ok(KeyOwner::Certificate(der))
}

impl EncryptedData {
    /// All keys an `EncryptedData` has been wrapped for; at most 64.
    pub(crate) fn keys(data: ElementRef<'_>, policy: Policy) -> Result<Vec<Self>, Problem> {
        let (symmetric, iv) = read_symmetric(data, policy)?;
        let info = data.child(DS, "KeyInfo").ok_or(Problem::Structure("no KeyInfo"))?;
        let keys = info.children().filter(|one| one.is(XENC, "EncryptedKey")).take(64);
        keys.map(|key| {
            let transport = read_transport(key)?;
            let value = key.child(XENC, "CipherData").and_then(|data| data.child(XENC, "CipherValue"));
            let wrapped = value.and_then(|value| decode(&value.text()));
            let wrapped = wrapped.ok_or(Problem::Structure("no wrapped key"))?;
            Ok(Self { method: Method { symmetric, iv, transport }, owner: owner(key)?, wrapped })
        })
        .collect()
    }

    /// Unwraps the key. Takes milliseconds.
    ///
    /// # Errors
    /// [`Problem::Undecryptable`] and [`Problem::Algorithm`].
    pub fn open(&self, identity: &Identity, policy: Policy) -> Result<Decryptor, Problem> {
        let key = identity.unwrap(self.method.transport, &self.wrapped, policy)?;
        Decryptor::new(self.method.symmetric, self.method.iv, key)
    }
}

/// Reads the envelope around an encrypted message: the first key counts.
///
/// # Errors
/// [`Problem::Structure`] and [`Problem::Algorithm`].
pub fn read_envelope(document: &Document, policy: Policy) -> Result<EncryptedData, Problem> {
    let body = document.root().child(SOAP, "Body").ok_or(Problem::Structure("no Body"))?;
    let data = body.child(XENC, "EncryptedData").ok_or(Problem::Structure("no EncryptedData"))?;
    let reference = data.child(XENC, "CipherData").and_then(|data| data.child(XENC, "CipherReference"));
    let uri = reference.and_then(|reference| reference.attribute("URI"));
    if uri.and_then(|uri| uri.strip_prefix("cid:")) != Some(PART_ID) {
        return Err(Problem::Structure("the encrypted part is not referenced"));
    }
    let first = EncryptedData::keys(data, policy)?.into_iter().next();
    first.ok_or(Problem::Structure("no EncryptedKey"))
}

/// The key among some whose certificate the envelope names.
///
/// # Errors
/// [`Problem::ForeignKey`].
pub fn find_key<'k>(data: &EncryptedData, keys: &'k [Identity]) -> Result<&'k Identity, Problem> {
    let KeyOwner::Certificate(der) = &data.owner else { return Err(Problem::ForeignKey) };
    keys.iter().find(|key| key.certificate().der() == der.as_slice()).ok_or(Problem::ForeignKey)
}

fn write_method(symmetric: Symmetric, iv: IvLength) -> String {
    let uri = symmetric.uri();
    let inner = match iv {
        IvLength::Twelve => {
            format!("<osci128:IvLength xmlns:osci128=\"{OSCI_128}\" Value=\"12\"></osci128:IvLength>")
        }
        IvLength::Sixteen => String::new(),
    };
    format!("<xenc:EncryptionMethod Algorithm=\"{uri}\">{inner}</xenc:EncryptionMethod>")
}

fn write_transport(transport: KeyTransport) -> Result<String, Problem> {
    Ok(match transport {
        KeyTransport::Oaep { digest, mgf } => {
            let (mgf, digest, oaep) =
                (mask_uri(mgf).ok_or(Problem::Algorithm)?, digest.uri(), KeyTransport::OAEP);
            format!(
                "<xenc:EncryptionMethod Algorithm=\"{oaep}\"><xenc11:MGF xmlns:xenc11=\"{XENC11}\" Algorithm=\"{mgf}\"></xenc11:MGF><ds:DigestMethod Algorithm=\"{digest}\"></ds:DigestMethod></xenc:EncryptionMethod>"
            )
        }
        KeyTransport::Rsa15 => {
            format!("<xenc:EncryptionMethod Algorithm=\"{}\"></xenc:EncryptionMethod>", KeyTransport::RSA_15)
        }
    })
}

fn write_key(transport: KeyTransport, owner: &str, wrapped: &[u8]) -> Result<String, Problem> {
    let (method, wrapped) = (write_transport(transport)?, encode(wrapped));
    Ok(format!(
        "<xenc:EncryptedKey>{method}<ds:KeyInfo>{owner}</ds:KeyInfo><xenc:CipherData><xenc:CipherValue>{wrapped}</xenc:CipherValue></xenc:CipherData></xenc:EncryptedKey>"
    ))
}

/// A reference to an encrypted part, with the transform deployed software insists on whatever the part is like.
fn write_reference(part: &str) -> String {
    format!(
        "<xenc:CipherData><xenc:CipherReference URI=\"cid:{part}\"><xenc:Transforms><ds:Transform Algorithm=\"{BASE64}\"></ds:Transform></xenc:Transforms></xenc:CipherReference></xenc:CipherData>"
    )
}

/// The envelope around an encrypted message.
///
/// # Errors
/// When the key cannot be wrapped for the certificate.
pub fn write_envelope(method: Method, key: &[u8], recipient: &Certificate) -> Result<String, Problem> {
    let wrapped = recipient.wrap(method.transport, key)?;
    let certificate = encode(recipient.der());
    let owner = format!("<ds:X509Data><ds:X509Certificate>{certificate}</ds:X509Certificate></ds:X509Data>");
    let key = write_key(method.transport, &owner, &wrapped)?;
    let (symmetric, reference) = (write_method(method.symmetric, method.iv), write_reference(PART_ID));
    let location = schema_location("MessageEncrypted");
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\r\n<soap:Envelope xmlns:ds=\"{DS}\" xmlns:soap=\"{SOAP}\" xmlns:xenc=\"{XENC}\" xmlns:xsi=\"{xsi}\" xsi:schemaLocation=\"{location}\"><soap:Body><xenc:EncryptedData MimeType=\"Multipart/Related\">{symmetric}<ds:KeyInfo>{key}</ds:KeyInfo>{reference}</xenc:EncryptedData></soap:Body></soap:Envelope>",
        xsi = super::names::XSI,
    ))
}

/// Decrypts what is small enough to be inside of the XML.
pub(crate) fn decrypt_value(data: ElementRef<'_>, mut decryptor: Decryptor) -> Result<Vec<u8>, Problem> {
    let value = data.child(XENC, "CipherData").and_then(|data| data.child(XENC, "CipherValue"));
    let value = value.and_then(|value| decode(&value.text())).ok_or(Undecryptable)?;
    let mut plain = decryptor.update(&value)?;
    plain.extend(decryptor.finish()?);
    Ok(plain)
}

/// Encrypted content for readers, with the ids their certificates have in the message.
pub(crate) fn write_content(
    method: Method,
    id: &str,
    key: &[u8],
    readers: &[(&str, &Certificate)],
    ciphertext: &[u8],
) -> Result<String, Problem> {
    let mut keys = String::new();
    for (id, certificate) in readers {
        let owner = format!("<ds:RetrievalMethod Type=\"{X509_DATA}\" URI=\"#{id}\"></ds:RetrievalMethod>");
        keys += &write_key(method.transport, &owner, &certificate.wrap(method.transport, key)?)?;
    }
    let (symmetric, value) = (write_method(method.symmetric, method.iv), encode(ciphertext));
    let ns = super::names::NS5;
    Ok(format!(
        "<xenc:EncryptedData{ns} Id=\"{id}\" MimeType=\"text/xml\">{symmetric}<ds:KeyInfo>{keys}</ds:KeyInfo><xenc:CipherData><xenc:CipherValue>{value}</xenc:CipherValue></xenc:CipherData></xenc:EncryptedData>"
    ))
}

/// The statement about an encrypted attachment, whose content id is escaped already; it holds the key, so it stands inside of encrypted
/// content only.
pub(crate) fn write_attachment(method: Method, part: &str, key: &[u8]) -> String {
    let (symmetric, key, reference) =
        (write_method(method.symmetric, method.iv), encode(key), write_reference(part));
    format!(
        "<xenc:EncryptedData Id=\"Attachment{part}\" MimeType=\"text/xml\">{symmetric}<ds:KeyInfo><ds:MgmtData>{key}</ds:MgmtData></ds:KeyInfo>{reference}</xenc:EncryptedData>"
    )
}
