//! Fetching the bundles of others: one task that knows every federation relationship and asks each
//! endpoint when it is due.
//!
//! Relationships come from the configuration file (static) and from the API (dynamic, in the
//! store); a static one wins over a dynamic one with the same trust domain. Each is polled by
//! itself, so that an endpoint that is slow or broken delays no other; how it goes is kept and shown
//! ([`Status`]). Of servers that share a store one polls for all ([`lead`]); each of them fetches when
//! it is told to, or meets an unknown key. What was fetched replaces the stored bundle, unless it is older than that: sequence
//! numbers never go back on their own.

mod fetch;
pub(crate) mod foreign;
mod lead;
mod schedule;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use signet_base::{SharedClock, Tasks, chain};
use signet_daemon::metrics::Metrics;
use signet_http::{HttpClient, Trust};
use signet_identity::{Bundle, FederationRelationship, JwtAuthority, TrustDomain};
use signet_pki::{
    jwks,
    tls::{ServerCheck, TlsOptions, spiffe_web_client_config},
};
use signet_store::{PageRequest, Store, StoreError};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

pub use self::status::{Origin, RefreshError, Status};
use self::{
    fetch::{Answer, fetch},
    lead::Lead,
};
use crate::{
    cache::{Cache, CachedBundle},
    config::Config,
    metrics::FederationMetrics,
};

/// How many endpoints are asked at a time.
const MAX_POLLS: usize = 8;
/// Relationships are read in portions of so many.
const PAGE: u32 = 1_000;
/// How soon the list is read again after the store failed.
const RELIST_PAUSE: Duration = Duration::from_secs(5);
/// How often an unknown key may lead to a poll of its trust domain.
const DEMAND_PAUSE: Duration = Duration::from_secs(5);
/// For how long the machine's root certificates are taken from memory.
const ROOTS_LIFE: Duration = Duration::from_secs(3600);
/// The longest text of a failure that is kept, characters.
const MAX_ERROR: usize = 500;

/// Fetches bundles. Clones share it.
#[derive(Clone)]
pub struct Federator(Arc<Inner>);

struct Inner {
    own: TrustDomain,
    server_id: String,
    /// Whether another server polls.
    elsewhere: AtomicBool,
    fixed: Vec<FederationRelationship>,
    tls: TlsOptions,
    store: Store,
    cache: Arc<Cache>,
    clock: SharedClock,
    metrics: FederationMetrics,
    table: Mutex<BTreeMap<TrustDomain, Row>>,
    /// Held while the list is read and taken over, so that an older one never comes last.
    listing: tokio::sync::Mutex<()>,
    roots: tokio::sync::Mutex<Option<(Instant, HttpClient)>>,
    polls: Arc<Semaphore>,
    wake: Notify,
}

struct Row {
    status: Status,
    due: Instant,
    /// A poll is on its way that was started because it was due.
    started: bool,
    /// The last poll failed for want of the bundle that the endpoint is verified with.
    awaits_bundle: bool,
    /// One poll at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What was fetched last, to ask whether it still is the newest.
    known: Option<Known>,
    demanded: Option<Instant>,
    /// It is to be polled here, whichever server polls otherwise.
    wanted: bool,
}

#[derive(Clone)]
struct Known {
    tag: String,
    bundle: Bundle,
}

impl Row {
    fn new(relationship: FederationRelationship, origin: Origin) -> Self {
        Self {
            status: Status {
                relationship,
                origin,
                last_poll: None,
                last_success: None,
                last_change: None,
                next_poll: None,
                last_error: None,
                failures: 0,
                elsewhere: false,
            },
            due: Instant::now(),
            started: false,
            awaits_bundle: false,
            turn: Arc::default(),
            known: None,
            demanded: None,
            wanted: false,
        }
    }
}

