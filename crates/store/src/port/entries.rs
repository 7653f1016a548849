//! Registration entries.

use async_trait::async_trait;
use signet_identity::{
    Entry, EntryError, EntryId, EntrySpec, MatchBehavior, SelectorSet, SpiffeId, TrustDomain,
};
use signet_time::UnixTime;

use crate::{FeedPosition, Page, PageRequest, StoreError};

/// An entry to create. The draft must have passed [`EntrySpec::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Its ID: the author's, or a fresh UUID of the caller.
    pub id: EntryId,
    /// Its content.
    pub draft: EntrySpec,
}

/// What came of one [`NewEntry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateEntryOutcome {
    /// Stored, revision 0.
    Created(Entry),
    /// An entry with the same SPIFFE ID, parent and selectors is there; it is returned.
    Similar(Entry),
    /// An entry with the same ID but another content is there.
    IdTaken,
    /// It federates with a trust domain whose bundle is not stored.
    UnknownBundle(TrustDomain),
}

/// Changes a draft, or refuses to.
pub type EntryChange = dyn Fn(&mut EntrySpec) -> Result<(), EntryError> + Send + Sync;

/// A change of one entry, applied within the transaction to what is stored then.
pub struct EntryUpdate {
    /// Which entry.
    pub id: EntryId,
    /// Changes the draft (a mask or a whole replacement) and checks the outcome.
    pub change: Box<EntryChange>,
}

impl EntryUpdate {
    /// An update from a closure. It is cloned for each try of the transaction.
    pub fn new(
        id: EntryId,
        change: impl FnOnce(&mut EntrySpec) -> Result<(), EntryError> + Clone + Send + Sync + 'static,
    ) -> Self {
        Self { id, change: Box::new(move |draft| change.clone()(draft)) }
    }
}

impl std::fmt::Debug for EntryUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EntryUpdate({})", self.id)
    }
}

/// What came of one [`EntryUpdate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateEntryOutcome {
    /// Stored; the revision number grew by one.
    Updated(Entry),
    /// No such entry.
    NotFound,
    /// The closure refused.
    Refused(EntryError),
    /// It federates with a trust domain whose bundle is not stored.
    UnknownBundle(TrustDomain),
}

/// Which entries are wanted; all conditions hold together. The default accepts every entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryFilter {
    /// This SPIFFE ID.
    pub spiffe_id: Option<SpiffeId>,
    /// This parent.
    pub parent_id: Option<SpiffeId>,
    /// Selectors compared so; an empty set matches as its rule says.
    pub selectors: Option<(SelectorSet, MatchBehavior)>,
    /// Trust domains federated with, compared so.
    pub federates_with: Option<(Vec<TrustDomain>, MatchBehavior)>,
    /// This hint; an empty text is no condition.
    pub hint: Option<String>,
    /// Downstream or not.
    pub downstream: Option<bool>,
}

impl EntryFilter {
    /// Whether `entry` passes.
    pub fn accepts(&self, entry: &EntrySpec) -> bool {
        let same = |wanted: &Option<SpiffeId>, id| wanted.as_ref().is_none_or(|it| it == id);
        same(&self.spiffe_id, &entry.spiffe_id)
            && same(&self.parent_id, &entry.parent_id)
            && self.selectors.as_ref().is_none_or(|(filter, behavior)| {
                behavior.accepts(entry.selectors.as_slice(), filter.as_slice())
            })
            && self.federates_with.as_ref().is_none_or(|(filter, behavior)| {
                behavior.accepts(&sorted(&entry.federates_with), &sorted(filter))
            })
            && self.hint.as_ref().is_none_or(|hint| hint.is_empty() || *hint == entry.hint)
            && self.downstream.is_none_or(|downstream| downstream == entry.downstream)
    }
}

fn sorted(trust_domains: &[TrustDomain]) -> Vec<&TrustDomain> {
    let mut all: Vec<_> = trust_domains.iter().collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Registration entries.
#[async_trait]
pub trait Entries: Send + Sync {
    /// Creates a batch in one transaction; one outcome for each, in order. Entries of the same
    /// batch count: the second of two similar ones is [`CreateEntryOutcome::Similar`].
    ///
    /// # Errors
    /// [`StoreError`]; then none was created.
    async fn create_entries(
        &self,
        entries: Vec<NewEntry>,
        now: UnixTime,
    ) -> Result<Vec<CreateEntryOutcome>, StoreError>;

    /// Updates a batch in one transaction; one outcome for each, in order.
    ///
    /// # Errors
    /// [`StoreError`]; then none was updated.
    async fn update_entries(
        &self,
        updates: Vec<EntryUpdate>,
        now: UnixTime,
    ) -> Result<Vec<UpdateEntryOutcome>, StoreError>;

    /// Deletes a batch in one transaction; for each, in order, what was deleted, if it was there.
    ///
    /// # Errors
    /// [`StoreError`]; then none was deleted.
    async fn delete_entries(
        &self,
        ids: Vec<EntryId>,
        now: UnixTime,
    ) -> Result<Vec<Option<Entry>>, StoreError>;

    /// Deletes entries that expired before `expired_before` (Unix seconds), at most `limit`;
    /// returns them.
    ///
    /// # Errors
    /// [`StoreError`]; then none was deleted.
    async fn prune_entries(
        &self,
        expired_before: UnixTime,
        limit: u32,
        now: UnixTime,
    ) -> Result<Vec<Entry>, StoreError>;

    /// One entry.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn entry(&self, id: &EntryId) -> Result<Option<Entry>, StoreError> {
        Ok(self.entries(std::slice::from_ref(id)).await?.pop())
    }

    /// Those of `ids` that exist, in no particular order.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn entries(&self, ids: &[EntryId]) -> Result<Vec<Entry>, StoreError>;

    /// A page of the entries that pass `filter`, oldest first. With an empty filter and a size
    /// of about 1,000 this is also the way to read all of them in bounded memory.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: PageRequest,
    ) -> Result<Page<Entry>, StoreError>;

    /// A page of all entries, oldest first, that shows at least what was committed at `since`. A
    /// store with a replica that has come as far may read it there.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn scan_entries(
        &self,
        since: &FeedPosition,
        page: PageRequest,
    ) -> Result<Page<Entry>, StoreError> {
        let _ = since;
        self.list_entries(&EntryFilter::default(), page).await
    }

    /// How many entries pass `filter`.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError>;
}
