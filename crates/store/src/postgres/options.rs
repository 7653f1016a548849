//! Where the database is and how it is used.

use std::{sync::Arc, time::Duration};

use super::{connect::Passwords, dsn::ConnectionString, pool::PoolSize};
use crate::{CopyRole, Observer};

/// How to open a store on PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    pub(crate) database: ConnectionString,
    /// A replica for the reading of everything, which may lag behind.
    pub replica: Option<ConnectionString>,
    /// Where to listen for what others commit, when a pooler stands before the database: LISTEN
    /// needs a session of its own.
    pub listen: Option<ConnectionString>,
    /// Passwords that are made anew for each connection.
    pub passwords: Option<Arc<dyn Passwords>>,
    /// How many connections.
    pub pool: PoolSize,
    /// Make our tables also in a database that has SPIRE's and not ours yet.
    pub beside_spire: bool,
    /// As [`crate::StoreOptions::copying`].
    pub copying: Option<CopyRole>,
    /// Refuse a schema that is not up to date instead of migrating it.
    pub disable_migration: bool,
    /// As [`crate::StoreOptions::unknown_bundles`].
    pub unknown_bundles: bool,
    /// How long an operation is tried before it fails, all its tries together.
    pub patience: Duration,
    /// As [`crate::StoreOptions::changes_max_age`].
    pub changes_max_age: i64,
    /// As [`crate::StoreOptions::changes_max_rows`].
    pub changes_max_rows: u64,
    /// Is told of every operation.
    pub observer: Option<Arc<dyn Observer>>,
}

impl PostgresOptions {
    /// The database.
    pub fn database(&self) -> &ConnectionString {
        &self.database
    }

    /// A database, with the defaults of SPIRE.
    pub fn new(database: ConnectionString) -> Self {
        Self {
            database,
            replica: None,
            listen: None,
            passwords: None,
            pool: PoolSize::default(),
            beside_spire: false,
            copying: None,
            disable_migration: false,
            unknown_bundles: false,
            patience: Duration::from_secs(10),
            changes_max_age: 24 * 60 * 60,
            changes_max_rows: 200_000,
            observer: None,
        }
    }
}
