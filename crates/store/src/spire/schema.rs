//! What reading and writing share about SPIRE's tables.

use std::path::Path;

use super::{SpireError, wire::Malformed};
use crate::sqlite::fault::{Code, Fault};

/// SPIRE's tables, empty.
pub(super) const TABLES: &str = include_str!("../../migrations/spire/25.sql");

/// A time column as Unix seconds, rounded down: SPIRE writes `2006-01-02 15:04:05.9+00:00`, with
/// any number of fraction digits or none. (SQLite's own reading rounds them to milliseconds.)
pub(super) fn seconds(column: &str) -> String {
    format!("CAST(unixepoch(substr({column}, 1, 19) || substr({column}, -6)) AS INTEGER)")
}

/// The same, rounded to the nearest second, as SPIRE does with the creation times of entries.
pub(super) fn rounded_seconds(column: &str) -> String {
    format!(
        "{} + (substr({column}, 20, 1) = '.' AND substr({column}, 21, 1) >= '5')",
        seconds(column)
    )
}

/// What happened, with the file's name.
pub(super) fn named(path: &Path, fault: Fault) -> SpireError {
    let path = path.to_owned();
    match fault {
        Fault::Corrupt(why) => SpireError::Corrupt { path, why },
        Fault::NotEmpty => SpireError::Sqlite {
            path,
            source: sqlx::Error::Io(std::io::ErrorKind::AlreadyExists.into()),
        },
        // Those of our stores do not happen here.
        Fault::Closed | Fault::Moved | Fault::TakenOver => {
            SpireError::Sqlite { path, source: sqlx::Error::PoolClosed }
        }
        Fault::Sqlx(source) if Code::of(&source) == Some(Code::Corrupt) => {
            SpireError::Corrupt { path, why: source.to_string() }
        }
        Fault::Sqlx(source) => SpireError::Sqlite { path, source },
    }
}

pub(super) fn damaged(what: &str) -> impl Fn(Malformed) -> Fault + '_ {
    move |error| Fault::corrupt(what, error)
}
