//! What the server measures besides its RPCs, under SPIRE's names.

use std::{sync::Arc, time::Duration};

use signet_daemon::metrics::{Calls, Counter, Gauge, Metrics};
use signet_identity::TrustDomain;

use crate::{context::Context, federation::Status};

/// The server's metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    /// `bundle_undelivered`: 1 for a notifier or publisher that does not have the newest bundle.
    pub bundle_undelivered: Gauge,
    /// `server_ca_sign_jwt_svid`.
    pub signed_jwt: Counter,
    /// `server_ca_sign_x509_ca_svid`: authorities of downstream servers.
    pub signed_ca: Counter,
    /// `server_ca_sign_x509_svid`: those of workloads and agents.
    pub signed_x509: Counter,
    agents: Gauge,
    ca_expiration: Gauge,
    ca_failed: Gauge,
    ca_ttl: Gauge,
    key_manager_failures: Gauge,
    local_intermediate_ttl: Gauge,
    entries: Gauge,
    started: Gauge,
    staleness: Gauge,
    uptime: Gauge,
}

/// What fetching the bundles of others counts and shows.
#[derive(Clone, Debug)]
pub struct FederationMetrics {
    fetched: Calls,
    updated: Counter,
    failures: Gauge,
    success_age: Gauge,
}

impl FederationMetrics {
    /// Registers everything.
    pub fn new(m: &Metrics) -> Self {
        const LABELS: &[&str] = &["trust_domain_id"];
        let manager = |what| ["bundle_manager", what, "federated_bundle"];
        Self {
            fetched: m.calls(&manager("fetch"), "Polls of bundle endpoints", LABELS),
            updated: m.counter(&manager("update"), "Polls that brought another bundle", LABELS),
            failures: m.gauge(
                &["federation", "failed_polls"],
                "Polls of a bundle endpoint that failed in a row",
                LABELS,
            ),
            success_age: m.gauge(
                &["federation", "success_age_seconds"],
                "Seconds since a bundle endpoint last gave a good answer",
                LABELS,
            ),
        }
    }

    /// Counts a poll.
    pub fn polled(&self, trust_domain: &TrustDomain, is_good: bool, took: Duration) {
        let status = if is_good { "OK" } else { "Internal" };
        self.fetched.observe(&[trust_domain.as_str()], status, took);
    }

    /// Counts a poll that brought another bundle.
    pub fn updated(&self, trust_domain: &TrustDomain) {
        self.updated.inc(&[trust_domain.as_str()]);
    }

    /// Shows how fetching goes at `now`, Unix seconds.
    pub fn show(&self, status: &Status, now: i64) {
        let trust_domain = status.relationship.trust_domain.as_str();
        self.failures.set(&[trust_domain], f64::from(status.failures));
        if let Some(last) = status.last_success {
            self.success_age.set(&[trust_domain], now.saturating_sub(last) as f64);
        }
    }
}

impl ServerMetrics {
    /// Registers everything.
    pub fn new(m: &Metrics) -> Self {
        let signed = |what: &str, help: &str| m.counter(&["server_ca", "sign", what], help, &[]);
        let rotate = |what: &str, help: &str| {
            m.gauge(&["manager", "x509_ca", "rotate", what], help, &["trust_domain_id"])
        };
        Self {
            bundle_undelivered: m.gauge(
                &["bundle", "undelivered"],
                "1 while a notifier or bundle publisher lacks the newest bundle",
                &["plugin"],
            ),
            signed_jwt: signed("jwt_svid", "JWT-SVIDs signed"),
            signed_ca: signed("x509_ca_svid", "Downstream X.509 authorities signed"),
            signed_x509: signed("x509_svid", "X.509-SVIDs signed"),
            agents: m.gauge(&["node", "agents_by_id_cache", "count"], "Agents in memory", &[]),
            ca_expiration: rotate("expiration", "When the active X.509 CA expires, Unix seconds"),
            ca_failed: m.gauge(
                &["ca", "manager", "failed_rotations"],
                "Rotations of authorities that failed in a row",
                &[],
            ),
            ca_ttl: rotate("ttl", "Seconds until the active X.509 CA expires"),
            key_manager_failures: m.gauge(
                &["key_manager", "failed_signatures"],
                "Signatures that a remote key manager failed to make in a row",
                &[],
            ),
            local_intermediate_ttl: m.gauge(
                &["manager", "local_intermediate", "ttl"],
                "Seconds until the local intermediate expires; 0 without one",
                &[],
            ),
            entries: m.gauge(
                &["entry", "entries_by_entryid_cache", "count"],
                "Registration entries in memory",
                &[],
            ),
            started: m.gauge(&["started"], "1", &["version", "trust_domain_id"]),
            staleness: m.gauge(
                &["entry", "cache", "staleness_seconds"],
                "How old what is in memory may be",
                &[],
            ),
            uptime: m.gauge(&["uptime_in_ms"], "Milliseconds since the start", &[]),
        }
    }

    /// Shows the state of a server at each reading.
    pub fn show(&self, context: &Context) {
        let trust_domain = context.trust_domain.as_str();
        self.started.set(&[env!("CARGO_PKG_VERSION"), trust_domain], 1.0);
        let me = self.clone();
        // Not the context itself: it holds the metrics, which would then hold themselves.
        let (cache, authority) = (Arc::clone(&context.cache), context.authority.clone());
        let (clock, started) = (Arc::clone(&context.clock), context.started);
        let trust_domain = context.trust_domain.clone();
        context.metrics.before_reading(move || {
            let trust_domain = trust_domain.as_str();
            me.uptime.set(&[], started.elapsed().as_secs_f64() * 1e3);
            me.entries.set_len(&[], cache.entry_count());
            me.agents.set_len(&[], cache.node_count());
            me.staleness.set(&[], cache.staleness().as_secs_f64());
            let view = authority.view();
            let view = view.borrow();
            me.ca_failed.set(&[], f64::from(view.failed_rotations));
            let failures = authority.signing_fault().map_or(0, |fault| fault.in_a_row);
            me.key_manager_failures.set(&[], f64::from(failures));
            let local = authority.local_intermediate_expires_at();
            let left = local.map_or(0, |expires_at| expires_at.saturating_sub(clock.unix()));
            me.local_intermediate_ttl.set(&[], left as f64);
            if let Some(active) = &view.x509.active {
                let left = active.expires_at.saturating_sub(clock.unix());
                me.ca_expiration.set(&[trust_domain], active.expires_at as f64);
                me.ca_ttl.set(&[trust_domain], left as f64);
            }
        });
    }
}
