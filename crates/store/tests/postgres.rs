//! PostgreSQL keeps what every store promises.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::OnceLock;

use async_trait::async_trait;
use signet_store::{
    Store,
    conformance::{Database, Settings},
    postgres::{ConnectionString, PostgresOptions, ThisProcess},
};
use signet_testkit::{Postgres, skip};

/// A database of a test.
struct OnPostgres(String);

#[async_trait]
impl Database for OnPostgres {
    async fn open(&self, settings: Settings) -> Store {
        let database = ConnectionString::parse(&self.0, &ThisProcess).unwrap();
        let mut options = PostgresOptions::new(database);
        options.changes_max_age = settings.changes_max_age;
        options.changes_max_rows = settings.changes_max_rows;
        options.observer = settings.observer;
        Store::open_postgres(options).await.unwrap()
    }
}

signet_store::conformance!({
    let Some(server) = Postgres::shared() else { skip!("PostgreSQL is not installed") };
    OnPostgres(server.dsn(&server.database()))
});

/// A server of a release, one for all tests of this process.
macro_rules! release {
    ($name:ident: $version:literal) => {
        mod $name {
            use super::*;

            fn server() -> Option<&'static Postgres> {
                static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
                let start = || Some(Postgres::start(&Postgres::programs_of($version)?, &[]));
                SERVER.get_or_init(start).as_ref()
            }

            signet_store::conformance!({
                let Some(server) = server() else { skip!("there is no PostgreSQL {}", $version) };
                OnPostgres(server.dsn(&server.database()))
            });
        }
    };
}

release!(postgresql_17: 17);
release!(postgresql_18: 18);
