//! The authority's ports, filled by the registration store.

use async_trait::async_trait;
use signet_authority::ports::{BundleEdit, BundleStore, JournalStore, PortError};
use signet_base::SharedClock;
use signet_identity::{Bundle, TrustDomain};
use signet_store::Store;

/// Under which name a store holds a CA journal that no server has taken over yet: one of a
/// migration, or of version 0.1.
pub const UNCLAIMED_JOURNAL: &str = "server";

/// Journal and own bundle in the registration store.
#[derive(Clone, Debug)]
pub struct AuthorityStore {
    store: Store,
    trust_domain: TrustDomain,
    clock: SharedClock,
    server_id: String,
}

impl AuthorityStore {
    /// The ports of the server with this ID (see [`crate::server_id`]) for `trust_domain`.
    pub fn new(
        store: Store,
        trust_domain: TrustDomain,
        clock: SharedClock,
        server_id: String,
    ) -> Self {
        Self { store, trust_domain, clock, server_id }
    }
}

#[async_trait]
impl JournalStore for AuthorityStore {
    async fn load(&self) -> Result<Option<Vec<u8>>, PortError> {
        let read = self.store.journal(&self.server_id).await;
        read.map_err(|error| PortError::new("reading the CA journal", error))
    }

    async fn save(&self, data: Vec<u8>) -> Result<(), PortError> {
        let written = self.store.put_journal(&self.server_id, &data, self.clock.unix()).await;
        written.map_err(|error| PortError::new("writing the CA journal", error))
    }
}

#[async_trait]
impl BundleStore for AuthorityStore {
    async fn bundle(&self) -> Result<Option<Bundle>, PortError> {
        let read = self.store.bundle(&self.trust_domain).await;
        read.map_err(|error| PortError::new("reading the trust bundle", error))
    }

    async fn edit(&self, edit: BundleEdit) -> Result<(Bundle, bool), PortError> {
        let changed = self
            .store
            .change_bundle(&self.trust_domain, self.clock.unix(), move |bundle| {
                Ok::<_, std::convert::Infallible>(edit.apply(bundle))
            })
            .await
            .map_err(|error| PortError::new("writing the trust bundle", error))?;
        changed.map_err(|error| PortError::new("writing the trust bundle", error))
    }
}
