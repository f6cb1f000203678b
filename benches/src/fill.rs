//! Stores full of messages, as if they had been accepted earlier.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use amtsbote_core::port::{Acceptance, Accepted, MessageStore as _};
use amtsbote_store_sled::{StoreOptions, open};
use amtsbote_testkit::samples::Acceptances;

/// Writers that fill a store, so that commits are shared.
const WRITERS: usize = 256;

/// Puts so many messages into a store; `make` makes each by its number.
///
/// # Errors
/// When the store does not take them.
pub async fn fill(
    store: &Path,
    messages: usize,
    make: impl Fn(&Acceptances, usize) -> anyhow::Result<Acceptance> + Clone + Send + 'static,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(store)?;
    let (store, _) = open(store, StoreOptions::default())?;
    let (store, samples) = (Arc::new(store), Arc::new(Acceptances::default()));
    let next = Arc::new(AtomicUsize::new(0));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (store, samples, next) = (Arc::clone(&store), Arc::clone(&samples), Arc::clone(&next));
        let make = make.clone();
        writers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= messages {
                    return anyhow::Ok(());
                }
                if number % 100_000 == 0 {
                    eprintln!("{number} of {messages} messages are in the store");
                }
                let accepted = store.accept(make(&samples, number)?).await?;
                anyhow::ensure!(accepted == Accepted::First, "a key was used twice");
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    Ok(())
}
