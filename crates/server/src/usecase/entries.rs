//! Registration entries.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use signet_api::convert::EntryChange;
use signet_audit::Field;
use signet_base::SharedClock;
use signet_identity::{Entry, EntryDraft, EntryId, TrustDomain};
use signet_store::{
    ChangeKind, Changes, CreateEntryOutcome, EntryFilter, EntryUpdate, FeedPosition, NewEntry,
    Page, PageRequest, Store, UpdateEntryOutcome,
};

use super::{
    Call,
    authorization::Action,
    error::{Error, ErrorKind},
    outcomes, settle,
};
use crate::{cache::Cache, context::Context, entry_id};

/// How many changes are looked at for one answer: entries are small, and an answer must be too.
const CHANGES: u32 = 200;

/// What can be done with entries. Cheap to clone.
#[derive(Clone)]
pub struct Entries {
    trust_domain: TrustDomain,
    store: Store,
    cache: Arc<Cache>,
    clock: SharedClock,
    max_staleness: Duration,
}

/// What came of an entry that was to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there now.
    New(Entry),
    /// This one is there already, with the same SPIFFE ID, parent and selectors.
    Similar(Entry),
}

/// A change of an entry, checked field by field.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Which entry.
    pub id: EntryId,
    /// What changes.
    pub change: EntryChange,
}

/// The entries that have changed.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Names the history that revisions belong to.
    pub feed_id: String,
    /// Up to which revision of it this tells; when starting over, the newest.
    pub revision: u64,
    /// What has changed, each once, with the entry if it is still there; `None` when the caller
    /// has to start over.
    pub entries: Option<Vec<(EntryId, Option<Entry>)>>,
    /// There is more to ask for.
    pub more: bool,
}

impl Entries {
    /// Those of a server with these parts.
    pub fn new(context: &Context) -> Self {
        Self {
            trust_domain: context.trust_domain.clone(),
            store: context.store.clone(),
            cache: Arc::clone(&context.cache),
            clock: Arc::clone(&context.clock),
            max_staleness: context.config.max_store_staleness,
        }
    }

    /// The trust domain that entries belong to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// How many entries `filter` accepts.
    ///
    /// # Errors
    /// [`Error`] when the store fails.
    pub async fn count(&self, call: &Call, filter: &EntryFilter) -> Result<u64, Error> {
        call.may(Action::ReadEntries)?;
        let counted = self.store.count_entries(filter).await;
        counted.map_err(|error| Error::store("failed to count entries", &error))
    }

    /// The entries that `filter` accepts, page by page.
    ///
    /// # Errors
    /// [`Error`] when the store fails.
    pub async fn list(
        &self,
        call: &Call,
        filter: &EntryFilter,
        page: PageRequest,
    ) -> Result<Page<Entry>, Error> {
        call.may(Action::ReadEntries)?;
        let listed = self.store.list_entries(filter, page).await;
        listed.map_err(|error| Error::store("failed to list entries", &error))
    }

    /// The entry with this ID; what is no ID is the ID of no entry.
    ///
    /// # Errors
    /// `NotFound`, or when the store fails.
    pub async fn get(&self, call: &Call, id: &str) -> Result<Entry, Error> {
        call.may(Action::ReadEntries)?;
        call.about(Field::EntryId(id.to_owned()));
        let not_found = || Error::not_found("entry not found");
        let id: EntryId = id.parse().map_err(|_| not_found())?;
        let entry = self.store.entry(&id).await;
        let entry = entry.map_err(|error| Error::store("failed to fetch entry", &error))?;
        entry.ok_or_else(not_found)
    }

    /// An ID for a new entry, after those of all older ones.
    pub fn fresh_id(&self) -> String {
        let since_epoch = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        entry_id::fresh(since_epoch).unwrap_or_else(|_| uuid::Uuid::new_v4().to_string())
    }

