//! Federation relationships.

use async_trait::async_trait;
use signet_identity::{Bundle, FederationRelationship, TrustDomain};
use signet_time::UnixTime;

use crate::{CreateOutcome, Page, PageRequest, StoreError};

/// Changes a relationship. The trust domain cannot be changed.
pub type FederationChange = dyn Fn(&mut FederationRelationship) + Send + Sync;

/// A change of one relationship, applied within the transaction to what is stored then.
pub struct FederationUpdate {
    /// With whom.
    pub trust_domain: TrustDomain,
    /// Changes the relationship.
    pub change: Box<FederationChange>,
    /// Also set this bundle.
    pub bundle: Option<Bundle>,
}

impl FederationUpdate {
    /// An update from a closure. It is cloned for each try of the transaction.
    pub fn new(
        trust_domain: TrustDomain,
        change: impl FnOnce(&mut FederationRelationship) + Clone + Send + Sync + 'static,
        bundle: Option<Bundle>,
    ) -> Self {
        let change = Box::new(move |relationship: &mut _| change.clone()(relationship));
        Self { trust_domain, change, bundle }
    }
}

impl std::fmt::Debug for FederationUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FederationUpdate({})", self.trust_domain)
    }
}

/// Federation relationships.
#[async_trait]
pub trait Federations: Send + Sync {
    /// One relationship.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn federation(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<FederationRelationship>, StoreError>;

    /// A page of the relationships, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn list_federations(
        &self,
        page: PageRequest,
    ) -> Result<Page<FederationRelationship>, StoreError>;

    /// Creates a batch in one transaction, each with the foreign bundle when one is given; one
    /// outcome for each, in order.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn create_federations(
        &self,
        relationships: Vec<(FederationRelationship, Option<Bundle>)>,
        now: UnixTime,
    ) -> Result<Vec<CreateOutcome<FederationRelationship>>, StoreError>;

    /// Updates a batch in one transaction; the relationship after the change, or `None` where
    /// there is none.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn update_federations(
        &self,
        updates: Vec<FederationUpdate>,
        now: UnixTime,
    ) -> Result<Vec<Option<FederationRelationship>>, StoreError>;

    /// Deletes a batch in one transaction; for each, in order, whether it was there.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn delete_federations(
        &self,
        trust_domains: Vec<TrustDomain>,
        now: UnixTime,
    ) -> Result<Vec<bool>, StoreError>;
}
