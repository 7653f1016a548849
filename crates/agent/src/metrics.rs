//! What the agent measures, under SPIRE's names.

use signet_daemon::metrics::{Calls, Counter, Gauge, Metrics};

use crate::client::SyncStats;

/// The agent's metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct AgentMetrics {
    /// `started`.
    pub started: Gauge,
    /// `uptime_in_ms`.
    pub uptime: Gauge,
    /// `bootstrapped`.
    pub bootstrapped: Gauge,
    /// `bootstrap_attempts`, by mode.
    pub bootstrap_attempts: Gauge,
    /// `node_attestor_new_svid`, by attestor.
    pub new_svid: Calls,
    /// `agent_svid_rotate`.
    pub rotate: Calls,
    /// `manager_sync_fetch_entries_updates`.
    pub fetch_entries: Calls,
    /// `manager_sync_fetch_svids_updates`.
    pub fetch_svids: Calls,
    /// `lru_cache_entry_add`.
    pub entries_added: Counter,
    /// `lru_cache_entry_update`.
    pub entries_updated: Counter,
    /// `lru_cache_entry_remove`.
    pub entries_removed: Counter,
    /// `lru_cache_record_map_size`.
    pub record_map_size: Gauge,
    /// `lru_cache_svid_map_size`.
    pub svid_map_size: Gauge,
    /// `jwt_svid_cache_size`.
    pub jwt_cache_size: Gauge,
    /// `workload_api_connections`: open connections.
    pub connections: Gauge,
    /// `workload_api_connection`: connections so far.
    pub connection: Counter,
    /// `workload_api_workload_attestation`.
    pub attestation: Calls,
    /// `workload_api_discovered_selectors`: how many were found last.
    pub discovered_selectors: Gauge,
    /// `workload_api_rate_limit_exceeded`, by method.
    pub rate_limited: Counter,
    /// `workload_api_peer_pinned`, by how the caller was pinned (our own).
    pub pinned: Counter,
    /// `sds_streams`: open streams, by method (our own).
    pub sds_streams: Gauge,
    /// `sds_outdated_streams` (our own).
    pub sds_outdated: Gauge,
    /// `sds_answers`, by method (our own).
    pub sds_answers: Counter,
    /// `sds_answer_bytes`, by method (our own).
    pub sds_bytes: Counter,
    /// `sds_rejected_answers`, by method (our own).
    pub sds_rejected: Counter,
    /// `push_connected` (our own).
    pub push_connected: Gauge,
    sync_entries: [Gauge; 4],
}

impl AgentMetrics {
    /// Registers everything.
    pub fn new(m: &Metrics) -> Self {
        let entries = |name: &str, help: &str| m.gauge(&["sync_entries", name], help, &[]);
        Self {
            started: m.gauge(
                &["started"],
                "Whether the agent has started",
                &["version", "trust_domain_id"],
            ),
            uptime: m.gauge(&["uptime_in_ms"], "Milliseconds since the start", &[]),
            bootstrapped: m.gauge(&["bootstrapped"], "Whether the agent trusts its server", &[]),
            bootstrap_attempts: m.gauge(
                &["bootstrap_attempts"],
                "Requests to the bundle source since the last success",
                &["mode"],
            ),
            new_svid: m.calls(
                &["node", "attestor", "new_svid"],
                "Node attestations",
                &["attestor"],
            ),
            rotate: m.calls(&["agent_svid", "rotate"], "Renewals of the agent's SVID", &[]),
            fetch_entries: m.calls(
                &["manager", "sync", "fetch_entries_updates"],
                "Fetches of entries and bundles",
                &[],
            ),
            fetch_svids: m.calls(
                &["manager", "sync", "fetch_svids_updates"],
                "Batches of X.509-SVIDs signed",
                &[],
            ),
            entries_added: m.counter(&["lru_cache_entry_add"], "Entries that came", &[]),
            entries_updated: m.counter(&["lru_cache_entry_update"], "Entries that changed", &[]),
            entries_removed: m.counter(&["lru_cache_entry_remove"], "Entries that went", &[]),
            record_map_size: m.gauge(&["lru_cache_record_map_size"], "Entries held", &[]),
            svid_map_size: m.gauge(&["lru_cache_svid_map_size"], "X.509-SVIDs held", &[]),
            jwt_cache_size: m.gauge(&["jwt_svid_cache_size"], "JWT-SVIDs held", &[]),
            connections: m.gauge(&["workload_api", "connections"], "Open connections", &[]),
            connection: m.counter(&["workload_api", "connection"], "Connections so far", &[]),
            attestation: m.calls(
                &["workload_api", "workload_attestation"],
                "Workload attestations",
                &[],
            ),
            discovered_selectors: m.gauge(
                &["workload_api", "discovered_selectors"],
                "Selectors of the workload attested last",
                &[],
            ),
            rate_limited: m.counter(
                &["workload_api", "rate_limit_exceeded"],
                "Calls refused by a rate limit",
                &["method"],
            ),
            pinned: m.counter(
                &["workload_api", "peer_pinned"],
                "Callers by how they were pinned",
                &["mode"],
            ),
            sds_streams: m.gauge(&["sds", "streams"], "Open streams of SDS", &["method"]),
            sds_outdated: m.gauge(
                &["sds", "outdated_streams"],
                "Streams whose peer has not accepted what it was sent last",
                &[],
            ),
            sds_answers: m.counter(&["sds", "answers"], "Answers of SDS", &["method"]),
            sds_bytes: m.counter(&["sds", "answer_bytes"], "Bytes of them", &["method"]),
            sds_rejected: m.counter(
                &["sds", "rejected_answers"],
                "Answers of SDS that a peer rejected",
                &["method"],
            ),
            push_connected: m.gauge(
                &["push_connected"],
                "Whether the server pushes notices of change",
                &[],
            ),
            sync_entries: [
                entries("total", "Entries at the last sync"),
                entries("missing", "Entries new at the last sync"),
                entries("stale", "Entries changed at the last sync"),
                entries("dropped", "Entries gone at the last sync"),
            ],
        }
    }

    /// Notes what a sync found.
    pub fn synced(&self, stats: SyncStats) {
        let values = [stats.total, stats.missing, stats.stale, stats.dropped];
        for (gauge, value) in self.sync_entries.iter().zip(values) {
            gauge.set_len(&[], value);
        }
    }
}
