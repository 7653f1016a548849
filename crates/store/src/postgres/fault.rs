//! Errors on their way out: what went wrong, what helps, and how it is told.

use std::{sync::Arc, time::Duration};

use tokio_postgres::error::SqlState;

use crate::StoreError;

/// How long to wait before the second try, and at most before a later one.
pub(super) const PAUSES: (Duration, Duration) =
    (Duration::from_millis(5), Duration::from_millis(500));

/// What went wrong within an operation.
#[derive(Debug)]
pub(crate) enum Fault {
    Closed,
    Corrupt(String),
    /// The store was copied elsewhere and closed.
    Moved,
    /// Something was to be filled that is filled already.
    NotEmpty,
    /// The database said something, or the connection broke.
    Postgres(tokio_postgres::Error),
    /// There is no connection to be had.
    Unreachable(Arc<str>),
    /// No answer within the deadline.
    Late,
    /// Another process goes on with the copy.
    TakenOver,
    /// The reply to COMMIT was lost, and nobody could be asked what became of it.
    Uncertain,
    /// The reply to COMMIT was lost, and nothing had been stored.
    Undone,
}

/// What helps against a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The transaction again: somebody else was faster, or in the way.
    Again,
    /// The transaction again, on another connection.
    Reconnect,
    /// The same, and no open connection is worth keeping: the server takes no writes any more.
    Everything,
    /// Nothing that a store can do.
    None,
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        // What `mark::ADVANCE` does to a store that was closed.
        let refused = error.as_db_error().is_some_and(|said| {
            *said.code() == SqlState::NOT_NULL_VIOLATION && said.table() == Some("signet_feed")
        });
        if refused { Self::Moved } else { Self::Postgres(error) }
    }
}

impl Fault {
    pub(crate) fn corrupt(what: &str, why: impl std::fmt::Display) -> Self {
        Self::Corrupt(format!("{what}: {why}"))
    }

    pub(crate) fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Postgres(error) => error.code(),
            _ => None,
        }
    }

    /// The table of retries.
    pub(crate) fn remedy(&self) -> Remedy {
        let error = match self {
            Self::Postgres(error) => error,
            Self::Undone => return Remedy::Again,
            Self::Unreachable(_) => return Remedy::Reconnect,
            Self::Closed
            | Self::Corrupt(_)
            | Self::Late
            | Self::Moved
            | Self::NotEmpty
            | Self::TakenOver
            | Self::Uncertain => return Remedy::None,
        };
        let Some(code) = error.code() else {
            // No answer of the server: a broken connection, unless we could not read or write
            // a value.
            return if error.is_closed() || is_io(error) {
                Remedy::Reconnect
            } else {
                Remedy::None
            };
        };
        match code.code() {
            // Serialization failure, deadlock; two that created the same row at once: the second
            // try finds it there.
            "40001" | "40P01" | "23505" => Remedy::Again,
            // A replica, or a primary that has been demoted.
            "25006" => Remedy::Everything,
            // Administrator's shutdown, crash, starting up; outcome unknown; the "unknown" class of
            // CockroachDB. A pooler says 08P01 when its server went away.
            "57P01" | "57P02" | "57P03" | "40003" | "XXUUU" | "53300" => Remedy::Reconnect,
            other if other.starts_with("08") => Remedy::Reconnect,
            _ => Remedy::None,
        }
    }

    /// Whether a transaction that ended so may have been committed all the same.
    pub(crate) fn is_ambiguous_commit(&self) -> bool {
        match self {
            Self::Late => true,
            Self::Postgres(error) => match error.code() {
                None => true,
                Some(code) => {
                    let code = code.code();
                    code.starts_with("08")
                        || matches!(code, "40003" | "57P01" | "57P02" | "57P03" | "XXUUU")
                }
            },
            _ => false,
        }
    }

    pub(crate) fn while_doing(self, doing: &'static str) -> StoreError {
        let unavailable = |why: String| StoreError::Unavailable { doing, why };
        let source = match self {
            Self::Closed => return StoreError::Closed { doing },
            Self::Corrupt(why) => return StoreError::Corrupt { doing, why },
            Self::Moved => return StoreError::moved(doing),
            Self::NotEmpty => return StoreError::NotEmpty { doing },
            Self::TakenOver => return StoreError::TakenOver { doing },
            Self::Unreachable(why) => return unavailable(why.to_string()),
            Self::Late => return unavailable("the database did not answer in time".to_owned()),
            Self::Undone => return unavailable("the connection broke".to_owned()),
            Self::Uncertain => {
                return unavailable(
                    "the connection broke during COMMIT, and the database could not be asked \
                     whether the change is stored: look before you repeat it"
                        .to_owned(),
                );
            }
            Self::Postgres(source) => source,
        };
        let fault = Self::Postgres(source);
        let remedy = fault.remedy();
        let Self::Postgres(source) = fault else { return StoreError::Closed { doing } };
        match source.code().map(SqlState::code) {
            // A lock that another transaction held too long.
            Some("55P03") => StoreError::Busy { doing },
            Some("40001" | "40P01") => StoreError::Busy { doing },
            Some("53100") => StoreError::Full { doing },
            Some("25006") => StoreError::ReadOnly { doing },
            Some("57014") => unavailable(describe(&source)),
            Some(code) if code.starts_with("XX0") => {
                StoreError::Corrupt { doing, why: describe(&source) }
            }
            _ if remedy != Remedy::None => unavailable(describe(&source)),
            _ => StoreError::Database { doing, source: describe(&source).into() },
        }
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    use std::error::Error as _;
    error.source().is_some_and(|source| source.is::<std::io::Error>())
}

/// What the database said, in one line. The library's own text leaves out the cause.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => {
            let mut text = format!("{} (SQLSTATE {})", said.message(), said.code().code());
            if let Some(hint) = said.hint() {
                text.push_str("; ");
                text.push_str(hint);
            }
            text
        }
        None => signet_base::chain(error),
    }
}
