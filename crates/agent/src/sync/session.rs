//! One session with the server: whatever happens between an attestation and the need for the next.

use std::{sync::Arc, time::Duration};

use signet_base::Backoff;
use signet_time::UnixTime;
use tokio::time::Instant;

use super::{
    Manager, OTHER_NODE, SET_BACK, SessionEnd, Shared,
    fetch::{self, Fetched, Scope},
    push::{PushState, PushWatcher},
    shared,
    signing::{self, Signing},
};
use crate::{
    agent_identity::AgentIdentity,
    client::{ClientError, Notice, Refusal},
    entry::EntryMap,
    rotation,
};

/// How often a server that pushes notices is asked nevertheless.
const SAFETY_POLL: Duration = Duration::from_secs(300);
/// How often the wall clock is looked at: timers do not see a laptop sleep.
const CLOCK_CHECK: Duration = Duration::from_secs(30);
/// How often is looked whether the node is still the one that was attested.
const NODE_CHECK: Duration = Duration::from_secs(10);
/// A wall clock that is off by this much has jumped, seconds.
const CLOCK_JUMP: i64 = 60;
/// The longest pause between attempts to sync: a server that is back is noticed within it.
const MAX_SYNC_PAUSE: Duration = Duration::from_secs(60);
/// While nothing is cached, a server is asked at least this often.
const EMPTY_POLL: Duration = Duration::from_secs(5);

/// One session: from an attested identity to its end.
pub(super) struct Session<'a> {
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
    renew_floor: UnixTime,
    sync_backoff: Backoff,
    renew_backoff: Backoff,
    wall: (UnixTime, Instant),
    next_node_check: Instant,
    greeted: bool,
    /// When the first notice came that was not acted on yet.
    noticed: Option<Instant>,
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
    /// The sealed cache is to be written.
    CacheChanged,
    Kicked,
    Timer,
}

impl<'a> Session<'a> {
    pub(super) fn new(manager: &'a mut Manager, identity: Arc<AgentIdentity>) -> Self {
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
            renew_floor: UnixTime::EPOCH,
            sync_backoff: Backoff::new(interval, max).with_jitter(0.2),
            renew_backoff: Backoff::new(Duration::from_secs(5), Duration::from_secs(60))
                .with_jitter(0.2),
            wall: (shared.clock.unix(), now),
            next_node_check: now,
            greeted: false,
            noticed: None,
            manager,
            identity,
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.manager.shared
    }

