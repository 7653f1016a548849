//! The limits and marks of the process itself.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use sd_notify::NotifyState;
use signet_base::LockedFile;
use tokio::time::Instant;

/// How often a lock that is waited for is tried.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Raises the soft limit of open files to the hard one. Returns the limit now in force, and logs
/// when it could not be raised.
pub fn raise_nofile() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    if soft >= hard {
        return soft;
    }
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "Cannot raise the limit of open files");
            soft
        }
    }
}

/// How many of the process's descriptors are never given to connections: files, databases and
/// calls to others need them, and what connections of callers who are not at fault wait for.
const RESERVED_DESCRIPTORS: u64 = 256;

/// Of `wanted` connections, how many may be open at once so that descriptors are left for
/// everything else. A connection takes `each` descriptors; the limit in force is asked.
pub fn connection_limit(wanted: usize, each: usize) -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    connections_within(limit, wanted, each)
}

fn connections_within(limit: u64, wanted: usize, each: usize) -> usize {
    // With a very low limit, half of it.
    let free = limit.saturating_sub(RESERVED_DESCRIPTORS).max(limit / 2);
    let fitting = usize::try_from(free).unwrap_or(usize::MAX) / each.max(1);
    fitting.clamp(1, wanted.max(1))
}

/// Makes sure that the keys in this process's memory end up in no core dump, and that no other
/// process of its user can read them (`PR_SET_DUMPABLE`, core(5)).
///
/// # Errors
/// What the system answers.
pub fn protect_memory() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    if getrlimit(Resource::RLIMIT_CORE)? != (0, 0) {
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    }
    Ok(())
}

/// The name of this machine; empty when it has none that can be written.
pub fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// Makes sure that new files are hidden from others and not writable by the group (umask 0027).
/// A stricter umask stays.
pub fn restrict_umask() {
    const WANTED: Mode = Mode::S_IWGRP.union(Mode::S_IRWXO);
    let before = umask(WANTED);
    if before.contains(WANTED) {
        umask(before);
    } else {
        umask(before.union(WANTED));
        tracing::debug!(
            before = format!("{:04o}", before.bits()),
            now = format!("{:04o}", before.union(WANTED).bits()),
            "Umask was too permissive"
        );
    }
}

/// The lock on a data directory: held while this lives, and by one process only.
#[derive(Debug)]
pub struct DirLock {
    file: LockedFile,
    path: PathBuf,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process holds it.
    #[error("data directory {} is in use by another process{}", .dir.display(), show(*.pid))]
    Held {
        /// The directory.
        dir: PathBuf,
        /// The process that says it holds it.
        pid: Option<u32>,
    },
    /// The lock file cannot be opened or locked.
    #[error("locking data directory {}", .dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl DirLock {
    /// Locks `dir` (made if missing, mode 0700) through the file `name` in it, for instance
    /// `signet-agent.lock`. The kernel lets go of it when the process ends, however it ends. On a
    /// file system that has become read-only, where the file cannot be made, the directory itself
    /// is locked.
    ///
    /// # Errors
    /// [`LockError`] when another process holds it, or the directory or file cannot be made.
    pub fn acquire(dir: &Path, name: &str) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { dir: dir.to_owned(), source };
        if !dir.is_dir() {
            use std::os::unix::fs::DirBuilderExt;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        }
        let mut path = dir.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                let file = File::open(&path).or_else(|_| {
                    dir.clone_into(&mut path);
                    File::open(dir)
                });
                file.map_err(|_| failed(error))?
            }
            opened => opened.map_err(failed)?,
        };
        let mut file = match LockedFile::take(file) {
            Ok(file) => file,
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = File::open(&path).and_then(|file| file.take(32).read_to_string(&mut text));
                return Err(LockError::Held { dir: dir.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        };
        // The number is a help for people only; a full disk must not stop the program here.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { file, path })
    }

    /// Whether what was locked is still where it was: else the directory was removed or another
    /// one was mounted over it, and another process can lock what is there now.
    pub fn is_in_place(&self) -> bool {
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), Ok(_)) => true,
        }
    }
}

impl DirLock {
    /// As [`DirLock::acquire`], but gives a process that is about to end time to do so.
    ///
    /// # Errors
    /// [`LockError`]; [`LockError::Held`] when it still holds the directory after `patience`.
    pub async fn wait(dir: &Path, name: &str, patience: Duration) -> Result<Self, LockError> {
        let deadline = Instant::now() + patience;
        let mut told = false;
        loop {
            match Self::acquire(dir, name) {
                Err(error @ LockError::Held { .. }) if Instant::now() < deadline => {
                    if !told {
                        tracing::info!(reason = %error, "Waiting for the data directory");
                        told = true;
                    }
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                result => return result,
            }
        }
    }
}

fn show(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// Tells systemd that the program is up; does nothing elsewhere.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells systemd that the program is on its way out; does nothing elsewhere.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if std::env::var_os("NOTIFY_SOCKET").is_some()
        && let Err(error) = sd_notify::notify(state)
    {
        tracing::debug!(%error, "Cannot notify the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_to_the_hard_one() {
        let now = raise_nofile();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (now, now));
    }

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        assert_eq!(connections_within(1_048_576, 16_384, 2), 16_384);
        assert_eq!(connections_within(1_024, 16_384, 2), 384);
        assert_eq!(connections_within(100, 16_384, 2), 25);
        assert_eq!(connections_within(0, 16_384, 2), 1);
    }

    #[test]
    fn memory_is_kept_from_core_dumps_and_other_processes() {
        protect_memory().unwrap();
        protect_memory().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        let dumpable = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(dumpable, DumpableBehavior::NotDumpable);
        // What the process needs to know of itself stays readable.
        for file in ["status", "exe", "mountinfo", "cgroup", "maps"] {
            assert!(File::open(Path::new("/proc/self").join(file)).is_ok(), "{file}");
        }
    }

    #[test]
    fn a_data_directory_has_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/data");
        let lock = DirLock::acquire(&data, "x.lock").unwrap();
        let error = DirLock::acquire(&data, "x.lock").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "data directory {} is in use by another process (pid {})",
                data.display(),
                std::process::id()
            )
        );
        drop(lock);
        DirLock::acquire(&data, "x.lock").unwrap();
    }

    #[test]
    fn a_lock_whose_directory_is_gone_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let lock = DirLock::acquire(&data, "x.lock").unwrap();
        assert!(lock.is_in_place());
        fs::remove_dir_all(&data).unwrap();
        assert!(!lock.is_in_place());
        let anew = DirLock::acquire(&data, "x.lock").unwrap();
        assert!(anew.is_in_place() && !lock.is_in_place());
    }

    #[tokio::test]
    async fn a_holder_that_is_about_to_end_is_waited_for_and_another_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path(), "x.lock").unwrap();
        let none = DirLock::wait(dir.path(), "x.lock", Duration::ZERO).await.unwrap_err();
        assert!(matches!(none, LockError::Held { .. }), "{none}");
        let waiting = DirLock::wait(dir.path(), "x.lock", Duration::from_secs(60));
        let (waited, ()) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            drop(lock);
        });
        waited.unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_locked_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = DirLock::acquire(&file, "x.lock").unwrap_err();
        assert!(error.to_string().ends_with("/file"), "{error}");
    }
}
