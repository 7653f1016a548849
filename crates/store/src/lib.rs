//! The registration store: SQLite, migrations, change feed.
//!
//! [`Store`] is a cheap handle. All writing goes through one connection, one transaction per
//! call; a call returns when its transaction is on disk (`synchronous=FULL`). Every change also
//! writes a row of the change feed in the same transaction, with a gap-free revision number:
//! see [`Store::subscribe`] and [`Store::changes_since`].
//!
//! The store knows no clock: times are Unix seconds that the caller gives.

mod changes;
mod error;
mod options;
mod page;
pub mod spire;
mod sqlite;

pub use changes::{Change, ChangeKind, ChangedTo, Changes};
pub use error::{OpenError, StoreError};
pub use options::StoreOptions;
pub use page::{Page, PageRequest};
pub use sqlite::{
    BundleUpdate, Contents, CreateEntryOutcome, DeleteBundleMode, DeleteBundleOutcome, EntryChange,
    EntryFilter, EntryUpdate, FederationUpdate, NewEntry, NodeFilter, Store, TokenAttestation,
    UpdateEntryOutcome,
};

/// What came of creating something that may exist already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateOutcome<T> {
    /// It was stored.
    Created(T),
    /// One with the same key is there; nothing was changed.
    Exists,
}
