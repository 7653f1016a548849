//! Copying a store into another one, row by row: what [`crate::copying`] asks of both.

use async_trait::async_trait;
use signet_identity::{
    AttestedNode, Bundle, Entry, FederationRelationship, JoinToken, tenant::Assignment,
};

use crate::{ServerRecord, StoreError};

/// What a [`Record`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Registration entries.
    Entries,
    /// Attested nodes.
    Nodes,
    /// Trust bundles.
    Bundles,
    /// Federation relationships.
    Federations,
    /// Join tokens.
    JoinTokens,
    /// What is said about tenants.
    Assignments,
    /// CA journals.
    Journals,
    /// Servers.
    Servers,
}

impl RecordKind {
    /// Every kind, in the order in which they are copied: last what an agent that comes late may
    /// have needed a moment ago.
    pub const ALL: [Self; 8] = [
        Self::Bundles,
        Self::Federations,
        Self::Assignments,
        Self::Entries,
        Self::Nodes,
        Self::JoinTokens,
        Self::Journals,
        Self::Servers,
    ];

    /// For people and for progress that is kept, for example `join tokens`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Entries => "registration entries",
            Self::Nodes => "attested agents",
            Self::Bundles => "trust bundles",
            Self::Federations => "federation relationships",
            Self::JoinTokens => "join tokens",
            Self::Assignments => "tenant assignments",
            Self::Journals => "CA journals",
            Self::Servers => "servers",
        }
    }

    /// Whether there may be so many that they are copied some at a time, with their row IDs. The
    /// others are few, and are written all together.
    pub(crate) fn is_numbered(self) -> bool {
        matches!(self, Self::Entries | Self::Nodes)
    }
}

/// Something stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A registration entry.
    Entry(Entry),
    /// An attested node.
    Node(AttestedNode),
    /// A trust bundle.
    Bundle(Bundle),
    /// A federation relationship.
    Federation(FederationRelationship),
    /// A join token.
    JoinToken(JoinToken),
    /// What is said about one thing and tenants.
    Assignment(Assignment),
    /// The CA journal of a server.
    Journal {
        /// The server's ID.
        server: String,
        /// What the store does not look into.
        data: Vec<u8>,
    },
    /// A server.
    Server(ServerRecord),
}

/// A row: its ID, where the kind has one that lists are ordered by (else its place in the list),
/// and what it holds.
pub type Row = (i64, Record);

/// What a part of the target lacks to be as the source is.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What kind of rows.
    pub kind: RecordKind,
    /// Entries and nodes: rows to delete, as they are. Others: all rows there are.
    pub gone: Vec<Row>,
    /// Entries and nodes: rows to write, with these row IDs. Others: all rows there shall be.
    pub new: Vec<Row>,
    /// How far the first pass has come with it, if this is the first pass: the last row ID.
    pub reached: Option<i64>,
}

/// Where a copy goes on: the kind and the last row ID that the first pass has written.
pub type Reached = Option<(RecordKind, i64)>;

/// Copying.
#[async_trait]
pub trait Copying: Send + Sync {
    /// Entries or nodes with row IDs after `after` and up to `last`, at most `limit`, by row ID.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn numbered(
        &self,
        kind: RecordKind,
        after: i64,
        last: i64,
        limit: u32,
    ) -> Result<Vec<Row>, StoreError>;

    /// Marks the store as being filled from `source` (for people) by the process `run`, from now on
    /// the only one that may. Answers how far an earlier process came; `None` when there was none,
    /// or when it had not come far.
    ///
    /// # Errors
    /// [`StoreError`], also when the store holds anything and is not marked.
    async fn begin_copy(&self, source: &str, run: &str) -> Result<Reached, StoreError>;

    /// Writes a difference, in one transaction.
    ///
    /// # Errors
    /// [`StoreError`], also when another process than `run` fills the store by now.
    async fn put_difference(&self, run: &str, difference: &Difference) -> Result<(), StoreError>;

    /// The copy is complete: servers may use the store. Its change feed gets a new history.
    ///
    /// # Errors
    /// [`StoreError`], also when another process than `run` fills the store by now.
    async fn end_copy(&self, run: &str) -> Result<(), StoreError>;

    /// Keeps everybody from committing a change until what is returned is dropped: they wait.
    ///
    /// # Errors
    /// [`StoreError`] when the lock cannot be had.
    async fn hold_writers(&self) -> Result<Box<dyn HeldWriters>, StoreError>;

    /// Lets servers use a store again that was closed by [`HeldWriters::close_store`]. Answers
    /// whether it was.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn reopen(&self) -> Result<bool, StoreError>;
}

/// Nobody commits a change to a store. Dropped, they go on.
#[async_trait]
pub trait HeldWriters: Send + Sync {
    /// Closes the store for good: no change is committed any more, whoever wants to and waited, and
    /// no server opens it. `moved_to` says where it was copied to, for people.
    ///
    /// # Errors
    /// [`StoreError`], also when the lock was lost meanwhile; whether the store was closed is to be
    /// seen then.
    async fn close_store(self: Box<Self>, moved_to: &str) -> Result<(), StoreError>;
}
