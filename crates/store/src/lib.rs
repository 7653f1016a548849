//! The registration store: SQLite, migrations, change feed.
//!
//! [`Store`] is a cheap handle. All writing goes through one connection, one transaction per
//! call; a call returns when its transaction is on disk (`synchronous=FULL`). Every change also
//! writes a row of the change feed in the same transaction, with a gap-free revision number:
//! see [`Store::subscribe`] and [`Store::changes_since`].
//!
//! The store knows no clock: times are Unix seconds that the caller gives.

mod bundles;
mod changes;
mod contents;
mod entries;
mod error;
mod fault;
mod federation;
mod journal;
mod json;
mod listing;
mod nodes;
mod open;
mod options;
mod page;
pub mod spire;
mod sql;
mod store;
mod terms;
mod tokens;

pub use bundles::{BundleUpdate, DeleteBundleMode, DeleteBundleOutcome};
pub use changes::{Change, ChangeKind, ChangedTo, Changes};
pub use contents::Contents;
pub use entries::{
    CreateEntryOutcome, EntryChange, EntryFilter, EntryUpdate, NewEntry, UpdateEntryOutcome,
};
pub use error::{OpenError, StoreError};
pub use federation::FederationUpdate;
pub use nodes::NodeFilter;
pub use options::StoreOptions;
pub use page::{Page, PageRequest};
pub use store::Store;
pub use tokens::TokenAttestation;

/// What came of creating something that may exist already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateOutcome<T> {
    /// It was stored.
    Created(T),
    /// One with the same key is there; nothing was changed.
    Exists,
}
