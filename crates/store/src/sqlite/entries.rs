//! Registration entries.

use std::collections::HashMap;

use async_trait::async_trait;
use signet_identity::{Entry, EntryId};
use signet_time::UnixTime;

use crate::{
    CreateEntryOutcome, Entries, EntryFilter, EntryUpdate, NewEntry, Operation, Page, PageRequest,
    StoreError, UpdateEntryOutcome,
    sqlite::{
        SqliteStore,
        listing::{self, Plan},
        terms,
    },
};

pub(crate) mod rows;
pub(crate) mod write;

/// What the inverted index can answer of a filter.
fn plan(filter: &EntryFilter) -> Plan {
    let mut plan = Plan::default();
    if let Some(id) = &filter.spiffe_id {
        plan.within(terms::spiffe_id(id));
    }
    if let Some(id) = &filter.parent_id {
        plan.and(terms::parent(id));
    }
    if let Some((selectors, behavior)) = &filter.selectors {
        plan.compare_selectors(*behavior, selectors);
    }
    if let Some((trust_domains, behavior)) = &filter.federates_with {
        plan.compare(*behavior, trust_domains.iter().map(terms::federates_with).collect());
    }
    if let Some(hint) = filter.hint.as_ref().filter(|hint| !hint.is_empty()) {
        plan.and(terms::hint(hint));
    }
    if filter.downstream == Some(true) {
        plan.and(terms::downstream());
    }
    plan
}

#[async_trait]
impl Entries for SqliteStore {
    async fn create_entries(
        &self,
        entries: Vec<NewEntry>,
        now: UnixTime,
    ) -> Result<Vec<CreateEntryOutcome>, StoreError> {
        let entries = &entries;
        self.write(Operation::CREATE_ENTRIES, now, move |mut tx| async move {
            let outcomes = write::create(&mut tx, entries).await?;
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }

    async fn update_entries(
        &self,
        updates: Vec<EntryUpdate>,
        now: UnixTime,
    ) -> Result<Vec<UpdateEntryOutcome>, StoreError> {
        let updates = &updates;
        self.write(Operation::UPDATE_ENTRIES, now, move |mut tx| async move {
            let outcomes = write::update(&mut tx, updates).await?;
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }

    async fn delete_entries(
        &self,
        ids: Vec<EntryId>,
        now: UnixTime,
    ) -> Result<Vec<Option<Entry>>, StoreError> {
        let ids = &ids;
        self.write(Operation::DELETE_ENTRIES, now, move |mut tx| async move {
            let found = rows::by_entry_ids(tx.conn().await?, ids).await?;
            write::delete(&mut tx, &found).await?;
            tx.commit().await?;
            let mut found: HashMap<EntryId, Entry> =
                found.into_iter().map(|(_, entry)| (entry.id.clone(), entry)).collect();
            Ok(ids.iter().map(|id| found.remove(id)).collect())
        })
        .await
    }

    async fn prune_entries(
        &self,
        expired_before: UnixTime,
        limit: u32,
        now: UnixTime,
    ) -> Result<Vec<Entry>, StoreError> {
        self.write(Operation::PRUNE_ENTRIES, now, move |mut tx| async move {
            let found = rows::expired(tx.conn().await?, expired_before, limit).await?;
            write::delete(&mut tx, &found).await?;
            tx.commit().await?;
            Ok(found.into_iter().map(|(_, entry)| entry).collect())
        })
        .await
    }

    async fn entries(&self, ids: &[EntryId]) -> Result<Vec<Entry>, StoreError> {
        self.reading(Operation::READ_ENTRIES, async {
            let mut conn = self.reader().await?;
            let found = rows::by_entry_ids(&mut conn, ids).await?;
            Ok(found.into_iter().map(|(_, entry)| entry).collect())
        })
        .await
    }

    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: PageRequest,
    ) -> Result<Page<Entry>, StoreError> {
        self.reading(Operation::LIST_ENTRIES, async {
            let mut conn = self.reader().await?;
            listing::list(&mut conn, plan(filter), page, |entry: &Entry| filter.accepts(entry))
                .await
        })
        .await
    }

    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError> {
        self.reading(Operation::COUNT_ENTRIES, async {
            let mut conn = self.reader().await?;
            if *filter == EntryFilter::default() {
                return rows::count(&mut conn).await;
            }
            listing::count(&mut conn, plan(filter), |entry: &Entry| filter.accepts(entry)).await
        })
        .await
    }
}
