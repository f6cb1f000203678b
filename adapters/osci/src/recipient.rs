//! Being pushed to: the gateway as passive recipient (`acceptDelivery`, `processDelivery`; OSCI-Transport 1.2, behaviour of a recipient).
//!
//! Only the intermediary that was agreed on is believed. A delivery counts as received when it is safe here. Answers within the exchange
//! come from organisations that answer at once (see [`Exchanges`](amtsbote_core::exchange::Exchanges)); nobody else is asked for any.

use amtsbote_core::exchange::{ExchangeError, Exchanged};
use amtsbote_core::intake::IntakeError;
use amtsbote_core::port::StoredMessage;

use crate::codec::Problem;
use crate::codec::block::{CertificateRole, Certificates, ControlBlock};
use crate::codec::certificate::Certificate;
use crate::codec::code::Code;
use crate::codec::compose::{Extras, response};
use crate::codec::draft::Signer;
use crate::codec::encryption::Method;
use crate::codec::order::{Answer, FetchRule, Request};
use crate::inbound::{Inbound, NotTaken};
use crate::orders::Done;
use crate::respond::{Wire, digests};
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
        let (language, challenge) = (understood.language, understood.control.challenge.clone());
        let request = understood.request.clone();
        let refused = match &understood.signature {
            Err(problem) => Some(problem.code()),
            Ok(None) => Some(Code::NotSigned),
            Ok(Some(signer)) if *signer != recipient.intermediary => Some(Code::SignatureInvalid),
            Ok(Some(_)) => None,
        };
        let done = match refused {
            Some(code) => Done::refused(&request, code),
            None => self.take(&recipient, understood).await?,
        };
        let own = recipient.own;
        let control = ControlBlock { response: challenge, ..ControlBlock::default() };
        let role = match &request {
            Request::ProcessDelivery { .. } => CertificateRole::SignatureOriginator,
            _ => CertificateRole::SignatureAddressee,
        };
        let algorithm = own.signature.preferred();
        let digests = digests(&done.parts, algorithm.digest).await?;
        let Done { answer, codes, package, certificates, custom, parts, .. } = done;
        let xml = in_thread(move || {
            let certificates = authors(certificates.as_deref())?.with(role, own.signature.certificate());
            let certificates = certificates.write_others();
            let extras = Extras {
                others: Some(&certificates),
                custom: &custom,
                package: &package,
                ..Extras::default()
            };
            let key = role.id_of(own.signature.certificate());
            let signer = Signer { identity: &own.signature, algorithm, key };
            response(&answer, &codes, language, &control, extras).finish(Some(&signer), &digests)
        });
        let encrypt: Option<(Method, &Certificate)> =
            encrypt.as_ref().map(|(method, certificate)| (*method, certificate));
        Ok(Wire::new(xml.await??, parts, encrypt, self.entropy.as_ref())?)
    }

    /// What becomes of a push from the intermediary we believe.
    async fn take(&self, recipient: &Recipient, understood: Understood) -> Result<Done, Failure> {
        let request = understood.request.clone();
        let inbound = &recipient.inbound;
        let taken = match understood.request {
            Request::AcceptDelivery(card) => {
                let taken = inbound.take(understood.received, *card).await;
                taken.map(|()| Done::found(Answer::AcceptDelivery, vec![Code::Done])).map_err(|error| {
                    log(inbound, &error);
                    code_of(&error)
                })
            }
            Request::ProcessDelivery { card, reply_id } => {
                match inbound.submission(understood.received, card.map(|card| *card)).await {
                    Ok(submission) => match self.exchanges.exchange(submission).await {
                        Ok(Exchanged { answer: Some(answer), .. }) => {
                            return self.answer_to_push(&answer, reply_id).await;
                        }
                        Ok(Exchanged { answer: None, .. }) => Err(Code::NotAccepted),
                        Err(error) => {
                            log(inbound, &error);
                            Err(code_of_exchange(&error))
                        }
                    },
                    Err(error) => {
                        log(inbound, &error);
                        Err(code_of(&error))
                    }
                }
            }
            _ => Err(Code::NotAccepted),
        };
        Ok(taken.unwrap_or_else(|code| Done::refused(&request, code)))
    }

    /// Hands the answer of an organisation to the intermediary that waits for it.
    async fn answer_to_push(
        &self,
        answer: &StoredMessage,
        reply_id: Option<String>,
    ) -> Result<Done, Failure> {
        let done = self.hand_over(answer, &FetchRule::Next, vec![Code::Done]).await?;
        let subject = answer.message.metadata.subject.clone();
        Ok(Done { answer: Answer::ProcessDelivery { id: reply_id, subject }, ..done })
    }
}

/// Certificates that came with an answer: we send it now, and whoever had a part in it is an author.
fn authors(block: Option<&str>) -> Result<Certificates, Problem> {
    let mut certificates = match block {
        Some(block) => Certificates::from_block(block)?,
        None => Certificates::default(),
    };
    for entry in &mut certificates.0 {
        entry.role = match entry.role {
            CertificateRole::CipherOriginator => CertificateRole::CipherOtherAuthor,
            CertificateRole::SignatureOriginator => CertificateRole::SignatureOtherAuthor,
            role => role,
        };
    }
    Ok(certificates)
}

fn log(inbound: &Inbound, error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(intermediary = inbound.name, error, "A delivery that was pushed was not taken.");
}

fn code_of(error: &NotTaken) -> Code {
    match error {
        NotTaken::Content(problem) if !problem.code().is_fault() => problem.code(),
        NotTaken::Intake(IntakeError::Store(_)) | NotTaken::Store(_) | NotTaken::Io(_) => {
            Code::RecipientInternal
        }
        NotTaken::Content(_) | NotTaken::Intake(_) => Code::NotAccepted,
    }
}

fn code_of_exchange(error: &ExchangeError) -> Code {
    match error {
        // Somebody may have it, or will have it.
        ExchangeError::Intake(IntakeError::Store(_))
        | ExchangeError::Store(_)
        | ExchangeError::Overloaded
        | ExchangeError::UnderWay
        | ExchangeError::Unknown(_) => Code::RecipientInternal,
        ExchangeError::Intake(_) | ExchangeError::Failed(_) => Code::NotAccepted,
    }
}
