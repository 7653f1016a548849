//! Whether a server still has its database open.

use std::{fs::File, path::Path};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

/// Where SQLite's readers lock a database file (its file format, "pending byte").
const SHARED_FIRST: libc::off_t = 0x4000_0002;
const SHARED_SIZE: libc::off_t = 510;

/// Whether another process holds a lock on the database `path`. With a write-ahead log, as SPIRE
/// uses it, every open connection holds one, also an idle one. The file is not changed, and its
/// locks are only looked at.
///
/// # Errors
/// What the system says when the file cannot be read.
pub fn is_open(path: &Path) -> std::io::Result<bool> {
    let file = File::open(path)?;
    let kind = |kind: libc::c_int| libc::c_short::try_from(kind).unwrap_or_default();
    let mut lock = libc::flock {
        l_type: kind(libc::F_WRLCK),
        l_whence: kind(libc::SEEK_SET),
        l_start: SHARED_FIRST,
        l_len: SHARED_SIZE,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_GETLK(&mut lock)) {
        Ok(_) => Ok(lock.l_type != kind(libc::F_UNLCK)),
        // A file system without locks tells nothing.
        Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
