//! Fetches orders from mailboxes at remote XTA servers: list, get, commit here, and only then close.
//!
//! What was committed and not closed is fetched again and recognised by its id. What cannot be accepted here stays in the remote
//! mailbox and is reported; it does not stand in the way of the others.

use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::delivery::Delivery;
use amtsbote_core::intake::{Admission, Intake, Submission, UnusableCertificate};
use amtsbote_core::key::AccountName;
use amtsbote_core::message::{CarriedKind, ExternalId, IdScheme, IntakeKey, Message};
use amtsbote_core::port::{Clock, MessageStore};
use amtsbote_core::route::Route;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::client::{CallError, Fetched, XtaClient};
use crate::content::{ContentError, Order, Spool};
use crate::fault::{ErrorCode, Refused, wrong};
use crate::mapping::{Understood, understand_from};
use crate::metadata::{MetaData, identifier};
use crate::send::carry;

/// Orders of one look at the mailbox.
const PAGE: usize = 50;

/// One remote mailbox.
pub struct Poller {
    /// Name of the server in the configuration.
    pub name: String,
    /// The client with our account there.
    pub client: XtaClient,
    /// Account here in whose name orders come in; ids of orders are its.
    pub account: AccountName,
    /// Time between two looks.
    pub every: Duration,
    /// Bytes of the contents of one order.
    pub most: u64,
    /// Takes orders.
    pub intake: Arc<Intake>,
    /// Stages contents.
    pub store: Arc<dyn MessageStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Why an order stays where it is.
#[derive(Debug)]
enum Left {
    /// The server.
    Call(CallError<ContentError>),
    /// It cannot be read, or there is no way for it.
    Refused(Refused),
}

impl<T: Into<Refused>> From<T> for Left {
    fn from(refused: T) -> Self {
        Self::Refused(refused.into())
    }
}

impl Poller {
    /// Polls until stopped. An order that is being fetched is given up then; it is fetched again after the next start.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.sleep(self.every) => {}
            }
        }
    }

    /// Fetches everything that is there now, page after page.
    async fn look(&self) {
        let mut listed = self.client.list(PAGE, &mut Spool::none()).await;
        loop {
            let page = match listed {
                Ok(page) => page,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(server = self.name, error, "A remote mailbox cannot be listed.");
                    return;
                }
            };
            for id in &page.ids {
                if let Err(reason) = self.fetch(id).await {
                    tracing::warn!(server = self.name, reason = %describe(&reason), "An order stays in a remote mailbox.");
                    if matches!(reason, Left::Call(CallError::Unreachable(_) | CallError::Unknown(_))) {
                        return;
                    }
                }
            }
            // A server that announces more and then shows nothing is asked again at the next look.
            let Some(next) = page.next.filter(|_| !page.ids.is_empty()) else { return };
            listed = self.client.list_next(&next, &mut Spool::none()).await;
        }
    }

    async fn fetch(&self, id: &str) -> Result<(), Left> {
        let mut spool = Spool::new(self.store.stage().await?, self.most);
        let fetched = self.client.fetch(id, &mut spool).await.map_err(Left::Call)?;
        let submission = self.submission(id, fetched, spool).await?;
        // New or fetched before: either way it is safe here.
        let (Admission::New(_) | Admission::Repeated(_)) = self.intake.accept(submission, &nothing).await?;
        self.client.close(&[id.to_owned()], &mut Spool::none()).await.map_err(Left::Call)
    }

    async fn submission(&self, id: &str, fetched: Fetched, spool: Spool) -> Result<Submission, Refused> {
        let (order, _) = MetaData::read(&fetched.metadata.element)?;
        // Whoever sends another order than was asked for would have the one that was asked for closed.
        if !order.message_id.eq_ignore_ascii_case(id) {
            return Err(wrong(ErrorCode::WrongParameters, "MessageID"));
        }
        let sender = identifier(&order.author).parse();
        let sender = sender.map_err(|_| wrong(ErrorCode::WrongParameters, "Author"))?;
        let understood = understand_from(&order, sender, None)?;
        let Understood { sender, metadata, target } = understood;
        let (parts, payload) = spool.finish(Order::of(&fetched.container)?).await?;
        let value = order.message_id.to_ascii_lowercase();
        let value = value.parse().map_err(|_| wrong(ErrorCode::NoUri, "MessageID"))?;
        let carried = carry(&fetched.metadata, CarriedKind::XtaMetadata, "MessageMetaData")?;
        Ok(Submission {
            key: IntakeKey { account: self.account.clone(), scheme: IdScheme::Xta, value },
            sender,
            metadata,
            parts,
            payload,
            external_ids: vec![ExternalId { scheme: IdScheme::Xta, value: order.message_id.clone() }],
            carried: vec![carried],
            canonical: order.canonical(),
            target,
            reserved: None,
            unusable_certificate: UnusableCertificate::Wait,
        })
    }
}

fn describe(left: &Left) -> String {
    match left {
        Left::Call(error) => error.to_string(),
        Left::Refused(Refused::Modelled { code, about }) => format!("{} {about}", code.number()),
        Left::Refused(Refused::Plain(fault)) => fault.reason.clone(),
    }
}

/// The server needs no answer that could be repeated.
fn nothing(_: &Message, _: &Delivery, _: Option<&Route>) -> Bytes {
    Bytes::new()
}
