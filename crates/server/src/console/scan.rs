//! What only a scan of every entry shows: which nobody can serve, and which expire next.

use std::{
    collections::{BinaryHeap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use signet_identity::{Entry, EntryId, SpiffeId};
use signet_time::UnixTime;

use super::{Console, lookup};
use crate::{
    cache::Cache,
    usecase::{Call, error::Error},
};

/// Up to so many entries, a page waits for the scan.
const FEW: usize = 50_000;
/// How many times as long as it took nobody scans again.
const REST: u32 = 20;
/// How many entries that expire next are kept.
const NEXT: usize = 5;

/// What a scan has found.
#[derive(Clone, Debug, Default)]
pub(super) struct Scan {
    /// Parents that nobody has, and how many entries wait for each.
    pub(super) unserved: HashMap<SpiffeId, u64>,
    /// Entries that expire, the soonest first.
    pub(super) expiring: Vec<(UnixTime, Arc<Entry>)>,
}

/// The last scan of every entry.
#[derive(Debug, Default)]
pub(super) struct LastScan(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    scan: Scan,
    /// As of which revision; `None` before the first scan.
    revision: Option<u64>,
    /// From when on the next scan may begin.
    again: Option<Instant>,
    is_looking: bool,
}

impl Console {
    /// What a scan of the entries that the caller may see shows. Where there are many, it is that
    /// of a while ago, and a new scan begins behind the page.
    pub(super) async fn scan(&self, call: &Call) -> Result<Scan, Error> {
        let cache = Arc::clone(&self.0.context.parts.cache);
        let now = self.0.context.parts.clock.unix();
        if call.scope().is_some() {
            let call = call.clone();
            let scan = tokio::task::spawn_blocking(move || {
                scan_entries(&cache, now, |entry| call.sees(entry))
            });
            return scan.await.map_err(|_| Error::unavailable("the server is stopping"));
        }
        let revision = cache.revision();
        let is_small = cache.entry_count() <= FEW;
        {
            let mut last = self.0.scan.state();
            let is_fresh = last.revision == Some(revision);
            let rests = !is_small && last.again.is_some_and(|again| Instant::now() < again);
            if is_fresh || rests || (last.is_looking && !is_small) {
                return Ok(last.scan.clone());
            }
            last.is_looking = true;
        }
        let console = self.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let scan = scan_entries(&cache, now, |_| true);
            let mut last = console.0.scan.state();
            last.scan = scan.clone();
            last.revision = cache.is_loaded().then_some(revision);
            last.again =
                Some(Instant::now() + REST * begun.elapsed().max(Duration::from_millis(1)));
            last.is_looking = false;
            scan
        });
        match is_small {
            true => looking.await.map_err(|_| Error::unavailable("the server is stopping")),
            false => Ok(self.0.scan.state().scan.clone()),
        }
    }
}

impl LastScan {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn scan_entries(cache: &Cache, now: UnixTime, accepts: impl Fn(&Entry) -> bool) -> Scan {
    let mut unserved: HashMap<SpiffeId, u64> = HashMap::new();
    let mut soonest: BinaryHeap<(UnixTime, EntryId)> = BinaryHeap::new();
    // Nothing is known before the entries are: then there is nothing to show.
    let _ = cache.walk(0, |_, entry, index| {
        if accepts(entry) {
            if !lookup::is_known(index, &entry.parent_id) {
                *unserved.entry(entry.parent_id.clone()).or_default() += 1;
            }
            if entry.expires_at > now {
                soonest.push((entry.expires_at, entry.id.clone()));
                if soonest.len() > NEXT {
                    soonest.pop();
                }
            }
        }
        true
    });
    let soonest = soonest.into_sorted_vec();
    let expiring = cache.with_index(|index| {
        let entry = |(at, id): (UnixTime, EntryId)| Some((at, Arc::clone(index.entry(&id)?)));
        soonest.into_iter().filter_map(entry).collect()
    });
    Scan { unserved, expiring: expiring.unwrap_or_default() }
}
