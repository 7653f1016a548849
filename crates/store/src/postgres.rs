//! The store in a PostgreSQL database, or in one that speaks its protocol.
//!
//! Several servers may share the database. How their transactions keep out of each other's way is
//! in [`tx`], how they learn of each other's changes in [`feed`] and [`listen`], and what is tried
//! again in [`fault`].

mod bundles;
mod connect;
mod contents;
mod dsn;
mod entries;
mod fault;
mod federation;
mod feed;
mod journal;
mod listen;
mod listing;
mod nodes;
mod options;
mod pool;
mod schema;
mod servers;
mod socket;
mod sql;
mod store;
mod tls;
mod tokens;
mod tx;

pub use connect::Passwords;
pub use dsn::{ConnectionString, ConnectionStringError, Surroundings, ThisProcess};
pub use options::PostgresOptions;
pub use pool::PoolSize;
pub(crate) use store::PostgresStore;

/// An array as a text: there is no array of arrays of different lengths.
fn array(numbers: &[i64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}
