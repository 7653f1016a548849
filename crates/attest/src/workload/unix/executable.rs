//! The running executable: its path, where that is beyond doubt, and the hash of its content.

use std::{
    collections::HashMap,
    fs::{File, Metadata},
    io::{self, Read},
    ops::ControlFlow,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use signet_base::{FairPool, FairPoolLimits, chain};
use signet_pki::digest::Sha256;

use super::WorkloadAttestError;
use crate::{peer::PinnedPeer, procfs::ProcError};

/// How much is hashed in one step.
const STEP: u64 = 1024 * 1024;
const CHUNK: usize = 64 * 1024;
/// How often a caller that waited for a hash begun for another one, which was not finished, tries
/// by itself.
const ATTEMPTS: usize = 3;

/// Which executables are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hashing {
    /// All.
    All,
    /// None.
    Never,
    /// Those of at most so many bytes; others are passed over.
    Small(u64),
    /// Those of at most so many bytes; others are an error.
    UpTo(u64),
}

/// What is known of an executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Executable {
    /// Its path, if the agent finds the same file there.
    pub path: Option<String>,
    pub sha256: Option<Arc<str>>,
}

/// Looks at executables, on threads of its own.
pub(super) struct Executables {
    hashing: Hashing,
    pool: FairPool,
    /// Hashes being made, by user and file. Nothing is kept of what is finished.
    running: Mutex<HashMap<(u32, Identity), WeakShared<Hash>>>,
}

type Hash = BoxFuture<'static, Result<Arc<str>, String>>;

/// Which file this is, and in which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

impl Executables {
    pub fn new(hashing: Hashing) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let limits = FairPoolLimits {
            threads: cores.clamp(2, 4),
            started: 4,
            waiting: 256,
            waiting_in_all: 16 * 1024,
        };
        Self { hashing, pool: FairPool::new("executables", limits), running: Mutex::default() }
    }

    /// The path of the executable of `peer`, and its hash if it is to be made.
    ///
    /// # Errors
    /// [`WorkloadAttestError`]: it cannot be read, is larger than may be, changes meanwhile, or
    /// too many of the same user wait.
    pub async fn examine(
        self: &Arc<Self>,
        peer: &PinnedPeer,
    ) -> Result<Executable, WorkloadAttestError> {
        let target = peer.proc_root().exe_target(peer.pid())?;
        let link = peer.proc_root().path(peer.pid(), "exe");
        let uid = peer.uid();
        let look = {
            let (link, target) = (link.clone(), target.clone());
            move || look(&link, &target).map_err(|e| ProcError::Read(link, e))
        };
        let (identity, is_there) = self.pool.run_once(uid.into(), look).await.map_err(failed)??;
        let path = match (is_there, target.to_str()) {
            (_, None) => return Err(failed("path of the executable is not UTF-8")),
            (true, Some(text)) => Some(text.to_owned()),
            (false, Some(_)) => {
                tracing::debug!(
                    pid = peer.pid(),
                    path = %target.display(),
                    "The agent finds another file at the executable's path, or none: no unix:path"
                );
                None
            }
        };
        let is_wanted = match self.hashing {
            Hashing::All => true,
            Hashing::Never => false,
            Hashing::Small(limit) => {
                if identity.size > limit {
                    tracing::warn!(
                        pid = peer.pid(),
                        path = %target.display(),
                        size = identity.size,
                        "Executable is too large to be hashed: no unix:sha256; \
                         workload_size_limit sets another limit"
                    );
                }
                identity.size <= limit
            }
            Hashing::UpTo(limit) if identity.size > limit => {
                let size = identity.size;
                let link = link.display();
                let why = format!("workload {link} exceeds size limit ({size} > {limit})");
                return Err(failed(why));
            }
            Hashing::UpTo(_) => true,
        };
        let sha256 = if is_wanted { Some(self.hash(uid, link, identity).await?) } else { None };
        Ok(Executable { path, sha256 })
    }

    /// The hash of what `link` leads to. Callers of the same user with the same file share one
    /// while it is being made.
    async fn hash(
        self: &Arc<Self>,
        uid: u32,
        link: PathBuf,
        identity: Identity,
    ) -> Result<Arc<str>, WorkloadAttestError> {
        let mut result = Err("hashing was not finished".to_owned());
        for _ in 0..ATTEMPTS {
            let (hash, is_own) = self.begin(uid, &link, identity);
            result = hash.await;
            if is_own || result.is_ok() {
                break;
            }
        }
        result.map_err(failed)
    }

    /// The hash of this file that is being made for this user, or a new one, and whether it is new.
    fn begin(self: &Arc<Self>, uid: u32, link: &Path, identity: Identity) -> (Shared<Hash>, bool) {
        let mut running = self.running();
        let known = running.get(&(uid, identity)).and_then(WeakShared::upgrade);
        if let Some(hash) = known.filter(|hash| hash.peek().is_none()) {
            return (hash, false);
        }
        running.retain(|_, hash| hash.upgrade().is_some_and(|hash| hash.peek().is_none()));
        let me = Arc::clone(self);
        let mut hashing = Job { link: link.to_owned(), identity, state: None };
        let hash = async move {
            let made = me.pool.run(uid.into(), move || hashing.step()).await;
            made.map_err(|error| error.to_string())?
        };
        let hash = hash.boxed().shared();
        if let Some(weak) = hash.downgrade() {
            running.insert((uid, identity), weak);
        }
        (hash, true)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<(u32, Identity), WeakShared<Hash>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Executables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executables").field("hashing", &self.hashing).finish_non_exhaustive()
    }
}