    /// Waits for the next event and acts on it.
    pub(super) async fn step(&mut self) -> Option<SessionEnd> {
        let timer = self.next_timer();
        let shared = Arc::clone(self.shared());
        let event = tokio::select! {
            (notice, result) = maybe(&mut self.fetching) => Event::Fetched(notice, result),
            result = self.signing.next() => Event::Signed(result),
            result = maybe(&mut self.renewing) => Event::Renewed(result),
            () = self.push.changed() => Event::Pushed,
            () = shared.cache.demanded() => Event::Demand,
            () = shared.wake.by_token() => Event::CacheChanged,
            () = shared.data.made_anew() => Event::CacheChanged,
            () = shared.wake.to_sync() => Event::Kicked,
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
                self.noticed.get_or_insert_with(Instant::now);
                self.pushed();
                None
            }
            Event::Demand => {
                self.sign();
                None
            }
            Event::CacheChanged => {
                self.manager.sealer.mark(&shared, false);
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
        let due_in =
            |at: UnixTime| Instant::now() + Duration::from_secs((at - now).max(0).unsigned_abs());
        if self.signing.is_idle()
            && let Some(due) = self.shared().cache.next_due(self.shared().settings.rule)
            && due > now
        {
            next = next.min(due_in(due));
        }
        if self.renewing.is_none() {
            let due = if self.renew_now { Instant::now() } else { due_in(self.due_at()) };
            next = next.min(due.max(self.next_renewal));
        }
        next
    }

    /// When the agent's SVID is to be renewed; right after a renewal not at once, however short
    /// the new one lives.
    fn due_at(&self) -> UnixTime {
        self.identity.due_at(self.shared().settings.rule).max(self.renew_floor)
    }

    /// Looks at the clock and starts whatever is due.
    fn tick(&mut self) -> Option<SessionEnd> {
        let (now, at) = (self.shared().clock.unix(), Instant::now());
        let expected = self.wall.0 + (at - self.wall.1);
        if (now - expected).abs() > CLOCK_JUMP {
            tracing::info!(seconds = now - expected, "The clock jumped; syncing with the server");
            self.next_sync = at;
            self.next_renewal = at;
            self.shared().server.client.release();
            if now < expected
                && let Some(end) = self.set_back(now)
            {
                return Some(end);
            }
        }
        self.wall = (now, at);
        if self.identity.expired(now) {
            return Some(SessionEnd::Reattest("its SVID has expired".to_owned()));
        }
        if at >= self.next_node_check {
            self.next_node_check = at + NODE_CHECK;
            if self.is_another_node() {
                return Some(SessionEnd::Reattest(OTHER_NODE.to_owned()));
            }
        }
        let due = self.renew_now || now >= self.due_at();
        if due && self.renewing.is_none() && at >= self.next_renewal {
            let shared = Arc::clone(self.shared());
            let identity = Arc::clone(&self.identity);
            self.renewing = Some(Box::pin(async move { shared.renew(&identity).await }));
        }
        if at >= self.next_sync {
            self.fetch(Scope::All);
        }
        self.sign();
        self.shared().jwt_cache.prune(now);
        None
    }

    /// Whether the node has become another one than was attested. Said once: where the server sees
    /// it otherwise, attesting again and again would not help.
    fn is_another_node(&mut self) -> bool {
        let other = self.identity.reattestable && self.shared().is_another_node(&self.identity.id);
        let known = std::mem::replace(&mut self.manager.other_node, other);
        other && !known
    }

    /// The clock was set back: what is not valid yet is of no use to anybody.
    fn set_back(&mut self, now: UnixTime) -> Option<SessionEnd> {
        let shared = self.shared();
        shared.forget_tokens();
        let marked = shared.cache.taint(|svid| rotation::is_not_yet_valid(now, svid.not_before));
        if marked > 0 {
            tracing::warn!(svids = marked, "These SVIDs are not valid yet; replacing them");
        }
        if !self.identity.is_not_yet_valid(now) {
            return None;
        }
        if self.identity.reattestable && shared.attestor.load().is_some() {
            return Some(SessionEnd::Reattest(SET_BACK.to_owned()));
        }
        tracing::error!(
            "The clock was set back to before the validity of the agent's SVID: the server will \
             refuse the agent until the clock is right again or the agent is given a new join token"
        );
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
        shared.metrics.state.synced(fetched.entries.stats);
        if fetched.entries.stats.stale > 0 {
            shared.metrics.outdated_svids.observe_len(&[], fetched.entries.stats.stale);
        }

        // Trust first: what is tainted must be known before anything is served from it.
        let own = fetched.bundles.get(&shared.settings.trust_domain).cloned();
        if let Some(own) = &own {
            shared.server.bundles.replace(own);
            self.renew_now |= self.manager.tainted.process(&shared, own, &self.identity);
        }
        // What goes to secret stores is not for workloads: it is kept only under selectors that none
        // has.
        let stored = |selector: &signet_identity::Selector| {
            shared.settings.svid_stores.contains(&selector.kind())
        };
        let entries: EntryMap = self
            .manager
            .entries
            .iter()
            .filter(|(_, entry)| !entry.store_svid || entry.selectors.iter().all(stored))
            .map(|(id, entry)| (id.clone(), Arc::clone(entry)))
            .collect();
        let changes = shared.cache.update(&entries, fetched.bundles);
        shared.metrics.entries_added.add(&[], changes.created as u64);
        shared.metrics.entries_updated.add(&[], changes.updated as u64);
        shared.metrics.entries_removed.add(&[], changes.removed as u64);
        if !changes.is_none() {
            self.manager.sealer.mark(&shared, changes.removed + changes.updated > 0);
        }
        if let Some(noticed) = self.noticed.take() {
            shared.metrics.push_lag.observe(&[], noticed.elapsed());
        }
        shared.synced().await;
        if let Some(own) = own {
            shared.keep_bundle(&own).await;
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
        let pause = error.pause(self.sync_backoff.next_delay());
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
            self.manager.sealer.mark(&shared, false);
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
            Ok(identity) => identity,
            Err(error) => {
                if self.identity.reattestable {
                    tracing::error!(error = %error, "Could not reattest agent");
                } else {
                    tracing::error!(error = %error, "Could not rotate agent SVID");
                }
                shared.trouble(format!("it cannot renew: {error}"));
                self.next_renewal = Instant::now() + error.pause(self.renew_backoff.next_delay());
                return refused(&error);
            }
        };
        let kept = shared.keep_svid(&identity).await;
        let may_wait = (self.identity.late_at() - shared.clock.unix()).max(0).unsigned_abs();
        if !kept && !identity.reattestable && may_wait > 0 {
            // From its first use on, the server knows the new SVID only, and an agent that cannot
            // attest again and ends before it was stored would be lost. It may wait for the disk
            // for a while, but not until the present one expires.
            let pause = self.renew_backoff.next_delay().min(Duration::from_secs(may_wait));
            tracing::warn!(retry_in = ?pause, "The agent's new SVID is used once it is stored");
            self.renewing = Some(Box::pin(async move {
                tokio::time::sleep(pause).await;
                Ok(identity)
            }));
            return None;
        }
        let identity = Arc::new(identity);
        let (spiffe_id, expires_at) = (identity.id.to_string(), identity.not_after().seconds());
        if identity.reattestable {
            tracing::info!(spiffe_id, expires_at, "Successfully reattested node");
        } else {
            tracing::info!(spiffe_id, expires_at, "Successfully rotated agent SVID");
        }
        self.renew_backoff.reset();
        self.renew_now = false;
        let now = shared.clock.unix();
        self.renew_floor = now + ((identity.not_after() - now) / 4).max(1);
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
