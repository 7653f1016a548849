//! Writing entries, within a transaction.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use signet_identity::{Entry, EntryId, EntrySpec, TrustDomain};

use super::rows;
use crate::{
    ChangeKind, ChangedTo, CreateEntryOutcome, EntryUpdate, NewEntry, UpdateEntryOutcome,
    sqlite::{
        bundles::rows::known_trust_domains,
        fault::Fault,
        index::Index,
        listing::Listed,
        sql,
        terms::{self, Term},
        tx::Tx,
    },
};

/// Creates what can be created.
pub(crate) async fn create(
    tx: &mut Tx,
    entries: &[NewEntry],
) -> Result<Vec<CreateEntryOutcome>, Fault> {
    let mut known = Known::read(tx, entries).await?;
    let now = tx.now;
    let mut created = Vec::with_capacity(entries.len());
    let mut outcomes = Vec::with_capacity(entries.len());
    for new in entries {
        let similar = terms::similar(&new.draft);
        if let Some(entry) = known.similar_to(similar, &new.draft) {
            outcomes.push(CreateEntryOutcome::Similar(entry.clone()));
            continue;
        }
        if !known.ids.insert(new.id.clone()) {
            outcomes.push(CreateEntryOutcome::IdTaken);
            continue;
        }
        if !tx.takes_unknown_bundles()
            && let Some(unknown) = known.unknown_bundle(&new.draft)
        {
            outcomes.push(CreateEntryOutcome::UnknownBundle(unknown.clone()));
            known.ids.remove(&new.id);
            continue;
        }
        let entry = Entry {
            id: new.id.clone(),
            spec: new.draft.clone(),
            revision_number: 0,
            created_at: now,
        };
        known.similar.entry(similar).or_default().push(entry.clone());
        entry_changed(tx, &entry);
        created.push((tx.new_rows(Index::Entries, 1).await?, entry.clone()));
        outcomes.push(CreateEntryOutcome::Created(entry));
    }
    insert(tx, &created).await?;
    Ok(outcomes)
}

fn entry_changed(tx: &mut Tx, entry: &Entry) {
    let to = ChangedTo::Entry(Arc::new(entry.clone()));
    tx.changed(ChangeKind::Entry, entry.id.as_str(), to);
}

/// Inserts rows and their terms.
pub(crate) async fn insert(tx: &mut Tx, created: &[(i64, Entry)]) -> Result<(), Fault> {
    for run in sql::runs(created, rows::WIDTH) {
        let text = format!(
            "INSERT INTO entries ({}) VALUES {}",
            Entry::COLUMNS,
            sql::values(run.len(), rows::WIDTH)
        );
        let batch = tx.later(&text).await?;
        for (row, entry) in run {
            rows::bind(batch, *row, entry);
        }
    }
    let mut pairs = pairs(created);
    // In the order of the index: each page of it is then touched once.
    pairs.sort_unstable();
    terms::insert(tx, Index::Entries, &pairs).await
}

fn pairs(entries: &[(i64, Entry)]) -> Vec<(Term, i64)> {
    let of = |(row, entry): &(i64, Entry)| {
        let row = *row;
        terms::of_entry(entry).into_iter().map(move |term| (term, row))
    };
    entries.iter().flat_map(of).collect()
}

/// What the database knows that decides on a batch of new entries.
struct Known {
    ids: HashSet<EntryId>,
    similar: HashMap<Term, Vec<Entry>>,
    trust_domains: HashSet<TrustDomain>,
}

impl Known {
    async fn read(tx: &mut Tx, entries: &[NewEntry]) -> Result<Self, Fault> {
        let wanted: Vec<(&EntryId, Term)> =
            entries.iter().map(|new| (&new.id, terms::similar(&new.draft))).collect();
        let mut ids = HashSet::new();
        let mut similar: HashMap<Term, Vec<Entry>> = HashMap::new();
        for entry in rows::like(tx, &wanted).await? {
            ids.insert(entry.id.clone());
            similar.entry(terms::similar(&entry)).or_default().push(entry);
        }
        let drafts = entries.iter().map(|new| &new.draft);
        Ok(Self { ids, similar, trust_domains: federated(tx, drafts).await? })
    }