    /// Creates entries in one transaction; the answers are in order.
    pub async fn create(&self, call: &Call, new: Vec<NewEntry>) -> Vec<Result<Created, Error>> {
        const FAILED: &str = "failed to create entry";
        if let Err(error) = call.may(Action::ManageEntries) {
            return vec![Err(error); new.len()];
        }
        let asked: Vec<_> = new.iter().map(|new| (new.id.clone(), fields(call, new))).collect();
        let stored = self.store.create_entries(new, self.clock.unix()).await;
        settle(&self.cache).await;
        let results = outcomes(asked.len(), FAILED, stored).into_iter().zip(asked);
        results
            .map(|(outcome, (id, mut about))| {
                let mut known_as = id.clone();
                let (result, created) = match outcome {
                    Err(error) => (Err(error), None),
                    Ok(CreateEntryOutcome::Created(entry)) => (Ok(()), Some(Created::New(entry))),
                    Ok(CreateEntryOutcome::Similar(entry)) => {
                        known_as = entry.id.clone();
                        (Err(similar()), Some(Created::Similar(entry)))
                    }
                    Ok(CreateEntryOutcome::IdTaken) => {
                        let why = format!("an entry with the ID \"{id}\" exists");
                        (Err(Error::new(ErrorKind::Exists, FAILED).because(why)), None)
                    }
                    Ok(CreateEntryOutcome::UnknownBundle(trust_domain)) => {
                        (Err(unknown_bundle(FAILED, &trust_domain)), None)
                    }
                };
                about.push(Field::EntryId(known_as.to_string()));
                call.audit.item(&result, || about);
                if let Some(Created::New(entry)) = &created {
                    self.warn_if_pending(entry);
                }
                match created {
                    Some(created) => Ok(created),
                    None => Err(result.err().unwrap_or_else(|| Error::internal(FAILED))),
                }
            })
            .collect()
    }

    /// Tells the operator that workloads do not get all bundles of an entry yet.
    fn warn_if_pending(&self, entry: &Entry) {
        for trust_domain in &entry.federates_with {
            if self.cache.bundle(trust_domain).is_none() {
                tracing::warn!(
                    entry_id = %entry.id,
                    trust_domain = %trust_domain,
                    "The entry federates with a trust domain whose bundle is not here yet; its \
                     workloads get it once it is"
                );
            }
        }
    }

    /// Changes entries in one transaction; the answers are in order.
    pub async fn update(&self, call: &Call, edits: Vec<Edit>) -> Vec<Result<Entry, Error>> {
        const FAILED: &str = "failed to update entry";
        if let Err(error) = call.may(Action::ManageEntries) {
            return vec![Err(error); edits.len()];
        }
        let ids: Vec<EntryId> = edits.iter().map(|edit| edit.id.clone()).collect();
        let updates = edits.into_iter().map(|Edit { id, change }| {
            let trust_domain = self.trust_domain.clone();
            EntryUpdate::new(id, move |draft| {
                change.apply(draft);
                draft.check(&trust_domain)
            })
        });
        let stored = self.store.update_entries(updates.collect(), self.clock.unix()).await;
        settle(&self.cache).await;
        let results = outcomes(ids.len(), FAILED, stored).into_iter().zip(ids);
        results
            .map(|(outcome, id)| {
                let result = outcome.and_then(|outcome| match outcome {
                    UpdateEntryOutcome::Updated(entry) => Ok(entry),
                    // SPIRE's text: it does not say that the entry is not there.
                    UpdateEntryOutcome::NotFound => Err(Error::not_found(FAILED)),
                    UpdateEntryOutcome::Refused(why) => Err(Error::invalid(FAILED).because(why)),
                    UpdateEntryOutcome::UnknownBundle(trust_domain) => {
                        Err(unknown_bundle(FAILED, &trust_domain))
                    }
                });
                call.audit.item(&result, || {
                    let mut about =
                        result.as_ref().map(|entry| all_fields(entry)).unwrap_or_default();
                    let revision = result.as_ref().ok().map(|entry| entry.revision_number);
                    about.extend(revision.map(Field::RevisionNumber));
                    about.push(Field::EntryId(id.to_string()));
                    about
                });
                result
            })
            .collect()
    }

