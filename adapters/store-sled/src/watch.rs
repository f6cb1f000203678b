//! Watches over the store: brings it up again after a fault, and looks once through the index for what it has lost.
//!
//! A fault stops everything at once (promise P1): nothing is accepted, handed out or changed until journal and index were read
//! again from the disk. What was in flight was never acknowledged.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use amtsbote_core::port::StoreStatus;

use crate::shared::StoreOptions;
use crate::store::Parts;

/// The watch looks so often.
const LOOK: Duration = Duration::from_millis(250);
/// Wait before the first further try to open; doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait between tries.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Readers of the old index get so long to end.
const READERS_END: Duration = Duration::from_secs(30);
/// Between two pieces of a scrub others have the disk so long.
const BREATH: Duration = Duration::from_millis(2);

/// The thread that watches. Dropping it ends it.
pub(crate) struct Watch {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(
        root: PathBuf,
        options: StoreOptions,
        parts: Arc<Parts>,
        scrub: bool,
    ) -> std::io::Result<Self> {
        let (end, ended) = channel();
        let watcher = Watcher { root, options, parts, ended };
        let thread = std::thread::Builder::new().name("store-watch".to_owned());
        let thread = thread.spawn(move || watcher.run(scrub))?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.end.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Does something in which sled may panic: it does when a sync fails, also while it is closed. `None` if it did.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}

struct Watcher {
    root: PathBuf,
    options: StoreOptions,
    parts: Arc<Parts>,
    /// Nothing is ever sent; it ends when the store does.
    ended: Receiver<()>,
}

impl Watcher {
    fn run(self, mut scrub: bool) {
        loop {
            if !self.wait(LOOK) {
                return;
            }
            if scrub {
                self.scrub();
                scrub = false;
            }
            let Ok(inner) = self.parts.inner() else { continue };
            let status = inner.status();
            if status.stopped.is_some() {
                let fresh = inner.shared.is_index_suspect();
                drop(inner);
                match self.bring_up_again(status, fresh) {
                    Some(rebuilt) => scrub = !rebuilt,
                    None => return,
                }
            }
        }
    }

    /// Waits; `false` when the store ends.
    fn wait(&self, time: Duration) -> bool {
        matches!(self.ended.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }

    /// Takes the store down and opens it until that works; whether its index was rebuilt. `None` when the store ends.
    fn bring_up_again(&self, status: StoreStatus, mut fresh: bool) -> Option<bool> {
        let began = Instant::now();
        if let Some(running) = self.parts.take_down(status) {
            let readers = Arc::downgrade(&running.inner);
            fresh |= guarded(|| drop(running)).is_none();
            // sled keeps its lock until the last reader has gone.
            while readers.upgrade().is_some() && began.elapsed() < READERS_END {
                if !self.wait(Duration::from_millis(5)) {
                    return None;
                }
            }
        }
        let mut pause = FIRST_WAIT;
        loop {
            match guarded(|| crate::bring_up(&self.root, &self.options, fresh)) {
                Some(Ok((running, report))) => {
                    self.parts.put_up(running);
                    let seconds = began.elapsed().as_secs_f64();
                    tracing::warn!(
                        seconds,
                        frames = report.replayed,
                        rebuilt = report.rebuilt,
                        "The store works again."
                    );
                    return Some(report.rebuilt.is_some());
                }
                Some(Err(error)) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        error,
                        retry_seconds = pause.as_secs(),
                        "The store cannot be opened again yet."
                    );
                }
                None => {
                    tracing::error!(retry_seconds = pause.as_secs(), "The index panicked; it is built anew.");
                    fresh = true;
                }
            }
            if !self.wait(pause) {
                return None;
            }
            pause = (pause * 2).min(LONGEST_WAIT);
        }
    }