    fn similar_to(&self, term: Term, draft: &EntrySpec) -> Option<&Entry> {
        self.similar.get(&term)?.iter().find(|entry| {
            entry.spiffe_id == draft.spiffe_id
                && entry.parent_id == draft.parent_id
                && entry.selectors == draft.selectors
        })
    }

    fn unknown_bundle<'d>(&self, draft: &'d EntrySpec) -> Option<&'d TrustDomain> {
        draft.federates_with.iter().find(|name| !self.trust_domains.contains(*name))
    }
}

/// Those trust domains that the drafts federate with and that have a bundle.
async fn federated(
    tx: &mut Tx,
    drafts: impl Iterator<Item = &EntrySpec>,
) -> Result<HashSet<TrustDomain>, Fault> {
    let wanted: HashSet<&TrustDomain> =
        drafts.flat_map(|draft| draft.federates_with.iter()).collect();
    let wanted: Vec<&TrustDomain> = wanted.into_iter().collect();
    known_trust_domains(tx.conn().await?, &wanted).await
}

/// Updates what is there.
pub(crate) async fn update(
    tx: &mut Tx,
    updates: &[EntryUpdate],
) -> Result<Vec<UpdateEntryOutcome>, Fault> {
    let ids: Vec<EntryId> = updates.iter().map(|update| update.id.clone()).collect();
    let found = rows::by_entry_ids(tx.conn().await?, &ids).await?;
    let mut found: HashMap<EntryId, (i64, Entry)> =
        found.into_iter().map(|(row, entry)| (entry.id.clone(), (row, entry))).collect();
    let mut outcomes = Vec::with_capacity(updates.len());
    for update in updates {
        let Some((row, stored)) = found.get_mut(&update.id) else {
            outcomes.push(UpdateEntryOutcome::NotFound);
            continue;
        };
        let mut draft = stored.spec.clone();
        if let Err(refused) = (update.change)(&mut draft) {
            outcomes.push(UpdateEntryOutcome::Refused(refused));
            continue;
        }
        let known = federated(tx, std::iter::once(&draft)).await?;
        if !tx.takes_unknown_bundles()
            && let Some(unknown) = draft.federates_with.iter().find(|name| !known.contains(*name))
        {
            outcomes.push(UpdateEntryOutcome::UnknownBundle(unknown.clone()));
            continue;
        }
        rewrite(tx, *row, stored, draft).await?;
        outcomes.push(UpdateEntryOutcome::Updated(stored.clone()));
    }
    Ok(outcomes)
}

/// Gives a stored entry another content, one revision on.
pub(crate) async fn rewrite(
    tx: &mut Tx,
    row: i64,
    stored: &mut Entry,
    draft: EntrySpec,
) -> Result<(), Fault> {
    let old = terms::of_entry(stored);
    stored.spec = draft;
    stored.revision_number += 1;
    let text =
        format!("REPLACE INTO entries ({}) VALUES {}", Entry::COLUMNS, sql::values(1, rows::WIDTH));
    rows::bind(tx.later(&text).await?, row, stored);
    terms::replace(tx, Index::Entries, row, &old, &terms::of_entry(stored)).await?;
    entry_changed(tx, stored);
    Ok(())
}

/// Deletes rows and their terms.
pub(crate) async fn delete(tx: &mut Tx, found: &[(i64, Entry)]) -> Result<(), Fault> {
    for run in sql::runs(found, 1) {
        let text = format!("DELETE FROM entries WHERE id IN ({})", sql::list(run.len()));
        let batch = tx.later(&text).await?;
        for (row, _) in run {
            batch.bind(*row);
        }
    }
    let mut pairs = pairs(found);
    pairs.sort_unstable();
    terms::delete(tx, Index::Entries, &pairs).await?;
    for (_, entry) in found {
        tx.changed(ChangeKind::Entry, entry.id.as_str(), ChangedTo::Gone);
    }
    Ok(())
}
