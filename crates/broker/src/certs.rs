//! Keeps OpenBao's certificate authentication in step with the trust bundle: its roles hold the
//! authorities, and a new one has to be there before anything is signed by it.

use std::time::Duration;

use signet_base::{Backoff, chain};
use signet_identity::TrustDomain;
use tokio::sync::watch;

use crate::{bao::BaoCall, bootstrap::cert_roles, issue::Issuer};

/// How often the roles are written again though nothing has changed: the policy may have.
const AGAIN: Duration = Duration::from_secs(300);

/// Writes the roles of every tenant whenever the bundle changes, for as long as it is polled.
pub async fn keep(issuer: Issuer, trust_domain: TrustDomain, mut bundle: watch::Receiver<String>) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        let text = bundle.borrow_and_update().clone();
        let wait = if text.is_empty() || write(&issuer, &trust_domain, &text).await {
            backoff.reset();
            AGAIN
        } else {
            backoff.next_delay()
        };
        tokio::select! {
            changed = bundle.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Whether everything was written.
async fn write(issuer: &Issuer, trust_domain: &TrustDomain, bundle: &str) -> bool {
    let policy = issuer.policy();
    let mut all = true;
    for tenant in policy.tenants() {
        // What cannot be said was said by bootstrap.
        let (roles, _) = cert_roles(&policy, tenant, trust_domain, bundle);
        let count = roles.len();
        for (path, body) in roles {
            let call = BaoCall::post(&tenant.namespace, &path, &body);
            if let Err(error) = issuer.sessions().call(tenant, call).await {
                tracing::warn!(
                    tenant = tenant.name,
                    path,
                    error = chain(&error),
                    "The trust bundle is not in OpenBao's certificate authentication yet"
                );
                all = false;
            }
        }
        tracing::debug!(tenant = tenant.name, roles = count, "Wrote roles of certificates");
    }
    all
}
