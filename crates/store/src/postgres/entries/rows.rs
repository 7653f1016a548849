//! Entries as rows.

use std::str::FromStr;

use signet_identity::{Entry, EntryId, EntrySpec, TrustDomain};
use signet_time::UnixTime;
use tokio_postgres::Row;

use super::super::{
    fault::Fault,
    listing::{self, Listed},
    sql::{Query, params},
};
use crate::{
    flags,
    sqlite::json,
    terms::{self, Term},
};

impl Listed for Entry {
    const TABLE: &'static str = "signet_entries";
    const COLUMNS: &'static str = "id, entry_id, spiffe_id, parent_id, selectors, federates_with, \
         dns_names, hint, x509_svid_ttl, jwt_svid_ttl, flags, expires_at, created_at, revision, \
         tenant";

    fn read(row: &Row) -> Result<Self, Fault> {
        let entry_id: &str = row.try_get(1)?;
        let what = format!("entry {entry_id}");
        let ttl = |column| -> Result<i32, Fault> {
            let seconds: i64 = row.try_get(column)?;
            seconds.try_into().map_err(|error| Fault::corrupt(&what, error))
        };
        let flags: i64 = row.try_get(10)?;
        let mut draft = EntrySpec::new(
            parse(&what, row.try_get(2)?)?,
            parse(&what, row.try_get(3)?)?,
            json::read_selectors(row.try_get(4)?).map_err(|error| Fault::corrupt(&what, error))?,
        );
        draft.federates_with = json::read_list(row.try_get(5)?)
            .map_err(|error| Fault::corrupt(&what, error))?
            .iter()
            .map(|name| parse::<TrustDomain>(&what, name))
            .collect::<Result<_, _>>()?;
        draft.dns_names =
            json::read_list(row.try_get(6)?).map_err(|error| Fault::corrupt(&what, error))?;
        draft.hint = row.try_get::<_, Option<String>>(7)?.unwrap_or_default();
        draft.x509_svid_ttl = ttl(8)?;
        draft.jwt_svid_ttl = ttl(9)?;
        flags::unpack(flags, &mut draft);
        let tenant: Option<&str> = row.try_get(14)?;
        draft.tenant = tenant.map(|name| parse(&what, name)).transpose()?;
        draft.expires_at = UnixTime::from_seconds(row.try_get(11)?);
        Ok(Self {
            id: parse(&what, entry_id)?,
            spec: draft,
            created_at: UnixTime::from_seconds(row.try_get(12)?),
            revision_number: row.try_get(13)?,
        })
    }
}

fn parse<T: FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T, Fault> {
    text.parse().map_err(|error| Fault::corrupt(what, error))
}

/// The columns of many rows, each as an array.
#[derive(Default)]
pub(super) struct Columns {
    texts: [Vec<String>; 4],
    maybes: [Vec<Option<String>>; 4],
    numbers: [Vec<i64>; 9],
    terms: Vec<String>,
}

impl Columns {
    pub(super) fn of(entries: &[(i64, Entry)]) -> Self {
        let mut columns = Self::default();
        for (row, entry) in entries {
            columns.add(*row, entry);
        }
        columns
    }

    fn add(&mut self, row: i64, entry: &Entry) {
        let flags = flags::pack(entry);
        let federates_with: Vec<&str> =
            entry.federates_with.iter().map(TrustDomain::as_str).collect();
        let texts = [
            entry.id.as_str().to_owned(),
            entry.spiffe_id.to_string(),
            entry.parent_id.to_string(),
            json::selectors(&entry.selectors),
        ];
        let maybes = [
            json::list(&federates_with),
            json::list(&entry.dns_names),
            (!entry.hint.is_empty()).then(|| entry.hint.clone()),
            entry.tenant.as_ref().map(|tenant| tenant.as_str().to_owned()),
        ];
        let numbers = [
            row,
            entry.x509_svid_ttl.into(),
            entry.jwt_svid_ttl.into(),
            flags,
            entry.expires_at.seconds(),
            entry.created_at.seconds(),
            entry.revision_number,
            terms::similar(entry),
            terms::parent(&entry.parent_id),
        ];
        for (column, value) in self.texts.iter_mut().zip(texts) {
            column.push(value);
        }
        for (column, value) in self.maybes.iter_mut().zip(maybes) {
            column.push(value);
        }
        for (column, value) in self.numbers.iter_mut().zip(numbers) {
            column.push(value);
        }
        self.terms.push(super::super::array(&terms_of(entry)));
    }

