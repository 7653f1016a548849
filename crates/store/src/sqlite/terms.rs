//! The inverted index: hashes of criteria to row IDs.

use sqlx::{Row, SqliteConnection};

use crate::sqlite::{fault::Fault, index::Index, sql, tx::Tx};
pub(crate) use crate::terms::{
    Term, attestation_type, banned, downstream, federates_with, hint, of_entry, of_node, parent,
    selector, similar, spiffe_id,
};

/// Adds pairs that are not there yet.
pub(crate) async fn insert(tx: &mut Tx, index: Index, pairs: &[(Term, i64)]) -> Result<(), Fault> {
    let into = format!("INSERT INTO {} (term, row) VALUES", index.table());
    write(tx, pairs, |values| format!("{into} {values}")).await
}

/// Removes pairs.
pub(crate) async fn delete(tx: &mut Tx, index: Index, pairs: &[(Term, i64)]) -> Result<(), Fault> {
    let from = format!("DELETE FROM {} WHERE (term, row) IN (VALUES", index.table());
    write(tx, pairs, |values| format!("{from} {values})")).await
}

async fn write(
    tx: &mut Tx,
    pairs: &[(Term, i64)],
    text: impl Fn(String) -> String,
) -> Result<(), Fault> {
    for run in sql::runs(pairs, 2) {
        let batch = tx.later(&text(sql::values(run.len(), 2))).await?;
        for (term, row) in run {
            batch.bind(*term).bind(*row);
        }
    }
    Ok(())
}

/// Turns the terms of a row from `old` into `new`; both sorted.
pub(crate) async fn replace(
    tx: &mut Tx,
    index: Index,
    row: i64,
    old: &[Term],
    new: &[Term],
) -> Result<(), Fault> {
    let only_in = |a: &[Term], b: &[Term]| -> Vec<(Term, i64)> {
        a.iter().filter(|term| b.binary_search(term).is_err()).map(|term| (*term, row)).collect()
    };
    delete(tx, index, &only_in(old, new)).await?;
    insert(tx, index, &only_in(new, old)).await
}

/// The rows that have any of `terms`, sorted, each once.
pub(crate) async fn rows_with(
    conn: &mut SqliteConnection,
    index: Index,
    terms: &[Term],
) -> Result<Vec<i64>, Fault> {
    let mut rows = Vec::new();
    for run in sql::runs(terms, 1) {
        let text =
            format!("SELECT row FROM {} WHERE term IN ({})", index.table(), sql::list(run.len()));
        let mut query = sql::query(text);
        for term in run {
            query = query.bind(*term);
        }
        for row in query.fetch_all(&mut *conn).await? {
            rows.push(row.try_get::<i64, _>(0)?);
        }
    }
    rows.sort_unstable();
    rows.dedup();
    Ok(rows)
}
