//! The handle: one connection that writes, a few that read.

use std::{
    fs::File,
    ops::{Deref, DerefMut},
    sync::{Arc, PoisonError},
};

use sqlx::{
    Connection, Row, Sqlite, SqliteConnection, SqlitePool, pool::PoolConnection, sqlite::SqliteRow,
};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard, watch};

use crate::{
    Change, ChangeKind, ChangedTo, OpenError, StoreError, StoreOptions,
    changes::Recent,
    fault::{Fault, doing},
    open,
    sql::{self, Answers, Batch},
    terms::Index,
};

/// The registration store. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// `None` once closed.
    writer: Mutex<Option<Connected>>,
    /// `None` for a database in memory: then the writer reads too.
    readers: Option<SqlitePool>,
    revision: watch::Sender<u64>,
    /// Changed before `revision` grows.
    recent: std::sync::Mutex<Recent>,
    pub(crate) options: StoreOptions,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store(..)")
    }
}

impl Store {
    /// Opens (or creates) the database and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]; the file is then as it was.
    pub async fn open(options: StoreOptions) -> Result<Self, OpenError> {
        let opened = open::open(&options).await?;
        let inner = Inner {
            writer: Mutex::new(Some(Connected {
                conn: opened.writer,
                unsettled: false,
                _lock: opened.lock,
            })),
            readers: opened.readers,
            revision: watch::Sender::new(opened.revision),
            recent: std::sync::Mutex::default(),
            options,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether the database answers a read.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        doing("checking the database", async {
            let mut conn = self.read().await?;
            sqlx::query("SELECT version FROM signet_schema").fetch_one(&mut *conn).await?;
            Ok(())
        })
        .await
    }

    /// Waits for the running transaction, checkpoints the log into the database file and closes
    /// every connection. Later calls fail with [`StoreError::Closed`].
    pub async fn close(&self) {
        if let Some(readers) = &self.inner.readers {
            readers.close().await;
        }
        let writer = self.inner.writer.lock().await.take();
        if let Some(writer) = writer
            && let Err(error) = writer.conn.close().await
        {
            tracing::warn!(%error, "closing the database");
        }
    }

    /// The newest revision, now and whenever it grows; 0 in a new database.
    ///
    /// A value appears after its transaction is on disk and is readable at once.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.revision.subscribe()
    }

    /// The newest revision now.
    pub fn revision(&self) -> u64 {
        *self.inner.revision.borrow()
    }

    /// A connection to read with.
    pub(crate) async fn read(&self) -> Result<Reader<'_>, Fault> {
        match &self.inner.readers {
            Some(pool) => Ok(Reader::Pool(pool.acquire().await?)),
            None => {
                let mut writer = self.lock().await?;
                writer.connected.settle().await?;
                Ok(Reader::Writer(writer.connected))
            }
        }
    }

    /// Waits for the writing connection.
    pub(crate) async fn lock(&self) -> Result<Writer<'_>, Fault> {
        let guard = self.inner.writer.lock().await;
        match MutexGuard::try_map(guard, Option::as_mut) {
            Ok(connected) => Ok(Writer { store: self, connected }),
            Err(_closed) => Err(Fault::Closed),
        }
    }

    /// The newest changes made here. Whole whenever its lock is free.
    pub(crate) fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.inner.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, revision: u64) {
        self.inner.revision.send_if_modified(|newest| {
            let grown = revision > *newest;
            *newest = (*newest).max(revision);
            grown
        });
    }
}

/// A connection to read with.
pub(crate) enum Reader<'s> {
    Pool(PoolConnection<Sqlite>),
    Writer(MappedMutexGuard<'s, Connected>),
}

impl Deref for Reader<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        match self {
            Self::Pool(conn) => conn,
            Self::Writer(writer) => &writer.conn,
        }
    }
}

impl DerefMut for Reader<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        match self {
            Self::Pool(conn) => conn,
            Self::Writer(writer) => &mut writer.conn,
        }
    }
}

/// The writing connection.
pub(crate) struct Connected {
    conn: SqliteConnection,
    /// A transaction was begun, and it is not known to have ended. Our own statements and our own
    /// mark, for SQLite ends some by itself (when the disk is full), which the library's
    /// transactions do not expect.
    unsettled: bool,
    /// Let go of when the store is closed.
    _lock: Option<File>,
}

impl Connected {
    /// Rolls back what was left open.
    async fn settle(&mut self) -> Result<(), Fault> {
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

/// The writing connection, held.
pub(crate) struct Writer<'s> {
    store: &'s Store,
    connected: MappedMutexGuard<'s, Connected>,
}

impl Writer<'_> {
    /// A transaction that takes the write lock with its first statement. Dropped, it is rolled
    /// back.
    pub(crate) async fn begin(&mut self, now: i64) -> Result<Tx<'_>, Fault> {
        self.connected.settle().await?;
        Ok(Tx {
            store: self.store,
            connected: &mut self.connected,
            now,
            begun: None,
            changes: Vec::new(),
            pending: Batch::default(),
        })
    }
}

/// A write transaction.
pub(crate) struct Tx<'w> {
    store: &'w Store,
    connected: &'w mut Connected,
    pub(crate) now: i64,
    begun: Option<Begun>,
    /// Their revisions are given when it ends.
    changes: Vec<Change>,
    /// Statements that wait for the next one.
    pending: Batch,
}

/// What a transaction finds when it begins.
#[derive(Clone, Copy)]
struct Begun {
    revision: u64,
    next_entry: i64,
    next_node: i64,
}