impl Federator {
    /// Knows the static relationships of `config`; nothing is fetched yet.
    pub fn new(
        config: &Config,
        (store, server_id): (Store, String),
        cache: Arc<Cache>,
        clock: SharedClock,
        metrics: &Metrics,
    ) -> Self {
        let own = config.trust_domain.clone();
        let fixed = config.federation.federates_with.clone();
        let rows = fixed.iter().map(|relationship| {
            let row = Row::new(relationship.clone(), Origin::Static);
            (relationship.trust_domain.clone(), row)
        });
        let table = Mutex::new(rows.collect());
        let federator = Self(Arc::new(Inner {
            own,
            server_id,
            elsewhere: AtomicBool::new(false),
            fixed,
            tls: TlsOptions { require_pq_kem: config.experimental.require_pq_kem },
            store,
            cache,
            clock,
            metrics: FederationMetrics::new(metrics),
            table,
            listing: tokio::sync::Mutex::default(),
            roots: tokio::sync::Mutex::default(),
            polls: Arc::new(Semaphore::new(MAX_POLLS)),
            wake: Notify::new(),
        }));
        federator.show(metrics);
        federator
    }

    /// How fetching goes, by trust domain.
    pub fn statuses(&self) -> Vec<Status> {
        self.table().values().map(|row| self.shown(row)).collect()
    }

    /// How fetching goes for one trust domain.
    pub fn status(&self, trust_domain: &TrustDomain) -> Option<Status> {
        self.table().get(trust_domain).map(|row| self.shown(row))
    }

    fn shown(&self, row: &Row) -> Status {
        let status = row.status.clone();
        match self.0.elsewhere.load(Ordering::Relaxed) {
            true => Status { elsewhere: true, next_poll: None, ..status },
            false => status,
        }
    }

    /// The relationship that the configuration file fixes, if there is one.
    pub fn fixed(&self, trust_domain: &TrustDomain) -> Option<&FederationRelationship> {
        self.0.fixed.iter().find(|fixed| fixed.trust_domain == *trust_domain)
    }

    /// Somebody met a key of this trust domain that its bundle does not have: it is fetched soon, if
    /// it was not fetched for that reason a moment ago.
    pub fn demand(&self, trust_domain: &TrustDomain) {
        let now = Instant::now();
        let mut table = self.table();
        let Some(row) = table.get_mut(trust_domain) else { return };
        if row.demanded.is_some_and(|last| now.duration_since(last) < DEMAND_PAUSE) {
            return;
        }
        row.demanded = Some(now);
        row.wanted = true;
        row.due = row.due.min(now);
        drop(table);
        self.0.wake.notify_one();
    }

    /// Fetches a bundle now; says whether it has changed. `accept_older` takes one whose sequence
    /// number is smaller.
    ///
    /// # Errors
    /// [`RefreshError`]; then the bundle that is held stays.
    pub async fn refresh(
        &self,
        trust_domain: &TrustDomain,
        accept_older: bool,
    ) -> Result<bool, RefreshError> {
        if !self.table().contains_key(trust_domain) {
            // It may have been created a moment ago.
            self.relist().await?;
        }
        self.poll(trust_domain, accept_older).await
    }

    /// Polls until the tasks end.
    pub fn spawn(&self, tasks: &Tasks) {
        let me = self.clone();
        let polls = tasks.clone();
        tasks.spawn_until_end("federation", async move { me.run(&polls).await });
    }

