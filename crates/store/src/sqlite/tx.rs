//! Write transactions: named, timed, tried again.

use std::time::Duration;

use signet_base::Backoff;
use signet_time::UnixTime;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use tokio::time::Instant;

use crate::{
    Change, ChangeKind, ChangedTo, FeedPosition, Operation, StoreError, recent,
    sqlite::{
        SqliteStore,
        fault::Fault,
        index::Index,
        position,
        sql::{self, Answers, Batch},
        store::Writer,
    },
};

/// How long to wait before the second try.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// And at most before a later one.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

impl SqliteStore {
    /// Runs `body` in a transaction, which it commits itself; what it leaves uncommitted is
    /// rolled back. When it fails in a way that says "later" ([`Fault::is_transient`]), it is run
    /// again, from the beginning and on what is stored then, as long as the busy timeout lasts.
    pub(super) async fn write<T, W: Future<Output = Result<T, Fault>>>(
        &self,
        operation: Operation,
        now: UnixTime,
        body: impl Fn(Tx) -> W,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let deadline = begun + self.inner.options.busy_timeout;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut tries = 0;
        let outcome = loop {
            let done = match self.begin(now).await {
                Ok(tx) => {
                    tries += 1;
                    body(tx).await
                }
                Err(fault) => Err(fault),
            };
            let Err(fault) = done else { break done };
            let again = Instant::now() + backoff.next_delay();
            if !fault.is_transient() || again >= deadline {
                break Err(fault);
            }
            tracing::debug!(?fault, tries, "{} is tried again", operation.doing());
            tokio::time::sleep_until(again).await;
        };
        let outcome = outcome.map_err(|fault| fault.while_doing(operation.doing()));
        self.observe(operation, begun, tries, &outcome);
        outcome
    }

    /// A transaction that takes the write lock with its first statement.
    async fn begin(&self, now: UnixTime) -> Result<Tx, Fault> {
        let mut writer = self.writer().await?;
        writer.settle().await?;
        Ok(Tx {
            store: self.clone(),
            writer,
            now,
            begun: None,
            changes: Vec::new(),
            pending: Batch::default(),
        })
    }
}

/// A write transaction. Dropped, it is rolled back.
pub(super) struct Tx {
    store: SqliteStore,
    writer: Writer,
    pub(super) now: UnixTime,
    begun: Option<Begun>,
    /// Their revisions are given when it ends.
    changes: Vec<Change>,
    /// Statements that wait for the next one.
    pending: Batch,
}

/// What a transaction finds when it begins.
#[derive(Clone)]
struct Begun {
    position: FeedPosition,
    next_entry: i64,
    next_node: i64,
}

impl Begun {
    const STATEMENTS: &str = "BEGIN IMMEDIATE; \
        SELECT epoch, revision, \
        (SELECT coalesce(max(id), 0) + 1 FROM entries), \
        (SELECT coalesce(max(id), 0) + 1 FROM nodes), moved_to FROM feed WHERE id = 1";

    fn read(answer: &[SqliteRow]) -> Result<Self, Fault> {
        let row = answer.first().ok_or(sqlx::Error::RowNotFound)?;
        if !row.try_get::<&str, _>(4)?.is_empty() {
            return Err(Fault::Moved);
        }
        Ok(Self {
            position: position::read_position(row)?,
            next_entry: row.try_get(2)?,
            next_node: row.try_get(3)?,
        })
    }
}

impl Tx {
    /// Sends the statements that wait, after those that begin the transaction if it has not begun;
    /// what the last of them answered is the last.
    async fn send(&mut self) -> Result<Answers, Fault> {
        if self.begun.is_some() {
            return match self.pending.is_empty() {
                true => Ok(Vec::new()),
                false => Ok(self.pending.send(&mut self.writer.conn).await?),
            };
        }
        // Marked first: a caller may give up while it is being begun.
        self.writer.unsettled = true;
        self.pending.after(Begun::STATEMENTS);
        let answers = self.pending.send(&mut self.writer.conn).await?;
        let begun = Begun::read(answers.get(1).map_or(&[], Vec::as_slice))?;
        self.store.publish(begun.position.clone());
        self.begun = Some(begun);
        Ok(answers)
    }

    /// What was found at the beginning.
    async fn begun(&mut self) -> Result<&mut Begun, Fault> {
        if self.begun.is_none() {
            self.send().await?;
        }
        self.begun.as_mut().ok_or(Fault::Sqlx(sqlx::Error::RowNotFound))
    }

