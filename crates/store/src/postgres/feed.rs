//! The change feed: its counter, its rows, and whether history was rewritten behind our back.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use signet_time::UnixTime;
use tokio::{sync::watch, time::Instant};

use super::{
    fault::Fault,
    mark::{Mark, new_epoch, read_mark, read_position},
    sql::{Query, params},
    store::PostgresStore,
    tx::Lock,
};
use crate::{Change, ChangedTo, Changes, Feed, FeedPosition, Operation, StoreError};

/// How many rows are dropped at once, so that other writers get their turn.
const PRUNED_AT_ONCE: i64 = 10_000;
/// How long the database may take to say how far it has come. Everybody waits for that.
const POSITION: Duration = Duration::from_secs(2);
/// How often to ask for changes that nobody tells of, and how often while they are told of.
const POLL: Duration = Duration::from_millis(250);
const POLL_LISTENING: Duration = Duration::from_secs(5);

/// Whether the database has a history in which `seen` did not happen, though it did.
fn is_rewritten(seen: &Mark, now: &FeedPosition, there: Option<[u8; 16]>) -> bool {
    if seen.position.epoch != now.epoch {
        // Said openly.
        return false;
    }
    now.revision < seen.position.revision
        || matches!((seen.tag, there), (Some(seen), Some(there)) if seen != there)
}

impl PostgresStore {
    pub(super) fn known_mark(&self) -> Mark {
        self.inner.mark.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the subscribers of a place that the database has reached.
    pub(super) fn publish(&self, reached: Mark) {
        let mut mark = self.inner.mark.lock().unwrap_or_else(PoisonError::into_inner);
        let (old, new) = (&mark.position, &reached.position);
        if old.epoch == new.epoch && new.revision <= old.revision {
            return;
        }
        let position = new.clone();
        *mark = reached;
        self.inner.known.send_replace(position);
    }

    /// Asks the database how far it has come. When it has lost what it had acknowledged, its
    /// history gets a new name, so that everybody reads everything anew.
    pub(super) async fn ask_position(&self) -> Result<FeedPosition, Fault> {
        // Whatever was seen before the question is put must be in the answer.
        let seen = self.known_mark();
        let deadline = Instant::now() + POSITION;
        let conn = self.connection(&self.inner.pool, deadline).await?;
        let query = Query::new(conn, deadline);
        let (mut mark, there) = read_mark(&query, seen.position.revision).await?;
        if is_rewritten(&seen, &mark.position, there) {
            tracing::error!(
                seen = seen.position.revision,
                found = mark.position.revision,
                "The database has lost changes that it had acknowledged (a failover to a replica \
                 that lagged, or a restore): everything is read anew"
            );
            let epoch = new_epoch()?;
            query
                .execute(
                    "UPDATE signet_feed SET epoch = $1 WHERE id = 1 AND epoch = $2",
                    params![epoch => TEXT, &*seen.position.epoch => TEXT],
                )
                .await?;
            mark = read_mark(&query, 0).await?.0;
        }
        let position = mark.position.clone();
        self.publish(mark);
        Ok(position)
    }
}

#[async_trait]
impl Feed for PostgresStore {
    fn is_shared(&self) -> bool {
        true
    }

    fn poll_interval(&self) -> Duration {
        if self.inner.listening.load(Ordering::Acquire) { POLL_LISTENING } else { POLL }
    }

    fn known(&self) -> FeedPosition {
        self.inner.known.borrow().clone()
    }

    fn subscribe(&self) -> watch::Receiver<FeedPosition> {
        self.inner.known.subscribe()
    }

    async fn committed(&self) -> Result<FeedPosition, StoreError> {
        let operation = Operation::READ_POSITION;
        let asked = &self.inner.asked;
        let before = asked.count.load(Ordering::Acquire);
        let mut last = asked.last.lock().await;
        if let Some((number, answer)) = &*last
            && *number > before
        {
            return answer
                .clone()
                .map_err(|why| StoreError::Unavailable { doing: operation.doing(), why });
        }
        let number = asked.count.fetch_add(1, Ordering::AcqRel) + 1;
        let begun = Instant::now();
        // A broken connection says nothing about the database: once more.
        let mut answer = self.ask_position().await;
        if let Err(fault) = &answer
            && fault.remedy() != super::fault::Remedy::None
            && !matches!(fault, Fault::Unreachable(_))
        {
            self.inner.pool.drop_all();
            answer = self.ask_position().await;
        }
        let outcome = answer.map_err(|fault| fault.while_doing(operation.doing()));
        self.observe(operation, begun, 1, &outcome);
        let shared = match &outcome {
            Ok(position) => Ok(position.clone()),
            Err(StoreError::Unavailable { why, .. }) => Err(why.clone()),
            Err(other) => Err(other.to_string()),
        };
        *last = Some((number, shared));
        outcome
    }

