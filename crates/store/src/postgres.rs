//! The store in a PostgreSQL database, or in one that speaks its protocol.
//!
//! Several servers may share the database. How their transactions keep out of each other's way is
//! in [`tx`], how they learn of each other's changes in [`feed`] and [`listen`], and what is tried
//! again in [`fault`].

mod bundles;
mod connect;
mod contents;
mod copying;
mod dsn;
mod entries;
mod fault;
mod federation;
mod feed;
mod journal;
mod listen;
mod listing;
mod mark;
mod nodes;
mod open;
mod options;
mod pool;
mod replica;
mod scan;
mod schema;
mod servers;
mod socket;
mod sql;
mod store;
mod tenants;
mod tls;
mod tokens;
mod tx;

pub use connect::Passwords;
pub use dsn::{ConnectionString, ConnectionStringError, Environment, ThisProcess};
pub(crate) use fault::Fault;
pub use options::PostgresOptions;
pub use pool::PoolSize;
pub(crate) use sql::{Query, params};
pub(crate) use store::PostgresStore;

/// A connection of its own, to be used until `deadline`.
///
/// # Errors
/// Why there is none.
pub(crate) async fn once(
    to: &ConnectionString,
    deadline: tokio::time::Instant,
) -> Result<Query, String> {
    let connector = connect::Connector::new(to.clone(), None)?;
    let pool = pool::Pool::new(connector, PoolSize { max_open: 1, ..PoolSize::default() });
    match pool.get(deadline).await {
        Ok(conn) => Ok(Query::new(conn, deadline)),
        Err(fault::Fault::Unreachable(why)) => Err(why.to_string()),
        Err(fault) => Err(format!("{fault:?}")),
    }
}

/// An array as a text: there is no array of arrays of different lengths.
fn array(numbers: &[i64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}
