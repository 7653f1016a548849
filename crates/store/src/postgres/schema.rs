//! Opening a database: what is it, is its schema up to date, and is its history still the same?

use signet_base::Backoff;
use tokio::time::Instant;

use super::{
    PostgresOptions,
    fault::{Fault, PAUSES, Remedy},
    mark::{self, Mark},
    pool::Pool,
    sql::{Query, params},
};
use crate::{OpenError, options::judge_copy};

/// The migrations, in order; the schema version is how many were applied.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/postgres/0001_initial.sql"),
    include_str!("../../migrations/postgres/0002_tenants.sql"),
    include_str!("../../migrations/postgres/0003_copying.sql"),
];

/// The oldest version of PostgreSQL that is supported.
const OLDEST: i64 = 14;

/// The advisory lock of a migration: an arbitrary number of ours.
const LOCK: i64 = 0x5349_474e_4554;

/// How long a migration may take, in all.
const MIGRATION: std::time::Duration = std::time::Duration::from_secs(600);

/// What stands in the way of a database's use.
enum Obstacle {
    Copy(OpenError),
    Fault(Fault),
    Newer(i64),
    Outdated(i64),
    Spire,
    TooOld(String),
}

impl From<Fault> for Obstacle {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<tokio_postgres::Error> for Obstacle {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// Brings the schema up to date and says where the feed stands.
pub(super) async fn open(pool: &Pool, options: &PostgresOptions) -> Result<Mark, OpenError> {
    let database = pool.connector().target().to_string();
    let deadline = Instant::now() + MIGRATION;
    let patient = Instant::now() + options.patience;
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    loop {
        let opened = match pool.get(patient).await {
            Ok(conn) => {
                let mut query = Query::new(conn, deadline);
                attempt(&mut query, options).await
            }
            Err(fault) => Err(fault.into()),
        };
        let fault = match opened {
            Ok(mark) => return Ok(mark),
            Err(Obstacle::Fault(fault)) => fault,
            Err(Obstacle::Spire) => return Err(OpenError::SpirePostgres { database }),
            Err(Obstacle::TooOld(version)) => {
                let why = format!("it is {version}, and PostgreSQL {OLDEST} or later is needed");
                return Err(OpenError::Postgres { database, why });
            }
            Err(Obstacle::Copy(error)) => return Err(error),
            Err(Obstacle::Newer(found)) => {
                return Err(OpenError::Newer { path: database.into(), found, known });
            }
            Err(Obstacle::Outdated(found)) => {
                return Err(OpenError::Outdated { path: database.into(), found, known });
            }
        };
        let again = Instant::now() + backoff.next_delay();
        // A table that another server made a moment before us: 42P07, 42710.
        let raced = fault.code().is_some_and(|code| matches!(code.code(), "42P07" | "42710"));
        // What cannot be reached at the start is said at once: most likely it is misspelt.
        let hopeless = matches!(fault, Fault::Unreachable(_));
        if hopeless || (fault.remedy() == Remedy::None && !raced) || again >= patient {
            let why = match fault.while_doing("opening it") {
                crate::StoreError::Unavailable { why, .. } => why,
                other => signet_base::chain(&other),
            };
            return Err(OpenError::Postgres { database, why });
        }
        tokio::time::sleep_until(again).await;
    }
}

async fn attempt(query: &mut Query, options: &PostgresOptions) -> Result<Mark, Obstacle> {
    must_be_supported(query).await?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let row = query
        .one(
            "SELECT to_regclass('signet_schema') IS NOT NULL, \
             to_regclass('registered_entries') IS NOT NULL",
            &[],
        )
        .await?;
    let (ours, spires): (bool, bool) =
        (row.try_get(0).map_err(Fault::from)?, row.try_get(1).map_err(Fault::from)?);
    let found = if ours { version(query, "").await? } else { 0 };
    if found == 0 && spires && !options.beside_spire {
        return Err(Obstacle::Spire);
    }
    if found > known {
        return Err(Obstacle::Newer(found));
    }
    if found < known {
        if options.disable_migration && found > 0 {
            return Err(Obstacle::Outdated(found));
        }
        migrate(query).await?;
    }
    must_be_usable(query, options).await?;
    Ok(history(query).await?)
}

/// A server uses no copy that was not finished, and nothing that was copied elsewhere.
async fn must_be_usable(query: &Query, options: &PostgresOptions) -> Result<(), Obstacle> {
    let row = query
        .one(
            "SELECT moved_to, (SELECT source FROM signet_copying WHERE id = 1) \
             FROM signet_feed WHERE id = 1",
            &[],
        )
        .await?;
    let (moved_to, source) =
        (row.try_get(0).map_err(Fault::from)?, row.try_get(1).map_err(Fault::from)?);
    let path = options.database().to_string().into();
    judge_copy(options.copying, path, source, moved_to).map_err(Obstacle::Copy)
}

async fn must_be_supported(query: &Query) -> Result<(), Obstacle> {
    let text = "SELECT version(), current_setting('server_version_num')::bigint / 10000";
    let row = query.one(text, &[]).await?;
    let version: &str = row.try_get(0).map_err(Fault::from)?;
    let major: i64 = row.try_get(1).map_err(Fault::from)?;
    // Those that speak the protocol claim some old version.
    let is_another = version.starts_with("CockroachDB") || version.contains("-YB-");
    if major >= OLDEST || is_another {
        return Ok(());
    }
    let name: Vec<&str> = version.split_whitespace().take(2).collect();
    Err(Obstacle::TooOld(name.join(" ")))
}

/// The schema version; 0 when the tables are still to be made.
async fn version(query: &Query, lock: &str) -> Result<i64, Fault> {
    let text = format!("SELECT version FROM signet_schema WHERE id = 1 {lock}");
    let row = query.first(&text, &[]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or(0))
}

/// All of it in one transaction. Of several servers that begin at once, one migrates and the
/// others find it done: they wait for an advisory lock, or, where those do nothing, for a row.
async fn migrate(query: &mut Query) -> Result<(), Fault> {
    query
        .batch(
            "CREATE TABLE IF NOT EXISTS signet_schema \
             (id BIGINT PRIMARY KEY CHECK (id = 1), version BIGINT NOT NULL); \
             INSERT INTO signet_schema (id, version) VALUES (1, 0) ON CONFLICT (id) DO NOTHING",
        )
        .await?;
    query.set_in_transaction(true);
    query.batch(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})")).await?;
    let found = version(query, "FOR UPDATE").await?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        query.batch(migration).await?;
    }
    let known = MIGRATIONS.len();
    query
        .batch(&format!("UPDATE signet_schema SET version = {known} WHERE id = 1; COMMIT"))
        .await?;
    query.set_in_transaction(false);
    tracing::info!(from = found, to = known, "The database schema was migrated");
    Ok(())
}

