//! What the tests share.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part")]

use signet_identity::{Entry, EntrySpec};
pub use signet_store::conformance::{bundle, draft, full_draft, id, new, node};
use signet_store::{CreateEntryOutcome, Store, StoreOptions};
use signet_time::UnixTime;

/// A store in a directory of its own.
pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

impl Fixture {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreOptions::file(dir.path().join("s.db"))).await.unwrap();
        Self { dir, store }
    }

    pub fn options(&self) -> StoreOptions {
        StoreOptions::file(self.dir.path().join("s.db"))
    }

    pub async fn reopen(self) -> Self {
        self.store.close().await;
        let store = Store::open(self.options()).await.unwrap();
        Self { dir: self.dir, store }
    }

    /// Creates one entry.
    pub async fn create(&self, id: &str, draft: EntrySpec) -> Entry {
        let outcomes = self
            .store
            .create_entries(vec![new(id, draft)], UnixTime::from_seconds(1))
            .await
            .unwrap();
        match outcomes.into_iter().next().unwrap() {
            CreateEntryOutcome::Created(entry) => entry,
            other => panic!("{other:?}"),
        }
    }
}
