//! Bundles as rows.

use std::{collections::HashSet, str::FromStr, sync::Arc};

use signet_identity::{Bundle, JwtAuthority, TrustDomain, X509Authority};
use signet_time::UnixTime;
use tokio_postgres::Row;

use crate::{
    ChangeKind, ChangedTo,
    postgres::{
        fault::Fault,
        sql::{Query, params},
        tx::Tx,
    },
};

const X509: i64 = 1;
const JWT: i64 = 2;
const WIT: i64 = 3;

/// A bundle with one authority in each row, or with none.
const JOINED: &str = "SELECT b.id, b.trust_domain, b.refresh_hint, b.sequence_number, \
     a.kind, a.key_id, a.public, a.expires_at, a.tainted \
     FROM signet_bundles AS b LEFT JOIN signet_authorities AS a ON a.bundle = b.id";

/// Those of `wanted` that have a bundle.
pub(in super::super) async fn known_trust_domains(
    query: &Query,
    wanted: &[&TrustDomain],
) -> Result<HashSet<TrustDomain>, Fault> {
    if wanted.is_empty() {
        return Ok(HashSet::new());
    }
    let wanted: Vec<&str> = wanted.iter().map(|name| name.as_str()).collect();
    let text = "SELECT trust_domain FROM signet_bundles WHERE trust_domain = ANY($1)";
    let rows = query.all(text, params![wanted => TEXT_ARRAY]).await?;
    rows.iter().map(|row| trust_domain(row.try_get(0)?)).collect()
}

pub(in super::super) fn trust_domain(name: &str) -> Result<TrustDomain, Fault> {
    TrustDomain::from_str(name)
        .map_err(|error| Fault::corrupt(&format!("trust domain \"{name}\""), error))
}

/// The bundles after row `after`, at most `limit`, with their row IDs.
pub(super) async fn list(
    query: &Query,
    after: i64,
    limit: i64,
) -> Result<Vec<(i64, Bundle)>, Fault> {
    let text = format!(
        "{JOINED} WHERE b.id IN (SELECT id FROM signet_bundles WHERE id > $1 ORDER BY id LIMIT $2) \
         ORDER BY b.id, a.kind, a.position"
    );
    read(&query.all(&text, params![after => INT8, limit => INT8]).await?)
}

/// The bundle of one trust domain, with its row ID.
pub(super) async fn get(query: &Query, name: &TrustDomain) -> Result<Option<(i64, Bundle)>, Fault> {
    let text = format!("{JOINED} WHERE b.trust_domain = $1 ORDER BY a.kind, a.position");
    Ok(read(&query.all(&text, params![name.as_str() => TEXT]).await?)?.pop())
}

fn read(rows: &[Row]) -> Result<Vec<(i64, Bundle)>, Fault> {
    let mut bundles: Vec<(i64, Bundle)> = Vec::new();
    for row in rows {
        let id: i64 = row.try_get(0)?;
        if bundles.last().is_none_or(|(last, _)| *last != id) {
            let mut bundle = Bundle::empty(trust_domain(row.try_get(1)?)?);
            bundle.refresh_hint = row.try_get(2)?;
            bundle.sequence_number = row.try_get::<_, i64>(3)?.cast_unsigned();
            bundles.push((id, bundle));
        }
        let (Some((_, bundle)), Some(kind)) = (bundles.last_mut(), row.try_get(4)?) else {
            continue;
        };
        let public: Arc<[u8]> = row.try_get::<_, &[u8]>(6)?.into();
        let tainted = row.try_get::<_, i64>(8)? != 0;
        let kind: i64 = kind;
        if kind == X509 {
            bundle.x509_authorities.push(X509Authority { der: public, tainted });
            continue;
        }
        let authority = JwtAuthority {
            public_key: public,
            key_id: row.try_get::<_, &str>(5)?.into(),
            expires_at: UnixTime::from_seconds(row.try_get(7)?),
            tainted,
        };
        match kind {
            JWT => bundle.jwt_authorities.push(authority),
            WIT => bundle.wit_authorities.push(authority),
            other => return Err(Fault::corrupt("authority", format_args!("kind {other}"))),
        }
    }
    Ok(bundles)
}

/// Writes a bundle: over the row `old`, or as a new one.
pub(in super::super) async fn put(
    tx: &mut Tx,
    old: Option<i64>,
    bundle: &Bundle,
) -> Result<(), Fault> {
    let (hint, sequence) = (bundle.refresh_hint, bundle.sequence_number.cast_signed());
    let id = match old {
        Some(id) => {
            tx.query
                .execute(
                    "UPDATE signet_bundles SET refresh_hint = $1, sequence_number = $2 WHERE id = $3",
                    params![hint => INT8, sequence => INT8, id => INT8],
                )
                .await?;
            tx.query
                .execute("DELETE FROM signet_authorities WHERE bundle = $1", params![id => INT8])
                .await?;
            id
        }
        None => {
            let id = tx.next_row("signet_bundles").await?;
            tx.query
                .execute(
                    "INSERT INTO signet_bundles (id, trust_domain, refresh_hint, sequence_number) \
                     VALUES ($1, $2, $3, $4)",
                    params![
                        id => INT8, bundle.trust_domain.as_str() => TEXT, hint => INT8,
                        sequence => INT8,
                    ],
                )
                .await?;
            id
        }
    };
    insert_authorities(&tx.query, id, bundle).await?;
    tx.changed(ChangeKind::Bundle, bundle.trust_domain.as_str(), ChangedTo::Unread);
    Ok(())
}

async fn insert_authorities(query: &Query, id: i64, bundle: &Bundle) -> Result<(), Fault> {
    let mut kinds = Vec::new();
    let mut key_ids: Vec<&str> = Vec::new();
    let mut public: Vec<&[u8]> = Vec::new();
    let mut expires_at = Vec::new();
    let mut tainted = Vec::new();
    for authority in &bundle.x509_authorities {
        kinds.push(X509);
        key_ids.push("");
        public.push(&authority.der);
        expires_at.push(0);
        tainted.push(i64::from(authority.tainted));
    }
    for (kind, keys) in [(JWT, &bundle.jwt_authorities), (WIT, &bundle.wit_authorities)] {
        for authority in keys {
            kinds.push(kind);
            key_ids.push(&authority.key_id);
            public.push(&authority.public_key);
            expires_at.push(authority.expires_at.seconds());
            tainted.push(i64::from(authority.tainted));
        }
    }
    if kinds.is_empty() {
        return Ok(());
    }
    query
        .execute(
            "INSERT INTO signet_authorities \
             (bundle, kind, position, key_id, public, expires_at, tainted) \
             SELECT $1, r.kind, r.n, r.key_id, r.public, r.expires_at, r.tainted \
             FROM unnest($2::bigint[], $3::text[], $4::bytea[], $5::bigint[], $6::bigint[]) \
             WITH ORDINALITY AS r(kind, key_id, public, expires_at, tainted, n)",
            params![
                id => INT8, kinds => INT8_ARRAY, key_ids => TEXT_ARRAY, public => BYTEA_ARRAY,
                expires_at => INT8_ARRAY, tainted => INT8_ARRAY,
            ],
        )
        .await?;
    Ok(())
}

/// Deletes a bundle's row, authorities included.
pub(super) async fn delete(tx: &mut Tx, id: i64, bundle: &Bundle) -> Result<(), Fault> {
    tx.query.execute("DELETE FROM signet_bundles WHERE id = $1", params![id => INT8]).await?;
    tx.changed(ChangeKind::Bundle, bundle.trust_domain.as_str(), ChangedTo::Unread);
    Ok(())
}
