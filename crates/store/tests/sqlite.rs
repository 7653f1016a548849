//! SQLite keeps what every store promises, in a file and (where one handle is enough) in memory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use async_trait::async_trait;
use signet_store::{
    NodeFilter, Store, StoreOptions,
    conformance::{Database, Settings, node},
};
use signet_time::UnixTime;

/// A file in a directory of its own.
struct InFile(tempfile::TempDir);

#[async_trait]
impl Database for InFile {
    async fn open(&self, settings: Settings) -> Store {
        let mut options = StoreOptions::file(self.0.path().join("s.db"));
        options.changes_max_age = settings.changes_max_age;
        options.changes_max_rows = settings.changes_max_rows;
        options.observer = settings.observer;
        Store::open(options).await.unwrap()
    }
}

signet_store::conformance!(InFile(tempfile::tempdir().unwrap()));

#[tokio::test]
async fn a_store_in_memory_works_too() {
    let store = Store::open(StoreOptions::memory()).await.unwrap();
    store.put_node(node("one"), UnixTime::from_seconds(1)).await.unwrap();
    assert_eq!(store.count_nodes(&NodeFilter::default()).await.unwrap(), 1);
    store.ping().await.unwrap();
    store.close().await;
    assert!(store.ping().await.is_err());
}
