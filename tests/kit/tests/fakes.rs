//! The doubles satisfy the contracts of their ports.

use std::sync::Arc;

use amtsbote_testkit::contract;
use amtsbote_testkit::memory::MemoryStore;

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    contract::in_memory_rules(&|_| Arc::new(MemoryStore::default())).await;
}
