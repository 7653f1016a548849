//! Writing entries, within a transaction that has the registrations to itself.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use signet_identity::{Entry, EntryId, EntrySpec, TrustDomain};

use super::rows::{self, Columns};
use crate::{
    ChangeKind, ChangedTo, CreateEntryOutcome, EntryUpdate, NewEntry, UpdateEntryOutcome,
    postgres::{bundles::rows::known_trust_domains, fault::Fault, sql::params, tx::Tx},
    terms::{self, Term},
};

/// Creates what can be created.
pub(in super::super) async fn create(
    tx: &mut Tx,
    entries: &[NewEntry],
) -> Result<Vec<CreateEntryOutcome>, Fault> {
    let mut known = Known::read(tx, entries).await?;
    let now = tx.now;
    let mut next = tx.next_row("signet_entries").await?;
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
        created.push((next, entry.clone()));
        next += 1;
        outcomes.push(CreateEntryOutcome::Created(entry));
    }
    Columns::of(&created).write(&tx.query).await?;
    Ok(outcomes)
}

fn entry_changed(tx: &mut Tx, entry: &Entry) {
    let to = ChangedTo::Entry(Arc::new(entry.clone()));
    tx.changed(ChangeKind::Entry, entry.id.as_str(), to);
}

/// Inserts rows as they are.
pub(in super::super) async fn insert(tx: &Tx, rows: &[(i64, Entry)]) -> Result<(), Fault> {
    Columns::of(rows).write(&tx.query).await
}

/// What the database knows that decides on a batch of new entries.
struct Known {
    ids: HashSet<EntryId>,
    similar: HashMap<Term, Vec<Entry>>,
    trust_domains: HashSet<TrustDomain>,
}

impl Known {
    async fn read(tx: &Tx, entries: &[NewEntry]) -> Result<Self, Fault> {
        let wanted: Vec<&str> = entries.iter().map(|new| new.id.as_str()).collect();
        let terms: Vec<Term> = entries.iter().map(|new| terms::similar(&new.draft)).collect();
        let mut ids = HashSet::new();
        let mut similar: HashMap<Term, Vec<Entry>> = HashMap::new();
        for entry in rows::like(&tx.query, &wanted, &terms).await? {
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
    tx: &Tx,
    drafts: impl Iterator<Item = &EntrySpec>,
) -> Result<HashSet<TrustDomain>, Fault> {
    let wanted: HashSet<&TrustDomain> =
        drafts.flat_map(|draft| draft.federates_with.iter()).collect();
    let wanted: Vec<&TrustDomain> = wanted.into_iter().collect();
    known_trust_domains(&tx.query, &wanted).await
}

/// Updates what is there.
pub(super) async fn update(
    tx: &mut Tx,
    updates: &[EntryUpdate],
) -> Result<Vec<UpdateEntryOutcome>, Fault> {
    let ids: Vec<EntryId> = updates.iter().map(|update| update.id.clone()).collect();
    let found = rows::by_entry_ids(&tx.query, &ids).await?;
    let mut found: HashMap<EntryId, (i64, Entry)> =
        found.into_iter().map(|(row, entry)| (entry.id.clone(), (row, entry))).collect();
    let mut outcomes = Vec::with_capacity(updates.len());
    let mut changed = HashSet::new();
    for update in updates {
        let Some((_, stored)) = found.get_mut(&update.id) else {
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
        stored.spec = draft;
        stored.revision_number += 1;
        changed.insert(stored.id.clone());
        entry_changed(tx, stored);
        outcomes.push(UpdateEntryOutcome::Updated(stored.clone()));
    }
    found.retain(|id, _| changed.contains(id));
    let changed: Vec<(i64, Entry)> = found.into_values().collect();
    Columns::of(&changed).write(&tx.query).await?;
    Ok(outcomes)
}

/// Gives stored entries another content, one revision on.
pub(in super::super) async fn rewrite(
    tx: &mut Tx,
    mut entries: Vec<(i64, Entry)>,
    change: impl Fn(&mut EntrySpec),
) -> Result<(), Fault> {
    for (_, entry) in &mut entries {
        change(&mut entry.spec);
        entry.revision_number += 1;
        entry_changed(tx, entry);
    }
    Columns::of(&entries).write(&tx.query).await
}

/// Deletes rows.
pub(in super::super) async fn delete(tx: &mut Tx, found: &[(i64, Entry)]) -> Result<(), Fault> {
    if found.is_empty() {
        return Ok(());
    }
    let rows: Vec<i64> = found.iter().map(|(row, _)| *row).collect();
    tx.query
        .execute("DELETE FROM signet_entries WHERE id = ANY($1)", params![rows => INT8_ARRAY])
        .await?;
    for (_, entry) in found {
        tx.changed(ChangeKind::Entry, entry.id.as_str(), ChangedTo::Gone);
    }
    Ok(())
}
