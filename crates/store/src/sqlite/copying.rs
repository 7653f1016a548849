//! Copying: rows as they are, the mark of a store that is being filled, and that of one that moved.

use async_trait::async_trait;
use signet_identity::{AttestedNode, Entry, EntryId};
use signet_time::UnixTime;
use sqlx::Row as _;
use tokio::time::Instant;

use crate::{
    Copying, Difference, HeldWriters, Operation, Reached, Record, RecordKind, Row, StoreError,
    copying::{entries_of, nodes_of, read_reached, write_reached},
    sqlite::{
        SqliteStore, bundles, entries,
        fault::Fault,
        federation,
        listing::{self, Listed},
        nodes, sql,
        store::Writer,
        tenants, tokens,
        tx::Tx,
    },
};

/// For changes that nobody follows.
const NOW: UnixTime = UnixTime::EPOCH;

#[async_trait]
impl Copying for SqliteStore {
    async fn numbered(
        &self,
        kind: RecordKind,
        after: i64,
        last: i64,
        limit: u32,
    ) -> Result<Vec<Row>, StoreError> {
        self.reading(Operation::COPY, async {
            match kind {
                RecordKind::Nodes => rows(self, after, last, limit, Record::Node).await,
                _ => rows(self, after, last, limit, Record::Entry).await,
            }
        })
        .await
    }

    async fn begin_copy(&self, source: &str, run: &str) -> Result<Reached, StoreError> {
        self.write(Operation::COPY, NOW, move |mut tx| async move {
            let found = sqlx::query("SELECT reached, source FROM copying WHERE id = 1")
                .fetch_optional(tx.conn().await?)
                .await?;
            if found.is_none() {
                must_be_empty(&mut tx).await?;
            }
            let reached = match &found {
                // How far another source was copied says nothing of this one.
                Some(row) if row.try_get::<&str, _>(1)? == source => row.try_get(0)?,
                _ => String::new(),
            };
            sqlx::query("REPLACE INTO copying (id, source, run, reached) VALUES (1, ?, ?, ?)")
                .bind(source)
                .bind(run)
                .bind(&reached)
                .execute(tx.conn().await?)
                .await?;
            tx.commit().await?;
            Ok(read_reached(&reached))
        })
        .await
    }

    async fn put_difference(&self, run: &str, difference: &Difference) -> Result<(), StoreError> {
        self.write(Operation::COPY, NOW, move |mut tx| async move {
            must_be_ours(&mut tx, run).await?;
            apply(&mut tx, difference).await?;
            if let Some(row) = difference.reached {
                sqlx::query("UPDATE copying SET reached = ? WHERE id = 1")
                    .bind(write_reached(difference.kind, row))
                    .execute(tx.conn().await?)
                    .await?;
            }
            tx.commit().await
        })
        .await
    }

    async fn end_copy(&self, run: &str) -> Result<(), StoreError> {
        self.write(Operation::COPY, NOW, move |mut tx| async move {
            must_be_ours(&mut tx, run).await?;
            for text in [
                "UPDATE feed SET epoch = lower(hex(randomblob(16))) WHERE id = 1",
                "DELETE FROM copying",
            ] {
                sqlx::query(text).execute(tx.conn().await?).await?;
            }
            tx.commit().await
        })
        .await
    }

    async fn hold_writers(&self) -> Result<Box<dyn HeldWriters>, StoreError> {
        let begun = Instant::now();
        let held = async {
            let mut writer = self.writer().await?;
            writer.settle().await?;
            // Rolled back by the next writer.
            writer.unsettled = true;
            sqlx::query("BEGIN IMMEDIATE").execute(&mut writer.conn).await?;
            Ok(Held(Some(writer)))
        };
        let held = held.await.map_err(|fault: Fault| fault.while_doing(Operation::COPY.doing()));
        self.observe(Operation::COPY, begun, 1, &held);
        Ok(Box::new(held?))
    }

    async fn reopen(&self) -> Result<bool, StoreError> {
        self.reading(Operation::COPY, async {
            let mut writer = self.writer().await?;
            writer.settle().await?;
            let text = "UPDATE feed SET moved_to = '' WHERE moved_to <> ''";
            Ok(sqlx::query(text).execute(&mut writer.conn).await?.rows_affected() > 0)
        })
        .await
    }
}

/// The writing connection with the database's write lock; there until it is closed or dropped.
struct Held(Option<Writer>);

#[async_trait]
impl HeldWriters for Held {
    async fn close_store(mut self: Box<Self>, moved_to: &str) -> Result<(), StoreError> {
        let closed = async {
            let writer = self.0.as_mut().ok_or(Fault::Closed)?;
            let text = "UPDATE feed SET moved_to = ? WHERE id = 1";
            sqlx::query(text).bind(moved_to).execute(&mut writer.conn).await?;
            sqlx::query("COMMIT").execute(&mut writer.conn).await?;
            writer.unsettled = false;
            Ok(())
        };
        let closed: Result<(), Fault> = closed.await;
        closed.map_err(|fault| fault.while_doing(Operation::COPY.doing()))
    }
}