impl Begun {
    const STATEMENTS: &str = "BEGIN IMMEDIATE; \
        SELECT (SELECT coalesce(max(revision), 0) FROM changes), \
        (SELECT coalesce(max(id), 0) + 1 FROM entries), \
        (SELECT coalesce(max(id), 0) + 1 FROM nodes)";

    fn read(answer: &[SqliteRow]) -> Result<Self, Fault> {
        let row = answer.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(Self {
            revision: row.try_get::<i64, _>(0)?.cast_unsigned(),
            next_entry: row.try_get(1)?,
            next_node: row.try_get(2)?,
        })
    }
}

impl Tx<'_> {
    /// Sends the statements that wait, after those that begin the transaction if it has not begun;
    /// what the last of them answered is the last.
    async fn send(&mut self) -> Result<(Begun, Answers), Fault> {
        if let Some(begun) = self.begun {
            let answers = match self.pending.is_empty() {
                true => Vec::new(),
                false => self.pending.send(&mut self.connected.conn).await?,
            };
            return Ok((begun, answers));
        }
        // Marked first: a caller may give up while it is being begun.
        self.connected.unsettled = true;
        self.pending.after(Begun::STATEMENTS);
        let answers = self.pending.send(&mut self.connected.conn).await?;
        let begun = Begun::read(answers.get(1).map_or(&[], Vec::as_slice))?;
        self.begun = Some(begun);
        self.store.publish(begun.revision);
        Ok((begun, answers))
    }

    /// The connection within the transaction, with everything written that was to be written.
    pub(crate) async fn conn(&mut self) -> Result<&mut SqliteConnection, Fault> {
        self.send().await?;
        Ok(&mut self.connected.conn)
    }

    /// Adds a statement, to be sent before the next use of the connection or with the end of the
    /// transaction. Its values are bound to what is returned.
    pub(crate) async fn later(&mut self, text: &str) -> Result<&mut Batch, Fault> {
        if !self.pending.suits(text) {
            self.send().await?;
        }
        Ok(self.pending.statement(text))
    }

    /// Sends what was added with [`Tx::later`]; the answer of the last statement.
    pub(crate) async fn last(&mut self) -> Result<Vec<SqliteRow>, Fault> {
        let (_, mut answers) = self.send().await?;
        Ok(answers.pop().unwrap_or_default())
    }

    /// Sends what was added with [`Tx::later`]; the answers of the last two statements, which must
    /// be short.
    pub(crate) async fn last_two(&mut self) -> Result<[Vec<SqliteRow>; 2], Fault> {
        let (_, mut answers) = self.send().await?;
        let last = answers.pop().unwrap_or_default();
        Ok([answers.pop().unwrap_or_default(), last])
    }

    /// Notes a change for the feed.
    pub(crate) fn changed(&mut self, kind: ChangeKind, key: impl Into<String>, to: ChangedTo) {
        self.changes.push(Change { revision: 0, kind, key: key.into(), to });
    }

    /// The first of `count` row IDs after all that the table of `index` has.
    pub(crate) async fn new_rows(&mut self, index: Index, count: usize) -> Result<i64, Fault> {
        let (mut begun, _) = self.send().await?;
        let next = match index {
            Index::Entries => &mut begun.next_entry,
            Index::Nodes => &mut begun.next_node,
        };
        let first = *next;
        *next = next.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
        self.begun = Some(begun);
        Ok(first)
    }

    /// The first row ID after all that `table` has.
    pub(crate) async fn next_row(&mut self, table: &'static str) -> Result<i64, Fault> {
        let text = format!("SELECT coalesce(max(id), 0) + 1 FROM {table}");
        Ok(sql::query(text).fetch_one(self.conn().await?).await?.try_get(0)?)
    }

    /// Writes the noted changes to the feed, commits, and tells the subscribers. Without a noted
    /// change the transaction is committed all the same.
    pub(crate) async fn commit(mut self) -> Result<(), Fault> {
        let mut changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            let mut revision = match self.begun {
                Some(begun) => begun.revision,
                None => self.send().await?.0.revision,
            };
            for change in &mut changes {
                revision += 1;
                change.revision = revision;
            }
        }
        let now = self.now;
        for run in sql::runs(&changes, 4) {
            let values = sql::values(run.len(), 4);
            let text = format!("INSERT INTO changes (revision, kind, key, at) VALUES {values}");
            let batch = self.later(&text).await?;
            for change in run {
                batch
                    .bind(change.revision.cast_signed())
                    .bind(change.kind.number())
                    .bind(change.key.clone())
                    .bind(now);
            }
        }
        self.pending.statement("COMMIT");
        self.send().await?;
        self.connected.unsettled = false;
        if let Some(newest) = changes.last().map(|change| change.revision) {
            self.store.recent().push(changes);
            self.store.publish(newest);
        }
        Ok(())
    }
}

impl Drop for Tx<'_> {
    /// What is left open is rolled back at once and not only by the next writer: it holds the
    /// write lock. And a caller that gave up while the commit ran does not know whether it came
    /// to pass: look.
    fn drop(&mut self) {
        if !self.connected.unsettled {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let store = self.store.clone();
            runtime.spawn(async move {
                if let Ok(mut writer) = store.lock().await
                    && writer.connected.settle().await.is_ok()
                    && let Ok(revision) = newest_revision(&mut writer.connected.conn).await
                {
                    store.publish(revision);
                }
            });
        }
    }
}

pub(crate) async fn newest_revision(conn: &mut SqliteConnection) -> Result<u64, Fault> {
    let row = sqlx::query("SELECT coalesce(max(revision), 0) FROM changes").fetch_one(conn).await?;
    Ok(row.try_get::<i64, _>(0)?.cast_unsigned())
}
