//! Attested nodes as rows.

use std::{fmt::Display, sync::Arc};

use signet_identity::{AttestedNode, SpiffeId};
use signet_time::UnixTime;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    ChangeKind, ChangedTo,
    sqlite::{fault::Fault, index::Index, json, listing::Listed, sql, terms, tx::Tx},
};

impl Listed for AttestedNode {
    const INDEX: Index = Index::Nodes;
    const TABLE: &'static str = "nodes";
    const COLUMNS: &'static str = "id, spiffe_id, attestation_type, serial_number, expires_at, \
         new_serial_number, new_expires_at, selectors, can_reattest, agent_version";

    fn read(row: &SqliteRow) -> Result<Self, Fault> {
        let id: &str = row.try_get(1)?;
        let corrupt = |why: &dyn Display| Fault::corrupt(&format!("attested node {id}"), why);
        Ok(Self {
            spiffe_id: id.parse().map_err(|error| corrupt(&error))?,
            attestation_type: row.try_get(2)?,
            serial_number: row.try_get(3)?,
            expires_at: UnixTime::from_seconds(row.try_get(4)?),
            new_serial_number: row.try_get(5)?,
            new_expires_at: UnixTime::from_seconds(row.try_get(6)?),
            selectors: json::read_selectors(row.try_get(7)?).map_err(|error| corrupt(&error))?,
            can_reattest: row.try_get::<i64, _>(8)? != 0,
            agent_version: row.try_get(9)?,
        })
    }
}

pub(crate) async fn get(
    conn: &mut SqliteConnection,
    id: &SpiffeId,
) -> Result<Option<(i64, AttestedNode)>, Fault> {
    let text = by_id();
    let rows = sql::query(text).bind(id.to_string()).fetch_all(conn).await?;
    read(&rows)
}

/// Asks for a node, of one parameter; [`read`] takes the answer.
pub(crate) fn by_id() -> String {
    format!("SELECT {} FROM nodes WHERE spiffe_id = ?", AttestedNode::COLUMNS)
}

/// The node in an answer, if there is one.
pub(crate) fn read(rows: &[SqliteRow]) -> Result<Option<(i64, AttestedNode)>, Fault> {
    let read = |row: &SqliteRow| Ok((row.try_get(0)?, AttestedNode::read(row)?));
    rows.first().map(read).transpose()
}

/// Writes a node: over `old`, or as a new one.
pub(crate) async fn put(
    tx: &mut Tx,
    old: Option<&(i64, AttestedNode)>,
    node: &AttestedNode,
) -> Result<(), Fault> {
    let (row, old_terms) = match old {
        Some((row, node)) => (*row, terms::of_node(node)),
        // A new node takes the row after all others.
        None => (tx.new_rows(Index::Nodes, 1).await?, Vec::new()),
    };
    put_at(tx, row, &old_terms, node).await
}

/// Writes a node into this row, in which there may be one with these terms.
pub(crate) async fn put_at(
    tx: &mut Tx,
    row: i64,
    old_terms: &[terms::Term],
    node: &AttestedNode,
) -> Result<(), Fault> {
    let columns = AttestedNode::COLUMNS;
    let text = format!("REPLACE INTO nodes ({columns}) VALUES {}", sql::values(1, 10));
    tx.later(&text)
        .await?
        .bind(row)
        .bind(node.spiffe_id.to_string())
        .bind(node.attestation_type.as_str())
        .bind(node.serial_number.as_str())
        .bind(node.expires_at.seconds())
        .bind(node.new_serial_number.as_str())
        .bind(node.new_expires_at.seconds())
        .bind(json::selectors(&node.selectors))
        .bind(i64::from(node.can_reattest))
        .bind(node.agent_version.as_str());
    terms::replace(tx, Index::Nodes, row, old_terms, &terms::of_node(node)).await?;
    let to = ChangedTo::Node(Arc::new(node.clone()));
    tx.changed(ChangeKind::Node, node.spiffe_id.to_string(), to);
    Ok(())
}

pub(crate) async fn delete(tx: &mut Tx, found: &(i64, AttestedNode)) -> Result<(), Fault> {
    let (row, node) = found;
    tx.later("DELETE FROM nodes WHERE id = ?").await?.bind(*row);
    terms::replace(tx, Index::Nodes, *row, &terms::of_node(node), &[]).await?;
    tx.changed(ChangeKind::Node, node.spiffe_id.to_string(), ChangedTo::Gone);
    Ok(())
}

/// The first `limit` nodes, none of them banned, whose newest SVID expired before then.
pub(crate) async fn expired(
    conn: &mut SqliteConnection,
    before: UnixTime,
    also_non_reattestable: bool,
    limit: u32,
) -> Result<Vec<(i64, AttestedNode)>, Fault> {
    let text = format!(
        "SELECT {} FROM nodes WHERE expires_at < ? AND new_expires_at < ? \
         AND (serial_number <> '' OR new_serial_number <> '') AND can_reattest >= ? \
         ORDER BY expires_at LIMIT ?",
        AttestedNode::COLUMNS
    );
    let rows = sql::query(text)
        .bind(before.seconds())
        .bind(before.seconds())
        .bind(i64::from(!also_non_reattestable))
        .bind(limit)
        .fetch_all(conn)
        .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, AttestedNode::read(row)?))).collect()
}

pub(crate) async fn count(conn: &mut SqliteConnection) -> Result<u64, Fault> {
    let row = sqlx::query("SELECT count(*) FROM nodes").fetch_one(conn).await?;
    Ok(row.try_get::<i64, _>(0)?.cast_unsigned())
}
