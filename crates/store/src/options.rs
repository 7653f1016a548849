//! Where the database is and how it is opened.

use std::{path::PathBuf, time::Duration};

use crate::OpenError;

/// How to open a [`crate::Store`].
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub(crate) location: Location,
    /// How many connections read beside the writer.
    pub readers: u32,
    /// How long to wait for a lock that another process holds.
    pub busy_timeout: Duration,
    /// The change feed keeps at least what is younger than this (seconds)…
    pub changes_max_age: i64,
    /// …but never more rows than this.
    pub changes_max_rows: u64,
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

    /// Reads SPIRE's `connection_string` for `sqlite3`: a path, `:memory:`, or a `file:` URI
    /// whose parameters (`cache`, `mode`, `_…`) are ignored but for `mode=memory`.
    ///
    /// # Errors
    /// [`OpenError::ConnectionString`] when it names no file.
    pub fn from_connection_string(text: &str) -> Result<Self, OpenError> {
        let (path, query) = match text.strip_prefix("file:") {
            Some(rest) => {
                let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
                let path = path.strip_prefix("//localhost").unwrap_or(path);
                (path.strip_prefix("//").unwrap_or(path), query)
            }
            None => text.split_once('?').unwrap_or((text, "")),
        };
        if path == ":memory:" || query.split('&').any(|pair| pair == "mode=memory") {
            return Ok(Self::memory());
        }
        if path.is_empty() {
            return Err(OpenError::ConnectionString(text.to_owned()));
        }
        Ok(Self::file(path))
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
            changes_max_age: 24 * 60 * 60,
            changes_max_rows: 200_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_of_connection_string() {
        let path = |text: &str| {
            let options = StoreOptions::from_connection_string(text).unwrap();
            options.path().map(|path| path.to_str().unwrap().to_owned())
        };
        for (text, expected) in [
            ("./data/db.sqlite3", Some("./data/db.sqlite3")),
            ("/var/lib/db?_busy_timeout=1", Some("/var/lib/db")),
            ("file:db.sqlite3?cache=shared", Some("db.sqlite3")),
            ("file:///var/db", Some("/var/db")),
            ("file://localhost/var/db", Some("/var/db")),
            (":memory:", None),
            ("file::memory:?cache=shared", None),
            ("file:x?mode=memory", None),
        ] {
            assert_eq!(path(text).as_deref(), expected, "{text}");
        }
        assert!(StoreOptions::from_connection_string("").is_err());
        assert!(StoreOptions::from_connection_string("file:?a=b").is_err());
    }
}
