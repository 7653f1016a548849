//! The data directory: what the agent knows after a restart, and the lock on it.
//!
//! Writing there is never a condition of anything. What the disk does not take holds in memory, is
//! warned of once, and is tried again until it is written; a directory that was removed is made
//! anew.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use signet_base::{Backoff, CancellationToken, chain};
use signet_daemon::process::{DirLock, LockError};
use tokio::{sync::Notify, time::timeout};

use crate::{
    agent_identity::{AgentKeys, DISK_PATIENCE},
    state::{AgentState, StateError},
};

/// Held while the agent runs, so that no second one uses the directory.
const LOCK_FILE: &str = "signet-agent.lock";
/// How long an agent that is ending may hold the directory: longer than it may take to end.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(15);
/// The pauses between attempts to write what could not be written.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How often is looked whether the directory is still there.
const LOOK: Duration = Duration::from_secs(10);

/// What the agent keeps over a restart. Shared by `Arc`.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: Arc<Mutex<Option<DirLock>>>,
    state: Arc<AgentState>,
    keys: AgentKeys,
    /// Whether something could not be written at the last try.
    failing: AtomicBool,
    failed: Notify,
    made_anew: Notify,
}

/// Makes a directory with those above it; fine when it is there.
///
/// # Errors
/// What the system answers, and `NotADirectory` when something else is there.
pub fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;

    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    if std::fs::metadata(path)?.is_dir() {
        Ok(())
    } else {
        Err(io::ErrorKind::NotADirectory.into())
    }
}

/// Locks `path`, which is there; waits for an agent that is about to end.
///
/// # Errors
/// [`LockError`]; [`LockError::Held`] when another process keeps it.
pub async fn lock(path: &Path) -> Result<DirLock, LockError> {
    DirLock::wait(path, LOCK_FILE, LOCK_PATIENCE).await
}

impl DataDir {
    /// The directory at `path`, locked by `lock`, with what was read from it.
    pub fn new(path: PathBuf, lock: DirLock, state: AgentState, keys: AgentKeys) -> Arc<Self> {
        Arc::new(Self {
            path,
            lock: Arc::new(Mutex::new(Some(lock))),
            state: Arc::new(state),
            keys,
            failing: AtomicBool::new(false),
            failed: Notify::new(),
            made_anew: Notify::new(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what was written last is not on disk.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// The agent's state.
    pub fn state(&self) -> &AgentState {
        &self.state
    }

    /// The agent's keys.
    pub fn keys(&self) -> &AgentKeys {
        &self.keys
    }

    /// Changes the state, and says whether it is on disk when this returns. If not, that was
    /// logged, and is tried again.
    pub async fn keep(
        &self,
        change: impl FnOnce(&AgentState) -> Result<(), StateError> + Send + 'static,
    ) -> bool {
        let state = Arc::clone(&self.state);
        let keys = timeout(DISK_PATIENCE, self.keys.write()).await;
        let keys = keys.unwrap_or_else(|_| Err(hangs()));
        state.wait_for_key(keys.is_err());
        // The change holds in memory whatever became of the keys: it is what is written later.
        let changed = timeout(DISK_PATIENCE, on_disk(move || change(&state))).await;
        self.note(keys.and(changed.unwrap_or_else(|_| Err(hangs()))))
    }

    /// Completes when the directory had to be made anew: whatever else was in it is gone.
    pub async fn made_anew(&self) {
        self.made_anew.notified().await;
    }

    /// Writes what could not be written, and makes the directory anew when it is gone, until
    /// `stop`.
    pub async fn keep_written(&self, stop: &CancellationToken) {
        let mut backoff = Backoff::new(MIN_PAUSE, MAX_PAUSE);
        loop {
            let pause = if self.failing.load(Ordering::Relaxed) {
                backoff.next_delay()
            } else {
                backoff.reset();
                LOOK
            };
            let wait = async {
                let first = self.failing.load(Ordering::Relaxed);
                let _ = timeout(pause, self.failed_first(first)).await;
            };
            let stopped = stop.run_until_cancelled(wait).await.is_none();
            // The last chance for what was not written yet: the next agent knows no more.
            if !stopped || self.failing.load(Ordering::Relaxed) {
                self.look_after().await;
            }
            if stopped {
                return;
            }
        }
    }

    /// Completes at the first failure; the pauses after it are not cut short by others.
    async fn failed_first(&self, failing: bool) {
        if failing {
            return std::future::pending().await;
        }
        self.failed.notified().await;
        tokio::time::sleep(MIN_PAUSE).await;
    }

    async fn look_after(&self) {
        if !self.is_lost().await {
            if self.failing.load(Ordering::Relaxed) {
                self.keep(|state| state.write()).await;
            }
            return;
        }
        let state = Arc::clone(&self.state);
        let write = async {
            self.make_anew().await?;
            self.keys.write_anew().await?;
            state.wait_for_key(false);
            on_disk(move || state.write_anew()).await
        };
        let result = timeout(DISK_PATIENCE, write).await.unwrap_or_else(|_| Err(hangs()));
        if self.note(result) {
            tracing::warn!(
                data_dir = %self.path.display(),
                "The data directory was gone; made it anew with what the agent knows"
            );
            self.made_anew.notify_one();
        }
    }

    /// Whether the lock in the directory is another one than ours, or none.
    async fn is_lost(&self) -> bool {
        let lock = Arc::clone(&self.lock);
        // A disk that hangs holds up this look and nothing else.
        let look = tokio::task::spawn_blocking(move || {
            let lock = lock.lock().unwrap_or_else(PoisonError::into_inner);
            lock.as_ref().is_some_and(|lock| !lock.is_in_place())
        });
        look.await.unwrap_or(false)
    }

    async fn make_anew(&self) -> Result<(), String> {
        let (path, keys) = (self.path.clone(), self.keys.directory().map(Path::to_owned));
        let lock = tokio::task::spawn_blocking(move || {
            for dir in keys.iter().chain([&path]) {
                make(dir).map_err(|error| format!("creating {}: {error}", dir.display()))?;
            }
            DirLock::acquire(&path, LOCK_FILE).map_err(|error| chain(&error))
        });
        let lock = lock.await.map_err(|error| error.to_string())??;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
        Ok(())
    }

    fn note(&self, result: Result<(), String>) -> bool {
        let written = result.is_ok();
        let was_failing = self.failing.swap(!written, Ordering::Relaxed);
        match result {
            Ok(()) if was_failing => tracing::info!("The agent's state is on disk again"),
            Ok(()) => {}
            // Every change tries again; once is enough to say so.
            Err(error) if was_failing => tracing::debug!(error, "Still cannot store the state"),
            Err(error) => {
                tracing::error!(
                    error,
                    data_dir = %self.path.display(),
                    "Could not store the agent's state: the agent goes on with what is in memory \
                     and tries again, but after a restart it would know only what was stored before"
                );
                self.failed.notify_one();
            }
        }
        written
    }

    /// Lets another agent use the directory: nothing is written from here on.
    pub fn release(&self) {
        // Where a disk hangs the kernel lets go of it, when the program ends.
        if let Ok(mut lock) = self.lock.try_lock() {
            *lock = None;
        }
    }
}

async fn on_disk(
    work: impl FnOnce() -> Result<(), StateError> + Send + 'static,
) -> Result<(), String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| chain(&error)),
        Err(error) => Err(error.to_string()),
    }
}

fn hangs() -> String {
    format!("the disk has not answered for {DISK_PATIENCE:?}")
}
