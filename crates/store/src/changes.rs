//! The change feed.

use std::{collections::VecDeque, sync::Arc};

use signet_identity::{AttestedNode, Entry};
use sqlx::Row;

use crate::{
    Store, StoreError,
    fault::{Fault, doing},
    store::newest_revision,
};

/// How many changes are remembered with what they made.
const MAX_RECENT: usize = 1_000;

/// What a [`Change`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// A trust bundle; the key is the trust domain's name.
    Bundle,
    /// A registration entry; the key is the entry ID.
    Entry,
    /// A federation relationship; the key is the trust domain's name.
    Federation,
    /// An attested node; the key is the agent's SPIFFE ID.
    Node,
}

/// What a thing became by a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangedTo {
    /// This entry.
    Entry(Arc<Entry>),
    /// It was deleted.
    Gone,
    /// This node.
    Node(Arc<AttestedNode>),
    /// Not remembered (another process made the change, or it is long ago): read it.
    Unread,
}

/// Something was created, changed or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Grows by exactly one from change to change.
    pub revision: u64,
    /// What kind of thing.
    pub kind: ChangeKind,
    /// Which one: see [`ChangeKind`].
    pub key: String,
    /// What it became, where that is remembered. A later change of the same thing may have
    /// followed.
    pub to: ChangedTo,
}

/// The newest changes that this process made, so that whoever follows the feed at its heels need
/// not read back what was just written.
#[derive(Debug, Default)]
pub(crate) struct Recent(VecDeque<Change>);

impl Recent {
    /// Takes changes that follow the newest one, or else forgets those before them.
    pub(crate) fn push(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            if self.0.back().is_some_and(|last| last.revision + 1 != change.revision) {
                self.0.clear();
            }
            if self.0.len() == MAX_RECENT {
                self.0.pop_front();
            }
            self.0.push_back(change);
        }
    }

    /// Forgets what the feed has dropped.
    fn forget(&mut self, last_dropped: u64) {
        while self.0.front().is_some_and(|change| change.revision <= last_dropped) {
            self.0.pop_front();
        }
    }

    /// The changes after `revision`, if all of them up to `newest` are remembered.
    fn since(&self, revision: u64, newest: u64, limit: u32) -> Option<Vec<Change>> {
        let first = self.0.front()?.revision;
        if self.0.back()?.revision < newest || revision >= newest || revision + 1 < first {
            return None;
        }
        let skip = usize::try_from(revision + 1 - first).ok()?;
        Some(self.0.iter().skip(skip).take(limit as usize).cloned().collect())
    }
}

/// The answer of [`Store::changes_since`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// The changes after the given revision, oldest first, at most as many as asked for; empty
    /// when there was none.
    Since(Vec<Change>),
    /// The feed no longer reaches back so far (or never reached the given revision, as after a
    /// restore): everything must be read anew.
    Gone {
        /// The newest revision now.
        newest: u64,
    },
}

impl ChangeKind {
    /// How it is stored.
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Entry => 1,
            Self::Node => 2,
            Self::Bundle => 3,
            Self::Federation => 4,
        }
    }

    fn from_number(number: i64) -> Result<Self, Fault> {
        match number {
            1 => Ok(Self::Entry),
            2 => Ok(Self::Node),
            3 => Ok(Self::Bundle),
            4 => Ok(Self::Federation),
            other => Err(Fault::corrupt("change feed", format_args!("kind {other}"))),
        }
    }
}

impl Store {
    /// The changes after `revision`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn changes_since(&self, revision: u64, limit: u32) -> Result<Changes, StoreError> {
        if let Some(changes) = self.recent().since(revision, self.revision(), limit) {
            return Ok(Changes::Since(changes));
        }
        doing("reading the change feed", async {
            let mut conn = self.read().await?;
            let rows = sqlx::query(
                "SELECT revision, kind, key FROM changes WHERE revision > ? \
                 ORDER BY revision LIMIT ?",
            )
            .bind(i64::try_from(revision).unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .fetch_all(&mut *conn)
            .await?;
            let mut changes = Vec::with_capacity(rows.len());
            for row in rows {
                changes.push(Change {
                    revision: row.try_get::<i64, _>(0)?.cast_unsigned(),
                    kind: ChangeKind::from_number(row.try_get(1)?)?,
                    key: row.try_get(2)?,
                    to: ChangedTo::Unread,
                });
            }
            let reached = match changes.first() {
                Some(first) => first.revision.checked_sub(1) == Some(revision),
                None if limit == 0 => true,
                None => newest_revision(&mut conn).await? == revision,
            };
            if reached {
                return Ok(Changes::Since(changes));
            }
            Ok(Changes::Gone { newest: newest_revision(&mut conn).await? })
        })
        .await
    }

    /// Drops what the feed keeps no longer (see [`crate::StoreOptions`]); the newest change
    /// always stays. Returns how many rows were dropped.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be written.
    pub async fn prune_changes(&self, now: i64) -> Result<u64, StoreError> {
        doing("pruning the change feed", async {
            let newest = self.revision();
            let by_rows = newest.saturating_sub(self.inner.options.changes_max_rows);
            let too_old = now.saturating_sub(self.inner.options.changes_max_age);
            let first_kept: Option<i64> = {
                let mut conn = self.read().await?;
                sqlx::query("SELECT min(revision) FROM changes WHERE at >= ?")
                    .bind(too_old)
                    .fetch_one(&mut *conn)
                    .await?
                    .try_get(0)?
            };
            let by_age = first_kept.map_or(newest, i64::cast_unsigned).saturating_sub(1);
            let last_dropped = by_rows.max(by_age).min(newest.saturating_sub(1));
            self.recent().forget(last_dropped);
            let mut dropped = 0;
            loop {
                // In portions, so that other writers get their turn.
                let mut writer = self.lock().await?;
                let mut tx = writer.begin(now).await?;
                let done = sqlx::query(
                    "DELETE FROM changes WHERE revision IN (SELECT revision FROM changes \
                     WHERE revision <= ? ORDER BY revision LIMIT 10000)",
                )
                .bind(last_dropped.cast_signed())
                .execute(tx.conn().await?)
                .await?;
                tx.commit().await?;
                dropped += done.rows_affected();
                if done.rows_affected() < 10_000 {
                    return Ok(dropped);
                }
            }
        })
        .await
    }
}
