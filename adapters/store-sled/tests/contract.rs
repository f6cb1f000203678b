//! The embedded store keeps the contract of its port.

use std::sync::Arc;

use amtsbote_store_sled::{StoreOptions, open};
use amtsbote_testkit::contract;

#[tokio::test]
async fn the_embedded_store_keeps_the_contract() {
    contract::crash_safe(&|folder| Arc::new(open(folder, StoreOptions::default()).unwrap().0)).await;
}
