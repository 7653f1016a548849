//! Errors on their way out: what went wrong, before it is said what was being done.

use crate::StoreError;

/// What went wrong within an operation.
#[derive(Debug)]
pub(crate) enum Fault {
    Closed,
    Corrupt(String),
    /// The store was copied elsewhere and closed.
    Moved,
    /// Something was to be filled that is filled already.
    NotEmpty,
    Sqlx(sqlx::Error),
    /// Another process goes on with the copy.
    TakenOver,
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Self::Closed,
            error => Self::Sqlx(error),
        }
    }
}

impl Fault {
    pub(crate) fn corrupt(what: &str, why: impl std::fmt::Display) -> Self {
        Self::Corrupt(format!("{what}: {why}"))
    }

    /// Whether a row was refused because `column` (with its table's name) must be unique.
    pub(crate) fn is_duplicate(&self, column: &str) -> bool {
        let Self::Sqlx(error) = self else { return false };
        error
            .as_database_error()
            .is_some_and(|error| error.is_unique_violation() && error.message().ends_with(column))
    }

    /// Whether the same transaction may succeed a moment later: somebody holds a lock, or has
    /// changed what was read. SQLite's own busy timeout covers the first lock of a transaction
    /// only, and not every kind of lock.
    pub(crate) fn is_transient(&self) -> bool {
        let Self::Sqlx(error) = self else { return false };
        matches!(Code::of(error), Some(Code::Busy | Code::Retry))
    }

    pub(crate) fn while_doing(self, doing: &'static str) -> StoreError {
        let source = match self {
            Self::Closed => return StoreError::Closed { doing },
            Self::Corrupt(why) => return StoreError::Corrupt { doing, why },
            Self::Moved => return StoreError::moved(doing),
            Self::NotEmpty => return StoreError::NotEmpty { doing },
            Self::TakenOver => return StoreError::TakenOver { doing },
            Self::Sqlx(source) => source,
        };
        match Code::of(&source) {
            Some(Code::Busy) => StoreError::Busy { doing },
            Some(Code::Corrupt) => StoreError::Corrupt { doing, why: source.to_string() },
            Some(Code::Full) => StoreError::Full { doing },
            Some(Code::ReadOnly) => StoreError::ReadOnly { doing },
            Some(Code::Retry | Code::TooBig) | None => {
                StoreError::Database { doing, source: Box::new(source) }
            }
        }
    }
}

/// The SQLite result codes that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Busy,
    Corrupt,
    Full,
    ReadOnly,
    /// Not of any use to a caller, but to a second try.
    Retry,
    /// A value longer than SQLite takes.
    TooBig,
}

impl Code {
    pub(crate) fn of(error: &sqlx::Error) -> Option<Self> {
        let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
        match (code & 0xff, code) {
            (5 | 6, _) => Some(Self::Busy),
            (8, _) => Some(Self::ReadOnly),
            // Writing or growing a file (also the shared memory of the log) with no room left.
            (13, _) | (_, 778 | 4618 | 4874) => Some(Self::Full),
            (11 | 26, _) => Some(Self::Corrupt),
            // SQLITE_PROTOCOL and SQLITE_SCHEMA: lost a race for the log, or with a migration.
            (18, _) => Some(Self::TooBig),
            (15 | 17, _) => Some(Self::Retry),
            _ => None,
        }
    }
}
