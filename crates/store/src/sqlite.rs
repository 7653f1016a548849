//! The store in an SQLite file.

mod bundles;
mod contents;
mod copying;
mod entries;
pub(crate) mod fault;
mod federation;
pub(crate) mod feed;
mod index;
mod journal;
pub(crate) mod json;
mod listing;
mod nodes;
pub(crate) mod open;
pub(crate) mod position;
mod servers;
pub(crate) mod sql;
mod store;
pub(crate) mod tenants;
mod terms;
mod tokens;
mod tx;

pub(crate) use store::SqliteStore;
