//! The store in an SQLite file.

mod bundles;
mod contents;
mod entries;
pub(crate) mod fault;
mod federation;
mod journal;
mod json;
mod listing;
mod nodes;
pub(crate) mod open;
pub(crate) mod sql;
pub(crate) mod store;
mod terms;
mod tokens;

pub use bundles::{BundleUpdate, DeleteBundleMode, DeleteBundleOutcome};
pub use contents::Contents;
pub use entries::{
    CreateEntryOutcome, EntryChange, EntryFilter, EntryUpdate, NewEntry, UpdateEntryOutcome,
};
pub use federation::FederationUpdate;
pub use nodes::NodeFilter;
pub use store::Store;
pub use tokens::TokenAttestation;
