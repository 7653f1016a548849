//! Trust bundles: the server's own and those of foreign trust domains.

use async_trait::async_trait;
use signet_identity::{Bundle, TrustDomain};
use signet_time::UnixTime;

use crate::{CreateOutcome, Page, PageRequest, StoreError};

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

/// Changes a bundle within a transaction; answers whether that is to be written.
pub type BundleChange<'c> = dyn Fn(&mut Bundle) -> bool + Send + Sync + 'c;

/// A change of one bundle, applied within the transaction to what is stored then.
pub struct BundleUpdate {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// Changes the bundle. The trust domain cannot be changed.
    pub change: Box<dyn Fn(&mut Bundle) + Send + Sync>,
}

impl BundleUpdate {
    /// An update from a closure. It is cloned for each try of the transaction.
    pub fn new(
        trust_domain: TrustDomain,
        change: impl FnOnce(&mut Bundle) + Clone + Send + Sync + 'static,
    ) -> Self {
        Self { trust_domain, change: Box::new(move |bundle| change.clone()(bundle)) }
    }
}

impl std::fmt::Debug for BundleUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BundleUpdate({})", self.trust_domain)
    }
}

/// Trust bundles.
#[async_trait]
pub trait Bundles: Send + Sync {
    /// One bundle.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, StoreError>;

    /// A page of the bundles (the own one included), oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn list_bundles(&self, page: PageRequest) -> Result<Page<Bundle>, StoreError>;

    /// How many bundles there are, the own one included.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn count_bundles(&self) -> Result<u64, StoreError>;

    /// Creates a batch in one transaction; one outcome for each, in order. Sequence numbers are
    /// stored as given.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn create_bundles(
        &self,
        bundles: Vec<Bundle>,
        now: UnixTime,
    ) -> Result<Vec<CreateOutcome<Bundle>>, StoreError>;

    /// Creates or replaces a batch in one transaction. Sequence numbers are stored as given. A
    /// bundle that is stored just so already is left alone and makes no change.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn set_bundles(
        &self,
        bundles: Vec<Bundle>,
        now: UnixTime,
    ) -> Result<Vec<Bundle>, StoreError>;

    /// Updates a batch in one transaction; the bundle after the change, or `None` where there is
    /// none. Sequence numbers are what the closures leave.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn update_bundles(
        &self,
        updates: Vec<BundleUpdate>,
        now: UnixTime,
    ) -> Result<Vec<Option<Bundle>>, StoreError>;

    /// Changes one bundle within a transaction, whether it exists or not (then it starts empty
    /// with sequence number 0). When `change` answers `false`, all stays as it was. When the
    /// content did change, the sequence number grows by one and the bundle is written. Returns
    /// the bundle as it is then; `None` after a `false`.
    ///
    /// [`crate::Store::change_bundle`] is this with an answer of the closure's own.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn rewrite_bundle(
        &self,
        trust_domain: &TrustDomain,
        now: UnixTime,
        change: &BundleChange<'_>,
    ) -> Result<Option<Bundle>, StoreError>;

    /// Deletes a batch in one transaction; one outcome for each, in order.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn delete_bundles(
        &self,
        trust_domains: Vec<TrustDomain>,
        mode: DeleteBundleMode,
        now: UnixTime,
    ) -> Result<Vec<DeleteBundleOutcome>, StoreError>;
}
