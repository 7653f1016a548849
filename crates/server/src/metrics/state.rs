//! Gauges that are set when somebody reads them.

use std::sync::Arc;

use signet_authority::{Authority, journal::Status};
use signet_base::SharedClock;
use signet_daemon::metrics::{Gauge, Metrics};
use signet_identity::TrustDomain;
use signet_pki::x509::Certificate;
use signet_time::UnixTime;
use tokio::{sync::watch, time::Instant};

use crate::cache::Cache;

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Entries and agents in memory.
    pub cache: Arc<Cache>,
    /// The authorities.
    pub authority: Authority,
    /// How the certificates by ACME of listeners fare.
    pub acme: Arc<[signet_acme::Status]>,
    /// The wall clock.
    pub clock: SharedClock,
    /// The chain of the server's own SVID, DER, leaf first.
    pub server_svid: watch::Receiver<Arc<[Arc<[u8]>]>>,
    /// When the server started.
    pub started: Instant,
}

/// How things stand.
#[derive(Clone, Debug)]
pub(super) struct StateMetrics {
    acme_days: Gauge,
    acme_failed: Gauge,
    agents: Gauge,
    agents_by_expiry: Gauge,
    agents_expired: Gauge,
    authority_expiry: Gauge,
    behind: Gauge,
    ca_expiration: Gauge,
    ca_failed: Gauge,
    ca_ttl: Gauge,
    entries: Gauge,
    failed_signatures: Gauge,
    foreign_expiry: Gauge,
    local_intermediate_ttl: Gauge,
    next_expiry: Gauge,
    skipped: [Gauge; 2],
    started: Gauge,
    staleness: Gauge,
    uptime: Gauge,
}

impl StateMetrics {
    pub(super) fn new(m: &Metrics) -> Self {
        let rotate = |what: &str, help: &str| {
            m.gauge(&["manager", "x509_ca", "rotate", what], help, &["trust_domain_id"])
        };
        let node = |what: &str, help: &str| m.gauge(&["node", what, "count"], help, &[]);
        let entry = |what: &str, help: &str| m.gauge(&["entry", what, "count"], help, &[]);
        Self {
            acme_days: m.gauge(
                &["acme", "certificate_days_left"],
                "Days until the certificate by ACME of a domain expires",
                &["domain"],
            ),
            acme_failed: m.gauge(
                &["acme", "failed_orders"],
                "Orders of a certificate by ACME that failed in a row",
                &["domain"],
            ),
            agents: node("agents_by_id_cache", "Agents in memory"),
            agents_by_expiry: node("agents_by_expiresat_cache", "Agents in memory"),
            agents_expired: node("agents_expired", "Agents whose SVID has expired"),
            authority_expiry: m.gauge(
                &["authority", "expiry"],
                "When an authority expires, Unix seconds",
                &["kind", "state"],
            ),
            behind: m.gauge(
                &["change_feed", "behind"],
                "Changes that are committed and not in memory yet",
                &[],
            ),
            ca_expiration: rotate("expiration", "When the active X.509 CA expires, Unix seconds"),
            ca_failed: m.gauge(
                &["ca", "manager", "failed_rotations"],
                "Rotations of authorities that failed in a row",
                &[],
            ),
            ca_ttl: rotate("ttl", "Seconds until the active X.509 CA expires"),
            entries: entry("entries_by_entryid_cache", "Registration entries in memory"),
            failed_signatures: m.gauge(
                &["key_manager", "failed_signatures"],
                "Signatures that a remote key manager failed to make in a row",
                &[],
            ),
            foreign_expiry: m.gauge(
                &["federated_bundle", "expiry_seconds"],
                "Seconds until the last authority of a foreign bundle expires",
                &["trust_domain_id"],
            ),
            local_intermediate_ttl: m.gauge(
                &["manager", "local_intermediate", "ttl"],
                "Seconds until the local intermediate expires; 0 without one",
                &[],
            ),
            next_expiry: m.gauge(
                &["next_expiry_seconds"],
                "Seconds until the next one expires",
                &["what"],
            ),
            skipped: [
                entry("skipped_entry_event_ids", "0: the change feed has no gaps"),
                node("skipped_node_event_ids", "0: the change feed has no gaps"),
            ],
            started: m.gauge(&["started"], "1", &["version", "trust_domain_id"]),
            staleness: m.gauge(
                &["entry", "cache", "staleness_seconds"],
                "How old what is in memory may be",
                &[],
            ),
            uptime: m.gauge(&["uptime_in_ms"], "Milliseconds since the start", &[]),
        }
    }

