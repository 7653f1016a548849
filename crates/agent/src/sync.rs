//! The manager: the one task that owns what comes from the server.
//!
//! It keeps the agent attested, fetches entries and bundles (at once when the server pushes a
//! notice, else by polling), has SVIDs signed when they are new, due or asked for, and writes all
//! of it into the [`cache`](crate::cache). While the server is away everything that is still
//! valid stays in the cache; nothing but the server's word, or an operator's, ends this task.

use std::{sync::Arc, time::Duration};

use signet_base::{Backoff, CancellationToken};
use signet_identity::SpiffeId;
use tokio::time::Instant;

use crate::{
    agent_identity::AgentIdentity,
    client::{ClientError, EVICTED, Notice, Refusal, SyncMethod},
    entry::EntryMap,
};

mod attest;
mod fetch;
mod push;
mod seal;
mod shared;
mod signing;
mod taint;

use fetch::{Fetched, Scope};
use push::{PushState, PushWatcher};
use seal::Sealer;
pub use shared::{AgentBundles, Settings, Shared, Status};
use signing::Signing;

/// How often a server that pushes notices is asked nevertheless.
const SAFETY_POLL: Duration = Duration::from_secs(300);
/// How often the wall clock is looked at: timers do not see a laptop sleep.
const CLOCK_CHECK: Duration = Duration::from_secs(30);
/// A wall clock that is off by this much has jumped, seconds.
const CLOCK_JUMP: i64 = 60;
/// The longest pause between attempts to sync: a server that is back is noticed within it.
const MAX_SYNC_PAUSE: Duration = Duration::from_secs(60);
/// While nothing is cached, a server is asked at least this often.
const EMPTY_POLL: Duration = Duration::from_secs(5);

/// Why the agent cannot go on.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fatal {
    /// The server has banned this agent.
    #[error(
        "agent {id} is banned: its SVID and cache were removed; once the ban is lifted \
         (signet-server agent evict -spiffeID {id}) the agent can attest again"
    )]
    Banned {
        /// The agent ID.
        id: SpiffeId,
    },
    /// The agent must attest anew and cannot by itself.
    #[error("the agent must attest anew because {reason}; {advice}")]
    MustAttest {
        /// Why.
        reason: String,
        /// What an operator can do.
        advice: String,
    },
    /// `rebootstrap_mode = "always"` with an attestor that cannot attest again.
    #[error(
        "rebootstrap_mode is \"always\", but the node attestor or the server does not allow this \
         agent to attest again; use \"auto\" or \"never\", or another node attestor"
    )]
    NotReattestable,
    /// The server refuses this node.
    #[error("node attestation was refused: {0}")]
    Refused(ClientError),
    /// The agent's own state cannot be kept.
    #[error("{0}")]
    State(String),
}

/// How a session with the server ended.
enum SessionEnd {
    Banned,
    Rebootstrap,
    Reattest(String),
    Stopped,
}

/// The manager. [`Manager::run`] is its task.
#[derive(Debug)]
pub struct Manager {
    shared: Arc<Shared>,
    identity: Option<Arc<AgentIdentity>>,
    entries: Arc<EntryMap>,
    method: SyncMethod,
    synced: Option<Notice>,
    sealer: Sealer,
    tainted: taint::Processed,
}

impl Manager {
    /// A manager on `shared`; nothing happens before [`Manager::run`].
    pub fn new(shared: Arc<Shared>) -> Self {
        let method = if shared.settings.use_sync { SyncMethod::Sync } else { SyncMethod::Get };
        Self {
            identity: None,
            entries: Arc::default(),
            method,
            synced: None,
            sealer: Sealer::default(),
            tainted: taint::Processed::default(),
            shared,
        }
    }

