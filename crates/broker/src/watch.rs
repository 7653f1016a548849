//! What the server of identities says: which identities are alive, and which agents are banned.
//!
//! Our server tells at once when something has changed (push); SPIRE's is asked again and again.
//! What is known is evaluated against the lease store after each change.

mod server;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use signet_base::{Backoff, ReadyGuard, SharedClock, chain};
use signet_identity::{AuthorizedIndex, IndexChange, SpiffeId, TrustDomain};
use signet_time::UnixTime;
use tokio::{sync::mpsc, time::Instant};

pub use self::server::{Changes, Notice, Server, ServerError};
use crate::{
    lease_store::LeaseStore,
    reason::{Denial, Reason},
};

/// How often everything is listed anew, whatever was told.
const RELIST: Duration = Duration::from_secs(300);
/// How often the server is asked when it does not tell by itself.
const POLL: Duration = Duration::from_secs(2);
/// How often it is asked for suspended tenants, which is a sign of life as well, when it tells of
/// everything else by itself.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// What is known of identities. Clones share it.
#[derive(Clone)]
pub struct View(Arc<Shared>);

struct Shared {
    known: RwLock<Known>,
    clock: SharedClock,
    max_staleness: Duration,
}

#[derive(Default)]
struct Known {
    /// When the server last said that this is how things stand.
    at: Option<Instant>,
    /// Until when which identity is issued, Unix seconds; 0 without end.
    alive: HashMap<SpiffeId, UnixTime>,
    /// The tenants that the server has suspended.
    suspended: BTreeSet<String>,
    /// When an agent that could have had the identity was found to be banned, Unix seconds.
    banned: HashMap<SpiffeId, UnixTime>,
}

impl View {
    /// Knows nothing yet; what is known is believed for `max_staleness`.
    pub fn new(clock: SharedClock, max_staleness: Duration) -> Self {
        Self(Arc::new(Shared { known: RwLock::default(), clock, max_staleness }))
    }

