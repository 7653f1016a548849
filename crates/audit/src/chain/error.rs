//! Why a log cannot be written.

use std::{io, path::PathBuf};

use super::read::LogError;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Something about a file.
    #[error("audit log: {doing} {}", .path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The end of the log cannot be read.
    #[error("audit log")]
    Log(#[from] LogError),
    /// The log is not what was written.
    #[error(
        "audit log: {} does not reach record {head}, for which there is a signed head: its end was \
         cut off or changed; keep the directory for whoever looks into it, and name another one",
        .path.display()
    )]
    Tampered {
        /// Where.
        path: PathBuf,
        /// Which record.
        head: u64,
    },
    /// Another program writes there.
    #[error("audit log: another program writes to {}", .0.display())]
    InUse(PathBuf),
    /// There is no randomness.
    #[error("audit log: {0}")]
    Random(String),
}
