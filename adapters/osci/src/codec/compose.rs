//! Whole messages: every block in the place where deployed software expects it (section 4.1 of the protocol's handbook).

use super::block::{Certificates, ControlBlock, Features, TimestampWishes, write_languages};
use super::code::{Code, Language};
use super::draft::Draft;
use super::envelope::Operation;
use super::order::{Answer, Request};

/// What a message may have besides its order or answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// Certificates of the intermediary.
    pub intermediary: Option<&'a Certificates>,
    /// Certificates of all others: the block, as [`Certificates::write_others`] makes it or as it came.
    pub others: Option<&'a str>,
    /// What we can do.
    pub features: Option<&'a Features>,
    /// Header blocks that go along, as they are.
    pub custom: &'a [String],
    /// Children of the content package.
    pub package: &'a str,
}

fn block_of(certificates: Option<&Certificates>, name: &str) -> Option<String> {
    certificates
        .filter(|certificates| !certificates.0.is_empty())
        .map(|certificates| certificates.write(name))
}

fn finish(mut draft: Draft, extras: Extras<'_>, has_package: bool) -> Draft {
    draft = draft
        .with(block_of(extras.intermediary, "IntermediaryCertificates"))
        .with(extras.others.map(str::to_owned))
        .with(extras.features.map(Features::write));
    for block in extras.custom {
        draft = draft.with(block.clone());
    }
    if has_package {
        let package = extras.package;
        draft = draft.with_body(&format!("<osci:ContentPackage>{package}</osci:ContentPackage>"));
    }
    draft
}

/// A request.
pub fn request(request: &Request, control: &ControlBlock, languages: &str, extras: Extras<'_>) -> Draft {
    let operation = request.operation();
    let (block, body) = request.write();
    let wishes = match request {
        Request::StoreDelivery { .. } | Request::ForwardDelivery(_) => Some(TimestampWishes::write_plain()),
        Request::MediateDelivery(push) if push.id.is_some() => Some(TimestampWishes::write_plain()),
        Request::PartialStoreDelivery { .. } => Some(TimestampWishes::write_plain_creation()),
        _ => None,
    };
    let has_package = matches!(
        operation,
        Operation::StoreDelivery
            | Operation::ForwardDelivery
            | Operation::MediateDelivery
            | Operation::PartialStoreDelivery
            | Operation::AcceptDelivery
            | Operation::ProcessDelivery
    );
    let draft = Draft::new(operation.request(), control).with(write_languages(languages));
    finish(draft.with(wishes).with(block).with_body(&body), extras, has_package)
}

/// A response.
pub fn response(
    answer: &Answer,
    codes: &[Code],
    language: Language,
    control: &ControlBlock,
    extras: Extras<'_>,
) -> Draft {
    let operation = answer.operation();
    let (block, body) = answer.write(codes, language);
    let has_package = matches!(
        operation,
        Operation::FetchDelivery
            | Operation::MediateDelivery
            | Operation::ProcessDelivery
            | Operation::PartialFetchDelivery
    );
    finish(Draft::new(operation.response(), control).with(block).with_body(&body), extras, has_package)
}
