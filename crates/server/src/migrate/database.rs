//! Where a database is: a file, or a PostgreSQL server.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use signet_store::{
    CopyRole, OpenError, Store, StoreOptions,
    postgres::{ConnectionString, PostgresOptions, ThisProcess},
    spire::{self, SpireContents},
};
use signet_time::UnixTime;

use super::MigrateError;
use crate::{config::Config, plugins::data_store::DataStore};

/// How a store is opened that is to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// An SQLite file is this process's alone.
    Alone,
    /// A server goes on using it, and its schema is left as it is.
    Beside,
}

/// How long a part of a copy may wait for the database.
const PATIENCE: Duration = Duration::from_secs(60);

fn for_copying(options: &PostgresOptions, role: CopyRole) -> PostgresOptions {
    let mut options = options.clone();
    options.copying = Some(role);
    options.patience = PATIENCE;
    options
}

/// A database.
#[derive(Clone, Debug)]
pub(super) enum Database {
    File(PathBuf),
    Postgres(Box<PostgresOptions>),
}

impl Database {
    /// What a flag names: a connection string of PostgreSQL, or a file.
    pub(super) fn parse(flag: &str, text: &str) -> Result<Self, MigrateError> {
        let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
        let is_pairs = text.contains('=') && !Path::new(text).exists();
        if !is_url && !is_pairs {
            return Ok(Self::File(text.into()));
        }
        match ConnectionString::parse(text, &ThisProcess) {
            Ok(database) => Ok(Self::Postgres(Box::new(PostgresOptions::new(database)))),
            Err(error) => Err(MigrateError::Usage(format!("-{flag}: {error}"))),
        }
    }

    /// What the configuration names.
    pub(super) fn configured(config: &Config) -> Result<Self, MigrateError> {
        match &config.plugins.data_store.settings {
            DataStore::Postgres(postgres) => Ok(Self::Postgres(Box::new(postgres.options()))),
            DataStore::Sqlite(sqlite) => match &sqlite.path {
                Some(path) => Ok(Self::File(path.clone())),
                None => Err(MigrateError::Usage(format!(
                    "connection_string in {} names a database in memory, which ends with the \
                     program",
                    config.file.display()
                ))),
            },
        }
    }

    /// For reports and messages.
    pub(super) fn name(&self) -> PathBuf {
        self.to_string().into()
    }

    /// The file, if it is one.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }

    /// Opens a store of ours that is to be copied.
    pub(super) async fn open_source(&self, access: Access) -> Result<Store, OpenError> {
        let is_alone = access == Access::Alone;
        match self {
            Self::File(path) => {
                let mut options = StoreOptions::file(path);
                options.copying = Some(CopyRole::Source);
                options.exclusive = is_alone;
                options.disable_migration = !is_alone;
                Store::open(options).await
            }
            Self::Postgres(options) => {
                let mut options = for_copying(options, CopyRole::Source);
                options.disable_migration = !is_alone;
                Store::open_postgres(options).await
            }
        }
    }

    /// Opens a store of ours that is to be filled, and makes it where there is none.
    pub(super) async fn open_target(&self) -> Result<Store, OpenError> {
        match self {
            Self::File(path) => {
                let mut options = StoreOptions::file(path);
                options.copying = Some(CopyRole::Target);
                options.exclusive = true;
                Store::open(options).await
            }
            Self::Postgres(options) => {
                let mut options = for_copying(options, CopyRole::Target);
                // SPIRE's tables stay beside ours.
                options.beside_spire = true;
                Store::open_postgres(options).await
            }
        }
    }

    /// Opens one of our stores, and makes it where there is none.
    pub(super) async fn open(&self) -> Result<Store, MigrateError> {
        Ok(match self {
            Self::File(path) => Store::open(StoreOptions::file(path)).await?,
            Self::Postgres(options) => {
                let mut options = PostgresOptions::clone(options);
                // SPIRE's tables stay beside ours.
                options.beside_spire = true;
                // A transaction may hold a million rows.
                options.patience = Duration::from_secs(1800);
                Store::open_postgres(options).await?
            }
        })
    }

    /// Reads SPIRE's database there.
    pub(super) async fn read_spire(&self) -> Result<SpireContents, MigrateError> {
        Ok(match self {
            Self::File(path) => spire::read(path).await?,
            Self::Postgres(options) => spire::read_postgres(options.database()).await?,
        })
    }

    /// Makes a database of SPIRE's there.
    pub(super) async fn write_spire(
        &self,
        contents: &SpireContents,
        now: UnixTime,
    ) -> Result<(), MigrateError> {
        match self {
            Self::File(path) => spire::write(path, contents, now).await?,
            Self::Postgres(options) => {
                spire::write_postgres(options.database(), contents, now).await?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Postgres(options) => write!(f, "{}", options.database()),
        }
    }
}