    async fn run(&self, tasks: &Tasks) {
        let inner = &self.0;
        let mut lead =
            Lead::new(inner.store.clone(), inner.server_id.clone(), Arc::clone(&inner.clock));
        let mut changes = self.0.cache.subscribe(None);
        let mut listed = None;
        let mut bundles = None;
        loop {
            let (revision, newest) = {
                let now = changes.borrow_and_update();
                (now.relationships, now.bundles)
            };
            if bundles.replace(newest) != Some(newest) {
                self.bundles_changed();
            }
            let mut next = Instant::now() + Duration::from_secs(3600);
            if listed != Some(revision) {
                match self.relist().await {
                    Ok(()) => listed = Some(revision),
                    Err(error) => {
                        tracing::warn!(
                            error = chain(&error),
                            "Cannot read the federation relationships"
                        );
                        next = Instant::now() + RELIST_PAUSE;
                    }
                }
            }
            // Where there is nothing to poll, nobody asks the store who does.
            if !self.table().is_empty() {
                self.0.elsewhere.store(!lead.look().await, Ordering::Relaxed);
                next = next.min(lead.look_at().unwrap_or(next));
            }
            next = next.min(self.start_due(tasks).unwrap_or(next));
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.0.wake.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// What waits for a bundle to begin with may have it now.
    fn bundles_changed(&self) {
        let now = Instant::now();
        for row in self.table().values_mut().filter(|row| row.awaits_bundle) {
            row.due = now;
        }
    }

    /// Starts what is due; when the next one is.
    fn start_due(&self, tasks: &Tasks) -> Option<Instant> {
        let now = Instant::now();
        let mut next = None;
        let elsewhere = self.0.elsewhere.load(Ordering::Relaxed);
        let is_here = |row: &Row| !row.started && (row.wanted || !elsewhere);
        for (trust_domain, row) in self.table().iter_mut().filter(|(_, row)| is_here(row)) {
            if row.due > now {
                next = Some(next.map_or(row.due, |next: Instant| next.min(row.due)));
                continue;
            }
            row.started = true;
            row.wanted = false;
            let (me, trust_domain) = (self.clone(), trust_domain.clone());
            let polls = Arc::clone(&self.0.polls);
            tasks.spawn_until_end("federation_poll", async move {
                let _permit = polls.acquire_owned().await;
                if let Err(error) = me.poll(&trust_domain, false).await {
                    tracing::error!(
                        trust_domain = %trust_domain,
                        error = chain(&error),
                        "Error updating bundle"
                    );
                }
                if let Some(row) = me.table().get_mut(&trust_domain) {
                    row.started = false;
                }
                me.0.wake.notify_one();
            });
        }
        next
    }

    /// Takes over what the store says, under what the configuration file says.
    ///
    /// # Errors
    /// [`StoreError`]; then all is as it was.
    pub async fn relist(&self) -> Result<(), StoreError> {
        let _listing = self.0.listing.lock().await;
        let mut page = PageRequest::first(PAGE);
        let mut dynamic = Vec::new();
        loop {
            let read = self.0.store.list_federations(page).await?;
            dynamic.extend(read.items);
            let Some(next) = read.next else { break };
            page.after = Some(next);
        }
        let fixed = self.0.fixed.iter().cloned().map(|one| (one, Origin::Static));
        let dynamic = dynamic.into_iter().filter(|one| self.fixed(&one.trust_domain).is_none());
        let all = fixed.chain(dynamic.map(|one| (one, Origin::Dynamic)));
        let mut kept = HashSet::new();
        let mut table = self.table();
        for (relationship, origin) in all.filter(|(one, _)| one.trust_domain != self.0.own) {
            kept.insert(relationship.trust_domain.clone());
            let row = table
                .entry(relationship.trust_domain.clone())
                .or_insert_with(|| Row::new(relationship.clone(), origin));
            if row.status.relationship != relationship || row.status.origin != origin {
                // Another endpoint: what is known of the one before counts no more.
                *row = Row { turn: Arc::clone(&row.turn), ..Row::new(relationship, origin) };
            }
        }
        table.retain(|trust_domain, _| kept.contains(trust_domain));
        drop(table);
        self.0.wake.notify_one();
        Ok(())
    }

    /// One poll, after another one of the same trust domain that is on its way.
    async fn poll(
        &self,
        trust_domain: &TrustDomain,
        accept_older: bool,
    ) -> Result<bool, RefreshError> {
        let no_relationship = || RefreshError::NoRelationship(trust_domain.clone());
        let turn = self.table().get(trust_domain).map(|row| Arc::clone(&row.turn));
        let _turn = turn.ok_or_else(no_relationship)?.lock_owned().await;
        let (relationship, known) = {
            let mut table = self.table();
            let row = table.get_mut(trust_domain).ok_or_else(no_relationship)?;
            row.status.last_poll = Some(self.0.clock.unix());
            let known = if accept_older { None } else { row.known.clone() };
            (row.status.relationship.clone(), known)
        };
        let begun = Instant::now();
        let outcome = self.fetch_and_store(&relationship, known, accept_older).await;
        self.0.metrics.polled(trust_domain, outcome.is_ok(), begun.elapsed());
        self.settle(&relationship, outcome)
    }

    async fn fetch_and_store(
        &self,
        relationship: &FederationRelationship,
        known: Option<Known>,
        accept_older: bool,
    ) -> Result<(bool, Answer), RefreshError> {
        let trust_domain = &relationship.trust_domain;
        let held = self.0.cache.bundle(trust_domain);
        let known =
            known.filter(|known| held.as_ref().is_some_and(|held| held.bundle == known.bundle));
        let client = self.client(relationship).await?;
        let tag = known.as_ref().map(|known| known.tag.as_str());
        let answer = fetch(&client, &relationship.bundle_endpoint_url, tag).await?;
        let Some(document) = &answer.document else { return Ok((false, answer)) };
        let found = jwks::decode_spiffe(trust_domain.clone(), document)?;
        let found = foreign::accept(found).map_err(RefreshError::Unusable)?;
        if let Some(CachedBundle { bundle: held, .. }) = held.as_deref() {
            if says_the_same(held, &found) {
                return Ok((false, answer));
            }
            // Without a number, the newest is what was fetched last (section 4.2).
            let is_older =
                found.sequence_number != 0 && found.sequence_number < held.sequence_number;
            if is_older && !accept_older {
                return Err(RefreshError::Older {
                    found: found.sequence_number,
                    held: held.sequence_number,
                });
            }
        }
        // Nothing is written for a relationship that was deleted or changed meanwhile.
        if self.status(trust_domain).is_none_or(|now| now.relationship != *relationship) {
            return Err(RefreshError::Gone);
        }
        self.0.store.set_bundles(vec![found.clone()], self.0.clock.unix()).await?;
        // The next poll compares with what is in memory.
        if let Err(error) = self.0.cache.fresh().await {
            tracing::debug!(%error, "A fetched bundle is not in memory yet");
        }
        tracing::info!(
            trust_domain = %trust_domain,
            sequence_number = found.sequence_number,
            x509_authorities = found.x509_authorities.len(),
            jwt_authorities = found.jwt_authorities.len(),
            "Bundle refreshed"
        );
        Ok((true, answer))
    }

    /// Writes down what came of a poll, and when the next one is due.
    fn settle(
        &self,
        relationship: &FederationRelationship,
        outcome: Result<(bool, Answer), RefreshError>,
    ) -> Result<bool, RefreshError> {
        let trust_domain = &relationship.trust_domain;
        let now = self.0.clock.unix();
        let held = self.0.cache.bundle(trust_domain);
        let mut table = self.table();
        let row = table.get_mut(trust_domain).filter(|r| r.status.relationship == *relationship);
        let Some(row) = row else { return outcome.map(|(changed, _)| changed) };
        let mut fresh = None;
        row.awaits_bundle = matches!(outcome, Err(RefreshError::NoBundleOfEndpoint));
        match &outcome {
            Ok((changed, answer)) => {
                row.status.last_success = Some(now);
                row.status.last_error = None;
                row.status.failures = 0;
                if *changed {
                    row.status.last_change = Some(now);
                    self.0.metrics.updated(trust_domain);
                }
                // To ask more often costs nothing only where nothing is answered then.
                fresh = answer.max_age.filter(|_| answer.tag.is_some());
                row.known = match (&answer.tag, &held) {
                    (Some(tag), Some(held)) => {
                        Some(Known { tag: tag.clone(), bundle: held.bundle.clone() })
                    }
                    _ => None,
                };
            }
            Err(error) => {
                let text = chain(error).to_string();
                row.status.last_error = Some(text.chars().take(MAX_ERROR).collect());
                row.status.failures = row.status.failures.saturating_add(1);
            }
        }
        let held = held.as_deref().map(|held| &held.bundle);
        let pause = schedule::spread(schedule::pause(held, fresh, row.status.failures));
        row.due = Instant::now() + pause;
        row.status.next_poll = Some(now + pause);
        drop(table);
        self.0.wake.notify_one();
        outcome.map(|(changed, _)| changed)
    }

    async fn client(
        &self,
        relationship: &FederationRelationship,
    ) -> Result<HttpClient, RefreshError> {
        let Some(endpoint_spiffe_id) = relationship.profile.endpoint_spiffe_id() else {
            return self.web_client().await;
        };
        if self.0.cache.bundle(endpoint_spiffe_id.trust_domain()).is_none() {
            return Err(RefreshError::NoBundleOfEndpoint);
        }
        let check = ServerCheck::Id {
            id: endpoint_spiffe_id.clone(),
            bundles: Arc::clone(&self.0.cache) as _,
        };
        let tls = spiffe_web_client_config(check, Arc::clone(&self.0.clock), self.0.tls)?;
        let client = HttpClient::builder().trust(Trust::Config(tls));
        client
            .timeout(fetch::DEADLINE)
            .max_body(fetch::MAX_BODY)
            .build()
            .map_err(RefreshError::Client)
    }

    /// With the machine's roots, which are read from time to time.
    async fn web_client(&self) -> Result<HttpClient, RefreshError> {
        let mut roots = self.0.roots.lock().await;
        if let Some((read, client)) = &*roots
            && read.elapsed() < ROOTS_LIFE
        {
            return Ok(client.clone());
        }
        let client = HttpClient::builder().timeout(fetch::DEADLINE).max_body(fetch::MAX_BODY);
        let client = client.build().map_err(RefreshError::Client)?;
        *roots = Some((Instant::now(), client.clone()));
        Ok(client)
    }

    /// Shows the state of each relationship at each reading of the metrics.
    fn show(&self, metrics: &Metrics) {
        // Not itself: the metrics would hold what holds them.
        let me = Arc::downgrade(&self.0);
        metrics.before_reading(move || {
            let Some(inner) = me.upgrade() else { return };
            let now = inner.clock.unix();
            inner.metrics.polls_here(!inner.elsewhere.load(Ordering::Relaxed));
            for status in Self(Arc::clone(&inner)).statuses() {
                if status.elsewhere {
                    inner.metrics.hide(&status.relationship.trust_domain);
                    continue;
                }
                inner.metrics.show(
                    &status.relationship.trust_domain,
                    (status.failures, status.last_success),
                    now,
                );
            }
        });
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<TrustDomain, Row>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether two bundles differ in nothing but the order of their keys, which SPIRE's endpoint changes
/// from one answer to the next.
fn says_the_same(held: &Bundle, found: &Bundle) -> bool {
    let x509 = |bundle: &Bundle| {
        let all = bundle.x509_authorities.iter().map(|one| Arc::clone(&one.der));
        all.collect::<BTreeSet<_>>()
    };
    fn sorted(keys: &[JwtAuthority]) -> Vec<&JwtAuthority> {
        let mut all: Vec<_> = keys.iter().collect();
        all.sort_by(|a, b| a.key_id.cmp(&b.key_id));
        all
    }
    (held.sequence_number, held.refresh_hint) == (found.sequence_number, found.refresh_hint)
        && x509(held) == x509(found)
        && sorted(&held.jwt_authorities) == sorted(&found.jwt_authorities)
        && sorted(&held.wit_authorities) == sorted(&found.wit_authorities)
}

impl fmt::Debug for Federator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Federator({} relationships)", self.table().len())
    }
}
