//! The task that keeps the memory in step with the store.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use signet_base::{Backoff, CancellationToken, Repeats};
use signet_daemon::metrics::Calls;
use signet_identity::{
    AttestedNode, Bundle, EntryId, IndexChange, SpiffeId, TrustDomain,
    tenant::{Assigned, Assignment},
};
use signet_pki::x509::TrustBundle;
use signet_store::{
    Change, ChangeKind, ChangedTo, Changes, FeedPosition, PageRequest, Store, StoreError,
};

use tokio::task::JoinSet;

use super::{Cache, CachedBundle, Mirror, NodeRow, Revisions, load};

/// How many changes are taken over at a time.
const BATCH: u32 = 1000;
/// How often an idle store is asked whether it still works, at least.
const PING: Duration = Duration::from_secs(60);
/// That it does not is said so often.
const UNANSWERED: Duration = Duration::from_secs(60);
/// And at most.
const MIN_PING: Duration = Duration::from_millis(100);

/// Follows the change feed. Its one owner runs it with [`Follower::run`].
#[derive(Debug)]
pub struct Follower {
    cache: Arc<Cache>,
    reloads: Option<Calls>,
}

/// Changes of one batch, by what is to be read again.
#[derive(Default)]
struct Touched {
    /// To be read.
    entries: Vec<EntryId>,
    /// To be read.
    nodes: Vec<SpiffeId>,
    /// What became of entries, where the feed itself told.
    told_entries: Vec<IndexChange>,
    /// What became of nodes, where the feed itself told.
    told_nodes: Vec<(SpiffeId, Option<AttestedNode>)>,
    bundles: HashSet<TrustDomain>,
    /// To be read.
    tenancy: Vec<Assigned>,
    relationships: bool,
    any_entries: bool,
    any_nodes: bool,
    any_tenancy: bool,
    newest: u64,
}

impl Follower {
    pub(super) fn new(cache: Arc<Cache>) -> Self {
        Self { cache, reloads: None }
    }

    /// The same, and each time that memory is brought up to the store is counted.
    #[must_use]
    pub fn counting(self, reloads: Calls) -> Self {
        Self { reloads: Some(reloads), ..self }
    }

