//! Promises about SPIRE's database: what it holds comes over, and goes back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::path::Path;

use common::{bundle, draft, full_draft, id, node};
use signet_identity::{
    BundleEndpointProfile, Entry, FederationRelationship, JoinToken, JwtAuthority, X509Authority,
};
use signet_store::{
    Contents, Store, StoreOptions,
    spire::{
        self, SpireContents, SpireError, SpireJournal, SpireKey, SpireStatus, SpireX509Authority,
    },
};
use signet_time::UnixTime;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

fn contents() -> SpireContents {
    let mut own = bundle("td");
    own.refresh_hint = 300;
    own.x509_authorities.push(X509Authority { der: vec![9; 300].into(), tainted: true });
    own.jwt_authorities.push(JwtAuthority {
        public_key: vec![5; 91].into(),
        key_id: "kid".into(),
        expires_at: UnixTime::from_seconds(1_800_000_000),
        tainted: true,
    });
    own.wit_authorities = own.jwt_authorities.clone();
    let mut full = full_draft();
    // SPIRE keeps these in the order of its bundles.
    full.federates_with.reverse();
    let mut banned = node("banned");
    banned.serial_number.clear();
    let mut renewing = node("renewing");
    (renewing.new_serial_number, renewing.new_expires_at) =
        ("2".into(), UnixTime::from_seconds(1_800_000_001));
    renewing.can_reattest = true;
    let relationship = |name: &str, profile| FederationRelationship {
        trust_domain: name.parse().unwrap(),
        bundle_endpoint_url: format!("https://{name}/"),
        profile,
    };
    let endpoint_spiffe_id = "spiffe://a.test/e".parse().unwrap();
    SpireContents {
        contents: Contents {
            entries: vec![
                Entry {
                    id: id("full"),
                    spec: full,
                    revision_number: 3,
                    created_at: UnixTime::from_seconds(1_700_000_000),
                },
                Entry {
                    id: id("plain"),
                    spec: draft("w", "p", &["x:1"]),
                    revision_number: 0,
                    created_at: UnixTime::from_seconds(5),
                },
            ],
            bundles: vec![own, bundle("a.test"), bundle("b.test")],
            nodes: vec![node("one"), banned, renewing],
            federations: vec![
                relationship("a.test", BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id }),
                relationship("b.test", BundleEndpointProfile::HttpsWeb),
            ],
            assignments: Vec::new(),
            join_tokens: vec![JoinToken {
                token: "t".into(),
                expires_at: UnixTime::from_seconds(1_800_000_002),
                spent_by: None,
            }],
        },
        journals: vec![SpireJournal {
            active_x509_authority_id: "abcd".into(),
            x509: vec![SpireX509Authority {
                slot_id: "A".into(),
                issued_at: UnixTime::from_seconds(1),
                not_after: UnixTime::from_seconds(2),
                certificate: vec![1; 200],
                upstream_chain: vec![vec![1; 200], vec![2; 200]],
                status: SpireStatus::Active,
                authority_id: "abcd".into(),
                upstream_authority_id: "ef".into(),
            }],
            jwt: vec![SpireKey {
                slot_id: "B".into(),
                issued_at: UnixTime::from_seconds(3),
                not_after: UnixTime::from_seconds(4),
                kid: "kid".into(),
                public_key: vec![7; 91],
                status: SpireStatus::Prepared,
                authority_id: "kid".into(),
            }],
            wit: Vec::new(),
        }],
        skipped: Vec::new(),
        code_version: spire::CODE_VERSION.into(),
    }
}

async fn raw(path: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

#[tokio::test]
async fn what_goes_to_spire_comes_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("datastore.sqlite3");
    spire::write(&path, &contents(), UnixTime::from_seconds(1_750_000_000)).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no unfinished file is left");
    let before = std::fs::read(&path).unwrap();
    assert_eq!(spire::read(&path).await.unwrap(), contents());
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let again = spire::write(&path, &contents(), UnixTime::from_seconds(1)).await.unwrap_err();
    assert!(matches!(again, SpireError::Exists(_)));
}