fn failed(why: impl ToString) -> WorkloadAttestError {
    WorkloadAttestError::Failed(why.to_string())
}

/// The file behind `link`, and whether `target`, which is its path in the mount namespace of the
/// process, leads to it in the agent's own too. Everybody can make a mount namespace in which any
/// file is at any path.
fn look(link: &Path, target: &Path) -> io::Result<(Identity, bool)> {
    let file = rustix::fs::open(link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let identity = Identity::of(&File::from(file).metadata()?);
    let there = open_without_links(target).and_then(|file| file.metadata());
    Ok((identity, there.is_ok_and(|there| Identity::of(&there).is_same_file(&identity))))
}

/// A path that the kernel wrote has no symbolic links in it.
fn open_without_links(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = match rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), resolve) {
        // Before Linux 5.6, or where a sandbox does not know it.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            rustix::fs::open(path, flags, Mode::empty())
        }
        opened => opened,
    };
    Ok(File::from(opened?))
}

/// Hashes the running executable through `/proc/<pid>/exe`, so that the file that was executed is
/// read, whatever its path names by now, in whatever mount namespace.
struct Job {
    link: PathBuf,
    identity: Identity,
    state: Option<(File, Sha256, u64)>,
}

impl Job {
    fn step(&mut self) -> ControlFlow<Result<Arc<str>, String>> {
        match self.advance() {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(hash)) => ControlFlow::Break(Ok(hash)),
            Err(error) => {
                let error = ProcError::Read(self.link.clone(), error);
                ControlFlow::Break(Err(chain(&error).to_string()))
            }
        }
    }

    fn advance(&mut self) -> io::Result<Option<Arc<str>>> {
        let (file, hash, total) = match &mut self.state {
            Some(state) => state,
            none => {
                let file = File::options()
                    .read(true)
                    .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                    .open(&self.link)?;
                unchanged(&file, self.identity)?;
                none.insert((file, Sha256::new(), 0))
            }
        };
        let mut chunk = vec![0; CHUNK];
        let until = *total + STEP;
        while *total < until {
            let read = file.read(&mut chunk)?;
            let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else {
                unchanged(file, self.identity)?;
                let hash = std::mem::replace(hash, Sha256::new());
                return Ok(Some(hex::encode(hash.finish()).into()));
            };
            hash.update(bytes);
            *total = total.saturating_add(bytes.len() as u64);
            // A file that grows while it is read must not be read for ever.
            if *total > self.identity.size {
                return Err(changed());
            }
        }
        Ok(None)
    }
}

fn unchanged(file: &File, identity: Identity) -> io::Result<()> {
    if Identity::of(&file.metadata()?) == identity { Ok(()) } else { Err(changed()) }
}

fn changed() -> io::Error {
    io::Error::other("the executable changed while it was examined")
}

#[cfg(test)]
mod tests;
