//! Files that must survive a crash and be read by their owner only.

use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use signet_base::{
    LockedFile,
    files::{open_regular, read_all},
};
use zeroize::Zeroizing;

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Another process uses the directory.
    #[error("{path} is in use by another process")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
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
    let failed = |source| FileError::Write { path: path.to_owned(), source };
    let temporary = temporary_name(path).map_err(failed)?;
    let written = write_new(&temporary, bytes, mode)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_directory(path));
    written.map_err(|source| {
        // Best effort: after the rename there is nothing left to remove.
        drop(fs::remove_file(&temporary));
        failed(source)
    })
}

/// Reads a whole regular file of at most `max` bytes; `None` when it does not exist.
///
/// # Errors
/// [`FileError`] when it cannot be read, is not a regular file, or is longer.
pub fn read_bounded(path: &Path, max: u64) -> Result<Option<Vec<u8>>, FileError> {
    read_checked(path, max, |_| Ok(()))
        .map(|read| read.map(|mut bytes| std::mem::take(&mut *bytes)))
}

/// As [`read_bounded`], for a file with secrets: refused when group or others have any access.
///
/// # Errors
/// [`FileError`], [`FileError::Permissions`] among them.
pub fn read_secret(path: &Path, max: u64) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    read_checked(path, max, |metadata| {
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(FileError::Permissions { path: path.to_owned(), mode });
        }
        Ok(())
    })
}

/// Removes a file and syncs its directory; a file that is not there is fine.
///
/// # Errors
/// [`FileError::Write`].
pub fn remove_durably(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path).and_then(|()| sync_directory(path)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FileError::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Holds a directory for this process, for as long as it lives; a crash lets go of it.
#[derive(Debug)]
pub struct DirectoryLock(
    #[expect(dead_code, reason = "the lock lasts as long as the file is open")] LockedFile,
);

impl DirectoryLock {
    /// Takes the lock, a file `.lock` in `directory`.
    ///
    /// # Errors
    /// [`FileError::InUse`] when another process holds it, [`FileError::Write`] when the lock
    /// file cannot be made.
    pub fn acquire(directory: &Path) -> Result<Self, FileError> {
        let path = directory.join(".lock");
        let open =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = open.map_err(|source| FileError::Write { path: path.clone(), source })?;
        match LockedFile::take(file) {
            Ok(file) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(FileError::InUse { path: directory.to_owned() }),
            Err(TryLockError::Error(source)) => Err(FileError::Write { path, source }),
        }
    }
}

fn read_checked(
    path: &Path,
    max: u64,
    check: impl FnOnce(&Metadata) -> Result<(), FileError>,
) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let (file, metadata) = match open_regular(path) {
        Ok(opened) => opened,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    check(&metadata)?;
    let mut bytes = Zeroizing::new(Vec::new());
    match read_all(file, &metadata, max, &mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(source) if source.kind() == io::ErrorKind::FileTooLarge => {
            Err(FileError::TooLong { path: path.to_owned(), max })
        }
        Err(source) => Err(failed(source)),
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The umask may have taken bits away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    let random = crate::random::bytes::<8>().map_err(io::Error::other)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", hex::encode(random)));
    Ok(path.with_file_name(temporary))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o644).unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap().unwrap(), b"two");
        assert_eq!(mode(&path), 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
        remove_durably(&path).unwrap();
        remove_durably(&path).unwrap();
        assert!(read_bounded(&path, 3).unwrap().is_none());
    }

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("in the way"), b"x").unwrap();
        let error = write_atomic(&path, b"two", 0o600).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_atomic(&dir.path().join("no/such/dir"), b"", 0o600).is_err());
    }

    #[test]
    fn secrets_that_others_may_read_are_refused_by_name_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for (bits, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            write_atomic(&path, b"x", bits).unwrap();
            match read_secret(&path, 10) {
                Ok(read) => assert!(good && read.is_some()),
                Err(error) => {
                    assert!(!good && error.to_string().contains(&format!("{bits:04o}")), "{error}");
                }
            }
        }
    }

    #[test]
    fn long_files_and_other_things_than_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomic(&path, b"1234", 0o600).unwrap();
        assert!(read_bounded(&path, 4).unwrap().is_some());
        assert!(matches!(read_bounded(&path, 3), Err(FileError::TooLong { max: 3, .. })));
        assert!(matches!(read_bounded(dir.path(), 3), Err(FileError::Read { .. })));
        assert!(matches!(read_bounded(Path::new("/dev/zero"), 3), Err(FileError::Read { .. })));
    }

    #[test]
    fn a_directory_is_held_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let held = DirectoryLock::acquire(dir.path()).unwrap();
        let error = DirectoryLock::acquire(dir.path()).unwrap_err();
        assert!(matches!(error, FileError::InUse { .. }), "{error}");
        drop(held);
        DirectoryLock::acquire(dir.path()).unwrap();
    }
}
