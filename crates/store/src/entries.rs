//! Registration entries.

use std::collections::HashMap;

use signet_identity::{
    Entry, EntryDraft, EntryError, EntryId, MatchBehavior, SelectorSet, SpiffeId, TrustDomain,
};

use crate::{
    Page, PageRequest, Store, StoreError,
    fault::doing,
    listing::{self, Plan},
    terms,
};

pub(crate) mod rows;
pub(crate) mod write;

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

/// Changes a draft, or refuses to.
pub type EntryChange = dyn FnOnce(&mut EntryDraft) -> Result<(), EntryError> + Send;

/// A change of one entry, applied within the transaction to what is stored then.
pub struct EntryUpdate {
    /// Which entry.
    pub id: EntryId,
    /// Changes the draft (a mask or a whole replacement) and checks the outcome.
    pub change: Box<EntryChange>,
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

impl EntryFilter {
    /// Whether `entry` passes.
    pub fn accepts(&self, entry: &EntryDraft) -> bool {
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

    fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        if let Some(id) = &self.spiffe_id {
            plan.within(terms::spiffe_id(id));
        }
        if let Some(id) = &self.parent_id {
            plan.and(terms::parent(id));
        }
        if let Some((selectors, behavior)) = &self.selectors {
            plan.compare_selectors(*behavior, selectors);
        }
        if let Some((trust_domains, behavior)) = &self.federates_with {
            plan.compare(*behavior, trust_domains.iter().map(terms::federates_with).collect());
        }
        if let Some(hint) = self.hint.as_ref().filter(|hint| !hint.is_empty()) {
            plan.and(terms::hint(hint));
        }
        if self.downstream == Some(true) {
            plan.and(terms::downstream());
        }
        plan
    }
}

fn sorted(trust_domains: &[TrustDomain]) -> Vec<&TrustDomain> {
    let mut all: Vec<_> = trust_domains.iter().collect();
    all.sort_unstable();
    all.dedup();
    all
}

impl Store {
    /// Creates a batch in one transaction; one outcome for each, in order. Entries of the same
    /// batch count: the second of two similar ones is [`CreateEntryOutcome::Similar`].
    ///
    /// # Errors
    /// [`StoreError`]; then none was created.
    pub async fn create_entries(
        &self,
        entries: Vec<NewEntry>,
        now: i64,
    ) -> Result<Vec<CreateEntryOutcome>, StoreError> {
        doing("creating entries", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let outcomes = write::create(&mut tx, entries).await?;
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }

    /// Updates a batch in one transaction; one outcome for each, in order.
    ///
    /// # Errors
    /// [`StoreError`]; then none was updated.
    pub async fn update_entries(
        &self,
        updates: Vec<EntryUpdate>,
        now: i64,
    ) -> Result<Vec<UpdateEntryOutcome>, StoreError> {
        doing("updating entries", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let outcomes = write::update(&mut tx, updates).await?;
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }

    /// Deletes a batch in one transaction; for each, in order, what was deleted, if it was there.
    ///
    /// # Errors
    /// [`StoreError`]; then none was deleted.
    pub async fn delete_entries(
        &self,
        ids: Vec<EntryId>,
        now: i64,
    ) -> Result<Vec<Option<Entry>>, StoreError> {
        doing("deleting entries", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let found = rows::by_entry_ids(tx.conn().await?, &ids).await?;
            write::delete(&mut tx, &found).await?;
            tx.commit().await?;
            let mut found: HashMap<EntryId, Entry> =
                found.into_iter().map(|(_, entry)| (entry.id.clone(), entry)).collect();
            Ok(ids.iter().map(|id| found.remove(id)).collect())
        })
        .await
    }

    /// Deletes entries that expired before `expired_before`, at most `limit`; returns them.
    ///
    /// # Errors
    /// [`StoreError`]; then none was deleted.
    pub async fn prune_entries(
        &self,
        expired_before: i64,
        limit: u32,
        now: i64,
    ) -> Result<Vec<Entry>, StoreError> {
        doing("pruning entries", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let found = rows::expired(tx.conn().await?, expired_before, limit).await?;
            write::delete(&mut tx, &found).await?;
            tx.commit().await?;
            Ok(found.into_iter().map(|(_, entry)| entry).collect())
        })
        .await
    }

    /// One entry.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn entry(&self, id: &EntryId) -> Result<Option<Entry>, StoreError> {
        Ok(self.entries(std::slice::from_ref(id)).await?.pop())
    }

    /// Those of `ids` that exist, in no particular order.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn entries(&self, ids: &[EntryId]) -> Result<Vec<Entry>, StoreError> {
        doing("reading entries", async {
            let mut conn = self.read().await?;
            let found = rows::by_entry_ids(&mut conn, ids).await?;
            Ok(found.into_iter().map(|(_, entry)| entry).collect())
        })
        .await
    }

    /// A page of the entries that pass `filter`, oldest first. With an empty filter and a size
    /// of about 1,000 this is also the way to read all of them in bounded memory.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: PageRequest,
    ) -> Result<Page<Entry>, StoreError> {
        doing("listing entries", async {
            let mut conn = self.read().await?;
            listing::list(&mut conn, filter.plan(), page, |entry: &Entry| filter.accepts(entry))
                .await
        })
        .await
    }

    /// How many entries pass `filter`.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError> {
        doing("counting entries", async {
            let mut conn = self.read().await?;
            if *filter == EntryFilter::default() {
                return rows::count(&mut conn).await;
            }
            listing::count(&mut conn, filter.plan(), |entry: &Entry| filter.accepts(entry)).await
        })
        .await
    }
}