    /// Writes the rows, over those with the same row ID.
    pub(super) async fn write(&self, query: &Query) -> Result<(), Fault> {
        const TEXT: &str = "INSERT INTO signet_entries (id, entry_id, spiffe_id, parent_id, \
            selectors, federates_with, dns_names, hint, x509_svid_ttl, jwt_svid_ttl, flags, \
            expires_at, created_at, revision, similar_term, parent_term, terms, tenant) \
            SELECT r.id, r.entry_id, r.spiffe_id, r.parent_id, r.selectors, r.federates_with, \
            r.dns_names, r.hint, r.x509_svid_ttl, r.jwt_svid_ttl, r.flags, r.expires_at, \
            r.created_at, r.revision, r.similar_term, r.parent_term, r.terms::bigint[], r.tenant \
            FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], \
            $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], \
            $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::text[], $18::text[]) \
            AS r(id, entry_id, spiffe_id, parent_id, selectors, federates_with, dns_names, hint, \
            x509_svid_ttl, jwt_svid_ttl, flags, expires_at, created_at, revision, similar_term, \
            parent_term, terms, tenant) \
            ON CONFLICT (id) DO UPDATE SET entry_id = excluded.entry_id, \
            spiffe_id = excluded.spiffe_id, parent_id = excluded.parent_id, \
            selectors = excluded.selectors, federates_with = excluded.federates_with, \
            dns_names = excluded.dns_names, hint = excluded.hint, \
            x509_svid_ttl = excluded.x509_svid_ttl, jwt_svid_ttl = excluded.jwt_svid_ttl, \
            flags = excluded.flags, expires_at = excluded.expires_at, \
            created_at = excluded.created_at, revision = excluded.revision, \
            similar_term = excluded.similar_term, parent_term = excluded.parent_term, \
            terms = excluded.terms, tenant = excluded.tenant";
        let [entry_id, spiffe_id, parent_id, selectors] = &self.texts;
        let [federates_with, dns_names, hint, tenant] = &self.maybes;
        let [id, x509, jwt, flags, expires_at, created_at, revision, similar, parent] =
            &self.numbers;
        if id.is_empty() {
            return Ok(());
        }
        query
            .execute(
                TEXT,
                params![
                    *id => INT8_ARRAY, *entry_id => TEXT_ARRAY, *spiffe_id => TEXT_ARRAY,
                    *parent_id => TEXT_ARRAY, *selectors => TEXT_ARRAY,
                    *federates_with => TEXT_ARRAY, *dns_names => TEXT_ARRAY, *hint => TEXT_ARRAY,
                    *x509 => INT8_ARRAY, *jwt => INT8_ARRAY, *flags => INT8_ARRAY,
                    *expires_at => INT8_ARRAY, *created_at => INT8_ARRAY, *revision => INT8_ARRAY,
                    *similar => INT8_ARRAY, *parent => INT8_ARRAY, self.terms => TEXT_ARRAY,
                    *tenant => TEXT_ARRAY,
                ],
            )
            .await?;
        Ok(())
    }
}

/// Those terms that have no column of their own.
fn terms_of(entry: &Entry) -> Vec<Term> {
    let own = [terms::similar(entry), terms::parent(&entry.parent_id)];
    terms::of_entry(entry).into_iter().filter(|term| !own.contains(term)).collect()
}

/// The entries with any of these IDs or similarity terms.
pub(super) async fn like(
    query: &Query,
    ids: &[&str],
    similar: &[Term],
) -> Result<Vec<Entry>, Fault> {
    let found = listing::select::<Entry>(
        query,
        "id IN (SELECT id FROM signet_entries WHERE entry_id = ANY($1) \
         UNION SELECT id FROM signet_entries WHERE similar_term = ANY($2))",
        params![ids => TEXT_ARRAY, similar => INT8_ARRAY],
    )
    .await?;
    Ok(found.into_iter().map(|(_, entry)| entry).collect())
}

/// Those of `ids` that exist, with their row IDs.
pub(in super::super) async fn by_entry_ids(
    query: &Query,
    ids: &[EntryId],
) -> Result<Vec<(i64, Entry)>, Fault> {
    let ids: Vec<&str> = ids.iter().map(EntryId::as_str).collect();
    listing::select(query, "entry_id = ANY($1) ORDER BY id", params![ids => TEXT_ARRAY]).await
}

/// The entries that have this term.
pub(in super::super) async fn with_term(
    query: &Query,
    term: Term,
) -> Result<Vec<(i64, Entry)>, Fault> {
    listing::select(query, "terms @> $1 ORDER BY id", params![vec![term] => INT8_ARRAY]).await
}

/// The first `limit` entries that expired before then.
pub(super) async fn expired(
    query: &Query,
    before: UnixTime,
    limit: u32,
) -> Result<Vec<(i64, Entry)>, Fault> {
    listing::select(
        query,
        "expires_at > 0 AND expires_at < $1 ORDER BY expires_at, id LIMIT $2",
        params![before.seconds() => INT8, i64::from(limit) => INT8],
    )
    .await
}
