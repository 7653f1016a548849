//! Keeping the sealed cache up to date, away from the manager's own work.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use signet_base::{CancellationToken, chain};
use signet_identity::SpiffeId;
use tokio::{sync::Notify, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{Manager, Shared};
use crate::{
    config::SvidCache,
    sealed::{Freshness, SealedCache},
};

/// After a write the next waits this many times as long as the write took: while changes keep
/// coming, at most a twentieth of the time is spent on writing.
const REST_FACTOR: u32 = 19;
/// But never less than this, nor more: no change is unwritten for longer.
const MIN_REST: Duration = Duration::from_millis(100);
const MAX_REST: Duration = Duration::from_secs(2);
/// After a write that failed the next is tried when something changes, or after this pause.
const RETRY: Duration = Duration::from_secs(10);

/// Writes the sealed cache as soon as something changed.
///
/// The first change is written at once; what changes while that is written, or shortly after, is
/// gathered for the next write.
#[derive(Debug, Default)]
pub(super) struct Sealer {
    writer: Option<Writer>,
    /// Whether the file holds something that must not be served any more.
    outdated: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Writer {
    changes: Arc<Changes>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// Whether something is not written yet.
#[derive(Debug, Default)]
struct Changes {
    unwritten: AtomicBool,
    noted: Notify,
}

impl Sealer {
    /// Notes a change; `gone` when something in the file must not be served any more.
    pub(super) fn mark(&mut self, shared: &Arc<Shared>, gone: bool) {
        if file(shared).is_none() {
            return;
        }
        if gone {
            self.outdated.store(true, Ordering::Release);
        }
        let outdated = &self.outdated;
        let writer = self.writer.get_or_insert_with(|| {
            let (shared, outdated) = (Arc::clone(shared), Arc::clone(outdated));
            Writer::start(move || {
                let (shared, outdated) = (Arc::clone(&shared), Arc::clone(&outdated));
                async move { write(&shared, &outdated).await }
            })
        });
        writer.changes.note();
    }

    /// Writes what is not written yet; for the end of the program.
    pub(super) async fn finish(&mut self, shared: &Arc<Shared>) {
        if self.stop().await {
            write(shared, &self.outdated).await;
        }
    }

    /// Forgets what was to be written. When this returns, nothing is being written any more.
    pub(super) async fn cancel(&mut self) {
        self.stop().await;
    }

    /// Ends the writer, after the write that it is at; says whether something is unwritten.
    async fn stop(&mut self) -> bool {
        let Some(writer) = self.writer.take() else { return false };
        writer.stop.cancel();
        let broke = writer.task.await.is_err();
        broke || writer.changes.unwritten.load(Ordering::Acquire)
    }
}

impl Writer {
    fn start<F>(write: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let (changes, stop) = (Arc::new(Changes::default()), CancellationToken::new());
        let task = tokio::spawn(keep_written(Arc::clone(&changes), stop.clone(), write));
        Self { changes, stop, task: AbortOnDropHandle::new(task) }
    }
}

impl Changes {
    fn note(&self) {
        self.unwritten.store(true, Ordering::Release);
        self.noted.notify_one();
    }
}

/// Calls `write` after each change until `stop`, and again after one that failed (`false`); a write
/// that has begun is always finished.
async fn keep_written<F>(
    changes: Arc<Changes>,
    stop: CancellationToken,
    write: impl Fn() -> F + Send,
) where
    F: Future<Output = bool> + Send,
{
    let mut written = true;
    loop {
        let change = async {
            let retry = tokio::time::sleep(RETRY);
            tokio::select! {
                () = changes.noted.notified() => {}
                () = retry, if !written => {}
            }
        };
        if stop.run_until_cancelled(change).await.is_none() {
            return;
        }
        let begun = Instant::now();
        // Before the content is taken: what changes from here on is for the next write.
        changes.unwritten.store(false, Ordering::Release);
        written = write().await;
        if !written {
            changes.unwritten.store(true, Ordering::Release);
        }
        let rest = (begun.elapsed() * REST_FACTOR).clamp(MIN_REST, MAX_REST);
        if stop.run_until_cancelled(tokio::time::sleep(rest)).await.is_none() {
            return;
        }
    }
}

impl Manager {
    /// Removes the sealed cache and its key: the agent was banned, evicted or bootstrapped anew.
    pub(super) async fn erase_sealed(&mut self) {
        self.sealer.cancel().await;
        let SvidCache::Sealed { key_file } = &self.shared.settings.svid_cache else { return };
        let (dir, key_file) = (self.shared.data.path().to_owned(), key_file.clone());
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
    Some(SealedCache::new(shared.data.path(), key_file, &id))
}

/// Writes what the cache holds now; says whether it is written.
async fn write(shared: &Arc<Shared>, outdated: &AtomicBool) -> bool {
    let Some(file) = file(shared) else { return true };
    // Before the content is taken: what goes from here on makes the next file outdated.
    let was_outdated = outdated.swap(false, Ordering::AcqRel);
    let mut snapshot = shared.cache.snapshot();
    // Tokens of entries that are gone are given to nobody, and so are not kept.
    let alive: HashSet<&SpiffeId> =
        snapshot.entries.values().map(|entry| &entry.spiffe_id).collect();
    let mut tokens = shared.jwt_cache.most_recent(shared.clock.unix());
    tokens.retain(|(_, svid)| alive.contains(&svid.spiffe_id));
    let mut wit_svids = shared.wit_cache.as_ref().map(|kept| kept.most_recent(shared.clock.unix()));
    if let Some(kept) = &mut wit_svids {
        kept.retain(|(id, svid)| snapshot.entries.get(id).is_some_and(|entry| svid.is_of(entry)));
    }
    snapshot.jwt_svids = tokens;
    snapshot.wit_svids = wit_svids.unwrap_or_default();
    let stored = tokio::task::spawn_blocking(move || {
        let stored = file.store(&snapshot);
        if stored.is_err() && was_outdated {
            // Rather nothing after a restart than an identity that was taken away.
            return (stored, file.erase().is_ok());
        }
        (stored, false)
    });
    let (problem, erased) = match stored.await {
        Ok((Ok(freshness), _)) => {
            note_freshness(shared, freshness);
            (None, false)
        }
        Ok((Err(error), erased)) => (Some(chain(&error)), erased),
        Err(error) => (Some(error.to_string()), false),
    };
    if problem.is_some() && was_outdated && !erased {
        outdated.store(true, Ordering::Release);
    }
    let written = problem.is_none();
    let was_failing = shared.sealing.failing.swap(!written, Ordering::Relaxed);
    match problem {
        // Every change tries again; once is enough to say so.
        Some(problem) if !was_failing => tracing::warn!(
            error = problem,
            erased,
            "Could not write the sealed cache: after a restart without its server the agent will \
             have less to serve, or nothing"
        ),
        None if was_failing => tracing::info!("The sealed cache is written again"),
        _ => {}
    }
    written
}

fn note_freshness(shared: &Shared, freshness: Freshness) {
    let same_key = matches!(freshness, Freshness::SameKey(_));
    let before = shared.sealing.same_key.swap(same_key, Ordering::Relaxed);
    if let Freshness::SameKey(reason) = freshness
        && !before
    {
        tracing::warn!(
            reason,
            "The key of the sealed cache cannot be replaced: a copy of an earlier cache file would \
             open, with identities that were taken away since"
        );
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::mpsc, time::timeout};

    use super::*;

    /// A writer whose writes take `duration`; the receiver hears when each begins.
    fn writer(duration: Duration) -> (Sealer, mpsc::Receiver<Instant>) {
        let (begun, writes) = mpsc::channel(16);
        let writer = Writer::start(move || {
            let begun = begun.clone();
            async move {
                begun.send(Instant::now()).await.unwrap();
                tokio::time::sleep(duration).await;
                true
            }
        });
        (Sealer { writer: Some(writer), ..Sealer::default() }, writes)
    }

    fn note(sealer: &Sealer) {
        sealer.writer.as_ref().unwrap().changes.note();
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_written_at_once() {
        let (sealer, mut writes) = writer(Duration::from_millis(5));
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let changed = Instant::now();
            note(&sealer);
            assert_eq!(writes.recv().await.unwrap(), changed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn changes_during_a_write_are_gathered_into_one_more() {
        let (sealer, mut writes) = writer(Duration::from_millis(10));
        note(&sealer);
        let first = writes.recv().await.unwrap();
        for _ in 0..100 {
            note(&sealer);
        }
        let second = writes.recv().await.unwrap();
        assert_eq!(second - first, Duration::from_millis(10 + 190), "a twentieth of the time");
        assert!(timeout(Duration::from_secs(60), writes.recv()).await.is_err(), "nothing is left");
    }

    #[tokio::test(start_paused = true)]
    async fn no_change_waits_longer_than_two_seconds_after_a_slow_write() {
        let (sealer, mut writes) = writer(Duration::from_secs(1));
        note(&sealer);
        let first = writes.recv().await.unwrap();
        note(&sealer);
        assert_eq!(writes.recv().await.unwrap() - first, Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_failed_is_tried_again_without_a_change() {
        let (begun, mut writes) = mpsc::channel(16);
        let writer = Writer::start(move || {
            let begun = begun.clone();
            async move {
                begun.send(Instant::now()).await.unwrap();
                begun.capacity() < 15
            }
        });
        writer.changes.note();
        let second = loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if writes.len() == 2 {
                break writes.recv().await.unwrap();
            }
        };
        let first = second;
        let second = writes.recv().await.unwrap();
        assert_eq!(second - first, MIN_REST + RETRY);
        assert!(timeout(Duration::from_secs(60), writes.recv()).await.is_err(), "it was written");
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_waits_for_the_write_that_runs_and_tells_what_is_left() {
        let (mut sealer, mut writes) = writer(Duration::from_secs(1));
        note(&sealer);
        let begun = writes.recv().await.unwrap();
        assert!(!sealer.stop().await, "all of it was written");
        assert_eq!(begun.elapsed(), Duration::from_secs(1));

        let (mut sealer, mut writes) = writer(Duration::from_secs(1));
        note(&sealer);
        writes.recv().await.unwrap();
        note(&sealer);
        assert!(sealer.stop().await, "the second change was not");
        assert!(!sealer.stop().await);
    }
}
