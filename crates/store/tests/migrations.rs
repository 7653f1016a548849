//! Every older schema, with data in it, is brought up to date and loses nothing.
//!
//! `tests/schemas/NNNN.sql` is a dump of a store of the schema version NNNN, written by the last
//! release that had it; a new migration adds the dump of the version before it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::path::{Path, PathBuf};

use signet_identity::MatchBehavior;
use signet_store::{
    BundleUpdate, ChangeKind, Changes, Contents, EntryFilter, FeedPosition, NodeFilter, OpenError,
    Store, StoreOptions,
    backup::{back_up, restore},
    conformance::{draft, full_draft, id, new, node, set},
};
use signet_time::UnixTime;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

/// The schema version that this program writes.
const NEWEST: usize = 5;

async fn connect(path: &Path) -> SqliteConnection {
    let options =
        SqliteConnectOptions::new().filename(path).create_if_missing(true).foreign_keys(false);
    SqliteConnection::connect_with(&options).await.unwrap()
}

/// The dumps of older schemas, with their versions.
fn dumps() -> Vec<(i64, PathBuf)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas");
    let mut dumps: Vec<(i64, PathBuf)> = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().parse().unwrap(), path))
        .collect();
    dumps.sort();
    dumps
}

async fn load(dump: &Path, to: &Path) {
    let mut conn = connect(to).await;
    let text = std::fs::read_to_string(dump).unwrap();
    sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// Tables and indexes as SQLite holds them.
async fn schema(path: &Path) -> Vec<(String, Option<String>)> {
    let mut conn = connect(path).await;
    let rows = sqlx::query("SELECT name, sql FROM sqlite_master ORDER BY name")
        .fetch_all(&mut conn)
        .await
        .unwrap();
    conn.close().await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// What all dumps hold.
fn check(contents: &Contents) {
    let ids: Vec<&str> = contents.entries.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids, ["full", "plain", "alias"]);
    let (full, plain) = (&contents.entries[0], &contents.entries[1]);
    assert_eq!(full.spec, full_draft());
    assert_eq!((plain.revision_number, plain.created_at.seconds()), (1, 1_700_000_004));
    assert_eq!(plain.hint, "h");
    let mut one = node("one");
    (one.can_reattest, one.new_expires_at, one.new_serial_number) =
        (true, UnixTime::from_seconds(200), "2".into());
    let mut banned = node("banned");
    banned.serial_number.clear();
    assert_eq!(contents.nodes, [one, banned]);
    let own = &contents.bundles[0];
    assert_eq!((own.trust_domain.as_str(), own.sequence_number, own.refresh_hint), ("td", 8, 60));
    assert_eq!(own.x509_authorities.len(), 1);
    assert!(own.jwt_authorities[0].tainted && &*own.jwt_authorities[0].key_id == "k1");
    assert_eq!(&*own.wit_authorities[0].public_key, b"wit");
    assert_eq!(contents.bundles.len(), 3);
    assert_eq!(contents.federations.len(), 2);
    let spent: Vec<_> = contents.join_tokens.iter().map(|it| (&*it.token, it.spent_by)).collect();
    assert_eq!(spent, [("fresh", None), ("spent", Some([7; 32]))]);
}

#[tokio::test]
async fn every_older_schema_is_brought_up_to_date_with_its_data() {
    let dumps = dumps();
    assert_eq!(dumps.len(), NEWEST - 1, "each schema but the newest has a dump");
    let dir = tempfile::tempdir().unwrap();
    let fresh = dir.path().join("fresh.db");
    Store::open(StoreOptions::file(&fresh)).await.unwrap().close().await;
    for (version, dump) in dumps {
        let path = dir.path().join(format!("{version}.db"));
        load(&dump, &path).await;
        let store = Store::open(StoreOptions::file(&path)).await.unwrap();
        check(&store.export().await.unwrap());
        assert_eq!(store.journal("server").await.unwrap().as_deref(), Some(&b"journal"[..]));

        // The feed goes on where it was.
        let known = store.known();
        assert_eq!(known.revision, 14);
        assert!(!known.epoch.is_empty());
        let since = FeedPosition { revision: 12, ..known.clone() };
        let Changes::Since(last) = store.changes_since(&since, 10).await.unwrap() else {
            panic!("gone");
        };
        let kinds: Vec<_> = last.iter().map(|change| (change.revision, change.kind)).collect();
        assert_eq!(kinds, [(13, ChangeKind::Federation), (14, ChangeKind::Federation)]);
        store
            .create_entries(vec![new("next", draft("n", "p", &["x:1"]))], UnixTime::from_seconds(5))
            .await
            .unwrap();
        assert_eq!(store.known(), FeedPosition { revision: 15, ..known });

        // Indexes too.
        let selectors = Some((set(&["unix:uid:1"]), MatchBehavior::Superset));
        let filter = EntryFilter { selectors, ..Default::default() };
        assert_eq!(store.count_entries(&filter).await.unwrap(), 2);
        let banned = NodeFilter { banned: Some(true), ..Default::default() };
        assert_eq!(store.count_nodes(&banned).await.unwrap(), 1);
        store.delete_entries(vec![id("full")], UnixTime::from_seconds(6)).await.unwrap();
        let update = BundleUpdate::new("a.test".parse().unwrap(), |it| it.refresh_hint = 1);
        store.update_bundles(vec![update], UnixTime::from_seconds(6)).await.unwrap();
        store.close().await;
        assert_eq!(schema(&path).await, schema(&fresh).await, "version {version}");
    }
}

#[tokio::test]
async fn a_backup_of_every_older_schema_can_be_restored() {
    let dir = tempfile::tempdir().unwrap();
    for (version, dump) in dumps() {
        let (old, copy) = (dir.path().join("old.db"), dir.path().join(format!("{version}.copy")));
        load(&dump, &old).await;
        assert_eq!(back_up(&old, &copy).await.unwrap().position.revision, 14);
        std::fs::remove_file(&old).unwrap();
        let restored = restore(&copy, &old).await.unwrap();
        assert_eq!((restored.summary.entries, restored.before), (3, None));
        let store = Store::open(StoreOptions::file(&old)).await.unwrap();
        check(&store.export().await.unwrap());
        assert_eq!(store.known(), restored.summary.position);
        store.close().await;
        std::fs::remove_file(&old).unwrap();
    }
}

#[tokio::test]
async fn an_older_schema_is_left_alone_where_migrating_is_forbidden() {
    let dir = tempfile::tempdir().unwrap();
    for (version, dump) in dumps() {
        let path = dir.path().join(format!("{version}.db"));
        load(&dump, &path).await;
        let before = schema(&path).await;
        let mut options = StoreOptions::file(&path);
        options.disable_migration = true;
        let refused = Store::open(options).await.unwrap_err();
        assert!(
            matches!(refused, OpenError::Outdated { found, .. } if found == version),
            "{refused}"
        );
        assert_eq!(schema(&path).await, before);
    }
}

#[tokio::test]
async fn two_processes_that_migrate_at_once_migrate_once() {
    let dir = tempfile::tempdir().unwrap();
    for (version, dump) in dumps() {
        let path = dir.path().join(format!("{version}.db"));
        load(&dump, &path).await;
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..8 {
            opening.spawn(Store::open(StoreOptions::file(&path)));
        }
        let epochs: Vec<_> =
            opening.join_all().await.into_iter().map(|store| store.unwrap().known()).collect();
        assert!(epochs.windows(2).all(|pair| pair[0] == pair[1]), "{epochs:?}");
    }
}
