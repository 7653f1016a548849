//! Where the database is and how it is opened.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{Observer, OpenError};

/// How to open a [`crate::Store`].
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub(crate) location: Location,
    /// How many connections read beside the writer.
    pub readers: u32,
    /// How long a transaction waits for a lock that another process holds, all its tries
    /// together.
    pub busy_timeout: Duration,
    /// Refuse to share the file with another store that is exclusive too, in this process or
    /// another. An exclusive store takes it that nobody else writes: it answers from memory how
    /// far the change feed has come, which costs nothing.
    pub exclusive: bool,
    /// Open also what no server may use, to copy it or into it ([`crate::copying`]).
    pub copying: Option<CopyRole>,
    /// Refuse a schema that is not up to date instead of migrating it.
    pub disable_migration: bool,
    /// Take entries that federate with a trust domain whose bundle is not stored (yet), instead of
    /// answering with `UnknownBundle`.
    pub unknown_bundles: bool,
    /// The change feed keeps at least what is younger than this (seconds)…
    pub changes_max_age: i64,
    /// …but never more rows than this.
    pub changes_max_rows: u64,
    /// Is told of every operation.
    pub observer: Option<Arc<dyn Observer>>,
}

/// What a store that is opened is to a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyRole {
    /// It is copied, perhaps once more after it was closed; it is no unfinished copy.
    Source,
    /// It is filled, perhaps since an earlier process; it was not copied elsewhere.
    Target,
}

/// Whether a store may be used in this role (`None`: by a server), which is an unfinished copy of
/// `source`, or was copied to `moved_to` (empty if it was not).
pub(crate) fn judge_copy(
    role: Option<CopyRole>,
    path: PathBuf,
    source: Option<String>,
    moved_to: String,
) -> Result<(), OpenError> {
    match source {
        Some(source_name) if role != Some(CopyRole::Target) => {
            return Err(OpenError::Unfinished { path, source_name });
        }
        _ => {}
    }
    if moved_to.is_empty() || role == Some(CopyRole::Source) {
        return Ok(());
    }
    Err(OpenError::Moved { path, moved_to })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    File(PathBuf),
    Memory,
}

impl StoreOptions {
    /// A database file; created when it is not there (its directory must be).
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::at(Location::File(path.into()))
    }

    /// A database in memory that dies with the store: for tests and demonstrations.
    pub fn memory() -> Self {
        Self::at(Location::Memory)
    }

    /// The database file, unless it is in memory.
    pub fn path(&self) -> Option<&std::path::Path> {
        match &self.location {
            Location::File(path) => Some(path),
            Location::Memory => None,
        }
    }

    fn at(location: Location) -> Self {
        Self {
            location,
            readers: 3,
            busy_timeout: Duration::from_secs(5),
            exclusive: false,
            copying: None,
            disable_migration: false,
            unknown_bundles: false,
            changes_max_age: 24 * 60 * 60,
            changes_max_rows: 200_000,
            observer: None,
        }
    }
}
