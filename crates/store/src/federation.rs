//! Federation relationships.

use signet_identity::{Bundle, FederationRelationship, TrustDomain};

use crate::{CreateOutcome, Page, PageRequest, Store, StoreError};

/// A change of one relationship, applied within the transaction to what is stored then.
pub struct FederationUpdate {
    /// With whom.
    pub trust_domain: TrustDomain,
    /// Changes the relationship. The trust domain cannot be changed.
    pub change: Box<dyn FnOnce(&mut FederationRelationship) + Send>,
    /// Also set this bundle.
    pub bundle: Option<Bundle>,
}

impl std::fmt::Debug for FederationUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FederationUpdate({})", self.trust_domain)
    }
}

impl Store {
    /// One relationship.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn federation(
        &self,
        _trust_domain: &TrustDomain,
    ) -> Result<Option<FederationRelationship>, StoreError> {
        todo!()
    }

    /// A page of the relationships, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn list_federations(
        &self,
        _page: PageRequest,
    ) -> Result<Page<FederationRelationship>, StoreError> {
        todo!()
    }

    /// Creates a batch in one transaction, each with the foreign bundle when one is given; one
    /// outcome for each, in order.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn create_federations(
        &self,
        _relationships: Vec<(FederationRelationship, Option<Bundle>)>,
        _now: i64,
    ) -> Result<Vec<CreateOutcome<FederationRelationship>>, StoreError> {
        todo!()
    }

    /// Updates a batch in one transaction; the relationship after the change, or `None` where
    /// there is none.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn update_federations(
        &self,
        _updates: Vec<FederationUpdate>,
        _now: i64,
    ) -> Result<Vec<Option<FederationRelationship>>, StoreError> {
        todo!()
    }

    /// Deletes a batch in one transaction; for each, in order, whether it was there.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn delete_federations(
        &self,
        _trust_domains: Vec<TrustDomain>,
        _now: i64,
    ) -> Result<Vec<bool>, StoreError> {
        todo!()
    }
}
