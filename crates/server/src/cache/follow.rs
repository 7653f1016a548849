//! The task that keeps the memory in step with the store.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use signet_base::{Backoff, CancellationToken};
use signet_identity::{
    AttestedNode, AuthorizedIndex, Bundle, EntryId, IndexChange, SpiffeId, TrustDomain,
};
use signet_pki::x509::TrustBundle;
use signet_store::{
    Change, ChangeKind, ChangedTo, Changes, EntryFilter, FeedPosition, NodeFilter, PageRequest,
    Store, StoreError,
};

use super::{Cache, CachedBundle, NodeRow, Revisions};

/// How many changes are taken over at a time.
const BATCH: u32 = 1000;
/// How many rows are loaded at a time.
const PAGE: u32 = 1000;
/// How often an idle store is asked whether it still works, at least.
const PING: Duration = Duration::from_secs(60);
/// And at most.
const MIN_PING: Duration = Duration::from_millis(100);
/// How often a database that other servers write to is asked how far it has come.
const POLL: Duration = Duration::from_millis(250);

/// Follows the change feed. Its one owner runs it with [`Follower::run`].
#[derive(Debug)]
pub struct Follower {
    cache: Arc<Cache>,
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
    relationships: bool,
    any_entries: bool,
    any_nodes: bool,
    newest: u64,
}

impl Follower {
    pub(super) fn new(cache: Arc<Cache>) -> Self {
        Self { cache }
    }

    /// Follows until the token is cancelled. An idle store is asked several times within
    /// `max_staleness` whether it still works.
    pub async fn run(self, token: CancellationToken, max_staleness: Duration) {
        let mut ping = (max_staleness / 4).clamp(MIN_PING, PING);
        if self.cache.store.is_shared() {
            ping = ping.min(POLL);
        }
        let mut revisions = self.cache.store.subscribe();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            match self.catch_up().await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    let delay = backoff.next_delay();
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        retry_ms = delay.as_millis() as u64,
                        "Cannot follow the changes of the registration store"
                    );
                    if token.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
                        return;
                    }
                    continue;
                }
            }
            tokio::select! {
                () = token.cancelled() => return,
                changed = revisions.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(ping) => match self.ask().await {
                    Ok(()) => self.cache.saw_store(),
                    Err(error) => tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "The registration store does not answer"
                    ),
                },
            }
        }
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

    /// Reads everything anew.
    ///
    /// # Errors
    /// [`StoreError`]; then the memory is as it was.
    pub(super) async fn reload(&self) -> Result<(), StoreError> {
        let cache = &self.cache;
        // What changes meanwhile comes again by the feed.
        let position = cache.store.committed().await?;
        let revision = position.revision;
        let mut index = AuthorizedIndex::new(cache.trust_domain.clone());
        let mut nodes = HashMap::new();
        let mut page = PageRequest::first(PAGE);
        loop {
            let read = cache.store.list_entries(&EntryFilter::default(), page).await?;
            for entry in read.items {
                index.load(IndexChange::Entry(entry));
            }
            let Some(next) = read.next else { break };
            page.after = Some(next);
        }
        let mut page = PageRequest::first(PAGE);
        loop {
            let read = cache.store.list_nodes(&NodeFilter::default(), page).await?;
            for node in read.items {
                nodes.insert(node.spiffe_id.clone(), NodeRow::from(&node));
                index.load(IndexChange::Node(node.spiffe_id, node.selectors));
            }
            let Some(next) = read.next else { break };
            page.after = Some(next);
        }
        let mut bundles = HashMap::new();
        for bundle in cache.store.list_bundles(PageRequest::all()).await?.items {
            bundles.insert(bundle.trust_domain.clone(), prepared(bundle));
        }
        {
            let mut mirror = cache.write();
            mirror.index = index;
            mirror.nodes = nodes;
        }
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
        Ok(())
    }

    async fn apply(&self, applied: &FeedPosition, changes: Vec<Change>) -> Result<(), StoreError> {
        let mut touched = touched(changes);
        let cache = &self.cache;
        touched.any_entries = !(touched.entries.is_empty() && touched.told_entries.is_empty());
        let mut updates = std::mem::take(&mut touched.told_entries);
        let mut gone: HashSet<EntryId> = touched.entries.iter().cloned().collect();
        if !touched.entries.is_empty() {
            for entry in cache.store.entries(&touched.entries).await? {
                gone.remove(&entry.id);
                updates.push(IndexChange::Entry(entry));
            }
        }
        updates.extend(gone.into_iter().map(IndexChange::EntryGone));
        let mut rows = read_nodes(&cache.store, &touched.nodes).await?;
        rows.append(&mut touched.told_nodes);
        touched.any_nodes = !rows.is_empty();
        for (id, node) in &rows {
            updates.push(match node {
                Some(node) => IndexChange::Node(id.clone(), node.selectors.clone()),
                None => IndexChange::NodeGone(id.clone()),
            });
        }
        let mut bundles = Vec::with_capacity(touched.bundles.len());
        for trust_domain in &touched.bundles {
            let bundle = cache.store.bundle(trust_domain).await?;
            bundles.push((trust_domain.clone(), bundle.map(prepared)));
        }

        let concerned = {
            let mut mirror = cache.write();
            for (id, node) in &rows {
                match node {
                    Some(node) => mirror.nodes.insert(id.clone(), NodeRow::from(node)),
                    None => mirror.nodes.remove(id),
                };
            }
            mirror.index.apply(updates)
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
        self.announce(&touched, &concerned);
        Ok(())
    }

    fn announce(&self, touched: &Touched, concerned: &HashSet<SpiffeId>) {
        let newest = touched.newest;
        self.cache.all.send_modify(|all| {
            if touched.any_entries {
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
        if touched.bundles.is_empty() {
            for id in concerned {
                if let Some(sender) = agents.get(id) {
                    notify(sender, true);
                }
            }
        } else {
            for (id, sender) in agents.iter() {
                notify(sender, concerned.contains(id));
            }
        }
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
        };
        if !readable {
            tracing::warn!(revision, ?kind, key, "The change feed names something unreadable");
        }
    }
    touched
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
