//! The OIDC discovery provider of the server itself: it publishes the JWT authorities of the own
//! bundle as they are in memory, hence at once.

use std::{sync::Arc, time::Duration};

use signet_base::{SharedClock, Tasks};
use signet_oidc::{
    config::Serving,
    keys::Keys,
    listener::{BindError, Bound},
    provider::Provider,
};

use crate::cache::Cache;

/// How often the keys are looked at without a change: they expire.
const INTERVAL: Duration = Duration::from_secs(60);

/// The provider, bound but not served yet.
#[derive(Debug)]
pub struct OidcProvider {
    listener: Bound,
    provider: Provider,
    keys: Keys,
}

impl OidcProvider {
    /// Opens its listener.
    ///
    /// # Errors
    /// [`BindError`] when a certificate file cannot be used, or the address cannot be bound.
    pub async fn bind(serving: &Serving, clock: SharedClock) -> Result<Self, BindError> {
        let listener = serving.listener.bind(Arc::clone(&clock)).await?;
        let keys = Keys::new(serving.publishing, clock);
        let provider = Provider::new(serving.settings.clone(), keys.clone());
        Ok(Self { listener, provider, keys })
    }

    /// Where it listens, unless on a Unix socket.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.listener.address()
    }

    /// How its certificates by ACME fare, if it has such.
    pub fn acme(&self) -> Option<signet_acme::Status> {
        self.listener.acme()
    }

    /// Serves until the tasks end.
    pub fn spawn(self, tasks: &Tasks, cache: &Arc<Cache>) {
        let Self { listener, provider, keys } = self;
        let cache = Arc::clone(cache);
        tasks.spawn_until_end("oidc_keys", async move {
            let mut changes = cache.subscribe(None);
            loop {
                changes.borrow_and_update();
                if let Some(own) = cache.own_bundle() {
                    keys.set(&own.bundle.jwt_authorities);
                }
                let change = bundle_change(&mut changes);
                if let Ok(false) = tokio::time::timeout(INTERVAL, change).await {
                    return;
                }
            }
        });
        listener.spawn(tasks, provider);
    }
}

/// Waits until a bundle has changed; says whether it has, and not that there will be no more.
async fn bundle_change(
    changes: &mut tokio::sync::watch::Receiver<crate::cache::Revisions>,
) -> bool {
    let before = changes.borrow().bundles;
    changes.wait_for(|now| now.bundles != before).await.is_ok()
}
