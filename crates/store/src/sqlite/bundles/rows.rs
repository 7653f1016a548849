//! Bundles as rows.

use std::{collections::HashSet, str::FromStr, sync::Arc};

use signet_identity::{Bundle, JwtAuthority, TrustDomain, X509Authority};
use signet_time::UnixTime;
use sqlx::{Row, SqliteConnection};

use crate::{
    ChangeKind, ChangedTo,
    sqlite::{fault::Fault, sql, tx::Tx},
};

const X509: i64 = 1;
const JWT: i64 = 2;
const WIT: i64 = 3;

/// Those of `wanted` that have a bundle.
pub(crate) async fn known_trust_domains(
    conn: &mut SqliteConnection,
    wanted: &[&TrustDomain],
) -> Result<HashSet<TrustDomain>, Fault> {
    let mut known = HashSet::new();
    for run in sql::runs(wanted, 1) {
        let text = format!(
            "SELECT trust_domain FROM bundles WHERE trust_domain IN ({})",
            sql::list(run.len())
        );
        let mut query = sql::query(text);
        for name in run {
            query = query.bind(name.as_str().to_owned());
        }
        for row in query.fetch_all(&mut *conn).await? {
            known.insert(trust_domain(row.try_get(0)?)?);
        }
    }
    Ok(known)
}

pub(crate) fn trust_domain(name: &str) -> Result<TrustDomain, Fault> {
    TrustDomain::from_str(name)
        .map_err(|error| Fault::corrupt(&format!("trust domain \"{name}\""), error))
}

/// The bundles after row `after`, at most `limit`, with their row IDs.
pub(crate) async fn list(
    conn: &mut SqliteConnection,
    after: i64,
    limit: i64,
) -> Result<Vec<(i64, Bundle)>, Fault> {
    let rows = sqlx::query(
        "SELECT id, trust_domain, refresh_hint, sequence_number FROM bundles \
         WHERE id > ? ORDER BY id LIMIT ?",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(&mut *conn)
    .await?;
    let mut bundles = Vec::with_capacity(rows.len());
    for row in rows {
        bundles.push(with_authorities(conn, &row).await?);
    }
    Ok(bundles)
}

/// The bundle of one trust domain, with its row ID.
pub(crate) async fn get(
    conn: &mut SqliteConnection,
    name: &TrustDomain,
) -> Result<Option<(i64, Bundle)>, Fault> {
    let row = sqlx::query(
        "SELECT id, trust_domain, refresh_hint, sequence_number FROM bundles \
         WHERE trust_domain = ?",
    )
    .bind(name.as_str())
    .fetch_optional(&mut *conn)
    .await?;
    match row {
        Some(row) => Ok(Some(with_authorities(conn, &row).await?)),
        None => Ok(None),
    }
}

async fn with_authorities(
    conn: &mut SqliteConnection,
    row: &sqlx::sqlite::SqliteRow,
) -> Result<(i64, Bundle), Fault> {
    let id: i64 = row.try_get(0)?;
    let mut bundle = Bundle::empty(trust_domain(row.try_get(1)?)?);
    bundle.refresh_hint = row.try_get(2)?;
    bundle.sequence_number = row.try_get::<i64, _>(3)?.cast_unsigned();
    let authorities = sqlx::query(
        "SELECT kind, key_id, public, expires_at, tainted FROM authorities \
         WHERE bundle = ? ORDER BY kind, position",
    )
    .bind(id)
    .fetch_all(conn)
    .await?;
    for row in authorities {
        let public: Arc<[u8]> = row.try_get::<&[u8], _>(2)?.into();
        let tainted = row.try_get::<i64, _>(4)? != 0;
        let kind: i64 = row.try_get(0)?;
        if kind == X509 {
            bundle.x509_authorities.push(X509Authority { der: public, tainted });
            continue;
        }
        let authority = JwtAuthority {
            public_key: public,
            key_id: row.try_get::<&str, _>(1)?.into(),
            expires_at: UnixTime::from_seconds(row.try_get(3)?),
            tainted,
        };
        match kind {
            JWT => bundle.jwt_authorities.push(authority),
            WIT => bundle.wit_authorities.push(authority),
            other => return Err(Fault::corrupt("authority", format_args!("kind {other}"))),
        }
    }
    Ok((id, bundle))
}

/// Writes a bundle: over the row `old`, or as a new one.
pub(crate) async fn put(tx: &mut Tx, old: Option<i64>, bundle: &Bundle) -> Result<(), Fault> {
    let id = match old {
        Some(id) => {
            sqlx::query("UPDATE bundles SET refresh_hint = ?, sequence_number = ? WHERE id = ?")
                .bind(bundle.refresh_hint)
                .bind(bundle.sequence_number.cast_signed())
                .bind(id)
                .execute(tx.conn().await?)
                .await?;
            sqlx::query("DELETE FROM authorities WHERE bundle = ?")
                .bind(id)
                .execute(tx.conn().await?)
                .await?;
            id
        }
        None => {
            let id = tx.next_row("bundles").await?;
            sqlx::query(
                "INSERT INTO bundles (id, trust_domain, refresh_hint, sequence_number) \
                 VALUES (?, ?, ?, ?)",
            )
            .bind(id)
            .bind(bundle.trust_domain.as_str())
            .bind(bundle.refresh_hint)
            .bind(bundle.sequence_number.cast_signed())
            .execute(tx.conn().await?)
            .await?;
            id
        }
    };
    let x509 =
        bundle.x509_authorities.iter().map(|it| (X509, "", &it.der, UnixTime::EPOCH, it.tainted));
    let keys = |kind: i64, keys: &[JwtAuthority]| -> Vec<_> {
        keys.iter()
            .map(|it| (kind, it.key_id.clone(), it.public_key.clone(), it.expires_at, it.tainted))
            .collect()
    };
    let mut all: Vec<_> = x509
        .map(|(kind, key_id, der, expires_at, tainted)| {
            (kind, Arc::<str>::from(key_id), der.clone(), expires_at, tainted)
        })
        .collect();
    all.extend(keys(JWT, &bundle.jwt_authorities));
    all.extend(keys(WIT, &bundle.wit_authorities));
    for (position, (kind, key_id, public, expires_at, tainted)) in all.into_iter().enumerate() {
        sqlx::query(
            "INSERT INTO authorities (bundle, kind, position, key_id, public, expires_at, tainted) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(id)
        .bind(kind)
        .bind(i64::try_from(position).unwrap_or(i64::MAX))
        .bind(&*key_id)
        .bind(&*public)
        .bind(expires_at.seconds())
        .bind(i64::from(tainted))
        .execute(tx.conn().await?)
        .await?;
    }
    tx.changed(ChangeKind::Bundle, bundle.trust_domain.as_str(), ChangedTo::Unread);
    Ok(())
}

/// Deletes a bundle's row, authorities included.
pub(crate) async fn delete(tx: &mut Tx, id: i64, bundle: &Bundle) -> Result<(), Fault> {
    sqlx::query("DELETE FROM bundles WHERE id = ?").bind(id).execute(tx.conn().await?).await?;
    tx.changed(ChangeKind::Bundle, bundle.trust_domain.as_str(), ChangedTo::Unread);
    Ok(())
}
