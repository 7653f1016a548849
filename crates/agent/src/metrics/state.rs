//! Gauges that are set when somebody reads them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use signet_base::SharedClock;
use signet_daemon::metrics::{Gauge, Metrics};
use signet_time::UnixTime;
use tokio::{sync::watch, time::Instant};

use crate::{
    cache::Served, client::SyncStats, data_dir::DataDir, jwt_cache::JwtCache, status::Status,
};

/// How things stand. Clones share it.
#[derive(Clone, Debug)]
pub struct StateMetrics {
    uptime: Gauge,
    record_map_size: Gauge,
    svid_map_size: Gauge,
    jwt_cache_size: Gauge,
    subscriptions: Gauge,
    next_expiry: Gauge,
    agent_svid_expiry: Gauge,
    sync_age: Gauge,
    server_reachable: Gauge,
    set_reachable: Gauge,
    state_unwritten: Gauge,
    bundles: Gauge,
    total: Gauge,
    /// Missing, stale, dropped.
    last: [Gauge; 3],
    synced: Arc<Mutex<Option<(Instant, SyncStats)>>>,
}

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What workloads are served from.
    pub cache: Served,
    /// What there is of each server set, by its name; an empty one where there is only one.
    pub sets: Vec<(String, ShownSet)>,
    /// How the agent stands.
    pub status: watch::Receiver<Status>,
    /// The wall clock.
    pub clock: SharedClock,
    /// When the agent started.
    pub started: Instant,
    /// After so long, what a sync found is over: SPIRE's agent asks again then, and finds nothing.
    pub sync_interval: Duration,
}

/// What is looked at of a server set.
#[derive(Clone, Debug)]
pub struct ShownSet {
    /// JWT-SVIDs at hand.
    pub jwt_cache: Arc<JwtCache>,
    /// How the agent stands with it.
    pub status: watch::Receiver<Status>,
    /// The agent's files.
    pub data: Arc<DataDir>,
}

impl StateMetrics {
    pub(super) fn new(m: &Metrics) -> Self {
        let sync = |name: &str, help: &str| m.gauge(&["sync_entries", name], help, &[]);
        Self {
            uptime: m.gauge(&["uptime_in_ms"], "Milliseconds since the start", &[]),
            record_map_size: m.gauge(&["lru_cache_record_map_size"], "Entries held", &[]),
            svid_map_size: m.gauge(&["lru_cache_svid_map_size"], "X.509-SVIDs held", &[]),
            jwt_cache_size: m.gauge(&["jwt_svid_cache_size"], "JWT-SVIDs held", &[]),
            subscriptions: m.gauge(
                &["workload_api", "subscriptions"],
                "Open streams of workloads",
                &[],
            ),
            next_expiry: m.gauge(
                &["next_expiry_seconds"],
                "Seconds until the next one expires",
                &["what"],
            ),
            agent_svid_expiry: m.gauge(
                &["agent_svid", "expiry"],
                "When the agent's SVID expires, Unix seconds",
                &[],
            ),
            sync_age: m.gauge(&["sync_age_seconds"], "Seconds since the last successful sync", &[]),
            server_reachable: m.gauge(
                &["server_reachable"],
                "Whether the server answered at the last try",
                &[],
            ),
            set_reachable: m.gauge(
                &["server_set_reachable"],
                "Whether a server of this server_set answered at the last try",
                &["server_set"],
            ),
            state_unwritten: m.gauge(
                &["state_unwritten"],
                "1 while the data directory does not take the agent's state",
                &[],
            ),
            bundles: m.gauge(&["sync_bundles_total"], "Bundles at the last sync", &[]),
            total: sync("total", "Entries at the last sync"),
            last: [
                sync("missing", "Entries that a sync just found to be new"),
                sync("stale", "Entries that a sync just found to be changed"),
                sync("dropped", "Entries that a sync just found to be gone"),
            ],
            synced: Arc::default(),
        }
    }

    /// Notes what a sync found.
    pub fn synced(&self, stats: SyncStats) {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        *synced = Some((Instant::now(), stats));
    }

    /// Shows all of it at each reading of `metrics`.
    pub fn show(&self, metrics: &Metrics, shown: Shown) {
        let me = self.clone();
        metrics.before_reading(move || me.read(&shown));
    }

    fn read(&self, shown: &Shown) {
        let now = shown.clock.unix();
        let left = |at: UnixTime| (at - now) as f64;
        self.uptime.set(&[], shown.started.elapsed().as_millis() as f64);
        self.record_map_size.set_len(&[], shown.cache.entry_count());
        self.svid_map_size.set_len(&[], shown.cache.svid_count());
        self.jwt_cache_size.set_len(&[], shown.sets.iter().map(|(_, it)| it.jwt_cache.len()).sum());
        self.subscriptions.set_len(&[], shown.cache.subscriber_count());
        let failing = shown.sets.iter().any(|(_, set)| set.data.is_failing());
        self.state_unwritten.set(&[], f64::from(u8::from(failing)));
        for (name, set) in shown.sets.iter().filter(|(name, _)| !name.is_empty()) {
            let reachable = set.status.borrow().server_reachable;
            self.set_reachable.set(&[name], f64::from(u8::from(reachable)));
        }
        let next = shown.cache.next_expiry();
        tell(&self.next_expiry, &["x509_svid"], next.map(left));
        {
            let status = shown.status.borrow();
            let expiry = status.identity.as_ref().map(|identity| identity.not_after());
            tell(&self.next_expiry, &["agent_svid"], expiry.map(left));
            tell(&self.agent_svid_expiry, &[], expiry.map(|at| at.seconds() as f64));
            let age = Some(status.last_sync).filter(|at| *at > UnixTime::EPOCH);
            tell(&self.sync_age, &[], age.map(|at| -left(at)));
            self.server_reachable.set(&[], f64::from(u8::from(status.server_reachable)));
        }
        let synced = *self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, stats)) = synced else { return };
        self.bundles.set_len(&[], shown.cache.watch_bundles().borrow().len());
        self.total.set_len(&[], stats.total);
        let is_over = at.elapsed() > shown.sync_interval;
        let found = [stats.missing, stats.stale, stats.dropped];
        for (gauge, found) in self.last.iter().zip(found) {
            gauge.set_len(&[], if is_over { 0 } else { found });
        }
    }
}

/// Sets a value, or says nothing of it.
fn tell(gauge: &Gauge, labels: &[&str], value: Option<f64>) {
    match value {
        Some(value) => gauge.set(labels, value),
        None => gauge.forget(labels),
    }
}