impl Drop for Held {
    /// What is left open holds the lock: it is rolled back at once.
    fn drop(&mut self) {
        if let Some(mut writer) = self.0.take().filter(|writer| writer.unsettled)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                writer.settle().await.map_err(|fault| {
                    tracing::debug!(?fault, "Letting writers go on");
                })
            });
        }
    }
}

async fn rows<T: Listed>(
    store: &SqliteStore,
    after: i64,
    last: i64,
    limit: u32,
    record: impl Fn(T) -> Record,
) -> Result<Vec<Row>, Fault> {
    let mut conn = store.reader().await?;
    let rows = T::read_on(&mut conn, after, i64::from(limit)).await?;
    Ok(rows
        .into_iter()
        .filter(|(row, _)| *row <= last)
        .map(|(row, item)| (row, record(item)))
        .collect())
}

async fn must_be_empty(tx: &mut Tx) -> Result<(), Fault> {
    let filled = sqlx::query(
        "SELECT 1 FROM entries UNION ALL SELECT 1 FROM bundles UNION ALL \
         SELECT 1 FROM nodes UNION ALL SELECT 1 FROM federations UNION ALL \
         SELECT 1 FROM join_tokens UNION ALL SELECT 1 FROM assignments UNION ALL \
         SELECT 1 FROM journals UNION ALL SELECT 1 FROM servers LIMIT 1",
    );
    match filled.fetch_optional(tx.conn().await?).await? {
        Some(_) => Err(Fault::NotEmpty),
        None => Ok(()),
    }
}

async fn must_be_ours(tx: &mut Tx, run: &str) -> Result<(), Fault> {
    let ours = sqlx::query("SELECT 1 FROM copying WHERE id = 1 AND run = ?")
        .bind(run)
        .fetch_optional(tx.conn().await?)
        .await?;
    ours.map(drop).ok_or(Fault::TakenOver)
}

async fn apply(tx: &mut Tx, difference: &Difference) -> Result<(), Fault> {
    match difference.kind {
        RecordKind::Entries => {
            let new = entries_of(&difference.new);
            let ids: Vec<EntryId> = new.iter().map(|(_, entry)| entry.id.clone()).collect();
            // Those that have another row there go as well.
            let mut gone = entries::rows::by_entry_ids(tx.conn().await?, &ids).await?;
            gone.extend(entries_of(&difference.gone));
            gone.sort_unstable_by_key(|(row, _)| *row);
            gone.dedup_by_key(|(row, _)| *row);
            entries::write::delete(tx, &gone).await?;
            entries::write::insert(tx, &new).await
        }
        RecordKind::Nodes => {
            for found in nodes_of(&difference.gone) {
                nodes::rows::delete(tx, &found).await?;
            }
            for (row, node) in nodes_of(&difference.new) {
                if let Some(found) = nodes::rows::get(tx.conn().await?, &node.spiffe_id).await? {
                    nodes::rows::delete(tx, &found).await?;
                }
                nodes::rows::put_at(tx, row, &[], &node).await?;
            }
            Ok(())
        }
        kind => {
            let text = format!("DELETE FROM {}", table(kind));
            sql::query(text).execute(tx.conn().await?).await?;
            for (_, record) in &difference.new {
                put(tx, record).await?;
            }
            Ok(())
        }
    }
}

fn table(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Entries => <Entry as Listed>::TABLE,
        RecordKind::Nodes => <AttestedNode as listing::Listed>::TABLE,
        // Their authorities go along.
        RecordKind::Bundles => "bundles",
        RecordKind::Federations => "federations",
        RecordKind::JoinTokens => "join_tokens",
        RecordKind::Assignments => "assignments",
        RecordKind::Journals => "journals",
        RecordKind::Servers => "servers",
    }
}

/// Writes one of a kind that is written all together.
async fn put(tx: &mut Tx, record: &Record) -> Result<(), Fault> {
    match record {
        // These have row IDs.
        Record::Entry(_) | Record::Node(_) => {}
        Record::Bundle(bundle) => bundles::rows::put(tx, None, bundle).await?,
        Record::Federation(relationship) => federation::put(tx, relationship).await?,
        Record::JoinToken(token) => tokens::insert(tx, token).await?,
        Record::Assignment(said) => tenants::put(tx, said).await?,
        Record::Journal { server, data } => {
            tx.later("INSERT INTO journals (server, data, updated_at) VALUES (?, ?, 0)")
                .await?
                .bind(server.as_str())
                .bind(data.clone());
        }
        Record::Server(server) => {
            tx.later(
                "INSERT INTO servers (id, host, version, started_at, seen_at, issued_until, \
                 retired_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            )
            .await?
            .bind(server.id.as_str())
            .bind(server.host.as_str())
            .bind(server.version.as_str())
            .bind(server.started_at.seconds())
            .bind(server.seen_at.seconds())
            .bind(server.issued_until.seconds())
            .bind(server.retired_at.seconds());
        }
    }
    Ok(())
}