#[tokio::test]
async fn what_is_imported_is_exported_the_same() {
    let store = Store::open(StoreOptions::memory()).await.unwrap();
    let mut contents = contents().contents;
    contents.join_tokens[0].spent_by = Some([1; 32]);
    store.import(&contents, UnixTime::from_seconds(1)).await.unwrap();
    assert_eq!(store.export().await.unwrap(), contents);
    assert_eq!(store.revision(), 3 + 2 + 3 + 2);
    assert!(store.import(&contents, UnixTime::from_seconds(1)).await.is_err());
    assert_eq!(store.revision(), 10);
}

#[tokio::test]
async fn times_are_read_as_spire_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    spire::write(&path, &contents(), UnixTime::from_seconds(1)).await.unwrap();
    raw(
        &path,
        "UPDATE registered_entries SET created_at = '2026-11-21 06:54:46.999999999+00:00' WHERE id = 1;
         UPDATE registered_entries SET created_at = '2026-11-21 08:54:46.4999+02:00' WHERE id = 2;
         UPDATE attested_node_entries SET expires_at = '2027-11-21 06:54:46.9999+00:00'",
    )
    .await;
    let read = spire::read(&path).await.unwrap().contents;
    let created: Vec<i64> = read.entries.iter().map(|entry| entry.created_at.seconds()).collect();
    assert_eq!(created, [1_795_244_087, 1_795_244_086]);
    assert_eq!(read.nodes[0].expires_at, UnixTime::from_seconds(1_826_780_086));
}

#[tokio::test]
async fn rows_that_cannot_come_over_are_named_and_the_others_come() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    spire::write(&path, &contents(), UnixTime::from_seconds(1)).await.unwrap();
    raw(
        &path,
        "UPDATE registered_entries SET spiffe_id = 'spiffe://TD/x' WHERE id = 2;
         UPDATE attested_node_entries SET spiffe_id = 'no' WHERE id = 1;
         UPDATE federated_trust_domains SET bundle_endpoint_profile = 'x' WHERE id = 1",
    )
    .await;
    let read = spire::read(&path).await.unwrap();
    assert_eq!(read.skipped.len(), 3, "{:?}", read.skipped);
    assert!(read.skipped[0].starts_with("entry plain: SPIFFE ID \"spiffe://TD/x\""));
    assert_eq!((read.contents.entries.len(), read.contents.nodes.len()), (1, 2));
}

#[tokio::test]
async fn other_files_and_versions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    assert!(matches!(spire::read(&path).await, Err(SpireError::Missing(_))));
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(spire::read(&path).await, Err(SpireError::NotSpire(_))));
    std::fs::write(&path, [7; 5_000]).unwrap();
    assert!(matches!(spire::read(&path).await, Err(SpireError::Corrupt { .. })));
    std::fs::remove_file(&path).unwrap();
    spire::write(&path, &contents(), UnixTime::from_seconds(1)).await.unwrap();
    raw(&path, "UPDATE migrations SET version = 24").await;
    assert!(matches!(spire::read(&path).await, Err(SpireError::Version { found: 24, .. })));
    raw(&path, "UPDATE migrations SET version = 25; UPDATE bundles SET data = x'ff'").await;
    let error = spire::read(&path).await.unwrap_err();
    assert!(error.to_string().contains("bundle \"spiffe://td\""), "{error}");
}

const OPEN_BY_ANOTHER: &str = "SIGNET_TEST_OPEN_DATABASE";

/// Not a test of its own: the process that the next test starts. It has the database open, and is
/// idle, until its input ends.
#[tokio::test]
async fn an_idle_server() {
    let Some(path) = std::env::var_os(OPEN_BY_ANOTHER) else { return };
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("SELECT count(*) FROM registered_entries").fetch_one(&mut conn).await.unwrap();
    println!("it is open");
    std::io::stdin().lines().for_each(drop);
    conn.close().await.unwrap();
}

#[tokio::test]
async fn a_database_that_another_process_has_open_is_noticed() {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spire.db");
    spire::write(&path, &contents(), UnixTime::from_seconds(1)).await.unwrap();
    assert!(!spire::is_open(&path).unwrap());
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_idle_server", "--nocapture"])
        .env(OPEN_BY_ANOTHER, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(other.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("it is open")));
    assert!(spire::is_open(&path).unwrap());
    drop(other.stdin.take());
    assert!(other.wait().unwrap().success());
    assert!(!spire::is_open(&path).unwrap());
    assert!(spire::is_open(&dir.path().join("none")).is_err());
}
