//! Write transactions: named, timed, tried again by the table of [`Fault::remedy`].
//!
//! The feed's counter is written by the last statement before COMMIT, and the two are sent
//! together: its row is locked for one round trip of the server with its disk, and nothing of ours
//! happens in between.

use std::sync::PoisonError;

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join},
};
use signet_base::Backoff;
use signet_time::UnixTime;
use tokio::time::Instant;

use super::{
    fault::{Fault, PAUSES, Remedy},
    mark::{self, CHANNEL, Mark},
    sql::{Query, params},
    store::PostgresStore,
};
use crate::{Change, ChangeKind, ChangedTo, FeedPosition, Operation, StoreError};

/// How far back an outcome is looked for, in changes.
const LOOK_BACK: u64 = 10_000;
/// How many changes the statement that writes the counter takes; more are written after it.
const CHANGES_AT_ONCE: usize = 20_000;

/// What a transaction must have to itself from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// Nothing: it locks the rows it changes.
    Rows,
    /// Entries, bundles and federation relationships, which refer to one another: at most one
    /// transaction of any server writes to them at a time.
    Registrations,
}

impl PostgresStore {
    /// Runs `body` in a transaction, which it commits itself; what it leaves uncommitted is rolled
    /// back. It may be run again, from the beginning and on what is stored then.
    pub(super) async fn write<T, W: Future<Output = Result<T, Fault>>>(
        &self,
        operation: Operation,
        now: UnixTime,
        lock: Lock,
        body: impl Fn(Tx) -> W,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let deadline = begun + self.inner.options.patience;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut tries = 0;
        let outcome = loop {
            let done = match self.begin(now, lock, deadline).await {
                Ok(tx) => {
                    tries += 1;
                    body(tx).await
                }
                Err(fault) => Err(fault),
            };
            let Err(fault) = done else { break done };
            let again = Instant::now() + backoff.next_delay();
            match fault.remedy() {
                Remedy::None => break Err(fault),
                Remedy::Everything => self.inner.pool.drop_all(),
                Remedy::Again | Remedy::Reconnect => {}
            }
            if again >= deadline {
                break Err(fault);
            }
            tracing::debug!(?fault, tries, "{} is tried again", operation.doing());
            tokio::time::sleep_until(again).await;
        };
        let outcome = outcome.map_err(|fault| fault.while_doing(operation.doing()));
        self.observe(operation, begun, tries, &outcome);
        outcome
    }

    async fn begin(&self, now: UnixTime, lock: Lock, deadline: Instant) -> Result<Tx, Fault> {
        let conn = self.connection(&self.inner.pool, deadline).await?;
        let mut query = Query::new(conn, deadline);
        // Marked first: a caller may give up while it is being begun.
        query.set_in_transaction(true);
        let patience = self.inner.options.patience.as_millis();
        let mut text = format!(
            "BEGIN; SET LOCAL lock_timeout = {patience}; \
             SET LOCAL idle_in_transaction_session_timeout = {patience}"
        );
        if lock == Lock::Registrations {
            text.push_str("; SELECT 1 FROM signet_locks WHERE name = 'registrations' FOR UPDATE");
        }
        let known = self.known_mark().position.revision;
        query.batch(&text).await?;
        Ok(Tx { store: self.clone(), query, now, known, changes: Vec::new() })
    }

    /// What became of a transaction whose COMMIT was not answered: where it brought the feed, or
    /// `None` if it was not committed.
    async fn look_up(&self, key: [u8; 16], after: u64) -> Result<Option<FeedPosition>, Fault> {
        let deadline = Instant::now() + self.inner.options.patience;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            let asked = async {
                let conn = self.connection(&self.inner.pool, deadline).await?;
                let mut query = Query::new(conn, deadline);
                query.set_in_transaction(true);
                // The counter's row is locked by the other transaction as long as it runs: this
                // waits for its end.
                query.batch("BEGIN; SELECT 1 FROM signet_feed WHERE id = 1 FOR UPDATE").await?;
                let found = query
                    .first(
                        "SELECT f.epoch, max(c.revision) FROM signet_feed AS f \
                         JOIN signet_changes AS c ON c.revision > $1 AND c.tx = $2 \
                         WHERE f.id = 1 GROUP BY f.epoch",
                        params![after.cast_signed() => INT8, key.as_slice() => BYTEA],
                    )
                    .await?;
                query.batch("ROLLBACK").await?;
                query.set_in_transaction(false);
                found.as_ref().map(mark::read_position).transpose()
            };
            match asked.await {
                Ok(found) => return Ok(found),
                Err(fault) => {
                    if fault.remedy() == Remedy::Everything {
                        self.inner.pool.drop_all();
                    }
                    let again = Instant::now() + backoff.next_delay();
                    if fault.remedy() == Remedy::None || again >= deadline {
                        tracing::error!(?fault, "It is not known whether a change was stored");
                        return Err(Fault::Uncertain);
                    }
                    tokio::time::sleep_until(again).await;
                }
            }
        }
    }
}

/// A write transaction. Dropped, it is rolled back.
pub(super) struct Tx {
    store: PostgresStore,
    pub(super) query: Query,
    pub(super) now: UnixTime,
    /// How far the feed had come for sure when it began.
    known: u64,
    /// Their revisions are given when it ends.
    changes: Vec<Change>,
}

impl Tx {
    /// Whether an entry may federate with a trust domain whose bundle is not stored.
    pub(super) fn takes_unknown_bundles(&self) -> bool {
        self.store.inner.options.unknown_bundles
    }

