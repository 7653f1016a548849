//! Trust bundles: the server's own and those of foreign trust domains.

use signet_identity::{Bundle, TrustDomain};

use crate::{CreateOutcome, Page, PageRequest, Store, StoreError};

/// What becomes of the entries that federate with a deleted bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteBundleMode {
    /// Refuse to delete the bundle while there are such entries.
    Restrict,
    /// Delete those entries too.
    Delete,
    /// Keep the entries and take the trust domain off their lists.
    Dissociate,
}

/// What came of deleting one bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeleteBundleOutcome {
    /// It is gone.
    Deleted(Bundle),
    /// So many entries federate with it: nothing was changed ([`DeleteBundleMode::Restrict`]).
    InUse(u64),
    /// No such bundle.
    NotFound,
}

/// A change of one bundle, applied within the transaction to what is stored then.
pub struct BundleUpdate {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// Changes the bundle. The trust domain cannot be changed.
    pub change: Box<dyn FnOnce(&mut Bundle) + Send>,
}

impl BundleUpdate {
    /// An update from a closure.
    pub fn new(
        trust_domain: TrustDomain,
        change: impl FnOnce(&mut Bundle) + Send + 'static,
    ) -> Self {
        Self { trust_domain, change: Box::new(change) }
    }
}

impl std::fmt::Debug for BundleUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BundleUpdate({})", self.trust_domain)
    }
}

impl Store {
    /// One bundle.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn bundle(&self, _trust_domain: &TrustDomain) -> Result<Option<Bundle>, StoreError> {
        todo!()
    }

    /// A page of the bundles (the own one included), oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn list_bundles(&self, _page: PageRequest) -> Result<Page<Bundle>, StoreError> {
        todo!()
    }

    /// How many bundles there are, the own one included.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn count_bundles(&self) -> Result<u64, StoreError> {
        todo!()
    }

    /// Creates a batch in one transaction; one outcome for each, in order. Sequence numbers are
    /// stored as given.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn create_bundles(
        &self,
        _bundles: Vec<Bundle>,
        _now: i64,
    ) -> Result<Vec<CreateOutcome<Bundle>>, StoreError> {
        todo!()
    }

    /// Creates or replaces a batch in one transaction. Sequence numbers are stored as given. A
    /// bundle that is stored just so already is left alone and makes no change.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn set_bundles(
        &self,
        _bundles: Vec<Bundle>,
        _now: i64,
    ) -> Result<Vec<Bundle>, StoreError> {
        todo!()
    }

    /// Updates a batch in one transaction; the bundle after the change, or `None` where there is
    /// none. Sequence numbers are what the closures leave.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn update_bundles(
        &self,
        _updates: Vec<BundleUpdate>,
        _now: i64,
    ) -> Result<Vec<Option<Bundle>>, StoreError> {
        todo!()
    }

    /// Changes one bundle within a transaction, whether it exists or not (then it starts empty
    /// with sequence number 0). `change` answers an error to leave all as it was. When the
    /// content did change, the sequence number grows by one and the bundle is written. Returns
    /// the bundle as it is then, and what `change` answered.
    ///
    /// This is what the own bundle's life (append, taint, revoke, prune) is made of.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed. The inner error is the closure's.
    pub async fn change_bundle<T, E>(
        &self,
        _trust_domain: &TrustDomain,
        _now: i64,
        _change: impl FnOnce(&mut Bundle) -> Result<T, E> + Send,
    ) -> Result<Result<(Bundle, T), E>, StoreError> {
        todo!()
    }

    /// Adds those authorities of `bundle` that the stored bundle lacks (by certificate, by key
    /// ID), creating it if need be. The sequence number grows by one when something was added.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn append_bundle(&self, _bundle: Bundle, _now: i64) -> Result<Bundle, StoreError> {
        todo!()
    }

    /// Deletes a batch in one transaction; one outcome for each, in order.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn delete_bundles(
        &self,
        _trust_domains: Vec<TrustDomain>,
        _mode: DeleteBundleMode,
        _now: i64,
    ) -> Result<Vec<DeleteBundleOutcome>, StoreError> {
        todo!()
    }
}
