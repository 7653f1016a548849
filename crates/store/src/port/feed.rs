//! The change feed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use signet_identity::{AttestedNode, Entry};
use signet_time::UnixTime;
use tokio::sync::watch;

use crate::StoreError;

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
    /// What is said about tenants; the key is a [`signet_identity::tenant::Assigned`] as text.
    Tenancy,
}

/// What a thing became by a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangedTo {
    /// This entry.
    Entry(Arc<Entry>),
    /// It was deleted.
    Gone,
    /// This node.
    Node(Arc<AttestedNode>),
    /// Not remembered (another process made the change, or it is long ago): read it.
    Unread,
}

/// Something was created, changed or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Grows by exactly one from change to change.
    pub revision: u64,
    /// What kind of thing.
    pub kind: ChangeKind,
    /// Which one: see [`ChangeKind`].
    pub key: String,
    /// What it became, where that is remembered. A later change of the same thing may have
    /// followed.
    pub to: ChangedTo,
}

/// A place in the history of a store.
///
/// Two places can be compared only within one epoch: after a restore, or after the failover to a
/// standby that lagged, revisions are given a second time, to other changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedPosition {
    /// Names the history: random, and another one after a restore.
    pub epoch: Arc<str>,
    /// The newest revision; 0 before the first change.
    pub revision: u64,
}

impl FeedPosition {
    /// Whether a reader who has seen everything up to here has seen `other` too.
    pub fn has_reached(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.revision >= other.revision
    }
}

/// The answer of [`Feed::changes_since`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// The changes after the given place, oldest first, at most as many as asked for; empty when
    /// there was none.
    Since(Vec<Change>),
    /// The feed no longer reaches back so far, or the place is of another history: everything
    /// must be read anew.
    Gone {
        /// Where the feed stands now.
        now: FeedPosition,
    },
}

impl Changes {
    /// The answer of a store that has read `read`, its first changes after `since` (one at least,
    /// where there is one), when the feed stood at `now`.
    pub(crate) fn after(
        since: &FeedPosition,
        mut read: Vec<Change>,
        now: FeedPosition,
        limit: u32,
    ) -> Self {
        let reached = match read.first() {
            Some(first) => first.revision.checked_sub(1) == Some(since.revision),
            None => now.revision == since.revision,
        };
        if !reached || now.epoch != since.epoch {
            return Self::Gone { now };
        }
        read.truncate(limit as usize);
        Self::Since(read)
    }
}

/// The change feed: what happened in the store, in the order in which it was committed.
///
/// Revisions have no gaps and are in the order of commits: the counter is a row of the database,
/// and writing it is the last thing that a transaction does before it commits.
#[async_trait]
pub trait Feed: Send + Sync {
    /// Whether other processes may write to the same database. Then [`Feed::known`] lags behind
    /// [`Feed::committed`], and whoever follows the feed has to ask now and then.
    fn is_shared(&self) -> bool;

    /// How often to ask a shared store how far it has come. A store that is told of what others
    /// commit needs less.
    fn poll_interval(&self) -> Duration {
        Duration::from_millis(250)
    }

    /// The newest place that this process knows of, without asking the database. What this
    /// process committed itself is in it when the call that did so returns.
    fn known(&self) -> FeedPosition;

    /// [`Feed::known`], now and whenever it changes. A value appears after its transaction is
    /// durable, and is readable at once.
    fn subscribe(&self) -> watch::Receiver<FeedPosition>;

    /// The newest place that the database knows of: everything that anybody committed before
    /// this call is in it. A store that nobody shares answers from memory.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn committed(&self) -> Result<FeedPosition, StoreError>;

    /// The changes after `position`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn changes_since(
        &self,
        position: &FeedPosition,
        limit: u32,
    ) -> Result<Changes, StoreError>;

    /// Drops what the feed keeps no longer (see [`crate::StoreOptions`]); the newest change
    /// always stays. Returns how many rows were dropped.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be written.
    async fn prune_changes(&self, now: UnixTime) -> Result<u64, StoreError>;
}