/// Where the feed stands. On another database system, or on another timeline of the same (a replica
/// that was promoted, a restore), the history gets a new name: it may have lost its end.
async fn history(query: &Query) -> Result<Mark, Fault> {
    // Not every role, and not everything that speaks the protocol, can say.
    let now = query
        .one(
            "SELECT (SELECT system_identifier::text FROM pg_control_system()) || '/' || \
             substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)",
            &[],
        )
        .await;
    let now: Option<String> = now.ok().and_then(|row| row.try_get(0).ok());
    let row = query.one("SELECT epoch, history FROM signet_feed WHERE id = 1", &[]).await?;
    let (epoch, before): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let is_another = match &now {
        Some(now) => *now != before,
        None => epoch.is_empty(),
    };
    if is_another {
        if !before.is_empty() {
            tracing::warn!(
                before,
                now = now.as_deref().unwrap_or_default(),
                "The database is on another timeline than before: everything is read anew"
            );
        }
        let new = mark::new_epoch()?;
        let now = now.unwrap_or_default();
        query
            .execute(
                "UPDATE signet_feed SET epoch = $1, history = $2 WHERE id = 1 AND epoch = $3",
                params![new => TEXT, now => TEXT, epoch => TEXT],
            )
            .await?;
    }
    Ok(mark::read_mark(query, 0).await?.0)
}