    fn scrub(&self) {
        let Ok(inner) = self.parts.inner() else { return };
        let began = Instant::now();
        let go_on = || inner.shared.stopped().is_none() && self.wait(BREATH);
        match guarded(|| inner.scrub(&go_on)) {
            Some(Ok(Some(report))) if report.lost.is_empty() => {
                let seconds = began.elapsed().as_secs_f64();
                tracing::debug!(
                    messages = report.messages,
                    seconds,
                    "The index has everything the journal has."
                );
            }
            Some(Ok(Some(report))) => {
                for lost in &report.lost {
                    tracing::error!(lost, "The index has lost something; it is built anew.");
                }
                inner.shared.distrust_index(format!("the index has lost {} entries", report.lost.len()));
            }
            Some(Ok(None)) => {}
            Some(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "The index could not be looked through.");
            }
            None => inner.shared.distrust_index("the index panicked".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use amtsbote_core::port::{Accepted, MessageStore, StoreError};
    use amtsbote_core::route::ChannelKind;
    use amtsbote_testkit::samples::Acceptances;

    use crate::{SledStore, StoreOptions, open};

    async fn works_again(store: &SledStore) {
        let mut every = tokio::time::interval(std::time::Duration::from_millis(10));
        let working = async {
            while store.status().stopped.is_some() {
                every.tick().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), working).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_index_that_only_readers_find_broken_is_built_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = open(folder.path(), StoreOptions::default()).unwrap();
        let samples = Acceptances::default();
        let acceptance = samples.routed("1", b"x", ChannelKind::Amqp);
        let id = acceptance.message.id;
        assert_eq!(store.accept(acceptance).await.unwrap(), Accepted::First);
        let broken = || -> Result<(), crate::index::IndexError> { panic!("scripted") };
        store.parts.inner().unwrap().index.watched(broken).unwrap_err();
        drop(store.head(id).await);
        let status = store.status();
        assert_eq!(status.stopped.as_deref(), Some("the index cannot be read"));
        works_again(&store).await;
        assert!(store.head(id).await.unwrap().is_some());
        assert!(folder.path().join("quarantine/index").exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_upload_from_before_does_not_find_the_file_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = open(folder.path(), StoreOptions::default()).unwrap();
        let samples = Acceptances::default();
        let large = async |store: &SledStore, byte: u8| {
            let mut writer = store.stage().await.unwrap();
            writer.write(vec![byte; 3 << 20].into()).await.unwrap();
            writer.finish().await.unwrap()
        };
        let mut before = samples.routed("before", b"x", ChannelKind::Amqp);
        before.payload = large(&store, 1).await;
        store.parts.inner().unwrap().shared.stop("scripted".to_owned());
        works_again(&store).await;
        let mut after = samples.routed("after", &vec![2; 3 << 20], ChannelKind::Amqp);
        let id = after.message.id;
        after.payload = large(&store, 2).await;
        let refused = store.accept(before).await;
        assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
        assert_eq!(store.accept(after).await.unwrap(), Accepted::First);
        let mut reader = store.open_part(id, 0, 0).await.unwrap().unwrap();
        while let Some(bytes) = reader.next().await.unwrap() {
            assert!(bytes.iter().all(|byte| *byte == 2));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn after_a_fault_the_store_refuses_everything_until_it_has_opened_itself_again() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = open(folder.path(), StoreOptions::default()).unwrap();
        let samples = Acceptances::default();
        let mut expected = Vec::new();
        for (n, suspect) in [false, true, false].into_iter().enumerate() {
            let acceptance = samples.routed(&n.to_string(), b"x", ChannelKind::Amqp);
            expected.push(acceptance.message.id);
            assert_eq!(store.accept(acceptance).await.unwrap(), Accepted::First);
            let inner = store.parts.inner().unwrap();
            match suspect {
                true => inner.shared.distrust_index("scripted".to_owned()),
                false => inner.shared.stop("scripted".to_owned()),
            }
            let refused = store.accept(samples.routed("refused", b"x", ChannelKind::Amqp)).await;
            assert!(matches!(refused, Err(StoreError::Stopped { .. })), "{refused:?}");
            drop(inner);
            works_again(&store).await;
            assert_eq!(store.to_prepare(None, 9).await.unwrap(), expected);
        }
        let quarantined = std::fs::read_dir(folder.path().join("quarantine")).unwrap().count();
        assert_eq!(quarantined, 1, "the index that was not to be trusted");
    }
}
