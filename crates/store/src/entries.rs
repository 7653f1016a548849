//! Registration entries.

use signet_identity::{
    Entry, EntryDraft, EntryError, EntryId, MatchBehavior, SelectorSet, SpiffeId, TrustDomain,
};

use crate::{Page, PageRequest, Store, StoreError};

/// An entry to create. The draft must have passed [`EntryDraft::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Its ID: the author's, or a fresh UUID of the caller.
    pub id: EntryId,
    /// Its content.
    pub draft: EntryDraft,
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

/// A change of one entry, applied within the transaction to what is stored then.
pub struct EntryUpdate {
    /// Which entry.
    pub id: EntryId,
    /// Changes the draft (a mask or a whole replacement) and checks the outcome.
    pub change: Box<dyn FnOnce(&mut EntryDraft) -> Result<(), EntryError> + Send>,
}

impl EntryUpdate {
    /// An update from a closure.
    pub fn new(
        id: EntryId,
        change: impl FnOnce(&mut EntryDraft) -> Result<(), EntryError> + Send + 'static,
    ) -> Self {
        Self { id, change: Box::new(change) }
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

impl Store {
    /// Creates a batch in one transaction; one outcome for each, in order. Entries of the same
    /// batch count: the second of two similar ones is [`CreateEntryOutcome::Similar`].
    ///
    /// # Errors
    /// [`StoreError`]; then none was created.
    pub async fn create_entries(
        &self,
        _entries: Vec<NewEntry>,
        _now: i64,
    ) -> Result<Vec<CreateEntryOutcome>, StoreError> {
        todo!()
    }

    /// Updates a batch in one transaction; one outcome for each, in order.
    ///
    /// # Errors
    /// [`StoreError`]; then none was updated.
    pub async fn update_entries(
        &self,
        _updates: Vec<EntryUpdate>,
        _now: i64,
    ) -> Result<Vec<UpdateEntryOutcome>, StoreError> {
        todo!()
    }

    /// Deletes a batch in one transaction; for each, in order, what was deleted, if it was there.
    ///
    /// # Errors
    /// [`StoreError`]; then none was deleted.
    pub async fn delete_entries(
        &self,
        _ids: Vec<EntryId>,
        _now: i64,
    ) -> Result<Vec<Option<Entry>>, StoreError> {
        todo!()
    }

    /// Deletes entries that expired before `expired_before`, at most `limit`; returns them.
    ///
    /// # Errors
    /// [`StoreError`]; then none was deleted.
    pub async fn prune_entries(
        &self,
        _expired_before: i64,
        _limit: u32,
        _now: i64,
    ) -> Result<Vec<Entry>, StoreError> {
        todo!()
    }

    /// One entry.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn entry(&self, _id: &EntryId) -> Result<Option<Entry>, StoreError> {
        todo!()
    }

    /// Those of `ids` that exist, in no particular order.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn entries(&self, _ids: &[EntryId]) -> Result<Vec<Entry>, StoreError> {
        todo!()
    }

    /// A page of the entries that pass `filter`, oldest first. With an empty filter and a size
    /// of about 1,000 this is also the way to read all of them in bounded memory.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn list_entries(
        &self,
        _filter: &EntryFilter,
        _page: PageRequest,
    ) -> Result<Page<Entry>, StoreError> {
        todo!()
    }

    /// How many entries pass `filter`.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn count_entries(&self, _filter: &EntryFilter) -> Result<u64, StoreError> {
        todo!()
    }
}
