//! Attested nodes as rows.

use std::sync::Arc;

use signet_identity::{AttestedNode, SpiffeId};
use signet_time::UnixTime;
use tokio_postgres::Row;

use crate::{
    ChangeKind, ChangedTo,
    postgres::{
        array,
        fault::Fault,
        listing::{self, Listed},
        sql::{Query, params},
        tx::Tx,
    },
    sqlite::json,
    terms,
};

impl Listed for AttestedNode {
    const TABLE: &'static str = "signet_nodes";
    const COLUMNS: &'static str = "id, spiffe_id, attestation_type, serial_number, expires_at, \
         new_serial_number, new_expires_at, selectors, can_reattest, agent_version";

    fn read(row: &Row) -> Result<Self, Fault> {
        let id: &str = row.try_get(1)?;
        let what = format!("attested node {id}");
        Ok(Self {
            spiffe_id: id.parse().map_err(|error| Fault::corrupt(&what, error))?,
            attestation_type: row.try_get(2)?,
            serial_number: row.try_get(3)?,
            expires_at: UnixTime::from_seconds(row.try_get(4)?),
            new_serial_number: row.try_get(5)?,
            new_expires_at: UnixTime::from_seconds(row.try_get(6)?),
            selectors: json::read_selectors(row.try_get(7)?)
                .map_err(|error| Fault::corrupt(&what, error))?,
            can_reattest: row.try_get::<_, i64>(8)? != 0,
            agent_version: row.try_get(9)?,
        })
    }
}

pub(super) async fn get(
    query: &Query,
    id: &SpiffeId,
) -> Result<Option<(i64, AttestedNode)>, Fault> {
    let id = id.to_string();
    Ok(listing::select(query, "spiffe_id = $1", params![id => TEXT]).await?.pop())
}

/// The node, which nobody else changes until the transaction ends.
pub(in super::super) async fn locked(
    query: &Query,
    id: &SpiffeId,
) -> Result<Option<(i64, AttestedNode)>, Fault> {
    let id = id.to_string();
    Ok(listing::select(query, "spiffe_id = $1 FOR UPDATE", params![id => TEXT]).await?.pop())
}

/// Writes a node: over the one with its SPIFFE ID, or as a new one.
pub(in super::super) async fn put(tx: &mut Tx, node: &AttestedNode) -> Result<(), Fault> {
    let or = "UPDATE SET \
              attestation_type = excluded.attestation_type, \
              serial_number = excluded.serial_number, expires_at = excluded.expires_at, \
              new_serial_number = excluded.new_serial_number, \
              new_expires_at = excluded.new_expires_at, selectors = excluded.selectors, \
              can_reattest = excluded.can_reattest, agent_version = excluded.agent_version, \
              terms = excluded.terms";
    insert(tx, node, or).await.map(drop)
}

/// Whether it was created: there was none.
pub(super) async fn create(tx: &mut Tx, node: &AttestedNode) -> Result<bool, Fault> {
    insert(tx, node, "NOTHING").await
}

/// Whether a row was written; `or` is what is done where there is one.
async fn insert(tx: &mut Tx, node: &AttestedNode, or: &str) -> Result<bool, Fault> {
    let text = format!(
        "INSERT INTO signet_nodes (spiffe_id, attestation_type, serial_number, expires_at, \
         new_serial_number, new_expires_at, selectors, can_reattest, agent_version, terms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (spiffe_id) DO {or}"
    );
    let written = tx
        .query
        .execute(
            &text,
            params![
                node.spiffe_id.to_string() => TEXT, node.attestation_type => TEXT,
                node.serial_number => TEXT, node.expires_at.seconds() => INT8,
                node.new_serial_number => TEXT, node.new_expires_at.seconds() => INT8,
                json::selectors(&node.selectors) => TEXT, i64::from(node.can_reattest) => INT8,
                node.agent_version => TEXT, terms::of_node(node) => INT8_ARRAY,
            ],
        )
        .await?;
    if written == 0 {
        return Ok(false);
    }
    let to = ChangedTo::Node(Arc::new(node.clone()));
    tx.changed(ChangeKind::Node, node.spiffe_id.to_string(), to);
    Ok(true)
}

