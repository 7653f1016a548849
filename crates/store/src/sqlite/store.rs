//! The handle: one connection that writes, a few that read.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, PoisonError},
};

use async_trait::async_trait;
use signet_time::UnixTime;
use sqlx::{Connection, Sqlite, SqliteConnection, SqlitePool, pool::PoolConnection};
use tokio::{
    sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard, watch},
    time::Instant,
};

use crate::{
    Contents, DataStore, FeedPosition, OpenError, Operation, StoreError, StoreOptions,
    recent::Recent,
    sqlite::{
        fault::Fault,
        open::{self, FileLock},
        position,
    },
};

/// The store in an SQLite file. Cheap to clone; all clones share the connections.
///
/// All writing goes through one connection, one transaction per call; a call returns when its
/// transaction is on disk (`synchronous=FULL`).
#[derive(Clone)]
pub(crate) struct SqliteStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    /// `None` once closed.
    writer: Arc<Mutex<Option<Connected>>>,
    /// `None` for a database in memory: then the writer reads too.
    readers: Option<SqlitePool>,
    pub(super) known: watch::Sender<FeedPosition>,
    /// Changed before `known` grows.
    recent: std::sync::Mutex<Recent>,
    pub(super) options: StoreOptions,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SqliteStore(..)")
    }
}

impl SqliteStore {
    /// Opens (or creates) the database and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]; the file is then as it was.
    pub(crate) async fn open(options: StoreOptions) -> Result<Self, OpenError> {
        let opened = open::open(&options).await?;
        let inner = Inner {
            writer: Arc::new(Mutex::new(Some(Connected {
                conn: opened.writer,
                unsettled: false,
                lock: opened.lock,
            }))),
            readers: opened.readers,
            known: watch::Sender::new(opened.position),
            recent: std::sync::Mutex::default(),
            options,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A connection to read with.
    pub(super) async fn reader(&self) -> Result<Reader, Fault> {
        match &self.inner.readers {
            Some(pool) => Ok(Reader::Pool(pool.acquire().await?)),
            None => {
                let mut writer = self.writer().await?;
                writer.settle().await?;
                Ok(Reader::Writer(writer))
            }
        }
    }

    /// Waits for the writing connection.
    pub(super) async fn writer(&self) -> Result<Writer, Fault> {
        let guard = Arc::clone(&self.inner.writer).lock_owned().await;
        OwnedMutexGuard::try_map(guard, Option::as_mut).map_err(|_closed| Fault::Closed)
    }

    /// The newest changes made here. Whole whenever its lock is free.
    pub(super) fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.inner.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the subscribers of a place that the database has reached.
    pub(super) fn publish(&self, position: FeedPosition) {
        self.inner.known.send_if_modified(|known| {
            let news = known.epoch != position.epoch || position.revision > known.revision;
            if news {
                *known = position;
            }
            news
        });
    }

    /// Runs an operation that reads, times it, and names it in its error.
    pub(super) async fn reading<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let outcome = work.await.map_err(|fault| fault.while_doing(operation.doing()));
        self.observe(operation, begun, 1, &outcome);
        outcome
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
impl DataStore for SqliteStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.reading(Operation::PING, async {
            let mut conn = self.reader().await?;
            sqlx::query("SELECT version FROM signet_schema").fetch_one(&mut *conn).await?;
            Ok(())
        })
        .await
    }

    /// Also checkpoints the log into the database file.
    async fn close(&self) {
        if let Some(readers) = &self.inner.readers {
            readers.close().await;
        }
        let Some(mut writer) = self.inner.writer.lock().await.take() else { return };
        let position = match writer.settle().await {
            Ok(()) => position::position(&mut writer.conn).await,
            Err(fault) => Err(fault),
        };
        match writer.conn.close().await {
            Ok(()) => {
                if let (Some(lock), Ok(position)) = (&mut writer.lock, position) {
                    lock.leave(&position);
                }
            }
            Err(error) => tracing::warn!(%error, "closing the database"),
        }
    }

    async fn export(&self) -> Result<Contents, StoreError> {
        self.read_everything().await
    }

    async fn import(&self, contents: &Contents, now: UnixTime) -> Result<(), StoreError> {
        self.write_everything(contents, now).await
    }
}

/// The writing connection, held.
pub(super) type Writer = OwnedMappedMutexGuard<Option<Connected>, Connected>;

/// A connection to read with.
pub(super) enum Reader {
    Pool(PoolConnection<Sqlite>),
    Writer(Writer),
}

impl Deref for Reader {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        match self {
            Self::Pool(conn) => conn,
            Self::Writer(writer) => &writer.conn,
        }
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        match self {
            Self::Pool(conn) => conn,
            Self::Writer(writer) => &mut writer.conn,
        }
    }
}

/// The writing connection.
pub(super) struct Connected {
    pub(super) conn: SqliteConnection,
    /// A transaction was begun, and it is not known to have ended. Our own statements and our own
    /// mark, for SQLite ends some by itself (when the disk is full), which the library's
    /// transactions do not expect.
    pub(super) unsettled: bool,
    /// Let go of when the store is closed.
    lock: Option<FileLock>,
}

impl Connected {
    /// Rolls back what was left open.
    pub(super) async fn settle(&mut self) -> Result<(), Fault> {
        if !self.unsettled {
            return Ok(());
        }
        if let Err(error) = sqlx::query("ROLLBACK").execute(&mut self.conn).await {
            // The plain code 1: there is no transaction to roll back.
            let code = error.as_database_error().and_then(|error| error.code());
            if code.as_deref() != Some("1") {
                return Err(error.into());
            }
        }
        self.unsettled = false;
        Ok(())
    }
}
