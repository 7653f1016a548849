//! What the agent measures, under SPIRE's names where SPIRE has them; `docs/metrics.md` lists all.

pub mod keys;
mod rpc;
mod state;

use std::sync::Arc;

use signet_daemon::metrics::{Calls, Counter, Gauge, Histogram, Metrics};

pub use self::{
    keys::KeyMetrics,
    rpc::{Method, OpenCall, RpcMetrics},
    state::{Shown, ShownSet, StateMetrics},
};

/// The agent's metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct AgentMetrics {
    /// `started`.
    pub started: Gauge,
    /// `bootstrapped`.
    pub bootstrapped: Gauge,
    /// `bootstrap_attempts`, by mode.
    pub bootstrap_attempts: Gauge,
    /// `bootstrap_seconds`, by mode: when bootstrapping began, Unix seconds.
    pub bootstrap_seconds: Gauge,
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
    /// `cache_manager_expiring_svids`: how many SVIDs were renewed at a time.
    pub expiring_svids: Histogram,
    /// `cache_manager_outdated_svids`: how many entries of a sync had changed.
    pub outdated_svids: Histogram,
    /// `cache_manager_tainted_x509_svids_workload`.
    pub tainted_x509: Histogram,
    /// `cache_manager_tainted_jwt_svids_workload`.
    pub tainted_jwt: Histogram,
    /// `cache_manager_workload_process_tainted_x509_svids`.
    pub process_tainted_x509: Calls,
    /// `cache_manager_workload_process_tainted_jwt_svids`.
    pub process_tainted_jwt: Calls,
    /// `agent_key_manager_*`.
    pub keys: KeyMetrics,
    /// `rpc_*` and the connections.
    pub rpcs: Arc<RpcMetrics>,
    /// `workload_api_workload_attestation`.
    pub attestation: Calls,
    /// `workload_api_workload_attestor`, by attestor.
    pub attestor: Calls,
    /// `workload_api_discovered_selectors`: how many were found.
    pub discovered_selectors: Histogram,
    /// `workload_api_rate_limit_exceeded`, by method.
    pub rate_limited: Counter,
    /// `workload_api_refusals`, by reason (our own).
    pub refusals: Counter,
    /// `workload_api_svids_issued`, by kind (our own).
    pub issued: Counter,
    /// `workload_api_attestations_waiting` (our own).
    pub waiting: Gauge,
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
    /// `push_lag_seconds`: from a notice to what it told of (our own).
    pub push_lag: Histogram,
    /// What is looked up when somebody reads.
    pub state: StateMetrics,
}

impl AgentMetrics {
    /// Registers everything.
    pub fn new(m: &Metrics) -> Self {
        let tainted = |kind: &str| {
            let key = ["cache_manager", kind, "workload"];
            m.numbers(&key, "SVIDs of a tainted authority at a time", &[])
        };
        let process = |kind: &str| {
            let key = ["cache_manager", "workload", kind];
            m.calls(&key, "Searches for SVIDs of a tainted authority", &[])
        };
        let key = |verb: &str, help: &str| m.calls(&["agent_key_manager", verb], help, &[]);
        Self {
            started: m.gauge(
                &["started"],
                "Whether the agent has started",
                &["version", "trust_domain_id"],
            ),
            bootstrapped: m.gauge(&["bootstrapped"], "Whether the agent trusts its server", &[]),
            bootstrap_attempts: m.gauge(
                &["bootstrap_attempts"],
                "Requests to the bundle source since the last success",
                &["mode"],
            ),
            bootstrap_seconds: m.gauge(
                &["bootstrap_seconds"],
                "When bootstrapping began, Unix seconds",
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
            expiring_svids: m.numbers(
                &["cache_manager", "expiring_svids"],
                "X.509-SVIDs renewed at a time",
                &[],
            ),
            outdated_svids: m.numbers(
                &["cache_manager", "outdated_svids"],
                "Entries that had changed at a sync",
                &[],
            ),
            tainted_x509: tainted("tainted_x509_svids"),
            tainted_jwt: tainted("tainted_jwt_svids"),
            process_tainted_x509: process("process_tainted_x509_svids"),
            process_tainted_jwt: process("process_tainted_jwt_svids"),
            keys: KeyMetrics {
                generate: key("generate_key", "Keys of the agent that were made"),
                get: key("get_keys", "Look-ups of the keys of the agent"),
            },
            rpcs: Arc::new(RpcMetrics::new(m)),
            attestation: m.calls(
                &["workload_api", "workload_attestation"],
                "Workload attestations",
                &[],
            ),
            attestor: m.calls(
                &["workload_api", "workload_attestor"],
                "Workload attestations by one attestor",
                &["attestor"],
            ),
            discovered_selectors: m.numbers(
                &["workload_api", "discovered_selectors"],
                "Selectors of the workloads that were attested",
                &[],
            ),
            rate_limited: m.counter(
                &["workload_api", "rate_limit_exceeded"],
                "Calls refused by a rate limit",
                &["method"],
            ),
            refusals: m.counter(
                &["workload_api", "refusals"],
                "Callers that got nothing, by reason",
                &["reason"],
            ),
            issued: m.counter(
                &["workload_api", "svids_issued"],
                "SVIDs handed to workloads",
                &["kind"],
            ),
            waiting: m.gauge(
                &["workload_api", "attestations_waiting"],
                "Callers that wait for their turn to be attested",
                &[],
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
            push_lag: m.seconds(
                &["push_lag_seconds"],
                "Seconds from a notice of the server until what it told of is served",
                &[],
            ),
            state: StateMetrics::new(m),
        }
    }
}
