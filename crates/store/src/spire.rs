//! SPIRE's own database (SQLite, schema version 25, SPIRE 1.15): read and written, so that a
//! trust domain can move here and back.

mod blobs;
mod postgres;
mod read;
mod running;
mod schema;
mod wire;
mod write;

use std::path::PathBuf;

use signet_time::UnixTime;

use crate::Contents;

pub use postgres::{read_postgres, write_postgres};
pub use read::read;
pub use running::is_open;
pub use write::write;

/// The schema version that is read and written.
pub const SCHEMA_VERSION: i64 = 25;
/// The SPIRE version that a written file claims to come from.
pub const CODE_VERSION: &str = "1.15.3";

/// What a SPIRE database holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpireContents {
    /// All but the CA journals.
    pub contents: Contents,
    /// The CA journals: one for each server that has or had this database.
    pub journals: Vec<SpireJournal>,
    /// Rows that cannot be carried over, each with the reason.
    pub skipped: Vec<String>,
    /// Which SPIRE wrote the file last.
    pub code_version: String,
}

/// The CA journal of one SPIRE server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpireJournal {
    /// The subject key ID of its active X.509 authority, lower-case hex: SPIRE finds its journal
    /// by it.
    pub active_x509_authority_id: String,
    /// X.509 authorities, oldest first.
    pub x509: Vec<SpireX509Authority>,
    /// JWT keys, oldest first.
    pub jwt: Vec<SpireKey>,
    /// WIT keys, oldest first.
    pub wit: Vec<SpireKey>,
}

/// How far an authority in a SPIRE journal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpireStatus {
    /// It signs.
    Active,
    /// It signed once.
    Old,
    /// It does not sign yet.
    Prepared,
    /// Written by a SPIRE that did not note it.
    Unknown,
}

/// An X.509 authority in a SPIRE journal. Times are Unix seconds, IDs lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpireX509Authority {
    /// `A` or `B`.
    pub slot_id: String,
    /// When it was made.
    pub issued_at: UnixTime,
    /// When it expires; 0 when written by an old SPIRE.
    pub not_after: UnixTime,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// With an upstream authority: the chain that goes with each SVID, DER.
    pub upstream_chain: Vec<Vec<u8>>,
    /// How far it has come.
    pub status: SpireStatus,
    /// Its subject key ID.
    pub authority_id: String,
    /// Its authority key ID; empty when self-signed.
    pub upstream_authority_id: String,
}

/// A JWT or WIT key in a SPIRE journal. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpireKey {
    /// `A` or `B`.
    pub slot_id: String,
    /// When it was made.
    pub issued_at: UnixTime,
    /// When it expires.
    pub not_after: UnixTime,
    /// The key ID.
    pub kid: String,
    /// The public key, PKIX SubjectPublicKeyInfo DER.
    pub public_key: Vec<u8>,
    /// How far it has come.
    pub status: SpireStatus,
    /// The authority ID: the key ID again.
    pub authority_id: String,
}

/// Why a SPIRE database cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpireError {
    /// A stored value that cannot be what it should be.
    #[error("the SPIRE database {path} is damaged: {why}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The file to write is there already.
    #[error("{0} exists already: name a file that does not")]
    Exists(PathBuf),
    /// There is no such file.
    #[error("there is no SPIRE database {0}")]
    Missing(PathBuf),
    /// The file is no SPIRE database.
    #[error("{0} is not a SPIRE database: it has no registered_entries or no migrations table")]
    NotSpire(PathBuf),
    /// Putting the finished file in its place failed.
    #[error("writing {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// Anything that SQLite reports.
    #[error("the SPIRE database {path}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: sqlx::Error,
    },
    /// PostgreSQL cannot be used.
    #[error("the SPIRE database {database}: {why}")]
    Postgres {
        /// Host and name.
        database: String,
        /// What is wrong.
        why: String,
    },
    /// A schema version other than that of SPIRE 1.15.
    #[error(
        "the SPIRE database {path} has schema version {found} (SPIRE {code_version}), expected \
         {SCHEMA_VERSION}: start SPIRE 1.15 on it once"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: i64,
        /// Which SPIRE wrote it.
        code_version: String,
    },
}
