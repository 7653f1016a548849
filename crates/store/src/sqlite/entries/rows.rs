//! Entries as rows.

use std::str::FromStr;

use signet_identity::{Entry, EntryDraft, EntryId, TrustDomain};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::sqlite::{
    fault::Fault,
    json, listing,
    listing::Listed,
    sql::{self, Batch},
    terms::{Index, Term},
    tx::Tx,
};

/// How many columns [`Entry::COLUMNS`] names.
pub(crate) const WIDTH: usize = 14;

const ADMIN: i64 = 1;
const DOWNSTREAM: i64 = 2;
const STORE_SVID: i64 = 4;
const DISABLE_PREFETCH: i64 = 8;
const INCLUDE_JTI: i64 = 16;

impl Listed for Entry {
    const INDEX: Index = Index::Entries;
    const TABLE: &'static str = "entries";
    const COLUMNS: &'static str = "id, entry_id, spiffe_id, parent_id, selectors, federates_with, \
         dns_names, hint, x509_svid_ttl, jwt_svid_ttl, flags, expires_at, created_at, revision";

    fn read(row: &SqliteRow) -> Result<Self, Fault> {
        let entry_id: &str = row.try_get(1)?;
        let what = format!("entry {entry_id}");
        let flags: i64 = row.try_get(10)?;
        let mut draft = EntryDraft::new(
            parse(&what, row.try_get(2)?)?,
            parse(&what, row.try_get(3)?)?,
            json::read_selectors(&what, row.try_get(4)?)?,
        );
        draft.federates_with = json::read_list(&what, row.try_get(5)?)?
            .iter()
            .map(|name| parse::<TrustDomain>(&what, name))
            .collect::<Result<_, _>>()?;
        draft.dns_names = json::read_list(&what, row.try_get(6)?)?;
        draft.hint = row.try_get::<Option<String>, _>(7)?.unwrap_or_default();
        draft.x509_svid_ttl = row.try_get(8)?;
        draft.jwt_svid_ttl = row.try_get(9)?;
        draft.admin = flags & ADMIN != 0;
        draft.downstream = flags & DOWNSTREAM != 0;
        draft.store_svid = flags & STORE_SVID != 0;
        draft.disable_x509_svid_prefetch = flags & DISABLE_PREFETCH != 0;
        draft.jwt_svid_include_jti = flags & INCLUDE_JTI != 0;
        draft.expires_at = row.try_get(11)?;
        Ok(Self {
            id: parse(&what, entry_id)?,
            body: draft,
            created_at: row.try_get(12)?,
            revision_number: row.try_get(13)?,
        })
    }
}

fn parse<T: FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T, Fault> {
    text.parse().map_err(|error| Fault::corrupt(what, error))
}

/// Binds every column of [`Entry::COLUMNS`], in order.
pub(crate) fn bind(batch: &mut Batch, row: i64, entry: &Entry) {
    let flag = |set: bool, flag: i64| if set { flag } else { 0 };
    let flags = flag(entry.admin, ADMIN)
        | flag(entry.downstream, DOWNSTREAM)
        | flag(entry.store_svid, STORE_SVID)
        | flag(entry.disable_x509_svid_prefetch, DISABLE_PREFETCH)
        | flag(entry.jwt_svid_include_jti, INCLUDE_JTI);
    let federates_with: Vec<&str> = entry.federates_with.iter().map(TrustDomain::as_str).collect();
    batch
        .bind(row)
        .bind(entry.id.as_str().to_owned())
        .bind(entry.spiffe_id.to_string())
        .bind(entry.parent_id.to_string())
        .bind(json::selectors(&entry.selectors))
        .bind(json::list(&federates_with))
        .bind(json::list(&entry.dns_names))
        .bind((!entry.hint.is_empty()).then(|| entry.hint.clone()))
        .bind(entry.x509_svid_ttl)
        .bind(entry.jwt_svid_ttl)
        .bind(flags)
        .bind(entry.expires_at)
        .bind(entry.created_at)
        .bind(entry.revision_number);
}

/// The entries with any of these IDs or similarity terms, in no particular order, some perhaps
/// twice.
pub(crate) async fn like(tx: &mut Tx, wanted: &[(&EntryId, Term)]) -> Result<Vec<Entry>, Fault> {
    let mut found = Vec::new();
    for run in sql::runs(wanted, 2) {
        let (columns, marks) = (Entry::COLUMNS, sql::list(run.len()));
        let text = format!(
            "SELECT {columns} FROM entries WHERE entry_id IN ({marks}) UNION ALL \
             SELECT {columns} FROM entries WHERE id IN \
             (SELECT row FROM entry_terms WHERE term IN ({marks}))"
        );
        let batch = tx.later(&text).await?;
        for (id, _) in run {
            batch.bind(id.as_str());
        }
        for (_, term) in run {
            batch.bind(*term);
        }
        for row in tx.last().await? {
            found.push(Entry::read(&row)?);
        }
    }
    Ok(found)
}

/// Those of `ids` that exist, with their row IDs, in no particular order.
pub(crate) async fn by_entry_ids(
    conn: &mut SqliteConnection,
    ids: &[EntryId],
) -> Result<Vec<(i64, Entry)>, Fault> {
    let keys: Vec<&str> = ids.iter().map(EntryId::as_str).collect();
    let mut found = listing::by_keys::<Entry, _>(conn, "entry_id", &keys).await?;
    // The same ID may have been asked for twice.
    found.sort_unstable_by_key(|(row, _)| *row);
    found.dedup_by_key(|(row, _)| *row);
    Ok(found)
}

/// The entries in these rows (sorted).
pub(crate) async fn by_rows(
    conn: &mut SqliteConnection,
    rows: &[i64],
) -> Result<Vec<(i64, Entry)>, Fault> {
    let found = listing::by_ids::<Entry>(conn, rows).await?;
    found.iter().map(|row| Ok((row.try_get(0)?, Entry::read(row)?))).collect()
}

/// The first `limit` entries that expired before then.
pub(crate) async fn expired(
    conn: &mut SqliteConnection,
    before: i64,
    limit: u32,
) -> Result<Vec<(i64, Entry)>, Fault> {
    let rows = sqlx::query(
        "SELECT id FROM entries WHERE expires_at > 0 AND expires_at < ? ORDER BY expires_at LIMIT ?",
    )
    .bind(before)
    .bind(limit)
    .fetch_all(&mut *conn)
    .await?;
    let mut ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()?;
    ids.sort_unstable();
    by_rows(conn, &ids).await
}

pub(crate) async fn count(conn: &mut SqliteConnection) -> Result<u64, Fault> {
    let row = sqlx::query("SELECT count(*) FROM entries").fetch_one(conn).await?;
    Ok(row.try_get::<i64, _>(0)?.cast_unsigned())
}
