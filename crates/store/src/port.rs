//! What the server asks of a registration store.
//!
//! One trait for each noun, and [`DataStore`], which is all of them. They are dyn-compatible:
//! the server holds a [`crate::Store`], which is one of them behind a pointer. What a store
//! promises is written at the methods and checked by `signet_store::conformance`, which every
//! store runs in its own tests.
//!
//! What holds for all of them:
//!
//! - A method that writes is one transaction. When it answers, the transaction is durable; when
//!   it fails, nothing was changed.
//! - A transaction may be tried several times (a lock, a serialization failure), so the closures
//!   given to it are `Fn`: they may be called more than once, on what is stored then, and must
//!   not have effects of their own.
//! - Every change writes a row of the change feed in the same transaction: see [`Feed`].
//! - A store knows no clock: times are Unix seconds that the caller gives.

mod bundles;
mod copying;
mod entries;
mod federations;
mod feed;
mod nodes;
mod operation;
mod servers;
mod tenants;
mod tokens;

use std::fmt;

use async_trait::async_trait;
use signet_identity::{
    AttestedNode, Bundle, Entry, FederationRelationship, JoinToken, tenant::Assignment,
};
use signet_time::UnixTime;

pub use bundles::{BundleChange, BundleUpdate, Bundles, DeleteBundleMode, DeleteBundleOutcome};
pub use copying::{Copying, Difference, HeldWriters, Reached, Record, RecordKind, Row};
pub use entries::{
    CreateEntryOutcome, Entries, EntryChange, EntryFilter, EntryUpdate, NewEntry,
    UpdateEntryOutcome,
};
pub use federations::{FederationChange, FederationUpdate, Federations};
pub use feed::{Change, ChangeKind, ChangedTo, Changes, Feed, FeedPosition};
pub use nodes::{NodeChange, NodeFilter, Nodes};
pub use operation::{Observer, Operation};
pub use servers::{ServerRecord, Servers};
pub use tenants::Tenants;
pub use tokens::{JoinTokens, TokenAttestation};

use crate::StoreError;

/// A registration store.
#[async_trait]
pub trait DataStore:
    Bundles
    + Copying
    + Entries
    + Federations
    + Feed
    + JoinTokens
    + Journals
    + Nodes
    + Servers
    + Tenants
    + fmt::Debug
{
    /// Whether the database answers a read.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Waits for the running transaction and closes every connection. Later calls fail with
    /// [`StoreError::Closed`].
    async fn close(&self);

    /// Reads everything. Lists of entries and nodes in order of creation.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn export(&self) -> Result<Contents, StoreError>;

    /// Adds everything to an empty store in one transaction, as it is: IDs, revision numbers,
    /// times and sequence numbers are kept, and nothing is checked.
    ///
    /// # Errors
    /// [`StoreError`], also when the store is not empty; then nothing was added.
    async fn import(&self, contents: &Contents, now: UnixTime) -> Result<(), StoreError>;
}

/// CA journals: opaque bytes to the store, one for each server.
#[async_trait]
pub trait Journals: Send + Sync {
    /// The journal of the server named `server` (its own choice; the same at every start).
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn journal(&self, server: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Every journal with the name of its server, by name.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn journals(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError>;

    /// Stores the journal of one server; those of others stay.
    ///
    /// # Errors
    /// [`StoreError`]; then the one before is still there.
    async fn put_journal(&self, server: &str, data: &[u8], now: UnixTime)
    -> Result<(), StoreError>;

    /// Gives the journal of the server `from` to the server `to`, which has none yet. Answers
    /// whether it did; otherwise (no journal to give, or one already there) nothing was changed.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn rename_journal(&self, from: &str, to: &str, now: UnixTime)
    -> Result<bool, StoreError>;
}

/// What came of creating something that may exist already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateOutcome<T> {
    /// It was stored.
    Created(T),
    /// One with the same key is there; nothing was changed.
    Exists,
}

/// The whole registration data of a trust domain, but for the CA journals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Registration entries.
    pub entries: Vec<Entry>,
    /// Bundles, the own one included.
    pub bundles: Vec<Bundle>,
    /// Attested nodes.
    pub nodes: Vec<AttestedNode>,
    /// Federation relationships.
    pub federations: Vec<FederationRelationship>,
    /// Join tokens.
    pub join_tokens: Vec<JoinToken>,
    /// What is said about tenants, in no particular order.
    pub assignments: Vec<Assignment>,
}
