//! Entries as rows.

mod packed;

use std::{borrow::Cow, fmt::Display};

use signet_identity::{Entry, EntryId, EntrySpec, SpiffeId, TrustDomain};
use signet_time::UnixTime;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    flags,
    sqlite::{
        fault::Fault,
        index::Index,
        json, listing,
        listing::Listed,
        sql::{self, Batch},
        terms::Term,
        tx::Tx,
    },
};

/// How many columns [`Entry::COLUMNS`] names.
pub(crate) const WIDTH: usize = 15;

impl Listed for Entry {
    const INDEX: Index = Index::Entries;
    const TABLE: &'static str = "entries";
    const COLUMNS: &'static str = "id, entry_id, spiffe_id, parent_id, selectors, federates_with, \
         dns_names, hint, x509_svid_ttl, jwt_svid_ttl, flags, expires_at, created_at, revision, tenant";

    fn read(row: &SqliteRow) -> Result<Self, Fault> {
        let raw = Raw {
            entry_id: row.try_get(1)?,
            spiffe_id: row.try_get(2)?,
            parent_id: row.try_get(3)?,
            selectors: row.try_get(4)?,
            federates_with: row.try_get(5)?,
            dns_names: row.try_get(6)?,
            hint: row.try_get::<Option<&str>, _>(7)?.unwrap_or_default().into(),
            x509_svid_ttl: row.try_get(8)?,
            jwt_svid_ttl: row.try_get(9)?,
            flags: row.try_get(10)?,
            expires_at: row.try_get(11)?,
            created_at: row.try_get(12)?,
            revision: row.try_get(13)?,
            tenant: row.try_get(14)?,
            like: None,
        };
        raw.entry()
    }

    async fn read_on(
        conn: &mut SqliteConnection,
        after: i64,
        limit: i64,
    ) -> Result<Vec<(i64, Self)>, Fault> {
        packed::read_on(conn, after, limit).await
    }
}

/// The columns of an entry as they are stored.
struct Raw<'a> {
    entry_id: &'a str,
    spiffe_id: &'a str,
    parent_id: &'a str,
    selectors: &'a str,
    federates_with: Option<&'a str>,
    dns_names: Option<&'a str>,
    hint: Cow<'a, str>,
    x509_svid_ttl: i32,
    jwt_svid_ttl: i32,
    flags: i64,
    expires_at: i64,
    created_at: i64,
    revision: i64,
    tenant: Option<&'a str>,
    /// An entry that this one shares texts with where they are equal.
    like: Option<&'a Entry>,
}

impl Raw<'_> {
    fn entry(&self) -> Result<Entry, Fault> {
        let raw = self;
        let corrupt = |why: &dyn Display| Fault::corrupt(&format!("entry {}", raw.entry_id), why);
        let id = |text: &str, like: Option<&SpiffeId>| {
            let read = match like {
                Some(like) => SpiffeId::parse_like(text, like),
                None => text.parse(),
            };
            read.map_err(|error| corrupt(&error))
        };
        let spiffe_id = id(raw.spiffe_id, raw.like.map(|entry| &entry.spiffe_id))?;
        let parent_id = id(raw.parent_id, Some(raw.like.map_or(&spiffe_id, |it| &it.parent_id)))?;
        let selectors = json::read_selectors(raw.selectors).map_err(|error| corrupt(&error))?;
        let mut draft = EntrySpec::new(spiffe_id, parent_id, selectors);
        draft.federates_with = json::read_list(raw.federates_with)
            .map_err(|error| corrupt(&error))?
            .iter()
            .map(|name| name.parse::<TrustDomain>())
            .collect::<Result<_, _>>()
            .map_err(|error| corrupt(&error))?;
        draft.dns_names = json::read_list(raw.dns_names).map_err(|error| corrupt(&error))?;
        draft.hint = raw.hint.clone().into_owned();
        draft.x509_svid_ttl = raw.x509_svid_ttl;
        draft.jwt_svid_ttl = raw.jwt_svid_ttl;
        flags::unpack(raw.flags, &mut draft);
        // Neighbours are often of one tenant.
        let like = raw.like.and_then(|entry| entry.tenant.as_ref());
        draft.tenant = match (raw.tenant, like) {
            (None, _) => None,
            (Some(name), Some(like)) if like.as_str() == name => Some(like.clone()),
            (Some(name), _) => Some(name.parse().map_err(|error| corrupt(&error))?),
        };
        draft.expires_at = UnixTime::from_seconds(raw.expires_at);
        Ok(Entry {
            id: raw.entry_id.parse().map_err(|error| corrupt(&error))?,
            spec: draft,
            created_at: UnixTime::from_seconds(raw.created_at),
            revision_number: raw.revision,
        })
    }
}

/// Binds every column of [`Entry::COLUMNS`], in order.
pub(crate) fn bind(batch: &mut Batch, row: i64, entry: &Entry) {
    let flags = flags::pack(entry);
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
        .bind(entry.expires_at.seconds())
        .bind(entry.created_at.seconds())
        .bind(entry.revision_number)
        .bind(entry.tenant.as_ref().map(|tenant| tenant.as_str().to_owned()));
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
    listing::by_ids::<Entry>(conn, rows).await
}

/// The first `limit` entries that expired before then.
pub(crate) async fn expired(
    conn: &mut SqliteConnection,
    before: UnixTime,
    limit: u32,
) -> Result<Vec<(i64, Entry)>, Fault> {
    let rows = sqlx::query(
        "SELECT id FROM entries WHERE expires_at > 0 AND expires_at < ? ORDER BY expires_at LIMIT ?",
    )
    .bind(before.seconds())
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
