//! Registration entries.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use signet_api::convert::EntryChange;
use signet_audit::Field;
use signet_base::{SharedClock, Throttle};
use signet_identity::{Entry, EntryError, EntryId, EntrySpec, SpiffeId, Tenant, TrustDomain};
use signet_store::{
    ChangeKind, Changes, CreateEntryOutcome, EntryFilter, EntryUpdate, FeedPosition, NewEntry,
    Page, PageRequest, Store, UpdateEntryOutcome,
};

use super::{
    Call,
    authorization::Action,
    error::{Error, ErrorKind},
    outcomes,
    parts::Parts,
    settle,
};
use crate::{
    cache::Cache,
    entry_id,
    limits::{Limits, Work},
    policy::Policy,
};

/// How often it is recorded that an agent is not given an entry because of its tenant.
const WITHHELD_INTERVAL: Duration = Duration::from_secs(600);
/// How many entries are looked at together to count those that a caller may see.
const COUNTED_AT_ONCE: u32 = 1_000;
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
    limits: Limits,
    policy: Policy,
    /// Where tenants are required, entries are judged and written one batch after the other.
    turn: Arc<tokio::sync::Mutex<()>>,
    withheld: Arc<Throttle<(SpiffeId, EntryId, &'static str)>>,
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
    /// What changes about its tenant; `None` when nothing does.
    pub tenant: Option<TenantEdit>,
}

/// What an entry is to say about its tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantEdit {
    /// Whose it is.
    pub tenant: Option<Tenant>,
    /// Whether JWT-SVIDs say so.
    pub claim: bool,
}

impl TenantEdit {
    /// Says so.
    pub fn apply(self, draft: &mut EntrySpec) {
        draft.tenant = self.tenant;
        draft.jwt_svid_tenant_claim = self.claim;
    }
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
    pub fn new(parts: &Parts) -> Self {
        Self {
            trust_domain: parts.trust_domain.clone(),
            store: parts.store.clone(),
            cache: Arc::clone(&parts.cache),
            clock: Arc::clone(&parts.clock),
            max_staleness: parts.rules.max_staleness,
            limits: parts.limits.clone(),
            policy: parts.policy.clone(),
            turn: Arc::default(),
            withheld: Arc::new(Throttle::new(1, WITHHELD_INTERVAL)),
        }
    }

    /// The trust domain that entries belong to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The memory that answers.
    pub(super) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// How many entries `filter` accepts.
    ///
    /// # Errors
    /// [`Error`] when the store fails.
    pub async fn count(&self, call: &Call, filter: &EntryFilter) -> Result<u64, Error> {
        call.may(Action::ReadEntries)?;
        const FAILED: &str = "failed to count entries";
        if call.scope().is_none() {
            let counted = self.store.count_entries(filter).await;
            return counted.map_err(|error| Error::store(FAILED, &error));
        }
        let (mut page, mut counted) = (PageRequest::first(COUNTED_AT_ONCE), 0);
        loop {
            let listed = self.store.list_entries(filter, page).await;
            let listed = listed.map_err(|error| Error::store(FAILED, &error))?;
            counted += listed.items.iter().filter(|entry| call.sees(entry)).count() as u64;
            let Some(next) = listed.next else { return Ok(counted) };
            page.after = Some(next);
        }
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
        let mut page = page;
        loop {
            let listed = self.store.list_entries(filter, page).await;
            let mut listed =
                listed.map_err(|error| Error::store("failed to list entries", &error))?;
            listed.items.retain(|entry| call.sees(entry));
            // A page of nothing but what is not the caller's is none.
            match listed.next.filter(|_| listed.items.is_empty()) {
                Some(next) => page.after = Some(next),
                None => return Ok(listed),
            }
        }
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
        entry.filter(|entry| call.sees(entry)).ok_or_else(not_found)
    }

    /// Those of `ids` that are there and the caller may see.
    ///
    /// # Errors
    /// [`Error`] when the store fails.
    pub async fn some(&self, call: &Call, ids: &[EntryId]) -> Result<Vec<Entry>, Error> {
        call.may(Action::ReadEntries)?;
        let found = self.store.entries(ids).await;
        let mut found = found.map_err(|error| Error::store("failed to fetch entries", &error))?;
        found.retain(|entry| call.sees(entry));
        Ok(found)
    }

    /// An ID for a new entry, after those of all older ones.
    pub fn fresh_id(&self) -> String {
        let since_epoch = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        entry_id::fresh(since_epoch).unwrap_or_else(|_| uuid::Uuid::new_v4().to_string())
    }