    /// The connection within the transaction, with everything written that was to be written.
    pub(super) async fn conn(&mut self) -> Result<&mut SqliteConnection, Fault> {
        self.send().await?;
        Ok(&mut self.writer.conn)
    }

    /// Adds a statement, to be sent before the next use of the connection or with the end of the
    /// transaction. Its values are bound to what is returned.
    pub(super) async fn later(&mut self, text: &str) -> Result<&mut Batch, Fault> {
        if !self.pending.suits(text) {
            self.send().await?;
        }
        Ok(self.pending.statement(text))
    }

    /// Sends what was added with [`Tx::later`]; the answer of the last statement.
    pub(super) async fn last(&mut self) -> Result<Vec<SqliteRow>, Fault> {
        let mut answers = self.send().await?;
        Ok(answers.pop().unwrap_or_default())
    }

    /// Sends what was added with [`Tx::later`]; the answers of the last two statements, which must
    /// be short.
    pub(super) async fn last_two(&mut self) -> Result<[Vec<SqliteRow>; 2], Fault> {
        let mut answers = self.send().await?;
        let last = answers.pop().unwrap_or_default();
        Ok([answers.pop().unwrap_or_default(), last])
    }

    /// Whether an entry may federate with a trust domain whose bundle is not stored.
    pub(super) fn takes_unknown_bundles(&self) -> bool {
        self.store.inner.options.unknown_bundles
    }

    /// Notes a change for the feed.
    pub(super) fn changed(&mut self, kind: ChangeKind, key: impl Into<String>, to: ChangedTo) {
        self.changes.push(Change { revision: 0, kind, key: key.into(), to });
    }

    /// The first of `count` row IDs after all that the table of `index` has.
    pub(super) async fn new_rows(&mut self, index: Index, count: usize) -> Result<i64, Fault> {
        let begun = self.begun().await?;
        let next = match index {
            Index::Entries => &mut begun.next_entry,
            Index::Nodes => &mut begun.next_node,
        };
        let first = *next;
        *next = next.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
        Ok(first)
    }

    /// The first row ID after all that `table` has.
    pub(super) async fn next_row(&mut self, table: &'static str) -> Result<i64, Fault> {
        let text = format!("SELECT coalesce(max(id), 0) + 1 FROM {table}");
        Ok(sql::query(text).fetch_one(self.conn().await?).await?.try_get(0)?)
    }

    /// Writes the noted changes to the feed and, as the last thing, the feed's counter; commits,
    /// and tells the subscribers. Without a noted change the transaction is committed all the
    /// same.
    pub(super) async fn commit(mut self) -> Result<(), Fault> {
        let mut changes = std::mem::take(&mut self.changes);
        let mut reached = None;
        if !changes.is_empty() {
            let mut position = self.begun().await?.position.clone();
            for change in &mut changes {
                position.revision += 1;
                change.revision = position.revision;
            }
            reached = Some(position);
        }
        let now = self.now;
        for run in sql::runs(&changes, 4) {
            let values = sql::values(run.len(), 4);
            let text = format!("INSERT INTO changes (revision, kind, key, at) VALUES {values}");
            let batch = self.later(&text).await?;
            for change in run {
                batch
                    .bind(change.revision.cast_signed())
                    .bind(recent::number(change.kind))
                    .bind(change.key.clone())
                    .bind(now.seconds());
            }
        }
        if let Some(reached) = &reached {
            let text = "UPDATE feed SET revision = ? WHERE id = 1";
            self.later(text).await?.bind(reached.revision.cast_signed());
        }
        self.pending.statement("COMMIT");
        self.send().await?;
        self.writer.unsettled = false;
        if let Some(reached) = reached {
            self.store.recent().push(&reached.epoch, changes);
            self.store.publish(reached);
        }
        Ok(())
    }
}

impl Drop for Tx {
    /// What is left open is rolled back at once and not only by the next writer: it holds the
    /// write lock. And a caller that gave up while the commit ran does not know whether it came
    /// to pass: look.
    fn drop(&mut self) {
        if !self.writer.unsettled {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let store = self.store.clone();
            runtime.spawn(async move {
                if let Ok(mut writer) = store.writer().await
                    && writer.settle().await.is_ok()
                    && let Ok(position) = position::position(&mut writer.conn).await
                {
                    store.publish(position);
                }
            });
        }
    }
}