    pub(super) fn show(&self, metrics: &Metrics, shown: Shown) {
        let Shown { trust_domain, cache, authority, acme, clock, server_svid, started } = shown;
        self.started.set(&[env!("CARGO_PKG_VERSION"), trust_domain.as_str()], 1.0);
        let me = self.clone();
        metrics.before_reading(move || {
            let now = clock.unix();
            let left = |at: UnixTime| (at - now) as f64;
            me.uptime.set(&[], started.elapsed().as_secs_f64() * 1e3);
            me.entries.set_len(&[], cache.entry_count());
            me.staleness.set(&[], cache.staleness().as_secs_f64());
            me.behind.set(&[], cache.behind() as f64);
            me.skipped.iter().for_each(|skipped| skipped.set(&[], 0.0));

            for (domain, it) in acme.iter().flat_map(signet_acme::Status::domains) {
                let days = it.not_after.map(|end| left(end) / 86_400.0);
                tell(&me.acme_days, &[&domain], days);
                me.acme_failed.set(&[&domain], f64::from(it.failures));
            }

            let agents = cache.agent_expiries(now);
            me.agents.set_len(&[], agents.known);
            me.agents_by_expiry.set_len(&[], agents.known);
            me.agents_expired.set_len(&[], agents.expired);
            tell(&me.next_expiry, &["agent"], agents.next.map(left));

            let own = server_svid.borrow().first().and_then(|der| Certificate::from_der(der).ok());
            let own = own.map(|leaf| left(leaf.not_after()));
            tell(&me.next_expiry, &["server_svid"], own);

            let view = authority.view();
            let view = view.borrow();
            me.ca_failed.set(&[], f64::from(view.failed_rotations));
            let failed = authority.signing_fault().map_or(0, |fault| fault.in_a_row);
            me.failed_signatures.set(&[], f64::from(failed));
            let local = authority.local_intermediate_expires_at();
            me.local_intermediate_ttl.set(&[], local.map_or(0.0, left));
            let kinds = [
                (&view.x509, "x509", "x509_authority"),
                (&view.jwt, "jwt", "jwt_authority"),
                (&view.second_jwt, "second_jwt", "second_jwt_authority"),
                (&view.wit, "wit", "wit_authority"),
            ];
            for (kind, name, what) in kinds {
                let active = kind.active.as_ref().map(|active| active.expires_at);
                tell(&me.next_expiry, &[what], active.map(left));
                let next = |status| {
                    let next = kind.next.as_ref().filter(|next| next.status == status);
                    next.map(|next| next.expires_at.seconds() as f64)
                };
                tell(&me.authority_expiry, &[name, "active"], active.map(|at| at.seconds() as f64));
                tell(&me.authority_expiry, &[name, "prepared"], next(Status::Prepared));
                tell(&me.authority_expiry, &[name, "old"], next(Status::Old));
            }
            if let Some(active) = &view.x509.active {
                me.ca_expiration.set(&[trust_domain.as_str()], active.expires_at.seconds() as f64);
                me.ca_ttl.set(&[trust_domain.as_str()], left(active.expires_at));
            }
            // Those that are gone are told of no more.
            me.foreign_expiry.forget_all();
            for (domain, last) in cache.foreign_expiries() {
                me.foreign_expiry.set(&[domain.as_str()], left(last));
            }
        });
    }
}

/// Sets a value, or says nothing of it.
fn tell(gauge: &Gauge, labels: &[&str], value: Option<f64>) {
    match value {
        Some(value) => gauge.set(labels, value),
        None => gauge.forget(labels),
    }
}
