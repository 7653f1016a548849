//! SPIRE's database on PostgreSQL: what is written is read again, and ours stands beside it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use signet_identity::{BundleEndpointProfile, FederationRelationship, JoinToken};
use signet_store::{
    Contents, OpenError, Store,
    conformance::{bundle, draft, full_draft, id, new, node},
    postgres::{ConnectionString, PostgresOptions, ThisProcess},
    spire::{SpireContents, SpireError, read_postgres, write_postgres},
};
use signet_testkit::{Postgres, skip};
use signet_time::UnixTime;

fn contents() -> Contents {
    let entry = |name: &str, mut body: signet_identity::EntrySpec, revision_number| {
        body.federates_with.sort();
        let new = new(name, body);
        signet_identity::Entry {
            id: new.id,
            spec: new.draft,
            revision_number,
            created_at: UnixTime::from_seconds(1_700_000_000),
        }
    };
    let mut full = full_draft();
    full.dns_names.sort();
    let mut renewed = node("renewed");
    renewed.new_serial_number = "2".to_owned();
    renewed.new_expires_at = UnixTime::from_seconds(200);
    Contents {
        assignments: Vec::new(),
        entries: vec![entry("full", full, 3), entry("plain", draft("a", "p", &["x:1"]), 0)],
        // In the order in which entries name them.
        bundles: vec![bundle("td"), bundle("a.test"), bundle("b.test")],
        nodes: vec![node("one"), renewed],
        federations: vec![FederationRelationship {
            trust_domain: "a.test".parse().unwrap(),
            bundle_endpoint_url: "https://a.test/bundle".to_owned(),
            profile: BundleEndpointProfile::HttpsSpiffe {
                endpoint_spiffe_id: "spiffe://a.test/server".parse().unwrap(),
            },
        }],
        join_tokens: vec![JoinToken {
            token: "t".into(),
            expires_at: UnixTime::from_seconds(9),
            spent_by: None,
        }],
    }
}

#[tokio::test]
async fn what_is_written_for_spire_is_read_again_and_ours_stands_beside_it() {
    let Some(server) = Postgres::shared() else { skip!("PostgreSQL is not installed") };
    let dsn = server.dsn(&server.database());
    let database = ConnectionString::parse(&dsn, &ThisProcess).unwrap();
    let missing = read_postgres(&database).await.unwrap_err();
    assert!(matches!(missing, SpireError::NotSpire(_)), "{missing}");

    let written = SpireContents { contents: contents(), ..SpireContents::default() };
    write_postgres(&database, &written, UnixTime::from_seconds(1_700_000_100)).await.unwrap();
    let read = read_postgres(&database).await.unwrap();
    assert_eq!(read.contents, written.contents);
    assert!(read.skipped.is_empty() && read.code_version == "1.15.3");
    let again = write_postgres(&database, &written, UnixTime::from_seconds(1)).await.unwrap_err();
    assert!(matches!(again, SpireError::Exists(_)), "{again}");

    // A server does not begin an empty store beside SPIRE's: most likely an import was forgotten.
    let options = PostgresOptions::new(database.clone());
    let refused = Store::open_postgres(options.clone()).await.unwrap_err();
    assert!(matches!(refused, OpenError::SpirePostgres { .. }), "{refused}");
    assert!(refused.to_string().contains("migrate -from-spire"));
    let mut importing = options.clone();
    importing.beside_spire = true;
    let store = Store::open_postgres(importing).await.unwrap();
    store.import(&read.contents, UnixTime::from_seconds(5)).await.unwrap();
    store.close().await;
    let store = Store::open_postgres(options).await.unwrap();
    assert_eq!(store.export().await.unwrap(), written.contents);
    assert!(store.entry(&id("full")).await.unwrap().is_some());
    assert_eq!(read_postgres(&database).await.unwrap().contents, written.contents);
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let Some(server) = Postgres::shared() else { skip!("PostgreSQL is not installed") };
    let open = async |dsn: &str| {
        let database = ConnectionString::parse(dsn, &ThisProcess).unwrap();
        let mut options = PostgresOptions::new(database);
        options.patience = std::time::Duration::from_secs(3);
        Store::open_postgres(options).await.unwrap_err().to_string()
    };
    let missing = open(&server.dsn("nowhere")).await;
    assert!(missing.contains("\"nowhere\" does not exist"), "{missing}");
    let plain = server.dsn("postgres").replace("sslmode=disable", "sslmode=require");
    let no_tls = open(&plain).await;
    assert!(no_tls.contains("does not support TLS"), "{no_tls}");
    let nobody = open("host=127.0.0.1 port=1 user=u dbname=d sslmode=disable").await;
    assert!(nobody.contains("127.0.0.1:1/d") && nobody.contains("refused"), "{nobody}");

    let name = server.database();
    server.sql(&name, "CREATE TABLE signet_schema (id bigint PRIMARY KEY, version bigint)");
    server.sql(&name, "INSERT INTO signet_schema VALUES (1, 99)");
    let newer = open(&server.dsn(&name)).await;
    assert!(newer.contains("schema version 99, newer than"), "{newer}");

    let name = server.database();
    server.sql(&name, "CREATE ROLE reader LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    let reader = server.dsn(&name).replace("user=postgres", "user=reader");
    let denied = open(&reader).await;
    assert!(denied.contains("permission denied for schema public"), "{denied}");
}