    /// Whether an identity whose evidence was issued at `issued` is still one.
    ///
    /// # Errors
    /// [`Denial`] when it is not, or when nobody knows.
    pub fn check(&self, id: &SpiffeId, issued: UnixTime) -> Result<(), Denial> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        if known.at.is_none_or(|at| at.elapsed() > self.0.max_staleness) {
            let text = "the server of identities has not been heard of for too long";
            return Err(Denial::new(Reason::ServerUnavailable, text));
        }
        if let Some(why) = known.ended(id, self.0.clock.unix()) {
            return Err(Denial::new(Reason::IdentityEnded, format!("{id}: {why}")));
        }
        match known.banned.get(id) {
            Some(at) if issued <= *at => Err(Denial::new(
                Reason::PredatesBan,
                format!(
                    "an agent that could have had {id} was banned after this SVID was issued; a \
                     newer SVID is needed"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Why an identity is none any more, if it is not; `None` also while nobody knows.
    pub fn ended(&self, id: &SpiffeId) -> Option<String> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known.at?;
        known.ended(id, self.0.clock.unix()).map(str::to_owned)
    }

    /// Whether the server has suspended a tenant.
    pub fn is_suspended(&self, tenant: &str) -> bool {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known.suspended.contains(tenant)
    }

    fn heard(&self) {
        self.0.known.write().unwrap_or_else(PoisonError::into_inner).at = Some(Instant::now());
    }
}

impl Known {
    fn ended(&self, id: &SpiffeId, now: UnixTime) -> Option<&'static str> {
        match self.alive.get(id) {
            None => Some("no registration entry issues it"),
            Some(until) if *until != UnixTime::EPOCH && *until <= now => {
                Some("its registration entry has expired")
            }
            Some(_) => None,
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        write!(f, "View({} identities)", known.alive.len())
    }
}

/// What has to be taken back now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Look at every holder: some may not be alive any more.
    Look,
    /// These agents were banned: whoever could have been on them ends.
    Banned(BTreeMap<SpiffeId, String>),
}

/// Follows the server.
pub struct Watch {
    server: Server,
    trust_domain: TrustDomain,
    view: View,
    store: LeaseStore,
    clock: SharedClock,
    verdicts: mpsc::Sender<Verdict>,
    index: AuthorizedIndex,
    feed_id: String,
    revision: u64,
    agents: BTreeMap<SpiffeId, bool>,
    agents_revision: Option<u64>,
    suspended: BTreeSet<String>,
}

impl Watch {
    /// Follows `server`, and sends what follows from it.
    pub fn new(
        server: Server,
        trust_domain: TrustDomain,
        view: View,
        store: LeaseStore,
        clock: SharedClock,
        verdicts: mpsc::Sender<Verdict>,
    ) -> Self {
        Self {
            server,
            index: AuthorizedIndex::new(trust_domain.clone()),
            trust_domain,
            view,
            store,
            clock,
            verdicts,
            feed_id: String::new(),
            revision: 0,
            agents: BTreeMap::new(),
            agents_revision: None,
            suspended: BTreeSet::new(),
        }
    }

    /// Follows for as long as it is polled.
    pub async fn run(mut self, ready: ReadyGuard) {
        let mut ready = Some(ready);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            match self.follow(&mut ready, &mut backoff).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(error = chain(&error), "The server of identities is not there");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// One connection: everything anew, then what changes, until [`RELIST`] or an error.
    async fn follow(
        &mut self,
        ready: &mut Option<ReadyGuard>,
        backoff: &mut Backoff,
    ) -> Result<(), ServerError> {
        let mut notices = self.server.subscribe().await?;
        let first = match &mut notices {
            Some(notices) => Some(notices.next().await?),
            None => None,
        };
        self.relist().await?;
        if let Some(first) = first {
            // What came between the notice and the list comes again, which does no harm.
            self.feed_id = first.feed_id;
            self.revision = first.entries;
            self.agents_revision = Some(first.agents);
        }
        self.evaluate().await;
        backoff.reset();
        drop(ready.take());
        let until = Instant::now() + RELIST;
        let mut look = tokio::time::interval(SIGN_OF_LIFE);
        loop {
            let Some(notices) = &mut notices else {
                tokio::time::sleep(POLL).await;
                self.relist().await?;
                self.evaluate().await;
                continue;
            };
            tokio::select! {
                notice = notices.next() => self.take(notice?).await?,
                _ = look.tick() => {
                    let suspended = self.server.suspended().await?;
                    self.view.heard();
                    if suspended != self.suspended {
                        self.suspended = suspended;
                        self.evaluate().await;
                    }
                }
                () = tokio::time::sleep_until(until) => return Ok(()),
            }
        }
    }

    async fn take(&mut self, notice: Notice) -> Result<(), ServerError> {
        if notice.feed_id != self.feed_id {
            self.relist().await?;
            self.feed_id = notice.feed_id;
            self.revision = notice.entries;
            self.agents_revision = Some(notice.agents);
            self.evaluate().await;
            return Ok(());
        }
        while self.revision < notice.entries {
            match self.server.changes(&self.trust_domain, &self.feed_id, self.revision).await? {
                Changes::Since { revision, more, changes } => {
                    changes.into_iter().for_each(|change| self.index.load(change));
                    if revision <= self.revision && !more {
                        break;
                    }
                    self.revision = revision;
                }
                Changes::Resync { revision } => {
                    self.relist().await?;
                    self.revision = revision;
                }
            }
        }
        if self.agents_revision != Some(notice.agents) {
            self.list_agents().await?;
            self.agents_revision = Some(notice.agents);
        }
        self.evaluate().await;
        Ok(())
    }

    async fn relist(&mut self) -> Result<(), ServerError> {
        let entries = self.server.entries(&self.trust_domain).await?;
        let mut index = AuthorizedIndex::new(self.trust_domain.clone());
        entries.into_iter().for_each(|entry| index.load(IndexChange::Entry(entry)));
        self.index = index;
        self.agents.clear();
        self.suspended = self.server.suspended().await?;
        self.list_agents().await
    }

    async fn list_agents(&mut self) -> Result<(), ServerError> {
        let agents = self.server.agents(&self.trust_domain).await?;
        let now: BTreeMap<SpiffeId, bool> =
            agents.iter().map(|agent| (agent.id.clone(), agent.banned)).collect();
        for gone in self.agents.keys().filter(|id| !now.contains_key(*id)) {
            self.index.load(IndexChange::NodeGone(gone.clone()));
        }
        for agent in agents {
            self.index.load(IndexChange::Node(agent.id, agent.selectors));
        }
        self.agents = now;
        Ok(())
    }

    /// Publishes what is known, and says what follows.
    async fn evaluate(&mut self) {
        let now = self.clock.unix();
        let mut alive: HashMap<SpiffeId, UnixTime> = HashMap::new();
        for entry in self.index.entries() {
            let until = alive.entry(entry.spiffe_id.clone()).or_insert(entry.expires_at);
            *until = match (*until, entry.expires_at) {
                (UnixTime::EPOCH, _) | (_, UnixTime::EPOCH) => UnixTime::EPOCH,
                (one, other) => one.max(other),
            };
        }
        let banned: BTreeSet<String> = self
            .agents
            .iter()
            .filter(|(_, banned)| **banned)
            .map(|(id, _)| id.to_string())
            .collect();
        let new = self.store.banned(&banned, now);
        let at = self.store.bans();
        let mut affected: HashMap<SpiffeId, UnixTime> = HashMap::new();
        let mut ending: BTreeMap<SpiffeId, String> = BTreeMap::new();
        for (agent, _) in self.agents.iter().filter(|(_, banned)| **banned) {
            let name = agent.to_string();
            let at = at.get(&name).copied().unwrap_or(now);
            for entry in self.index.authorized(agent) {
                let latest = affected.entry(entry.spiffe_id.clone()).or_insert(at);
                *latest = (*latest).max(at);
                if new.contains(&name) {
                    ending.insert(entry.spiffe_id.clone(), format!("agent {name} was banned"));
                }
            }
        }
        {
            let mut known = self.view.0.known.write().unwrap_or_else(PoisonError::into_inner);
            let suspended = self.suspended.clone();
            *known = Known { at: Some(Instant::now()), alive, suspended, banned: affected };
        }
        // The receiver is gone only when the program ends.
        if !ending.is_empty() {
            let _ = self.verdicts.send(Verdict::Banned(ending)).await;
        }
        let _ = self.verdicts.send(Verdict::Look).await;
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({:?})", self.view)
    }
}
