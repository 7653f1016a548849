//! Registration entries.

use std::collections::HashMap;

use async_trait::async_trait;
use signet_identity::{Entry, EntryId};
use signet_time::UnixTime;

use super::{
    listing::{self, Plan},
    store::PostgresStore,
    tx::Lock,
};
use crate::{
    CreateEntryOutcome, Entries, EntryFilter, EntryUpdate, FeedPosition, NewEntry, Operation, Page,
    PageRequest, StoreError, UpdateEntryOutcome, terms,
};

pub(super) mod rows;
pub(super) mod write;

/// What the indexes can answer of a filter.
fn plan(filter: &EntryFilter) -> Plan {
    let mut plan = Plan::default();
    if let Some(id) = &filter.spiffe_id {
        plan.similar(terms::spiffe_id(id));
    }
    if let Some(id) = &filter.parent_id {
        plan.parent(terms::parent(id));
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
impl Entries for PostgresStore {
    async fn create_entries(
        &self,
        entries: Vec<NewEntry>,
        now: UnixTime,
    ) -> Result<Vec<CreateEntryOutcome>, StoreError> {
        let entries = &entries;
        self.write(Operation::CREATE_ENTRIES, now, Lock::Registrations, move |mut tx| async move {
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
        self.write(Operation::UPDATE_ENTRIES, now, Lock::Registrations, move |mut tx| async move {
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
        self.write(Operation::DELETE_ENTRIES, now, Lock::Registrations, move |mut tx| async move {
            let found = rows::by_entry_ids(&tx.query, ids).await?;
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
        self.write(Operation::PRUNE_ENTRIES, now, Lock::Registrations, move |mut tx| async move {
            let found = rows::expired(&tx.query, expired_before, limit).await?;
            write::delete(&mut tx, &found).await?;
            tx.commit().await?;
            Ok(found.into_iter().map(|(_, entry)| entry).collect())
        })
        .await
    }

    async fn entries(&self, ids: &[EntryId]) -> Result<Vec<Entry>, StoreError> {
        self.reading(Operation::READ_ENTRIES, |query| async move {
            let found = rows::by_entry_ids(&query, ids).await?;
            Ok(found.into_iter().map(|(_, entry)| entry).collect())
        })
        .await
    }

    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: PageRequest,
    ) -> Result<Page<Entry>, StoreError> {
        self.reading(Operation::LIST_ENTRIES, |query| async move {
            listing::list(&query, plan(filter), page, |entry: &Entry| filter.accepts(entry)).await
        })
        .await
    }

    async fn scan_entries(
        &self,
        since: &FeedPosition,
        page: PageRequest,
    ) -> Result<Page<Entry>, StoreError> {
        if let Some(read) = self.scan_replica(since, page).await {
            return Ok(read);
        }
        self.list_entries(&EntryFilter::default(), page).await
    }

    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError> {
        self.reading(Operation::COUNT_ENTRIES, |query| async move {
            if *filter == EntryFilter::default() {
                return listing::count_all::<Entry>(&query).await;
            }
            listing::count(&query, plan(filter), |entry: &Entry| filter.accepts(entry)).await
        })
        .await
    }
}
