//! The change feed.

use tokio::sync::watch;

use crate::{Store, StoreError};

/// What a [`Change`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// A trust bundle; the key is the trust domain's name.
    Bundle,
    /// A registration entry; the key is the entry ID.
    Entry,
    /// A federation relationship; the key is the trust domain's name.
    Federation,
    /// An attested node; the key is the agent's SPIFFE ID.
    Node,
}

/// Something was created, changed or deleted: read it to know which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Grows by exactly one from change to change.
    pub revision: u64,
    /// What kind of thing.
    pub kind: ChangeKind,
    /// Which one: see [`ChangeKind`].
    pub key: String,
}

/// The answer of [`Store::changes_since`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// The changes after the given revision, oldest first, at most as many as asked for; empty
    /// when there was none.
    Since(Vec<Change>),
    /// The feed no longer reaches back so far (or never reached the given revision, as after a
    /// restore): everything must be read anew.
    Gone {
        /// The newest revision now.
        newest: u64,
    },
}

impl Store {
    /// The newest revision, now and whenever it grows; 0 in a new database.
    ///
    /// A value appears after its transaction is on disk and is readable at once.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// The newest revision now.
    pub fn revision(&self) -> u64 {
        todo!()
    }

    /// The changes after `revision`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn changes_since(&self, _revision: u64, _limit: u32) -> Result<Changes, StoreError> {
        todo!()
    }

    /// Drops what the feed keeps no longer (see [`crate::StoreOptions`]); the newest change
    /// always stays. Returns how many rows were dropped.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be written.
    pub async fn prune_changes(&self, _now: i64) -> Result<u64, StoreError> {
        todo!()
    }
}
