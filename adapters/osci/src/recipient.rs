//! Being pushed to: the gateway as passive recipient (`acceptDelivery`; OSCI-Transport 1.2, behaviour of a recipient).
//!
//! Only the intermediary that was agreed on is believed. A delivery counts as received when it is safe here. Answers within the exchange
//! (`processDelivery`) are refused: nothing here answers that fast.

use crate::codec::Problem;
use crate::codec::block::{CertificateRole, Certificates, ControlBlock};
use crate::codec::certificate::Certificate;
use crate::codec::code::Code;
use crate::codec::compose::{Extras, response};
use crate::codec::draft::Signer;
use crate::codec::encryption::Method;
use crate::codec::order::{Answer, Request};
use crate::inbound::{Inbound, NotTaken};
use crate::respond::Wire;
use crate::server::{Failure, Understood, in_thread};
use crate::services::Services;
use crate::session::Own;

/// One intermediary that pushes to us.
#[derive(Clone)]
pub struct Recipient {
    /// Our keys there; it encrypts for the cipher certificate.
    pub own: Own,
    /// Its pushes are signed with it.
    pub intermediary: Certificate,
    /// Where deliveries go from here.
    pub inbound: Inbound,
}

impl Services {
    /// Takes what was pushed, or says why not.
    pub(crate) async fn pushed(&self, understood: Understood) -> Result<Wire, Failure> {
        let addressee = understood.certificates.get(CertificateRole::CipherAddressee);
        let recipient = addressee.and_then(|addressee| {
            self.recipients.iter().find(|one| one.own.cipher.certificate() == addressee)
        });
        let recipient = recipient.ok_or(Problem::NotAnOrder("nobody here is pushed to"))?.clone();
        let encrypt = match (
            understood.received.encrypted,
            understood.certificates.get(CertificateRole::CipherIntermediary),
        ) {
            (None, _) => None,
            (Some(method), Some(intermediary)) => Some((method, intermediary.clone())),
            (Some(_), None) => return Err(Problem::NoCipherCertificate.into()),
        };
        let (language, challenge, request) =
            (understood.language, understood.control.challenge.clone(), understood.request.clone());
        let code = match &understood.signature {
            Err(problem) => problem.code(),
            Ok(None) => Code::NotSigned,
            Ok(Some(signer)) if *signer != recipient.intermediary => Code::SignatureInvalid,
            Ok(Some(_)) => take(&recipient, understood).await,
        };
        let answer = Answer::nothing(&request);
        let own = recipient.own.clone();
        let control = ControlBlock { response: challenge, ..ControlBlock::default() };
        let role = match &request {
            Request::ProcessDelivery { .. } => CertificateRole::SignatureOriginator,
            _ => CertificateRole::SignatureAddressee,
        };
        let xml = in_thread(move || {
            let certificates = Certificates::default().with(role, own.signature.certificate()).write_others();
            let extras = Extras { others: Some(&certificates), ..Extras::default() };
            let key = role.id_of(own.signature.certificate());
            let signer = Signer { identity: &own.signature, algorithm: own.signature.preferred(), key };
            response(&answer, &[code], language, &control, extras).finish(Some(&signer), &[])
        });
        let encrypt: Option<(Method, &Certificate)> =
            encrypt.as_ref().map(|(method, certificate)| (*method, certificate));
        Ok(Wire::new(xml.await??, Vec::new(), encrypt, self.entropy.as_ref())?)
    }
}

/// The code that says whether it is safe here.
async fn take(recipient: &Recipient, understood: Understood) -> Code {
    let Request::AcceptDelivery(card) = understood.request else { return Code::NotAccepted };
    let taken = recipient.inbound.take(understood.received, *card).await;
    let Err(error) = taken else { return Code::Done };
    let shown = &error as &dyn std::error::Error;
    tracing::warn!(
        intermediary = recipient.inbound.name,
        error = shown,
        "A delivery that was pushed was not taken."
    );
    match error {
        NotTaken::Content(problem) if !problem.code().is_fault() => problem.code(),
        NotTaken::Content(_) | NotTaken::Intake(_) => Code::NotAccepted,
        NotTaken::Store(_) | NotTaken::Io(_) => Code::RecipientInternal,
    }
}
