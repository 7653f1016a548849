//! What is measured.

use signet_daemon::metrics::{Calls, Counter, Gauge, Metrics};

/// The broker's metrics.
#[derive(Clone, Debug)]
pub struct BrokerMetrics {
    /// Requests by method and reason code (`ok` when granted).
    pub requests: Counter,
    /// Calls of OpenBao's engines.
    pub openbao: Calls,
    /// What was taken back, by what came of it.
    pub revocations: Counter,
    held: Gauge,
}

impl BrokerMetrics {
    /// In a registry.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.counter(
                &["requests"],
                "Requests by method and reason",
                &["method", "reason"],
            ),
            openbao: metrics.calls(&["openbao"], "Calls of OpenBao's engines", &[]),
            revocations: metrics.counter(
                &["revocations"],
                "Tokens and leases taken back, by what came of it",
                &["effect"],
            ),
            held: metrics.gauge(
                &["held"],
                "Tokens, leases, and what waits to be taken back",
                &["kind"],
            ),
        }
    }

    /// Sets how many tokens, leases and things to be taken back there are.
    pub fn held(&self, tokens: usize, leases: usize, ending: usize) {
        self.held.set_len(&["tokens"], tokens);
        self.held.set_len(&["leases"], leases);
        self.held.set_len(&["ending"], ending);
    }
}