    /// Runs until `stop` is cancelled.
    ///
    /// # Errors
    /// [`Fatal`] when the agent cannot go on.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Fatal> {
        let result = self.live(&stop).await;
        self.sealer.finish(&self.shared).await;
        result
    }

    async fn live(&mut self, stop: &CancellationToken) -> Result<(), Fatal> {
        self.load_stored().await;
        self.check_rebootstrap_mode()?;
        let mut reason = "it has no SVID yet".to_owned();
        loop {
            let now = self.shared.clock.unix();
            let identity = match self.identity.clone() {
                Some(identity) if !identity.expired(now) => identity,
                _ => {
                    let attesting = self.attest_until_done(&reason);
                    match stop.run_until_cancelled(attesting).await {
                        Some(identity) => identity?,
                        None => return Ok(()),
                    }
                }
            };
            self.use_identity(Arc::clone(&identity))?;
            self.check_rebootstrap_mode()?;
            match self.session(identity, stop).await {
                SessionEnd::Stopped => return Ok(()),
                SessionEnd::Banned => return Err(self.banned().await),
                SessionEnd::Reattest(why) => {
                    tracing::warn!(reason = %why, "Agent needs to re-attest; will attempt to re-attest");
                    if why == EVICTED {
                        self.erase_sealed().await;
                    }
                    self.identity = None;
                    reason = why;
                }
                SessionEnd::Rebootstrap => {
                    tracing::warn!("Trust bundle and server do not agree, rebootstrapping");
                    self.erase_sealed().await;
                    self.forget_trust().await?;
                    "its trust bundle no longer fits the server".clone_into(&mut reason);
                }
            }
        }
    }

    /// Talks with the server as `identity` until something ends it.
    async fn session(
        &mut self,
        identity: Arc<AgentIdentity>,
        stop: &CancellationToken,
    ) -> SessionEnd {
        let mut session = Session::new(self, identity);
        loop {
            let end = tokio::select! {
                () = stop.cancelled() => Some(SessionEnd::Stopped),
                end = session.step() => end,
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Presents `identity` from now on.
    fn use_identity(&mut self, identity: Arc<AgentIdentity>) -> Result<(), Fatal> {
        let tls = identity.tls().map_err(|error| Fatal::State(error.to_string()))?;
        self.shared.tls_identity.set(tls);
        self.shared.client.release();
        self.shared.status.send_modify(|status| status.identity = Some(Arc::clone(&identity)));
        self.identity = Some(identity);
        Ok(())
    }
}

/// One session: from an attested identity to its end.
struct Session<'a> {
    manager: &'a mut Manager,
    identity: Arc<AgentIdentity>,
    push: PushWatcher,
    signing: Signing,
    fetching: Option<Fetching>,
    again: Option<Scope>,
    renewing: Option<Renewing>,
    next_sync: Instant,
    next_renewal: Instant,
    renew_now: bool,
    sync_backoff: Backoff,
    renew_backoff: Backoff,
    wall: (i64, Instant),
    greeted: bool,
}

type Fetching =
    std::pin::Pin<Box<dyn Future<Output = (Option<Notice>, Result<Fetched, ClientError>)> + Send>>;
type Renewing = std::pin::Pin<Box<dyn Future<Output = Result<AgentIdentity, ClientError>> + Send>>;

enum Event {
    Fetched(Option<Notice>, Result<Fetched, ClientError>),
    Signed(signing::BatchResult),
    Renewed(Result<AgentIdentity, ClientError>),
    Pushed,
    Demand,
    Kicked,
    Timer,
}

impl<'a> Session<'a> {
    fn new(manager: &'a mut Manager, identity: Arc<AgentIdentity>) -> Self {
        let shared = Arc::clone(&manager.shared);
        let interval = shared.settings.sync_interval;
        let max = MAX_SYNC_PAUSE.max(interval);
        let now = Instant::now();
        Self {
            push: PushWatcher::start(&shared, manager.synced.clone()),
            signing: Signing::new(),
            fetching: None,
            again: None,
            renewing: None,
            next_sync: now,
            next_renewal: now,
            renew_now: false,
            sync_backoff: Backoff::new(interval, max).with_jitter(0.2),
            renew_backoff: Backoff::new(Duration::from_secs(5), Duration::from_secs(60))
                .with_jitter(0.2),
            wall: (shared.clock.unix(), now),
            greeted: false,
            manager,
            identity,
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.manager.shared
    }

    /// Waits for the next event and acts on it.
    async fn step(&mut self) -> Option<SessionEnd> {
        let timer = self.next_timer();
        let shared = Arc::clone(self.shared());
        let event = tokio::select! {
            (notice, result) = maybe(&mut self.fetching) => Event::Fetched(notice, result),
            result = self.signing.next() => Event::Signed(result),
            result = maybe(&mut self.renewing) => Event::Renewed(result),
            () = self.push.changed() => Event::Pushed,
            () = shared.cache.demanded() => Event::Demand,
            () = shared.kick.notified() => Event::Kicked,
            () = tokio::time::sleep_until(timer) => Event::Timer,
        };
        match event {
            Event::Fetched(notice, result) => {
                self.fetching = None;
                self.fetched(notice, result).await
            }
            Event::Signed(result) => self.signed(result),
            Event::Renewed(result) => {
                self.renewing = None;
                self.renewed(result).await
            }
            Event::Pushed => {
                self.pushed();
                None
            }
            Event::Demand => {
                self.sign();
                None
            }
            Event::Kicked => {
                self.fetch(Scope::All);
                None
            }
            Event::Timer => self.tick(),
        }
    }

    fn next_timer(&self) -> Instant {
        let mut next = Instant::now() + CLOCK_CHECK;
        if self.fetching.is_none() {
            next = next.min(self.next_sync);
        }
        next = self.signing.next_retry().map_or(next, |at| next.min(at));
        let now = self.shared().clock.unix();
        let due_in = |at: i64| {
            Instant::now() + Duration::from_secs(at.saturating_sub(now).max(0).unsigned_abs())
        };
        if self.signing.is_idle()
            && let Some(due) = self.shared().cache.next_due(self.shared().settings.rule)
            && due > now
        {
            next = next.min(due_in(due));
        }
        if self.renewing.is_none() {
            let due = if self.renew_now {
                Instant::now()
            } else {
                due_in(self.identity.due_at(self.shared().settings.rule))
            };
            next = next.min(due.max(self.next_renewal));
        }
        next
    }

    /// Looks at the clock and starts whatever is due.
    fn tick(&mut self) -> Option<SessionEnd> {
        let (now, at) = (self.shared().clock.unix(), Instant::now());
        let expected = self.wall.0 + i64::try_from((at - self.wall.1).as_secs()).unwrap_or(0);
        if (now - expected).abs() > CLOCK_JUMP {
            tracing::info!(seconds = now - expected, "The clock jumped; syncing with the server");
            self.next_sync = at;
            self.next_renewal = at;
            self.shared().client.release();
        }
        self.wall = (now, at);
        if self.identity.expired(now) {
            return Some(SessionEnd::Reattest("its SVID has expired".to_owned()));
        }
        let due = self.renew_now || now >= self.identity.due_at(self.shared().settings.rule);
        if due && self.renewing.is_none() && at >= self.next_renewal {
            let shared = Arc::clone(self.shared());
            let identity = Arc::clone(&self.identity);
            self.renewing = Some(Box::pin(async move { shared.renew(&identity).await }));
        }
        if at >= self.next_sync {
            self.fetch(Scope::All);
        }
        self.sign();
        self.shared().note_sizes();
        None
    }

    /// Begins a fetch, or notes that another is to follow the one that runs.
    fn fetch(&mut self, scope: Scope) {
        if self.fetching.is_some() {
            self.again = Some(self.again.map_or(scope, |noted| noted.and(scope)));
            return;
        }
        let shared = Arc::clone(self.shared());
        let known = Arc::clone(&self.manager.entries);
        let (method, greet) = (self.manager.method, !self.greeted);
        let notice = self.push.notice();
        self.greeted = true;
        self.fetching = Some(Box::pin(async move {
            if greet {
                shared.greet().await;
            }
            let timer = shared.metrics.fetch_entries.start(&[]);
            let result = fetch::fetch(&shared, method, &known, scope).await;
            timer.done(shared::status_of(&result));
            (notice, result)
        }));
    }

    async fn fetched(
        &mut self,
        notice: Option<Notice>,
        result: Result<Fetched, ClientError>,
    ) -> Option<SessionEnd> {
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(error) => return self.fetch_failed(&error).await,
        };
        self.sync_backoff.reset();
        let shared = Arc::clone(self.shared());
        self.manager.method = fetched.method;
        self.manager.entries = Arc::new(fetched.entries.entries);
        if notice.is_some() {
            self.manager.synced = notice;
        }
        shared.metrics.synced(fetched.entries.stats);

        // Trust first: what is tainted must be known before anything is served from it.
        let own = fetched.bundles.get(&shared.settings.trust_domain).cloned();
        if let Some(own) = &own {
            shared.bundles.replace(own);
            self.renew_now |= self.manager.tainted.process(&shared, own, &self.identity);
        }
        // What goes to secret stores is not for workloads.
        let entries: EntryMap = self
            .manager
            .entries
            .iter()
            .filter(|(_, entry)| !entry.store_svid)
            .map(|(id, entry)| (id.clone(), Arc::clone(entry)))
            .collect();
        let changes = shared.cache.update(&entries, fetched.bundles);
        shared.metrics.entries_added.add(&[], changes.created as u64);
        shared.metrics.entries_updated.add(&[], changes.updated as u64);
        shared.metrics.entries_removed.add(&[], changes.removed as u64);
        if !changes.is_none() {
            self.manager.sealer.mark(&shared);
        }
        shared.synced();
        if let Some(own) = own
            && let Err(end) = shared.keep_bundle(&own).await
        {
            tracing::error!(error = %end, "Could not store bundle");
        }
        self.sign();
        let interval = if self.push.is_connected() {
            SAFETY_POLL
        } else if shared.cache.svid_count() == 0 {
            shared.settings.sync_interval.min(EMPTY_POLL)
        } else {
            shared.settings.sync_interval
        };
        self.next_sync = Instant::now() + interval;
        if let Some(scope) = self.again.take() {
            self.fetch(scope);
        }
        self.pushed();
        None
    }

    async fn fetch_failed(&mut self, error: &ClientError) -> Option<SessionEnd> {
        let shared = Arc::clone(self.shared());
        if let Some(end) = refused(error) {
            tracing::error!(error = %error, "Synchronize failed");
            return Some(end);
        }
        self.again = None;
        if error.is_unknown_authority() && shared.untrusted(self.identity.reattestable).await {
            return Some(SessionEnd::Rebootstrap);
        }
        let pause = self.sync_backoff.next_delay();
        tracing::error!(error = %error, retry_in = ?pause, "Synchronize failed");
        self.next_sync = Instant::now() + pause;
        shared.unreachable();
        if error.is_unreachable() && self.push.is_connected() {
            // Notices no longer come on a connection that is as dead as this one.
            self.push = PushWatcher::start(&shared, self.manager.synced.clone());
        }
        None
    }

    /// Acts on the newest notice.
    fn pushed(&mut self) {
        let connected = self.push.is_connected();
        self.shared().metrics.push_connected.set(&[], f64::from(u8::from(connected)));
        let Some(notice) = self.push.notice() else {
            if self.push.state() == PushState::Down {
                // Until it is back the server is polled.
                let poll = Instant::now() + self.shared().settings.sync_interval;
                self.next_sync = self.next_sync.min(poll);
            }
            return;
        };
        let scope = match &self.manager.synced {
            Some(synced) if synced.feed_id == notice.feed_id => {
                let bundles = notice.bundles_revision != synced.bundles_revision;
                let entries = notice.entries_revision != synced.entries_revision;
                match (entries, bundles) {
                    (false, false) => return,
                    (true, false) => Scope::Entries,
                    _ => Scope::All,
                }
            }
            _ => Scope::All,
        };
        if self.fetching.is_none() {
            self.fetch(scope);
        } else {
            self.again = Some(self.again.map_or(scope, |noted| noted.and(scope)));
        }
    }

    fn sign(&mut self) {
        let shared = Arc::clone(&self.manager.shared);
        self.signing.start(&shared);
    }

    fn signed(&mut self, result: signing::BatchResult) -> Option<SessionEnd> {
        let shared = Arc::clone(self.shared());
        let outcome = self.signing.finish(&shared, result);
        if let Some(end) = outcome.error.as_ref().and_then(refused) {
            return Some(end);
        }
        if outcome.signed > 0 {
            self.manager.sealer.mark(&shared);
        }
        if outcome.unknown_entry {
            // An entry changed since the last sync.
            self.next_sync = self.next_sync.min(Instant::now() + Duration::from_secs(1));
        }
        self.sign();
        None
    }

    async fn renewed(&mut self, result: Result<AgentIdentity, ClientError>) -> Option<SessionEnd> {
        let shared = Arc::clone(self.shared());
        let identity = match result {
            Ok(identity) => Arc::new(identity),
            Err(error) => {
                tracing::error!(error = %error, "Could not renew the agent's SVID");
                self.next_renewal = Instant::now() + self.renew_backoff.next_delay();
                return refused(&error);
            }
        };
        // Durable first: from its first use on, the server may know this SVID only.
        if let Err(error) = shared.keep_svid(&identity).await {
            tracing::error!(error = %error, "Could not store SVID; keeping the one at hand");
            self.next_renewal = Instant::now() + self.renew_backoff.next_delay();
            return None;
        }
        tracing::info!(
            spiffe_id = %identity.id,
            expires_at = identity.not_after(),
            "Successfully renewed the agent's SVID"
        );
        self.renew_backoff.reset();
        self.renew_now = false;
        self.next_renewal = Instant::now();
        if let Err(error) = self.manager.use_identity(Arc::clone(&identity)) {
            tracing::error!(error = %error, "Could not use the new SVID");
            return Some(SessionEnd::Reattest("its new SVID is of no use".to_owned()));
        }
        self.identity = identity;
        self.push = PushWatcher::start(&shared, self.manager.synced.clone());
        None
    }
}

fn refused(error: &ClientError) -> Option<SessionEnd> {
    Some(match error.refusal()? {
        Refusal::Banned => SessionEnd::Banned,
        Refusal::Reattest(why) => SessionEnd::Reattest(why.to_owned()),
    })
}

/// The future's output, or nothing ever when there is none.
async fn maybe<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