    /// Deletes entries in one transaction; the answers are in order.
    pub async fn delete(&self, call: &Call, ids: Vec<EntryId>) -> Vec<Result<(), Error>> {
        const FAILED: &str = "failed to delete entry";
        if let Err(error) = call.may(Action::ManageEntries) {
            return vec![Err(error); ids.len()];
        }
        let asked = ids.clone();
        let stored = self.store.delete_entries(ids, self.clock.unix()).await;
        settle(&self.cache).await;
        let results = outcomes(asked.len(), FAILED, stored).into_iter().zip(asked);
        results
            .map(|(outcome, id)| {
                let result = outcome
                    .and_then(|deleted| deleted.ok_or_else(|| Error::not_found("entry not found")))
                    .map(drop);
                call.audit.item(&result, || vec![Field::EntryId(id.to_string())]);
                result
            })
            .collect()
    }

    /// The entries of the calling agent, as of now.
    ///
    /// # Errors
    /// `Unavailable` when what is known may be too old.
    pub async fn authorized(&self, call: &Call) -> Result<Vec<Arc<Entry>>, Error> {
        call.may(Action::ReadAuthorizedEntries)?;
        let agent = call.agent_id()?;
        self.cache.fresh_or_away(self.max_staleness).await?;
        Ok(self.cache.authorized(agent).await?)
    }

    /// The entries that have changed after a revision of the history `feed_id`.
    ///
    /// # Errors
    /// [`Error`] when the store fails.
    pub async fn changed(&self, call: &Call, feed_id: &str, after: u64) -> Result<Changed, Error> {
        const FAILED: &str = "failed to list changes of entries";
        call.may(Action::FollowEntries)?;
        let failed = |error| Error::store(FAILED, &error);
        let since = FeedPosition { epoch: feed_id.into(), revision: after };
        let changes = match self.store.changes_since(&since, CHANGES).await.map_err(failed)? {
            Changes::Since(changes) => changes,
            // What changes after that place comes with the next answer.
            Changes::Gone { now } => {
                return Ok(Changed {
                    feed_id: now.epoch.to_string(),
                    revision: now.revision,
                    entries: None,
                    more: false,
                });
            }
        };
        let more = changes.len() >= CHANGES as usize;
        let revision = changes.last().map_or(after, |change| change.revision);
        let mut ids: Vec<EntryId> = changes
            .into_iter()
            .filter(|change| change.kind == ChangeKind::Entry)
            .filter_map(|change| change.key.parse().ok())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let found = self.store.entries(&ids).await.map_err(failed)?;
        let mut found: std::collections::HashMap<_, _> =
            found.into_iter().map(|entry| (entry.id.clone(), entry)).collect();
        let entries = ids.into_iter().map(|id| {
            let entry = found.remove(&id);
            (id, entry)
        });
        Ok(Changed {
            feed_id: since.epoch.to_string(),
            revision,
            entries: Some(entries.collect()),
            more,
        })
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entries(..)")
    }
}

/// The refusal of an entry that is there already.
pub fn similar() -> Error {
    Error::new(ErrorKind::Exists, "similar entry already exists")
}

fn unknown_bundle(what: &'static str, trust_domain: &TrustDomain) -> Error {
    let id = trust_domain.id_string();
    Error::internal(what).because(format_args!("unable to find federated bundle \"{id}\""))
}

/// What an event says of a new entry; without events, only what a line of the log needs.
fn fields(call: &Call, new: &NewEntry) -> Vec<Field> {
    match call.audit.is_on() {
        true => all_fields(&new.draft),
        false => vec![Field::SpiffeId(new.draft.spiffe_id.clone())],
    }
}

fn all_fields(entry: &EntryDraft) -> Vec<Field> {
    vec![
        Field::SpiffeId(entry.spiffe_id.clone()),
        Field::ParentId(entry.parent_id.clone()),
        Field::Selectors(entry.selectors.clone()),
        Field::Admin(entry.admin),
        Field::Downstream(entry.downstream),
        Field::ExpiresAt(entry.expires_at),
        Field::FederatesWith(entry.federates_with.clone()),
        Field::DnsNames(entry.dns_names.clone()),
        Field::StoreSvid(entry.store_svid),
        Field::Hint(entry.hint.clone()),
        Field::X509SvidTtl(entry.x509_svid_ttl),
        Field::JwtSvidTtl(entry.jwt_svid_ttl),
    ]
}
