//! Keeping the sealed cache up to date, away from the manager's own work.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio_util::task::AbortOnDropHandle;

use super::{Manager, Shared};
use crate::{config::SvidCache, sealed::SealedCache};

/// How long changes are gathered before they are written.
const GATHER: Duration = Duration::from_secs(2);

/// Writes the sealed cache a moment after something changed.
#[derive(Debug, Default)]
pub(super) struct Sealer {
    task: Option<AbortOnDropHandle<()>>,
    dirty: bool,
}

impl Sealer {
    /// Notes a change.
    pub(super) fn mark(&mut self, shared: &Arc<Shared>) {
        if file(shared).is_none() {
            return;
        }
        if self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            self.dirty = true;
            return;
        }
        self.dirty = false;
        let shared = Arc::clone(shared);
        self.task = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(GATHER).await;
            write(&shared).await;
        })));
    }

    /// Writes what is not written yet; for the end of the program.
    pub(super) async fn finish(&mut self, shared: &Arc<Shared>) {
        let waiting = self.task.take().is_some_and(|task| !task.is_finished());
        if waiting || self.dirty {
            self.dirty = false;
            write(shared).await;
        }
    }

    /// Forgets what was to be written.
    pub(super) fn cancel(&mut self) {
        self.task = None;
        self.dirty = false;
    }
}

impl Manager {
    /// Removes the sealed cache and its key: the agent was banned, evicted or bootstrapped anew.
    pub(super) async fn erase_sealed(&mut self) {
        self.sealer.cancel();
        let SvidCache::Sealed { key_file } = &self.shared.settings.svid_cache else { return };
        let (dir, key_file) = (self.shared.settings.data_dir.clone(), key_file.clone());
        let erased =
            tokio::task::spawn_blocking(move || SealedCache::erase_at(&dir, &key_file)).await;
        match erased {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %error, "Could not erase the sealed cache"),
            Err(error) => tracing::error!(error = %error, "Could not erase the sealed cache"),
        }
    }
}

/// The sealed cache of the agent as it is now; none when switched off or not attested yet.
fn file(shared: &Shared) -> Option<SealedCache> {
    let SvidCache::Sealed { key_file } = &shared.settings.svid_cache else { return None };
    let id = shared.status.borrow().identity.as_ref().map(|identity| identity.id.clone())?;
    Some(SealedCache::new(&shared.settings.data_dir, key_file, &id))
}

async fn write(shared: &Arc<Shared>) {
    let Some(file) = file(shared) else { return };
    let snapshot = shared.cache.snapshot();
    let stored = tokio::task::spawn_blocking(move || file.store(&snapshot)).await;
    let problem = match stored {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }),
        Err(error) => Some(error.to_string()),
    };
    let was_failing = shared.sealing_fails.swap(problem.is_some(), Ordering::Relaxed);
    match problem {
        // Every change tries again; once is enough to say so.
        Some(problem) if !was_failing => tracing::warn!(
            error = problem,
            "Could not write the sealed cache: after a restart without its server the agent will \
             have nothing to serve"
        ),
        None if was_failing => tracing::info!("The sealed cache is written again"),
        _ => {}
    }
}