    /// Reads everything, and follows until the token is cancelled. An idle store is asked several
    /// times within `max_staleness` whether it still works.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when what is stored cannot be read into memory. Every other failure
    /// is logged, and the store is asked again.
    pub async fn run(
        self,
        token: CancellationToken,
        max_staleness: Duration,
    ) -> Result<(), StoreError> {
        let longest = (max_staleness / 4).clamp(MIN_PING, PING);
        let mut revisions = self.cache.store.subscribe();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let told = Repeats::new(UNANSWERED);
        let mut loading = JoinSet::new();
        let mut read = None;
        loop {
            if !self.cache.is_loaded() && loading.is_empty() && read.is_none() {
                let cache = Arc::clone(&self.cache);
                loading.spawn(async move { load::all(&cache.store, &cache.trust_domain).await });
            }
            let timer = self.reloads.as_ref().map(|reloads| reloads.start(&[]));
            let kept_up = match read.take() {
                None => self.catch_up().await,
                Some(Ok(whole)) => self.install(whole).await,
                Some(Err(error)) => Err(error),
            };
            if let Some(timer) = timer {
                timer.done(if kept_up.is_ok() { "OK" } else { "Unknown" });
            }
            match kept_up {
                Ok(()) => backoff.reset(),
                Err(error @ StoreError::Corrupt { .. }) if !self.cache.is_loaded() => {
                    return Err(error);
                }
                Err(error) => {
                    let delay = backoff.next_delay();
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        retry_ms = delay.as_millis() as u64,
                        "Cannot follow the changes of the registration store"
                    );
                    if token.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
                        return Ok(());
                    }
                    continue;
                }
            }
            // A shared store is asked how far it has come, as often as it says.
            let ping = match self.cache.store.is_shared() {
                true => longest.min(self.cache.store.poll_interval()),
                false => longest,
            };
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                changed = revisions.changed() => if changed.is_err() { return Ok(()) },
                Some(ended) = loading.join_next() => match ended {
                    Ok(whole) => read = Some(whole),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_aborted) => {}
                },
                () = tokio::time::sleep(ping) => match self.ask().await {
                    Ok(()) => self.cache.saw_store(),
                    Err(error) => if let Some(untold) = told.tell(()) {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            untold,
                            "The registration store does not answer"
                        );
                    },
                },
            }
        }
    }

    /// Takes over everything that was read, and what has changed since; or nothing, if the feed
    /// does not say what has.
    async fn install(&self, whole: (Mirror, FeedPosition)) -> Result<(), StoreError> {
        let (mut mirror, mut position) = whole;
        let cache = &self.cache;
        loop {
            match cache.store.changes_since(&position, BATCH).await? {
                Changes::Gone { .. } => return Ok(()),
                Changes::Since(changes) if changes.is_empty() => break,
                Changes::Since(changes) => {
                    let mut touched = touched(changes);
                    position.revision = touched.newest;
                    mirror.take(read_touched(&cache.store, &mut touched).await?);
                }
            }
        }
        tracing::info!(
            entries = mirror.index.len(),
            agents = mirror.nodes.len(),
            "Registrations loaded"
        );
        *cache.write() = Some(mirror);
        cache.is_loaded.send_replace(true);
        Ok(())
    }

    /// Asks the database whether it works and, when others write to it, how far it has come:
    /// subscribers of the store learn of that.
    async fn ask(&self) -> Result<(), StoreError> {
        let store = &self.cache.store;
        if store.is_shared() { store.committed().await.map(drop) } else { store.ping().await }
    }

    /// Takes over every change that this process knows of.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read; what was taken over stays.
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        loop {
            let applied = self.cache.applied.borrow().clone();
            let known = self.cache.store.known();
            if applied.has_reached(&known) {
                return Ok(());
            }
            match self.cache.store.changes_since(&applied, BATCH).await? {
                Changes::Since(changes) if changes.is_empty() => return Ok(()),
                Changes::Since(changes) => self.apply(&applied, changes).await?,
                Changes::Gone { now } => {
                    tracing::warn!(
                        applied = applied.revision,
                        newest = now.revision,
                        another_history = applied.epoch != now.epoch,
                        "The change feed has a gap: reading everything"
                    );
                    self.reload().await?;
                }
            }
            self.cache.saw_store();
        }
    }

    /// Reads the bundles. From there on the feed is followed.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub(super) async fn begin(&self) -> Result<(), StoreError> {
        let position = self.cache.store.committed().await?;
        let bundles = self.read_bundles().await?;
        self.start_at(position, bundles);
        Ok(())
    }

    /// Reads everything anew.
    async fn reload(&self) -> Result<(), StoreError> {
        let cache = &self.cache;
        let (mirror, position) = load::all(&cache.store, &cache.trust_domain).await?;
        let bundles = self.read_bundles().await?;
        *cache.write() = Some(mirror);
        cache.is_loaded.send_replace(true);
        self.start_at(position, bundles);
        Ok(())
    }

    async fn read_bundles(&self) -> Result<HashMap<TrustDomain, Arc<CachedBundle>>, StoreError> {
        let read = self.cache.store.list_bundles(PageRequest::all()).await?.items;
        let named = |bundle: Bundle| (bundle.trust_domain.clone(), prepared(bundle));
        Ok(read.into_iter().map(named).collect())
    }

    /// Everything may have changed.
    fn start_at(&self, position: FeedPosition, bundles: HashMap<TrustDomain, Arc<CachedBundle>>) {
        let (cache, revision) = (&self.cache, position.revision);
        cache.bundles.store(Arc::new(bundles));
        let all = Revisions {
            entries: revision,
            bundles: revision,
            relationships: revision,
            agents: revision,
        };
        cache.applied.send_replace(position);
        cache.all.send_replace(all);
        for sender in cache.subscribers().values() {
            sender.send_replace(Revisions { relationships: 0, agents: 0, ..all });
        }
        cache.saw_store();
    }

    async fn apply(&self, applied: &FeedPosition, changes: Vec<Change>) -> Result<(), StoreError> {
        let mut touched = touched(changes);
        let cache = &self.cache;
        // What is not in memory yet is read as it is then.
        let rows = match cache.is_loaded() {
            true => Some(read_touched(&cache.store, &mut touched).await?),
            false => None,
        };
        let mut bundles = Vec::with_capacity(touched.bundles.len());
        for trust_domain in &touched.bundles {
            let bundle = cache.store.bundle(trust_domain).await?;
            bundles.push((trust_domain.clone(), bundle.map(prepared)));
        }

        let concerned = match (&mut *cache.write(), rows) {
            (Some(mirror), Some(rows)) => Some(mirror.take(rows)),
            _ => None,
        };
        if !bundles.is_empty() {
            let mut all = HashMap::clone(&cache.bundles.load());
            for (trust_domain, bundle) in bundles {
                match bundle {
                    Some(bundle) => all.insert(trust_domain, bundle),
                    None => all.remove(&trust_domain),
                };
            }
            cache.bundles.store(Arc::new(all));
        }
        cache.applied.send_replace(FeedPosition {
            epoch: Arc::clone(&applied.epoch),
            revision: touched.newest,
        });
        self.announce(&touched, concerned.as_ref());
        Ok(())
    }

    /// Tells the subscribers, of agents those that are concerned; all of them, if that is not known.
    fn announce(&self, touched: &Touched, concerned: Option<&HashSet<SpiffeId>>) {
        let newest = touched.newest;
        let is_concerned = |agent: &SpiffeId| match concerned {
            // Whom a change of a tenant concerns is not worked out: it is rare.
            _ if touched.any_tenancy => true,
            Some(concerned) => concerned.contains(agent),
            None => touched.any_entries || touched.any_nodes,
        };
        self.cache.all.send_modify(|all| {
            if touched.any_entries || touched.any_tenancy {
                all.entries = newest;
            }
            if touched.any_nodes {
                all.agents = newest;
            }
            if !touched.bundles.is_empty() {
                all.bundles = newest;
            }
            if touched.relationships {
                all.relationships = newest;
            }
        });
        let agents = self.cache.subscribers();
        let notify = |sender: &tokio::sync::watch::Sender<Revisions>, entries: bool| {
            sender.send_modify(|revisions| {
                if entries {
                    revisions.entries = newest;
                }
                if !touched.bundles.is_empty() {
                    revisions.bundles = newest;
                }
            });
        };
        match concerned {
            Some(concerned) if touched.bundles.is_empty() && !touched.any_tenancy => {
                let senders = concerned.iter().filter_map(|agent| agents.get(agent));
                senders.for_each(|sender| notify(sender, true));
            }
            _ => agents.iter().for_each(|(agent, sender)| notify(sender, is_concerned(agent))),
        }
    }
}

