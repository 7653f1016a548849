//! Many entries in one row: a row costs the driver ten times what it costs SQLite, and a starting
//! server reads millions.

use signet_identity::Entry;
use sqlx::{Row, SqliteConnection};

use super::Raw;
use crate::sqlite::{
    fault::{Code, Fault},
    listing, sql,
};

/// Between fields, and between entries. No field holds one: IDs cannot, JSON escapes them.
const FIELD: char = '\u{1f}';
const ENTRY: char = '\u{1e}';

/// How many fields a packed entry has.
const FIELDS: usize = 15;

/// The first `limit` entries after the row `after`, in order, with their row IDs.
pub(super) async fn read_on(
    conn: &mut SqliteConnection,
    after: i64,
    limit: i64,
) -> Result<Vec<(i64, Entry)>, Fault> {
    let text = format!(
        "SELECT group_concat(id || char(31) || entry_id || char(31) || spiffe_id || char(31) || \
         parent_id || char(31) || selectors || char(31) || coalesce(federates_with, '') || \
         char(31) || coalesce(dns_names, '') || char(31) || \
         CASE WHEN hint IS NULL THEN '' ELSE json_quote(hint) END || char(31) || \
         x509_svid_ttl || char(31) || jwt_svid_ttl || char(31) || flags || char(31) || \
         expires_at || char(31) || created_at || char(31) || revision || char(31) || \
         coalesce(tenant, ''), char(30)) \
         FROM (SELECT * FROM {} WHERE id > ? ORDER BY id LIMIT ?)",
        <Entry as listing::Listed>::TABLE
    );
    let read = sql::query(text).bind(after).bind(limit).fetch_one(&mut *conn).await;
    let row = match read {
        Ok(row) => row,
        // Entries of megabytes: one by one, then.
        Err(error) if Code::of(&error) == Some(Code::TooBig) => {
            return listing::read_rows(conn, after, limit).await;
        }
        Err(error) => return Err(error.into()),
    };
    let Some(packed) = row.try_get::<Option<&str>, _>(0)? else { return Ok(Vec::new()) };
    let mut entries: Vec<(i64, Entry)> = Vec::with_capacity(usize::try_from(limit).unwrap_or(0));
    for entry in packed.split(ENTRY) {
        let entry = unpack(entry, entries.last().map(|(_, entry)| entry))?;
        entries.push(entry);
    }
    // The order in which SQLite reads the rows, but not one that it promises.
    if !entries.is_sorted_by_key(|(row, _)| *row) {
        entries.sort_unstable_by_key(|(row, _)| *row);
    }
    Ok(entries)
}

fn unpack(packed: &str, like: Option<&Entry>) -> Result<(i64, Entry), Fault> {
    let mut fields = [""; FIELDS];
    let mut found = packed.split(FIELD);
    for field in &mut fields {
        *field = found.next().ok_or_else(|| corrupt("a field is missing"))?;
    }
    let [
        row,
        entry_id,
        spiffe_id,
        parent_id,
        selectors,
        federates_with,
        dns_names,
        hint,
        rest @ ..,
    ] = fields;
    let [x509_svid_ttl, jwt_svid_ttl, flags, expires_at, created_at, revision, tenant] = rest;
    let raw = Raw {
        entry_id,
        spiffe_id,
        parent_id,
        selectors,
        federates_with: Some(federates_with).filter(|list| !list.is_empty()),
        dns_names: Some(dns_names).filter(|list| !list.is_empty()),
        hint: match hint {
            "" => "".into(),
            quoted => serde_json::from_str::<String>(quoted).map_err(corrupt)?.into(),
        },
        x509_svid_ttl: number(x509_svid_ttl)?,
        jwt_svid_ttl: number(jwt_svid_ttl)?,
        flags: number(flags)?,
        expires_at: number(expires_at)?,
        created_at: number(created_at)?,
        revision: number(revision)?,
        tenant: Some(tenant).filter(|name| !name.is_empty()),
        like,
    };
    Ok((number(row)?, raw.entry()?))
}

fn number<T: std::str::FromStr<Err = std::num::ParseIntError>>(text: &str) -> Result<T, Fault> {
    text.parse().map_err(corrupt)
}

fn corrupt(why: impl std::fmt::Display) -> Fault {
    Fault::corrupt("a registration entry", why)
}