/// Inserts nodes with the row IDs given, as they are.
pub(in super::super) async fn insert_all(
    query: &Query,
    nodes: &[(i64, AttestedNode)],
) -> Result<(), Fault> {
    let mut texts: [Vec<String>; 7] = Default::default();
    let mut numbers: [Vec<i64>; 4] = Default::default();
    for (row, node) in nodes {
        let of_node = [
            node.spiffe_id.to_string(),
            node.attestation_type.clone(),
            node.serial_number.clone(),
            node.new_serial_number.clone(),
            json::selectors(&node.selectors),
            node.agent_version.clone(),
            array(&terms::of_node(node)),
        ];
        let can_reattest = i64::from(node.can_reattest);
        let expiries = [node.expires_at.seconds(), node.new_expires_at.seconds()];
        let [expires_at, new_expires_at] = expiries;
        texts.iter_mut().zip(of_node).for_each(|(column, text)| column.push(text));
        let of_node = [*row, expires_at, new_expires_at, can_reattest];
        numbers.iter_mut().zip(of_node).for_each(|(column, number)| column.push(number));
    }
    let [spiffe_id, kind, serial, new_serial, selectors, version, terms] = &texts;
    let [id, expires_at, new_expires_at, can_reattest] = &numbers;
    if id.is_empty() {
        return Ok(());
    }
    query
        .execute(
            "INSERT INTO signet_nodes (id, spiffe_id, attestation_type, serial_number, expires_at, \
             new_serial_number, new_expires_at, selectors, can_reattest, agent_version, terms) \
             SELECT r.id, r.spiffe_id, r.kind, r.serial, r.expires_at, r.new_serial, \
             r.new_expires_at, r.selectors, r.can_reattest, r.version, r.terms::bigint[] \
             FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], \
             $6::text[], $7::bigint[], $8::text[], $9::bigint[], $10::text[], $11::text[]) \
             AS r(id, spiffe_id, kind, serial, expires_at, new_serial, new_expires_at, selectors, \
             can_reattest, version, terms)",
            params![
                *id => INT8_ARRAY, *spiffe_id => TEXT_ARRAY, *kind => TEXT_ARRAY,
                *serial => TEXT_ARRAY, *expires_at => INT8_ARRAY, *new_serial => TEXT_ARRAY,
                *new_expires_at => INT8_ARRAY, *selectors => TEXT_ARRAY,
                *can_reattest => INT8_ARRAY, *version => TEXT_ARRAY, *terms => TEXT_ARRAY,
            ],
        )
        .await
        .map(drop)
}

pub(super) async fn delete(tx: &mut Tx, row: i64, node: &AttestedNode) -> Result<(), Fault> {
    tx.query.execute("DELETE FROM signet_nodes WHERE id = $1", params![row => INT8]).await?;
    tx.changed(ChangeKind::Node, node.spiffe_id.to_string(), ChangedTo::Gone);
    Ok(())
}

/// The first `limit` nodes, none of them banned, whose newest SVID expired before then.
pub(super) async fn expired(
    query: &Query,
    before: UnixTime,
    also_non_reattestable: bool,
    limit: u32,
) -> Result<Vec<(i64, AttestedNode)>, Fault> {
    let least = i64::from(!also_non_reattestable);
    listing::select(
        query,
        "expires_at < $1 AND new_expires_at < $1 \
         AND (serial_number <> '' OR new_serial_number <> '') AND can_reattest >= $2 \
         ORDER BY expires_at, id LIMIT $3 FOR UPDATE",
        params![before.seconds() => INT8, least => INT8, i64::from(limit) => INT8],
    )
    .await
}