    /// Creates entries in one transaction; the answers are in order.
    pub async fn create(&self, call: &Call, new: Vec<NewEntry>) -> Vec<Result<Created, Error>> {
        const FAILED: &str = "failed to create entry";
        if let Err(error) = call.may(Action::CreateEntries) {
            return vec![Err(error); new.len()];
        }
        let _turn = match self.turn().await {
            Ok(turn) => turn,
            Err(error) => return vec![Err(error); new.len()],
        };
        let admitted = self.admitted(call, &new);
        let asked: Vec<_> = new.iter().map(|new| (new.id.clone(), fields(call, new))).collect();
        let is_admitted =
            |(new, admitted): (NewEntry, &Result<(), Error>)| admitted.is_ok().then_some(new);
        let good: Vec<NewEntry> = new.into_iter().zip(&admitted).filter_map(is_admitted).collect();
        let stored = match good.len() {
            0 => Vec::new(),
            some => {
                let stored = self.store.create_entries(good, self.clock.unix()).await;
                settle(&self.cache).await;
                outcomes(some, FAILED, stored)
            }
        };
        let mut stored = stored.into_iter();
        let results = asked.into_iter().zip(admitted).map(|(asked, admitted)| {
            let lost = || Err(Error::internal(FAILED));
            (asked, admitted.and_then(|()| stored.next().unwrap_or_else(lost)))
        });
        results
            .map(|((id, mut about), outcome)| {
                let mut known_as = id.clone();
                let (result, created) = match outcome {
                    Err(error) => (Err(error), None),
                    Ok(CreateEntryOutcome::Created(entry)) => (Ok(()), Some(Created::New(entry))),
                    Ok(CreateEntryOutcome::Similar(entry)) => {
                        known_as = entry.id.clone();
                        let seen = call.sees(&entry).then_some(Created::Similar(entry));
                        (Err(similar()), seen)
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

    /// Where tenants are required, nobody else writes entries while this is held, and memory has
    /// all that was written.
    async fn turn(&self) -> Result<Option<tokio::sync::MutexGuard<'_, ()>>, Error> {
        if !self.policy.is_required() {
            return Ok(None);
        }
        let turn = self.turn.lock().await;
        self.policy.ready(&self.cache).await?;
        self.cache.fresh().await?;
        Ok(Some(turn))
    }

    /// Which of new entries the caller's scope and their tenants allow.
    fn admitted(&self, call: &Call, new: &[NewEntry]) -> Vec<Result<(), Error>> {
        let mut before: Vec<(&EntryId, &EntrySpec)> = Vec::new();
        let judged = new.iter().map(|NewEntry { id, draft }| {
            call.may_touch(draft.tenant.as_ref(), &draft.spiffe_id)?;
            call.may_grant(draft)?;
            let judged = self.policy.judge(&self.cache, |j| j.creation(id, draft, &before));
            judged?;
            before.push((id, draft));
            Ok(())
        });
        judged.collect()
    }

    /// Changes entries in one transaction; the answers are in order.
    pub async fn update(&self, call: &Call, edits: Vec<Edit>) -> Vec<Result<Entry, Error>> {
        const FAILED: &str = "failed to update entry";
        if let Err(error) = call.may(Action::UpdateEntries) {
            return vec![Err(error); edits.len()];
        }
        let _turn = match self.turn().await {
            Ok(turn) => turn,
            Err(error) => return vec![Err(error); edits.len()],
        };
        let ids: Vec<EntryId> = edits.iter().map(|edit| edit.id.clone()).collect();
        let updates = edits.into_iter().map(|Edit { id, change, tenant }| {
            let trust_domain = self.trust_domain.clone();
            let (call, policy, cache) = (call.clone(), self.policy.clone(), self.cache.clone());
            let entry = id.clone();
            EntryUpdate::new(id, move |draft| {
                let touches = |draft: &EntrySpec| {
                    let touched = call.may_touch(draft.tenant.as_ref(), &draft.spiffe_id);
                    touched.map_err(|_| EntryError::OutOfScope)
                };
                if !call.sees(draft) {
                    return Err(EntryError::Unseen);
                }
                touches(draft)?;
                change.apply(draft);
                if let Some(tenant) = tenant {
                    tenant.apply(draft);
                }
                draft.check(&trust_domain)?;
                touches(draft)?;
                call.may_grant(draft).map_err(|_| EntryError::OutOfScope)?;
                policy
                    .judge(&cache, |judge| judge.creation(&entry, draft, &[]))
                    .map(drop)
                    .map_err(EntryError::Tenant)
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
                    UpdateEntryOutcome::NotFound
                    | UpdateEntryOutcome::Refused(EntryError::Unseen) => {
                        Err(Error::not_found(FAILED))
                    }
                    UpdateEntryOutcome::Refused(EntryError::Tenant(denial)) => Err(denial.into()),
                    UpdateEntryOutcome::Refused(why @ EntryError::OutOfScope) => {
                        let refused =
                            Error::new(ErrorKind::Denied, format!("[policy_scope] {why}"));
                        Err(refused.coded("policy_scope"))
                    }
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
        const NOT_FOUND: &str = "entry not found";
        if let Err(error) = call.may(Action::DeleteEntries) {
            return vec![Err(error); ids.len()];
        }
        let admitted = match self.deletable(call, &ids).await {
            Ok(admitted) => admitted,
            Err(error) => return vec![Err(error); ids.len()],
        };
        let is_admitted =
            |(id, admitted): (&EntryId, &Result<(), Error>)| admitted.is_ok().then(|| id.clone());
        let good: Vec<EntryId> = ids.iter().zip(&admitted).filter_map(is_admitted).collect();
        let asked = good.len();
        let stored = self.store.delete_entries(good, self.clock.unix()).await;
        settle(&self.cache).await;
        let mut stored = outcomes(asked, FAILED, stored).into_iter();
        let results = ids.into_iter().zip(admitted).map(|(id, admitted)| {
            let lost = || Err(Error::internal(FAILED));
            let outcome = admitted.and_then(|()| stored.next().unwrap_or_else(lost));
            (id, outcome)
        });
        results
            .map(|(id, outcome)| {
                let tenant = outcome.as_ref().ok().and_then(Option::as_ref);
                let tenant = tenant.and_then(|entry| entry.tenant.clone());
                let result = outcome
                    .and_then(|deleted| deleted.ok_or_else(|| Error::not_found(NOT_FOUND)))
                    .map(drop);
                call.audit.item(&result, || {
                    let mut about = vec![Field::EntryId(id.to_string())];
                    about.extend(tenant.map(Field::Tenant));
                    about
                });
                result
            })
            .collect()
    }

    /// Which of these entries the caller's scope lets it delete.
    async fn deletable(
        &self,
        call: &Call,
        ids: &[EntryId],
    ) -> Result<Vec<Result<(), Error>>, Error> {
        if call.scope().is_none() {
            return Ok(vec![Ok(()); ids.len()]);
        }
        let found = self.store.entries(ids).await;
        let found = found.map_err(|error| Error::store("failed to delete entry", &error))?;
        let admitted = ids.iter().map(|id| {
            let entry = found.iter().find(|entry| entry.id == *id && call.sees(entry));
            let entry = entry.ok_or_else(|| Error::not_found("entry not found"))?;
            call.may_touch(entry.tenant.as_ref(), &entry.spiffe_id)
        });
        Ok(admitted.collect())
    }

    /// The entries of the calling agent, as of now.
    ///
    /// # Errors
    /// `Unavailable` when what is known may be too old.
    pub async fn authorized(&self, call: &Call) -> Result<Vec<Arc<Entry>>, Error> {
        call.may(Action::ReadAuthorizedEntries)?;
        let agent = call.agent_id()?;
        self.cache.fresh_or_away(self.max_staleness).await?;
        self.policy.ready(&self.cache).await?;
        // Whoever waits for the store takes nobody's turn.
        let now = self.clock.unix();
        let _turn = self.limits.turns.turn(&call.principal, Work::Sync, None, now).await?;
        let judged = self.policy.judge(&self.cache, |judge| Ok(judge.authorized(agent)))?;
        let Some(judged) = judged else { return Ok(self.cache.authorized(agent).await?) };
        self.tell_withheld(call, agent, &judged);
        Ok(judged)
    }

    /// Counts and records the entries that an agent would get if tenants were nothing.
    fn tell_withheld(&self, call: &Call, agent: &SpiffeId, judged: &[Arc<Entry>]) {
        let all = self.cache.with_index(|index| index.authorized(agent)).unwrap_or_default();
        if all.len() == judged.len() {
            return;
        }
        let given: HashSet<&EntryId> = judged.iter().map(|entry| &entry.id).collect();
        for entry in all.iter().filter(|entry| !given.contains(&entry.id)) {
            let judged = self.policy.judge(&self.cache, |j| j.entry_for_agent(agent, &entry.id));
            let Err(denial) = judged else { continue };
            // An agent asks again and again.
            let Some(_) = self.withheld.admit(&(agent.clone(), entry.id.clone(), denial.code()))
            else {
                continue;
            };
            call.audit.item(&Err::<(), Error>(denial.into()), || {
                let mut about = vec![
                    Field::EntryId(entry.id.to_string()),
                    Field::SpiffeId(entry.spiffe_id.clone()),
                ];
                about.extend(entry.tenant.clone().map(Field::Tenant));
                about
            });
        }
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
        // Of what is there and not the caller's, it is not told.
        ids.retain(|id| found.get(id).is_none_or(|entry| call.sees(entry)));
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
        false => {
            let tenant = new.draft.tenant.clone().map(Field::Tenant);
            tenant.into_iter().chain([Field::SpiffeId(new.draft.spiffe_id.clone())]).collect()
        }
    }
}

fn all_fields(entry: &EntrySpec) -> Vec<Field> {
    let mut fields = vec![
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
    ];
    fields.extend(entry.tenant.clone().map(Field::Tenant));
    fields
}