    async fn changes_since(&self, since: &FeedPosition, limit: u32) -> Result<Changes, StoreError> {
        let remembered = {
            let recent = self.inner.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.since(since, &self.known(), limit)
        };
        if let Some(changes) = remembered {
            return Ok(Changes::Since(changes));
        }
        self.reading(Operation::READ_FEED, |query| async move {
            // One statement, and so one state of the database.
            let rows = query
                .all(
                    "SELECT f.epoch, f.revision, c.revision, c.kind, c.key FROM signet_feed AS f \
                     LEFT JOIN signet_changes AS c ON c.revision > $1 \
                     WHERE f.id = 1 ORDER BY c.revision LIMIT $2",
                    params![
                        i64::try_from(since.revision).unwrap_or(i64::MAX) => INT8,
                        i64::from(limit.max(1)) => INT8,
                    ],
                )
                .await?;
            let missing = || Fault::corrupt("change feed", "its counter is missing");
            let now = read_position(rows.first().ok_or_else(missing)?)?;
            let mut changes = Vec::with_capacity(rows.len());
            for row in &rows {
                let Some(revision) = row.try_get::<_, Option<i64>>(2)? else { continue };
                let kind = row.try_get(3)?;
                changes.push(Change {
                    revision: revision.cast_unsigned(),
                    kind: crate::recent::kind(kind).ok_or_else(|| {
                        Fault::corrupt("change feed", format_args!("kind {kind}"))
                    })?,
                    key: row.try_get(4)?,
                    to: ChangedTo::Unread,
                });
            }
            Ok(Changes::after(since, changes, now, limit))
        })
        .await
    }

    async fn prune_changes(&self, now: UnixTime) -> Result<u64, StoreError> {
        let newest = self.committed().await?.revision;
        let by_rows = newest.saturating_sub(self.inner.options.changes_max_rows);
        let too_old = now - self.inner.options.changes_max_age;
        let first_kept: Option<i64> = self
            .reading(Operation::READ_FEED, |query| async move {
                let text = "SELECT min(revision) FROM signet_changes WHERE at >= $1";
                Ok(query.one(text, params![too_old.seconds() => INT8]).await?.try_get(0)?)
            })
            .await?;
        let by_age = first_kept.map_or(newest, i64::cast_unsigned).saturating_sub(1);
        let last_dropped = by_rows.max(by_age).min(newest.saturating_sub(1));
        self.inner.recent.lock().unwrap_or_else(PoisonError::into_inner).forget(last_dropped);
        let mut dropped = 0;
        loop {
            let portion = self.write(Operation::PRUNE_FEED, now, Lock::Rows, |tx| async move {
                let done = tx
                    .query
                    .execute(
                        "DELETE FROM signet_changes WHERE revision IN (SELECT revision \
                         FROM signet_changes WHERE revision <= $1 ORDER BY revision LIMIT $2)",
                        params![last_dropped.cast_signed() => INT8, PRUNED_AT_ONCE => INT8],
                    )
                    .await?;
                tx.commit().await?;
                Ok(done)
            });
            let portion = portion.await?;
            dropped += portion;
            if portion < PRUNED_AT_ONCE.cast_unsigned() {
                return Ok(dropped);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(epoch: &str, revision: u64, tag: u8) -> Mark {
        Mark { position: FeedPosition { epoch: epoch.into(), revision }, tag: Some([tag; 16]) }
    }

    #[test]
    fn a_revision_that_went_back_or_belongs_to_another_change_is_another_history() {
        let seen = mark("a", 100, 1);
        let now = |revision| mark("a", revision, 9).position;
        assert!(!is_rewritten(&seen, &now(100), Some([1; 16])));
        assert!(!is_rewritten(&seen, &now(120), Some([1; 16])));
        assert!(!is_rewritten(&seen, &now(300), None), "pruned");
        assert!(is_rewritten(&seen, &now(99), None));
        assert!(is_rewritten(&seen, &now(120), Some([2; 16])), "given a second time");
        assert!(!is_rewritten(&seen, &mark("b", 5, 1).position, None), "said openly");
    }
}
