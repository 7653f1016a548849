//! PostgreSQL keeps what every store promises behind PgBouncer in transaction mode.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::OnceLock;

use async_trait::async_trait;
use signet_store::{
    Store,
    conformance::{Database, Settings},
    postgres::{ConnectionString, PostgresOptions, ThisProcess},
};
use signet_testkit::{PgBouncer, Postgres, skip};

struct Pooled(String);

#[async_trait]
impl Database for Pooled {
    async fn open(&self, settings: Settings) -> Store {
        let database = ConnectionString::parse(&self.0, &ThisProcess).unwrap();
        let mut options = PostgresOptions::new(database);
        options.changes_max_age = settings.changes_max_age;
        options.changes_max_rows = settings.changes_max_rows;
        options.observer = settings.observer;
        Store::open_postgres(options).await.unwrap()
    }
}

/// One for all tests of this process.
fn pooler() -> Option<(&'static Postgres, &'static PgBouncer)> {
    static SHARED: OnceLock<Option<PgBouncer>> = OnceLock::new();
    let server = Postgres::shared()?;
    let bouncer = SHARED.get_or_init(|| PgBouncer::before(server)).as_ref()?;
    Some((server, bouncer))
}

signet_store::conformance!({
    let Some((server, bouncer)) = pooler() else {
        skip!("PostgreSQL or PgBouncer is not installed")
    };
    Pooled(bouncer.dsn(&server.database()))
});
