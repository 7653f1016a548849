//! What fetching the bundles of others counts and shows.

use std::time::Duration;

use signet_daemon::metrics::{Calls, Counter, Gauge, Metrics};
use signet_identity::TrustDomain;
use signet_time::UnixTime;

/// What fetching the bundles of others counts and shows.
#[derive(Clone, Debug)]
pub struct FederationMetrics {
    fetched: Calls,
    updated: Counter,
    failures: Gauge,
    success_age: Gauge,
    poller: Gauge,
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
            poller: m.gauge(
                &["federation", "poller"],
                "Whether this server polls bundle endpoints for all that share its store",
                &[],
            ),
        }
    }

    /// Shows whether this server polls.
    pub fn polls_here(&self, is_poller: bool) {
        self.poller.set(&[], f64::from(u8::from(is_poller)));
    }

    /// Shows nothing of a trust domain that another server polls.
    pub fn hide(&self, trust_domain: &TrustDomain) {
        self.failures.forget(&[trust_domain.as_str()]);
        self.success_age.forget(&[trust_domain.as_str()]);
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

    /// Shows how fetching goes at `now`: how many polls of the endpoint of `trust_domain` failed in
    /// a row, and when the last one succeeded.
    pub fn show(
        &self,
        trust_domain: &TrustDomain,
        (failures, last_success): (u32, Option<UnixTime>),
        now: UnixTime,
    ) {
        let trust_domain = trust_domain.as_str();
        self.failures.set(&[trust_domain], f64::from(failures));
        if let Some(last) = last_success {
            self.success_age.set(&[trust_domain], (now - last) as f64);
        }
    }
}