/// Rows that changes name, as they are now.
struct Rows {
    entries: Vec<IndexChange>,
    nodes: Vec<(SpiffeId, Option<AttestedNode>)>,
    tenancy: Vec<(Assigned, Option<Assignment>)>,
}

impl Mirror {
    /// Takes over changes; answers whom they concern.
    fn take(&mut self, rows: Rows) -> HashSet<SpiffeId> {
        for (about, said) in rows.tenancy {
            self.directory.apply(&about, said);
        }
        let mut changes = rows.entries;
        for (id, node) in rows.nodes {
            changes.push(match node {
                Some(node) => {
                    self.nodes.insert(id.clone(), NodeRow::from(&node));
                    IndexChange::Node(id, node.selectors)
                }
                None => {
                    self.nodes.remove(&id);
                    IndexChange::NodeGone(id)
                }
            });
        }
        self.index.apply(changes)
    }
}

impl Touched {
    fn entry(&mut self, id: EntryId, to: ChangedTo) {
        match to {
            ChangedTo::Entry(entry) => {
                self.told_entries.push(IndexChange::Entry(Arc::unwrap_or_clone(entry)));
            }
            ChangedTo::Gone => self.told_entries.push(IndexChange::EntryGone(id)),
            ChangedTo::Node(_) | ChangedTo::Unread => self.entries.push(id),
        }
    }

