//! Copying: rows as they are, the mark of a store that is being filled, and that of one that moved.

use std::time::Duration;

use async_trait::async_trait;
use signet_identity::{AttestedNode, Entry};
use signet_time::UnixTime;
use tokio::time::Instant;

use super::{
    bundles, entries,
    fault::Fault,
    federation,
    listing::{self, Listed},
    mark, nodes,
    sql::{Query, params},
    store::PostgresStore,
    tenants, tokens,
    tx::{Lock, Tx},
};
use crate::{
    Copying, Difference, HeldWriters, Operation, Reached, Record, RecordKind, Row, ServerRecord,
    StoreError,
    copying::{entries_of, nodes_of, read_reached, write_reached},
};

/// For changes that nobody follows.
const NOW: UnixTime = UnixTime::EPOCH;

/// How long writers may be held.
const LONGEST_HOLD: Duration = Duration::from_secs(24 * 60 * 60);

#[async_trait]
impl Copying for PostgresStore {
    async fn numbered(
        &self,
        kind: RecordKind,
        after: i64,
        last: i64,
        limit: u32,
    ) -> Result<Vec<Row>, StoreError> {
        self.reading(Operation::COPY, |query| async move {
            match kind {
                RecordKind::Nodes => rows(&query, after, last, limit, Record::Node).await,
                _ => rows(&query, after, last, limit, Record::Entry).await,
            }
        })
        .await
    }

    async fn begin_copy(&self, source: &str, run: &str) -> Result<Reached, StoreError> {
        self.write(Operation::COPY, NOW, Lock::Registrations, move |tx| async move {
            let text = "SELECT reached, source FROM signet_copying WHERE id = 1";
            let found = tx.query.first(text, &[]).await?;
            if found.is_none() {
                must_be_empty(&tx.query).await?;
            }
            let reached = match &found {
                // How far another source was copied says nothing of this one.
                Some(row) if row.try_get::<_, &str>(1)? == source => row.try_get(0)?,
                _ => String::new(),
            };
            tx.query
                .execute(
                    "INSERT INTO signet_copying (id, source, run, reached) VALUES (1, $1, $2, $3) \
                     ON CONFLICT (id) DO UPDATE SET source = excluded.source, \
                     run = excluded.run, reached = excluded.reached",
                    params![source => TEXT, run => TEXT, reached => TEXT],
                )
                .await?;
            tx.commit().await?;
            Ok(read_reached(&reached))
        })
        .await
    }

    async fn put_difference(&self, run: &str, difference: &Difference) -> Result<(), StoreError> {
        self.write(Operation::COPY, NOW, Lock::Registrations, move |mut tx| async move {
            must_be_ours(&tx.query, run).await?;
            apply(&mut tx, difference).await?;
            if let Some(row) = difference.reached {
                let reached = write_reached(difference.kind, row);
                let text = "UPDATE signet_copying SET reached = $1 WHERE id = 1";
                tx.query.execute(text, params![reached => TEXT]).await?;
            }
            tx.commit().await
        })
        .await
    }

    async fn end_copy(&self, run: &str) -> Result<(), StoreError> {
        self.write(Operation::COPY, NOW, Lock::Registrations, move |tx| async move {
            if tx.query.first("SELECT 1 FROM signet_copying WHERE id = 1", &[]).await?.is_none() {
                // Done by a try whose COMMIT was not answered.
                return tx.leave().await;
            }
            must_be_ours(&tx.query, run).await?;
            // Row IDs were given; the database's own begin after them.
            tx.query
                .all(
                    "SELECT setval(pg_get_serial_sequence('signet_nodes', 'id'), \
                     (SELECT coalesce(max(id), 0) + 1 FROM signet_nodes), false)",
                    &[],
                )
                .await?;
            let epoch = mark::new_epoch()?;
            let text = "UPDATE signet_feed SET epoch = $1 WHERE id = 1";
            tx.query.execute(text, params![epoch => TEXT]).await?;
            tx.query.execute("DELETE FROM signet_copying", &[]).await?;
            tx.commit().await
        })
        .await
    }

    async fn hold_writers(&self) -> Result<Box<dyn HeldWriters>, StoreError> {
        let begun = Instant::now();
        let held = async {
            let conn = self.connection(&self.inner.pool, begun + self.inner.options.patience);
            let mut query = Query::new(conn.await?, begun + LONGEST_HOLD);
            query.set_in_transaction(true);
            // Every transaction that changes anything ends with a change to this row.
            query
                .batch(&format!(
                    "BEGIN; SET LOCAL lock_timeout = {}; \
                     SET LOCAL idle_in_transaction_session_timeout = 0; \
                     SELECT 1 FROM signet_feed WHERE id = 1 FOR UPDATE",
                    self.inner.options.patience.as_millis()
                ))
                .await?;
            Ok(Held(query))
        };
        let held = held.await.map_err(|fault: Fault| fault.while_doing(Operation::COPY.doing()));
        self.observe(Operation::COPY, begun, 1, &held);
        Ok(Box::new(held?))
    }

    async fn reopen(&self) -> Result<bool, StoreError> {
        self.reading(Operation::COPY, |query| async move {
            let text = "UPDATE signet_feed SET moved_to = '' WHERE moved_to <> ''";
            Ok(query.execute(text, &[]).await? > 0)
        })
        .await
    }
}

/// A transaction that has locked the row of the feed.
struct Held(Query);

