//! The change feed: its counter and its rows.

use async_trait::async_trait;
use signet_time::UnixTime;
use sqlx::Row;
use tokio::sync::watch;

use crate::{
    Change, ChangeKind, ChangedTo, Changes, Feed, FeedPosition, Operation, StoreError, recent,
    sqlite::{SqliteStore, fault::Fault, position},
};

/// How many rows are dropped at once, so that other writers get their turn.
const PRUNED_AT_ONCE: u64 = 10_000;

/// How a kind is read.
fn kind(number: i64) -> Result<ChangeKind, Fault> {
    recent::kind(number).ok_or_else(|| Fault::corrupt("change feed", format_args!("kind {number}")))
}

#[async_trait]
impl Feed for SqliteStore {
    fn is_shared(&self) -> bool {
        !self.inner.options.exclusive && self.inner.options.path().is_some()
    }

    fn known(&self) -> FeedPosition {
        self.inner.known.borrow().clone()
    }

    fn subscribe(&self) -> watch::Receiver<FeedPosition> {
        self.inner.known.subscribe()
    }

    async fn committed(&self) -> Result<FeedPosition, StoreError> {
        if !self.is_shared() {
            return Ok(self.known());
        }
        self.reading(Operation::READ_POSITION, async {
            let mut conn = self.reader().await?;
            let position = position::position(&mut conn).await?;
            self.publish(position.clone());
            Ok(position)
        })
        .await
    }

    async fn changes_since(&self, since: &FeedPosition, limit: u32) -> Result<Changes, StoreError> {
        let remembered = self.recent().since(since, &self.known(), limit);
        if let Some(changes) = remembered {
            return Ok(Changes::Since(changes));
        }
        self.reading(Operation::READ_FEED, async {
            let mut conn = self.reader().await?;
            // One statement, and so one state of the database.
            let rows = sqlx::query(
                "SELECT feed.epoch, feed.revision, changes.revision, kind, key \
                 FROM feed LEFT JOIN changes ON changes.revision > ? \
                 WHERE feed.id = 1 ORDER BY changes.revision LIMIT ?",
            )
            .bind(i64::try_from(since.revision).unwrap_or(i64::MAX))
            .bind(i64::from(limit.max(1)))
            .fetch_all(&mut *conn)
            .await?;
            let now = position::read_position(rows.first().ok_or(sqlx::Error::RowNotFound)?)?;
            self.publish(now.clone());
            let mut changes = Vec::with_capacity(rows.len());
            for row in &rows {
                let Some(revision) = row.try_get::<Option<i64>, _>(2)? else { continue };
                changes.push(Change {
                    revision: revision.cast_unsigned(),
                    kind: kind(row.try_get(3)?)?,
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
            .reading(Operation::READ_FEED, async {
                let mut conn = self.reader().await?;
                let first = sqlx::query("SELECT min(revision) FROM changes WHERE at >= ?")
                    .bind(too_old.seconds())
                    .fetch_one(&mut *conn);
                Ok(first.await?.try_get(0)?)
            })
            .await?;
        let by_age = first_kept.map_or(newest, i64::cast_unsigned).saturating_sub(1);
        let last_dropped = by_rows.max(by_age).min(newest.saturating_sub(1));
        self.recent().forget(last_dropped);
        let mut dropped = 0;
        loop {
            let portion = self.write(Operation::PRUNE_FEED, now, move |mut tx| async move {
                let done = sqlx::query(
                    "DELETE FROM changes WHERE revision IN (SELECT revision FROM changes \
                     WHERE revision <= ? ORDER BY revision LIMIT ?)",
                )
                .bind(last_dropped.cast_signed())
                .bind(PRUNED_AT_ONCE.cast_signed())
                .execute(tx.conn().await?)
                .await?;
                tx.commit().await?;
                Ok(done.rows_affected())
            });
            let portion = portion.await?;
            dropped += portion;
            if portion < PRUNED_AT_ONCE {
                return Ok(dropped);
            }
        }
    }
}