    fn node(&mut self, id: SpiffeId, to: ChangedTo) {
        match to {
            ChangedTo::Node(node) => {
                self.told_nodes.push((id, Some(Arc::unwrap_or_clone(node))));
            }
            ChangedTo::Gone => self.told_nodes.push((id, None)),
            ChangedTo::Entry(_) | ChangedTo::Unread => self.nodes.push(id),
        }
    }
}

fn touched(changes: Vec<Change>) -> Touched {
    let mut touched = Touched::default();
    let mut seen: HashSet<(ChangeKind, String)> = HashSet::with_capacity(changes.len());
    // From the newest: what came of a thing last is what counts.
    for Change { revision, kind, key, to } in changes.into_iter().rev() {
        touched.newest = touched.newest.max(revision);
        if !seen.insert((kind, key.clone())) {
            continue;
        }
        let readable = match kind {
            ChangeKind::Entry => key.parse().map(|id| touched.entry(id, to)).is_ok(),
            ChangeKind::Node => key.parse().map(|id| touched.node(id, to)).is_ok(),
            ChangeKind::Bundle => key.parse().map(|td| touched.bundles.insert(td)).is_ok(),
            ChangeKind::Federation => {
                touched.relationships = true;
                true
            }
            ChangeKind::Tenancy => key.parse().map(|about| touched.tenancy.push(about)).is_ok(),
        };
        if !readable {
            tracing::warn!(revision, ?kind, key, "The change feed names something unreadable");
        }
    }
    touched.any_entries = !(touched.entries.is_empty() && touched.told_entries.is_empty());
    touched.any_nodes = !(touched.nodes.is_empty() && touched.told_nodes.is_empty());
    touched.any_tenancy = !touched.tenancy.is_empty();
    touched
}

/// Reads what the feed names and did not tell.
async fn read_touched(store: &Store, touched: &mut Touched) -> Result<Rows, StoreError> {
    let mut entries = std::mem::take(&mut touched.told_entries);
    let mut gone: HashSet<EntryId> = touched.entries.iter().cloned().collect();
    if !touched.entries.is_empty() {
        for entry in store.entries(&touched.entries).await? {
            gone.remove(&entry.id);
            entries.push(IndexChange::Entry(entry));
        }
    }
    entries.extend(gone.into_iter().map(IndexChange::EntryGone));
    let mut nodes = read_nodes(store, &touched.nodes).await?;
    nodes.append(&mut touched.told_nodes);
    let mut tenancy = Vec::with_capacity(touched.tenancy.len());
    for about in std::mem::take(&mut touched.tenancy) {
        let said = store.assignment(&about).await?;
        tenancy.push((about, said));
    }
    Ok(Rows { entries, nodes, tenancy })
}

async fn read_nodes(
    store: &Store,
    ids: &[SpiffeId],
) -> Result<Vec<(SpiffeId, Option<AttestedNode>)>, StoreError> {
    let mut rows = Vec::with_capacity(ids.len());
    for id in ids {
        rows.push((id.clone(), store.node(id).await?));
    }
    Ok(rows)
}

fn prepared(bundle: Bundle) -> Arc<CachedBundle> {
    let trust = match TrustBundle::from_bundle(&bundle) {
        Ok(trust) => Some(Arc::new(trust)),
        Err(error) => {
            tracing::warn!(
                trust_domain = %bundle.trust_domain, %error,
                "A bundle holds an authority that cannot be read: its members cannot connect"
            );
            None
        }
    };
    Arc::new(CachedBundle { bundle, trust })
}
