//! Files that must survive a crash and be read by their owner only.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Others than the owner may read or write a file that holds secrets.
    #[error("{path} has mode {mode:04o}: others may access it, expected 0600 (run chmod 600)")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Reading failed.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is longer than what such a file may be.
    #[error("{path} is longer than {max} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        max: u64,
    },
    /// Writing failed; the earlier content is still in place.
    #[error("writing {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Replaces `path` so that after a crash either the old or the new content is there: writes a
/// temporary file in the same directory with `mode`, syncs it, renames it, syncs the directory.
///
/// # Errors
/// [`FileError::Write`]; the temporary file is removed and the old content stays.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let _ = (path, bytes, mode);
    todo!()
}

/// Reads a whole file of at most `max` bytes; `None` when it does not exist.
///
/// # Errors
/// [`FileError`] when it cannot be read or is longer.
pub fn read_bounded(path: &Path, max: u64) -> Result<Option<Vec<u8>>, FileError> {
    let _ = (path, max);
    todo!()
}

/// As [`read_bounded`], for a file with secrets: refused when group or others have any access.
///
/// # Errors
/// [`FileError`], [`FileError::Permissions`] among them.
pub fn read_secret(
    path: &Path,
    max: u64,
) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, FileError> {
    let _ = (path, max);
    todo!()
}

/// Removes a file and syncs its directory; a file that is not there is fine.
///
/// # Errors
/// [`FileError::Write`].
pub fn remove_durably(path: &Path) -> Result<(), FileError> {
    let _ = path;
    todo!()
}
