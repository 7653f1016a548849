//! The handle: a pool of connections, and what this process knows of the feed.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use signet_base::Backoff;
use signet_time::UnixTime;
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use super::{
    PostgresOptions,
    fault::{Fault, PAUSES, Remedy},
    mark::{Asked, Mark},
    pool::{Conn, Pool},
    replica::Replica,
    sql::Query,
};
use crate::{Contents, DataStore, FeedPosition, Operation, StoreError, recent::Recent};

/// How long the database may take to show that it works.
const PING: std::time::Duration = std::time::Duration::from_secs(2);

/// The store in a PostgreSQL database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PostgresStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) pool: Pool,
    /// For reading everything.
    pub(super) replica: Option<Replica>,
    pub(super) known: watch::Sender<FeedPosition>,
    /// What `known` is recognised by. Changed together with it.
    pub(super) mark: Mutex<Mark>,
    pub(super) recent: Mutex<Recent>,
    pub(super) asked: Asked,
    /// Whether what others commit is heard of at once.
    pub(super) listening: AtomicBool,
    pub(super) listener: Mutex<Option<AbortHandle>>,
    pub(super) closed: AtomicBool,
    pub(super) options: PostgresOptions,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresStore({})", self.inner.options.database)
    }
}

impl PostgresStore {
    /// Reads within one operation: timed, named, and tried again on another connection when one
    /// breaks. `work` is run from the beginning each time.
    pub(super) async fn reading<T, W: Future<Output = Result<T, Fault>>>(
        &self,
        operation: Operation,
        work: impl Fn(Query) -> W,
    ) -> Result<T, StoreError> {
        let pool = &self.inner.pool;
        let begun = Instant::now();
        let deadline = begun + self.inner.options.patience;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut tries = 0;
        let outcome = loop {
            tries += 1;
            let done = match self.connection(pool, deadline).await {
                Ok(conn) => work(Query::new(conn, deadline)).await,
                Err(fault) => Err(fault),
            };
            let Err(fault) = done else { break done };
            let again = Instant::now() + backoff.next_delay();
            match fault.remedy() {
                Remedy::None => break Err(fault),
                Remedy::Everything => pool.drop_all(),
                Remedy::Again | Remedy::Reconnect => {}
            }
            if again >= deadline {
                break Err(fault);
            }
            tokio::time::sleep_until(again).await;
        };
        let outcome = outcome.map_err(|fault| fault.while_doing(operation.doing()));
        self.observe(operation, begun, tries, &outcome);
        outcome
    }

    pub(super) fn connection<'p>(
        &'p self,
        pool: &'p Pool,
        deadline: Instant,
    ) -> BoxFuture<'p, Result<Conn, Fault>> {
        Box::pin(async move {
            if self.inner.closed.load(Ordering::Acquire) {
                return Err(Fault::Closed);
            }
            pool.get(deadline).await
        })
    }

    pub(super) fn observe<T>(
        &self,
        operation: Operation,
        begun: Instant,
        tries: u32,
        outcome: &Result<T, StoreError>,
    ) {
        if let Some(observer) = &self.inner.options.observer {
            observer.ended(operation, begun.elapsed(), tries, outcome.as_ref().map(|_| ()));
        }
    }
}

#[async_trait]
impl DataStore for PostgresStore {
    async fn ping(&self) -> Result<(), StoreError> {
        let begun = Instant::now();
        // Asked by whoever watches: one try, and no patience.
        let asked = async {
            let deadline = begun + PING;
            let query = Query::new(self.connection(&self.inner.pool, deadline).await?, deadline);
            query.one("SELECT version FROM signet_schema", &[]).await
        };
        let answer = asked.await.map(drop);
        let outcome = answer.map_err(|fault| fault.while_doing(Operation::PING.doing()));
        self.observe(Operation::PING, begun, 1, &outcome);
        outcome
    }

    async fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
        let listener = self.inner.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(listener) = listener {
            listener.abort();
        }
        self.inner.pool.close();
        if let Some(replica) = &self.inner.replica {
            replica.pool.close();
        }
    }

    async fn export(&self) -> Result<Contents, StoreError> {
        self.read_everything().await
    }

    async fn import(&self, contents: &Contents, now: UnixTime) -> Result<(), StoreError> {
        self.write_everything(contents, now).await
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(listener) = listener {
            listener.abort();
        }
    }
}
