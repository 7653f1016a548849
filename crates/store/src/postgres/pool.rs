//! A pool of connections: so many at most, young ones only, and none to a server that was found to
//! be the wrong one.

use std::{
    collections::VecDeque,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use signet_base::Backoff;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_postgres::Client;

use super::{
    connect::{Connector, Live},
    fault::Fault,
};

/// How long an idle connection is kept, as in SPIRE.
const IDLE: Duration = Duration::from_secs(30);
/// How long giving up a transaction may take before the connection is given up too.
const ROLLBACK: Duration = Duration::from_secs(5);
/// After a failed attempt the next one waits so long, and longer each time, up to the second.
/// Whoever asks in between gets the same answer at once: with the database away, nobody queues.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSize {
    /// `max_open_conns`.
    pub max_open: u32,
    /// `max_idle_conns`.
    pub max_idle: u32,
    /// `conn_max_lifetime`; `None` for no limit.
    pub max_lifetime: Option<Duration>,
}

impl Default for PoolSize {
    /// SPIRE's: 100 connections, all of which may idle, however old.
    fn default() -> Self {
        Self { max_open: 100, max_idle: 100, max_lifetime: None }
    }
}

/// The pool. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    connector: Connector,
    size: PoolSize,
    permits: Arc<Semaphore>,
    /// The one that was used last is at the back.
    idle: Mutex<VecDeque<(Live, Instant)>>,
    /// Grows when every open connection is to be dropped.
    generation: AtomicU64,
    closed: AtomicBool,
    outage: Mutex<Outage>,
}

/// Since connecting failed.
struct Outage {
    why: Option<Arc<str>>,
    next_try: Instant,
    backoff: Backoff,
}

impl Pool {
    pub(crate) fn new(connector: Connector, size: PoolSize) -> Self {
        Self(Arc::new(Inner {
            connector,
            permits: Arc::new(Semaphore::new(size.max_open.clamp(1, 10_000) as usize)),
            size,
            idle: Mutex::default(),
            generation: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            outage: Mutex::new(Outage {
                why: None,
                next_try: Instant::now(),
                backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            }),
        }))
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.0.connector
    }

    /// A connection, waited for until `deadline` when all are in use.
    pub(crate) async fn get(&self, deadline: Instant) -> Result<Conn, Fault> {
        let permit = Arc::clone(&self.0.permits).acquire_owned();
        let permit = match tokio::time::timeout_at(deadline, permit).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_closed)) => return Err(Fault::Closed),
            Err(_) => return Err(Fault::Late),
        };
        let generation = self.0.generation.load(Ordering::Acquire);
        let live = match self.idle_one() {
            Some(live) => live,
            None => self.connect(deadline).await?,
        };
        Ok(Conn {
            live: Some(live),
            pool: self.clone(),
            permit: Some(permit),
            generation,
            in_transaction: false,
        })
    }

    fn idle_one(&self) -> Option<Live> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while idle.front().is_some_and(|(_, since)| since.elapsed() > IDLE) {
            idle.pop_front();
        }
        while let Some((live, _)) = idle.pop_back() {
            if self.is_young(&live) {
                return Some(live);
            }
        }
        None
    }

    fn is_young(&self, live: &Live) -> bool {
        !live.is_closed() && self.0.size.max_lifetime.is_none_or(|most| live.since.elapsed() < most)
    }

    async fn connect(&self, deadline: Instant) -> Result<Live, Fault> {
        {
            let mut outage = self.outage();
            if let Some(why) = &outage.why
                && Instant::now() < outage.next_try
            {
                return Err(Fault::Unreachable(Arc::clone(why)));
            }
            // While this attempt runs, others are told of the last one.
            if outage.why.is_some() {
                outage.next_try = Instant::now() + LONGEST_PAUSE;
            }
        }
        let outcome = tokio::time::timeout_at(deadline, self.0.connector.connect(None)).await;
        let why = match outcome {
            Ok(Ok(live)) => {
                let mut outage = self.outage();
                if outage.why.take().is_some() {
                    outage.backoff.reset();
                    tracing::info!(database = %self.0.connector.target(), "The database is back");
                }
                return Ok(live);
            }
            Ok(Err(why)) => why,
            Err(_) => "no answer in time".to_owned(),
        };
        let why: Arc<str> = format!("{}: {why}", self.0.connector.target()).into();
        let mut outage = self.outage();
        if outage.why.is_none() {
            tracing::error!(%why, "The database cannot be reached");
        }
        outage.next_try = Instant::now() + outage.backoff.next_delay();
        outage.why = Some(Arc::clone(&why));
        Err(Fault::Unreachable(why))
    }

    fn outage(&self) -> std::sync::MutexGuard<'_, Outage> {
        self.0.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops every connection, also those in use once they come back.
    pub(crate) fn drop_all(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// No connection is given out any more; those in use end when they come back.
    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.permits.close();
        self.drop_all();
    }

    fn put_back(&self, live: Live, generation: u64) {
        let current = self.0.generation.load(Ordering::Acquire) == generation
            && !self.0.closed.load(Ordering::Acquire);
        if !current || !self.is_young(&live) {
            return;
        }
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.0.size.max_idle as usize {
            idle.push_back((live, Instant::now()));
        }
    }
}

/// A connection, held. Given back when it is dropped.
pub(crate) struct Conn {
    /// There until it is dropped.
    live: Option<Live>,
    pool: Pool,
    permit: Option<OwnedSemaphorePermit>,
    generation: u64,
    /// A transaction was begun, and it is not known to have ended.
    pub(crate) in_transaction: bool,
}

impl Conn {
    /// Not to be used again.
    pub(crate) fn discard(mut self) {
        if let Some(live) = self.live.take() {
            live.kill();
        }
    }
}

impl Deref for Conn {
    type Target = Client;

    #[allow(clippy::expect_used, reason = "there until it is dropped")]
    fn deref(&self) -> &Client {
        &self.live.as_ref().expect("there until it is dropped").client
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        let Some(live) = self.live.take() else { return };
        if !self.in_transaction {
            self.pool.put_back(live, self.generation);
            return;
        }
        // The transaction holds locks: it is rolled back at once, by whoever has time.
        let (pool, permit, generation) = (self.pool.clone(), self.permit.take(), self.generation);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let ended = live.client.batch_execute("ROLLBACK");
                match tokio::time::timeout(ROLLBACK, ended).await {
                    Ok(Ok(())) => pool.put_back(live, generation),
                    Ok(Err(_)) | Err(_) => live.kill(),
                }
                drop(permit);
            });
        }
    }
}
