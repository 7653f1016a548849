//! What the controller measures.

use signet_daemon::metrics::{Calls, Counter, Gauge, Metrics};

/// The controller's metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct ControllerMetrics {
    /// `cluster_static_entry_failures`: as spire-controller-manager counts them.
    pub static_entry_failures: Gauge,
    /// `entries_held`.
    pub held: Gauge,
    /// `entries_waiting`.
    pub waiting: Gauge,
    /// `entry_writes`, by operation.
    pub writes: Calls,
    /// `entries_written`, by operation and result.
    pub written: Counter,
    /// `entry_lists`.
    pub lists: Calls,
    /// `entry_changes`.
    pub changes: Counter,
    /// `in_sync`.
    pub in_sync: Gauge,
    /// `invalid_resources`.
    pub invalid: Gauge,
    /// `leader`.
    pub leader: Gauge,
    /// `pods`.
    pub pods: Gauge,
    /// `push_connected`.
    pub push_connected: Gauge,
    /// `render_failures`.
    pub render_failures: Gauge,
    /// `status_writes`, by result.
    pub status_writes: Counter,
    /// `webhook_requests`, by kind and result.
    pub webhook_requests: Counter,
    /// `webhook_certificate_expiry`.
    pub webhook_expiry: Gauge,
}

impl ControllerMetrics {
    /// Registers everything.
    pub fn new(m: &Metrics) -> Self {
        Self {
            static_entry_failures: m.gauge(
                &["cluster_static_entry_failures"],
                "ClusterStaticEntries that could not be rendered",
                &[],
            ),
            held: m.gauge(&["entries_held"], "Entries of this controller on the server", &[]),
            waiting: m.gauge(&["entries_waiting"], "Entries that wait to be written", &[]),
            writes: m.calls(&["entry_writes"], "Batches written", &["operation"]),
            written: m.counter(&["entries_written"], "Entries written", &["operation", "result"]),
            lists: m.calls(&["entry_lists"], "Lists of all entries", &[]),
            changes: m.counter(&["entry_changes"], "Changes of entries that were followed", &[]),
            in_sync: m.gauge(&["in_sync"], "Whether the server holds what is declared", &[]),
            invalid: m.gauge(
                &["invalid_resources"],
                "Resources whose specification cannot be used",
                &[],
            ),
            leader: m.gauge(&["leader"], "Whether this process leads", &[]),
            pods: m.gauge(&["pods"], "Pods followed", &[]),
            push_connected: m.gauge(
                &["push_connected"],
                "Whether the server pushes notices of change",
                &[],
            ),
            render_failures: m.gauge(
                &["render_failures"],
                "Pods that a ClusterSPIFFEID selects and cannot be rendered for",
                &[],
            ),
            status_writes: m.counter(&["status_writes"], "Statuses written", &["result"]),
            webhook_requests: m.counter(
                &["webhook_requests"],
                "Resources that the webhook looked at",
                &["kind", "result"],
            ),
            webhook_expiry: m.gauge(
                &["webhook_certificate_expiry"],
                "When the webhook's certificate expires, Unix seconds",
                &[],
            ),
        }
    }
}