    /// Notes a change for the feed.
    pub(super) fn changed(&mut self, kind: ChangeKind, key: impl Into<String>, to: ChangedTo) {
        self.changes.push(Change { revision: 0, kind, key: key.into(), to });
    }

    /// The first row ID after all that `table` has. The table must be locked.
    pub(super) async fn next_row(&mut self, table: &'static str) -> Result<i64, Fault> {
        let text = format!("SELECT coalesce(max(id), 0) + 1 FROM {table}");
        Ok(self.query.one(&text, &[]).await?.try_get(0)?)
    }

    /// Ends a transaction that has changed nothing.
    pub(super) async fn leave(mut self) -> Result<(), Fault> {
        self.query.batch("ROLLBACK").await?;
        self.query.set_in_transaction(false);
        Ok(())
    }

    /// Writes the noted changes and the feed's counter, commits, and tells the subscribers.
    pub(super) fn commit(self) -> BoxFuture<'static, Result<(), Fault>> {
        Box::pin(self.end())
    }

    async fn end(mut self) -> Result<(), Fault> {
        let mut changes = std::mem::take(&mut self.changes);
        if changes.is_empty() {
            // Without a change in the feed there is nothing to recognise it by; and nothing that
            // could not be done twice.
            return match self.finish_quietly().await {
                Ok(()) => {
                    self.query.set_in_transaction(false);
                    Ok(())
                }
                Err(fault) if fault.is_ambiguous_commit() => {
                    self.query.discard();
                    Err(Fault::Undone)
                }
                Err(fault) => Err(fault),
            };
        }
        let mut key = [0; 16];
        signet_pki::random::fill(&mut key)
            .map_err(|error| Fault::corrupt("random generator", error))?;
        let reached = match self.finish(&changes, key).await {
            Ok(reached) => {
                self.query.set_in_transaction(false);
                self.notify();
                reached
            }
            Err(fault) if fault.is_ambiguous_commit() => {
                self.query.discard();
                let after = self.known.saturating_sub(LOOK_BACK);
                match self.store.look_up(key, after).await? {
                    Some(reached) => reached,
                    None => return Err(Fault::Undone),
                }
            }
            Err(fault) => return Err(fault),
        };
        let first = reached.revision.saturating_sub(changes.len() as u64);
        for (change, revision) in changes.iter_mut().zip(first + 1..) {
            change.revision = revision;
        }
        let recent = &self.store.inner.recent;
        recent.lock().unwrap_or_else(PoisonError::into_inner).push(&reached.epoch, changes);
        self.store.publish(Mark { position: reached, tag: Some(key) });
        Ok(())
    }

    /// COMMIT without a change for the feed, unless the store was closed.
    async fn finish_quietly(&self) -> Result<(), Fault> {
        let client = self.query.client()?;
        let both = join(client.batch_execute(mark::STAY), client.batch_execute("COMMIT"));
        let (stayed, committed) =
            tokio::time::timeout_at(self.query.deadline(), both).await.map_err(|_| Fault::Late)?;
        stayed?;
        Ok(committed?)
    }

    /// The last statement, and COMMIT right behind it.
    async fn finish(&self, changes: &[Change], key: [u8; 16]) -> Result<FeedPosition, Fault> {
        let count = changes.len() as i64;
        let (first, others) = changes.split_at(changes.len().min(CHANGES_AT_ONCE));
        let columns = |some: &[Change]| -> (Vec<i64>, Vec<String>) {
            some.iter().map(|it| (mark::number(it.kind), it.key.clone())).unzip()
        };
        let (kinds, keys) = columns(first);
        let client = self.query.client()?;
        let values: &[_] = params![
            count => INT8, self.now.seconds() => INT8, key.as_slice() => BYTEA,
            kinds => INT8_ARRAY, keys => TEXT_ARRAY,
        ];
        let write = client.query_typed(mark::ADVANCE, values);
        let deadline = self.query.deadline();
        let late = |_| Fault::Late;
        let position = |rows: Vec<tokio_postgres::Row>| match rows.first() {
            Some(row) => mark::read_position(row),
            None => Err(Fault::corrupt("change feed", "its counter is missing")),
        };
        if others.is_empty() {
            // Sent in this order, in one go.
            let both = join(write, client.batch_execute("COMMIT"));
            let (written, committed) =
                tokio::time::timeout_at(deadline, both).await.map_err(late)?;
            let written = written?;
            committed?;
            return position(written);
        }
        let reached = position(tokio::time::timeout_at(deadline, write).await.map_err(late)??)?;
        let mut at = reached.revision.cast_signed() - count + first.len() as i64;
        for some in others.chunks(CHANGES_AT_ONCE) {
            let (kinds, keys) = columns(some);
            let values: &[_] = params![
                at => INT8, self.now.seconds() => INT8, key.as_slice() => BYTEA,
                kinds => INT8_ARRAY, keys => TEXT_ARRAY,
            ];
            self.query.execute(mark::APPEND, values).await?;
            at += some.len() as i64;
        }
        self.query.batch("COMMIT").await?;
        Ok(reached)
    }

    /// Wakes other servers: a statement of its own, which may fail, and whose answer nobody waits
    /// for.
    fn notify(&self) {
        if let Ok(client) = self.query.client() {
            let text = format!("NOTIFY {CHANNEL}");
            _ = client.batch_execute(&text).now_or_never();
        }
    }
}