#[async_trait]
impl HeldWriters for Held {
    async fn close_store(mut self: Box<Self>, moved_to: &str) -> Result<(), StoreError> {
        let closed = async {
            let text = "UPDATE signet_feed SET moved_to = $1 WHERE id = 1";
            self.0.execute(text, params![moved_to => TEXT]).await?;
            self.0.batch("COMMIT").await
        };
        closed.await.map_err(|fault| fault.while_doing(Operation::COPY.doing()))?;
        self.0.set_in_transaction(false);
        Ok(())
    }
}

async fn rows<T: Listed>(
    query: &Query,
    after: i64,
    last: i64,
    limit: u32,
    record: impl Fn(T) -> Record,
) -> Result<Vec<Row>, Fault> {
    let rows: Vec<(i64, T)> = listing::select(
        query,
        "id > $1 AND id <= $2 ORDER BY id LIMIT $3",
        params![after => INT8, last => INT8, i64::from(limit) => INT8],
    )
    .await?;
    Ok(rows.into_iter().map(|(row, item)| (row, record(item))).collect())
}

async fn must_be_empty(query: &Query) -> Result<(), Fault> {
    let text = "SELECT 1 FROM signet_entries UNION ALL SELECT 1 FROM signet_bundles \
                UNION ALL SELECT 1 FROM signet_nodes UNION ALL SELECT 1 FROM signet_federations \
                UNION ALL SELECT 1 FROM signet_join_tokens \
                UNION ALL SELECT 1 FROM signet_assignments \
                UNION ALL SELECT 1 FROM signet_journals \
                UNION ALL SELECT 1 FROM signet_servers LIMIT 1";
    match query.first(text, &[]).await? {
        Some(_) => Err(Fault::NotEmpty),
        None => Ok(()),
    }
}

/// The row is locked: whoever takes over waits for the end of this transaction.
async fn must_be_ours(query: &Query, run: &str) -> Result<(), Fault> {
    let text = "SELECT 1 FROM signet_copying WHERE id = 1 AND run = $1 FOR UPDATE";
    let ours = query.first(text, params![run => TEXT]).await?;
    ours.map(drop).ok_or(Fault::TakenOver)
}

async fn apply(tx: &mut Tx, difference: &Difference) -> Result<(), Fault> {
    let gone: Vec<i64> = difference.gone.iter().map(|(row, _)| *row).collect();
    match difference.kind {
        RecordKind::Entries => {
            let new = entries_of(&difference.new);
            let ids: Vec<&str> = new.iter().map(|(_, entry)| entry.id.as_str()).collect();
            // Those that have another row there go as well.
            let text = "DELETE FROM signet_entries WHERE id = ANY($1) OR entry_id = ANY($2)";
            tx.query.execute(text, params![gone => INT8_ARRAY, ids => TEXT_ARRAY]).await?;
            entries::write::insert(tx, &new).await
        }
        RecordKind::Nodes => {
            let new = nodes_of(&difference.new);
            let ids: Vec<String> = new.iter().map(|(_, node)| node.spiffe_id.to_string()).collect();
            let text = "DELETE FROM signet_nodes WHERE id = ANY($1) OR spiffe_id = ANY($2)";
            tx.query.execute(text, params![gone => INT8_ARRAY, ids => TEXT_ARRAY]).await?;
            nodes::rows::insert_all(&tx.query, &new).await
        }
        kind => {
            let text = format!("DELETE FROM {}", table(kind));
            tx.query.execute(&text, &[]).await?;
            for (_, record) in &difference.new {
                put(tx, record).await?;
            }
            Ok(())
        }
    }
}

fn table(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Entries => Entry::TABLE,
        RecordKind::Nodes => AttestedNode::TABLE,
        // Their authorities go along.
        RecordKind::Bundles => "signet_bundles",
        RecordKind::Federations => "signet_federations",
        RecordKind::JoinTokens => "signet_join_tokens",
        RecordKind::Assignments => "signet_assignments",
        RecordKind::Journals => "signet_journals",
        RecordKind::Servers => "signet_servers",
    }
}

/// Writes one of a kind that is written all together.
async fn put(tx: &mut Tx, record: &Record) -> Result<(), Fault> {
    match record {
        // These have row IDs.
        Record::Entry(_) | Record::Node(_) => Ok(()),
        Record::Bundle(bundle) => bundles::rows::put(tx, None, bundle).await,
        Record::Federation(relationship) => federation::put(tx, relationship).await,
        Record::JoinToken(token) => tokens::insert(&tx.query, token).await.map(drop),
        Record::Assignment(said) => tenants::put(tx, said).await,
        Record::Journal { server, data } => {
            let text = "INSERT INTO signet_journals (server, data, updated_at) VALUES ($1, $2, 0)";
            let values: &[_] = params![*server => TEXT, *data => BYTEA];
            tx.query.execute(text, values).await.map(drop)
        }
        Record::Server(server) => put_server(&tx.query, server).await,
    }
}

async fn put_server(query: &Query, server: &ServerRecord) -> Result<(), Fault> {
    query
        .execute(
            "INSERT INTO signet_servers \
             (id, host, version, started_at, seen_at, issued_until, retired_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            params![
                server.id => TEXT, server.host => TEXT, server.version => TEXT,
                server.started_at.seconds() => INT8, server.seen_at.seconds() => INT8,
                server.issued_until.seconds() => INT8, server.retired_at.seconds() => INT8,
            ],
        )
        .await
        .map(drop)
}
