//! What the server measures, under SPIRE's names where SPIRE has them; `docs/metrics.md` lists all.

mod authorities;
mod federation;
mod keys;
mod state;
mod store;

use std::sync::Arc;

use signet_daemon::metrics::{Calls, Counter, Gauge, Metrics};

use self::state::StateMetrics;
pub use self::{
    authorities::AuthorityMetrics, federation::FederationMetrics, keys::MeasuredKeys, state::Shown,
    store::StoreMetrics,
};

/// The server's metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    /// `api_refusals`: calls, and items of batches, that were refused or failed.
    pub refusals: Counter,
    /// `bundle_undelivered`: 1 for a notifier or publisher that does not have the newest bundle.
    pub bundle_undelivered: Gauge,
    /// `entry_cache_reload`: how long it takes until memory reflects what was written.
    pub cache_reload: Calls,
    /// `node_attestation`, by attestor: attestations with all that they wait for.
    pub attestation: Calls,
    /// `node_manager_prune`.
    pub prune_nodes: Calls,
    /// `registration_entry_manager_prune`.
    pub prune_entries: Calls,
    /// `push_notices`: notices of changes that were sent.
    pub push_notices: Counter,
    /// `push_streams`: those who are told of changes.
    pub push_streams: Gauge,
    /// `rateLimit_*`.
    pub rate_limits: RateLimitMetrics,
    /// `tenancy_denied`: what was refused for its tenant, by reason code.
    pub tenancy_denied: Counter,
    /// `server_ca_sign_jwt_svid`.
    pub signed_jwt: Counter,
    /// `server_ca_sign_wit_svid`.
    pub signed_wit: Counter,
    /// `server_ca_sign_x509_ca_svid`: authorities of downstream servers.
    pub signed_ca: Counter,
    /// `server_ca_sign_x509_svid`: those of workloads and agents.
    pub signed_x509: Counter,
    /// `svid_rotate`: renewals of the server's own SVID.
    pub svid_rotate: Calls,
    /// `datastore_*`.
    pub store: Arc<StoreMetrics>,
    /// `ca_manager_*`.
    pub authorities: Arc<AuthorityMetrics>,
    state: StateMetrics,
}

/// The waits for rate limits, by what is limited.
#[derive(Clone, Debug)]
pub struct RateLimitMetrics {
    /// AttestAgent.
    pub attest: Calls,
    /// NewJWTSVID.
    pub jwt: Calls,
    /// BatchNewWITSVID.
    pub wit: Calls,
    /// BatchNewX509SVID.
    pub x509: Calls,
    /// RenewAgent.
    pub renew: Calls,
    /// NewDownstreamX509CA.
    pub downstream: Calls,
    /// PostStatus.
    pub status: Calls,
    /// PublishJWTAuthority.
    pub publish: Calls,
}

impl RateLimitMetrics {
    fn new(m: &Metrics) -> Self {
        let calls = |key: &[&str]| {
            let key: Vec<&str> = std::iter::once("rateLimit").chain(key.iter().copied()).collect();
            m.calls(&key, "Waits for a rate limit", &[])
        };
        let svid = |method: &str| calls(&["svid", "v1", "svid", method]);
        let agent = |method: &str| calls(&["agent", "v1", "agent", method]);
        Self {
            attest: agent("attest_agent"),
            jwt: svid("new_jwtsvid"),
            wit: svid("batch_new_witsvid"),
            x509: svid("batch_new_x509svid"),
            renew: agent("renew_agent"),
            downstream: svid("new_downstream_x509ca"),
            status: agent("post_status"),
            publish: calls(&["bundle", "v1", "bundle", "publish_jwt_authority"]),
        }
    }
}

impl ServerMetrics {
    /// Registers everything.
    pub fn new(m: &Metrics) -> Self {
        let signed = |what: &str, help: &str| m.counter(&["server_ca", "sign", what], help, &[]);
        Self {
            refusals: m.counter(
                &["api", "refusals"],
                "Calls and items of batches that were refused or failed",
                &["method", "status", "reason"],
            ),
            bundle_undelivered: m.gauge(
                &["bundle", "undelivered"],
                "1 while a notifier or bundle publisher lacks the newest bundle",
                &["plugin"],
            ),
            cache_reload: m.calls(
                &["entry", "cache", "reload"],
                "Times that memory was brought up to the registration store",
                &[],
            ),
            attestation: m.calls(&["node_attestation"], "Node attestations", &["attestor"]),
            prune_nodes: m.calls(&["node", "manager", "prune"], "Prunings of expired agents", &[]),
            prune_entries: m.calls(
                &["registration_entry", "manager", "prune"],
                "Prunings of expired entries",
                &[],
            ),
            push_notices: m.counter(&["push", "notices"], "Notices of changes sent", &[]),
            push_streams: m.gauge(&["push", "streams"], "Those who are told of changes", &[]),
            rate_limits: RateLimitMetrics::new(m),
            tenancy_denied: m.counter(
                &["tenancy", "denied"],
                "What was refused for its tenant",
                &["reason"],
            ),
            signed_jwt: signed("jwt_svid", "JWT-SVIDs signed"),
            signed_wit: signed("wit_svid", "WIT-SVIDs signed"),
            signed_ca: signed("x509_ca_svid", "Downstream X.509 authorities signed"),
            signed_x509: signed("x509_svid", "X.509-SVIDs signed"),
            svid_rotate: m.calls(&["svid", "rotate"], "Renewals of the server's own SVID", &[]),
            store: Arc::new(StoreMetrics::new(m)),
            authorities: Arc::new(AuthorityMetrics::new(m)),
            state: StateMetrics::new(m),
        }
    }

    /// Shows the state of a server at each reading.
    pub fn show(&self, metrics: &Metrics, shown: Shown) {
        self.state.show(metrics, shown);
    }
}
