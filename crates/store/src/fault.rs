//! Errors on their way out: what went wrong, before it is said what was being done.

use crate::StoreError;

/// What went wrong within an operation.
#[derive(Debug)]
pub(crate) enum Fault {
    Closed,
    Corrupt(String),
    Sqlx(sqlx::Error),
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

    pub(crate) fn while_doing(self, doing: &'static str) -> StoreError {
        let source = match self {
            Self::Closed => return StoreError::Closed { doing },
            Self::Corrupt(why) => return StoreError::Corrupt { doing, why },
            Self::Sqlx(source) => source,
        };
        match Code::of(&source) {
            Some(Code::Busy) => StoreError::Busy { doing },
            Some(Code::Corrupt) => StoreError::Corrupt { doing, why: source.to_string() },
            Some(Code::Full) => StoreError::Full { doing },
            Some(Code::ReadOnly) => StoreError::ReadOnly { doing },
            None => StoreError::Sqlite { doing, source },
        }
    }
}

/// Runs an operation and names it in its error.
pub(crate) async fn doing<T>(
    what: &'static str,
    operation: impl Future<Output = Result<T, Fault>>,
) -> Result<T, StoreError> {
    operation.await.map_err(|fault| fault.while_doing(what))
}

/// The SQLite result codes that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Busy,
    Corrupt,
    Full,
    ReadOnly,
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
            _ => None,
        }
    }
}
