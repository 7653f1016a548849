//! The registration store: a port, and SQLite behind it.
//!
//! [`Store`] is a cheap handle on a [`DataStore`]. A call that writes is one transaction and
//! returns when that is durable. Every change also writes a row of the change feed in the same
//! transaction, with a gap-free revision number: see [`Feed`].
//!
//! The store knows no clock: times are Unix seconds that the caller gives.

pub mod backup;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod copying;
mod error;
mod flags;
mod options;
mod page;
mod port;
pub mod postgres;
mod recent;
pub mod spire;
mod sqlite;
mod store;
mod terms;

pub use error::{OpenError, StoreError};
pub use options::{CopyRole, StoreOptions};
pub use page::{Page, PageRequest};
pub use port::{
    BundleChange, BundleUpdate, Bundles, Change, ChangeKind, ChangedTo, Changes, Contents, Copying,
    CreateEntryOutcome, CreateOutcome, DataStore, DeleteBundleMode, DeleteBundleOutcome,
    Difference, Entries, EntryChange, EntryFilter, EntryUpdate, FederationChange, FederationUpdate,
    Federations, Feed, FeedPosition, HeldWriters, JoinTokens, Journals, NewEntry, NodeChange,
    NodeFilter, Nodes, Observer, Operation, Reached, Record, RecordKind, Row, ServerRecord,
    Servers, Tenants, TokenAttestation, UpdateEntryOutcome,
};
pub use store::Store;
