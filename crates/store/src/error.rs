//! What can go wrong.

use std::path::PathBuf;

/// Why a store cannot be opened. Nothing was changed in the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file is damaged, or no SQLite database at all.
    #[error(
        "the database {path} is damaged or not an SQLite database ({why}): \
         restore it from a backup, or move it away to start with an empty one"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        why: String,
    },
    /// The file holds tables of some other program.
    #[error("the database {path} belongs to another program (it has a table \"{table}\")")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// A table that is not ours.
        table: String,
    },
    /// Another server uses the file.
    #[error("the database {path} is in use by another server")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The store was copied elsewhere, and closed then.
    #[error(
        "the database {path} was copied to {moved_to} and takes no more changes: name the new one in \
         the configuration. To use this one all the same, and lose what the new one got since, run \
         `signet-server migrate -reopen` with a configuration that names this one"
    )]
    Moved {
        /// The file, or host and name.
        path: PathBuf,
        /// Where it was copied to.
        moved_to: String,
    },
    /// A newer version of this program wrote the file.
    #[error(
        "the database {path} has schema version {found}, newer than {known}, the newest that \
         this version knows: run the version that wrote it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: i64,
        /// The newest version known.
        known: i64,
    },
    /// An older version of this program wrote the file, and migrations are disabled.
    #[error(
        "the database {path} has schema version {found}, this version needs {known}, and \
         disable_migration forbids to migrate it"
    )]
    Outdated {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: i64,
        /// The version needed.
        known: i64,
    },
    /// The file is SPIRE's own database.
    #[error(
        "the database {path} is SPIRE's: it was left untouched. Import it with \
         `signet-server migrate -from-spire {path}` and name another file in connection_string"
    )]
    Spire {
        /// The file.
        path: PathBuf,
    },
    /// A copy of another store that is not complete.
    #[error(
        "the database {path} is an unfinished copy of {source_name}: run `signet-server migrate \
         -from-store` with that one again, which goes on where it stopped"
    )]
    Unfinished {
        /// The file, or host and name.
        path: PathBuf,
        /// What is being copied.
        source_name: String,
    },
    /// A PostgreSQL database cannot be used.
    #[error("opening the database {database}: {why}")]
    Postgres {
        /// Host and name.
        database: String,
        /// What is wrong.
        why: String,
    },
    /// The database holds SPIRE's tables and none of ours.
    #[error(
        "the database {database} is SPIRE's: it was left untouched. Import it with \
         `signet-server migrate -from-spire` first, which leaves SPIRE's tables as they are"
    )]
    SpirePostgres {
        /// Host and name.
        database: String,
    },
    /// Anything else that SQLite reports.
    #[error("opening the database {path}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: sqlx::Error,
    },
}

/// Why an operation failed. A failed call changed nothing: its transaction was rolled back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process held the database longer than the busy timeout. The call may be repeated.
    #[error("{doing}: the database is locked by another process")]
    Busy {
        /// What was being done.
        doing: &'static str,
    },
    /// The store was closed.
    #[error("{doing}: the store is closed")]
    Closed {
        /// What was being done.
        doing: &'static str,
    },
    /// A stored value breaks a rule, or the file is damaged.
    #[error("{doing}: the database is damaged: {why}")]
    Corrupt {
        /// What was being done.
        doing: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The disk is full. Nothing was lost; the call may be repeated.
    #[error("{doing}: the disk of the database is full; nothing was changed")]
    Full {
        /// What was being done.
        doing: &'static str,
    },
    /// The store was to be filled, and is not empty. Nothing was changed.
    #[error("{doing}: the store is not empty")]
    NotEmpty {
        /// What was being done.
        doing: &'static str,
    },
    /// The file or its directory cannot be written.
    #[error("{doing}: the database is read-only; nothing was changed")]
    ReadOnly {
        /// What was being done.
        doing: &'static str,
    },
    /// Another process goes on with the copy that this one was making.
    #[error("{doing}: another process has taken over")]
    TakenOver {
        /// What was being done.
        doing: &'static str,
    },
    /// The database cannot be reached, or does not answer in time. The call may be repeated; if it
    /// was one that writes, what it wrote is not stored, unless `why` says that this is unknown.
    #[error("{doing}: the database is not available: {why}")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What happened.
        why: String,
    },
    /// Anything else that the database reports.
    #[error("{doing}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What the database said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// The store was copied elsewhere and closed. Whoever asks may ask another server.
    pub(crate) fn moved(doing: &'static str) -> Self {
        let why = "it was copied to another one and takes no more changes: the server's \
                   configuration must name the new one";
        Self::Unavailable { doing, why: why.to_owned() }
    }
}
