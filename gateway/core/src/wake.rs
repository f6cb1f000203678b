//! Tells sleeping loops that there is something to do. Losing nothing: a waiter registers before it looks.

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio_util::sync::CancellationToken;

use crate::delivery::Delivery;

/// Signals between intake, engine and mailbox pollers of one process.
#[derive(Debug, Default)]
pub struct Wake {
    work: Notify,
    mail: Notify,
    closing: CancellationToken,
}

impl Wake {
    /// There is work for the engine.
    pub fn work(&self) {
        self.work.notify_one();
    }

    /// Something became available in some mailbox.
    pub fn mail(&self) {
        self.mail.notify_waiters();
    }

    /// A delivery was changed by somebody outside the engine: its sender may have to be told, and the next in its line may go on.
    pub(crate) fn after(&self, delivery: &Delivery) {
        if delivery.notice_due.is_some() || delivery.line.is_some() {
            self.work();
            self.mail();
        }
    }

    /// The process is ending: whoever waits for mail shall go.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Completes once [`Self::close`] was called.
    pub(crate) async fn closed(&self) {
        self.closing.cancelled().await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Completes at the next [`Self::work`], or at once if there was one since the last wait.
    pub(crate) fn on_work(&self) -> Notified<'_> {
        self.work.notified()
    }

    /// Completes at the next [`Self::mail`] after it was enabled.
    pub(crate) fn on_mail(&self) -> Notified<'_> {
        self.mail.notified()
    }
}
