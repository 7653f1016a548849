//! Promises about the file and the change feed: nothing lost, nothing touched that is not ours.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use common::{Fixture, draft, id, new, node};
use signet_store::{EntryFilter, OpenError, Store, StoreError, StoreOptions};
use signet_testkit::{SmallDisk, make_room};
use signet_time::UnixTime;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

async fn raw(path: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

async fn refusal(path: &Path) -> OpenError {
    let before = std::fs::read(path).unwrap();
    let error = Store::open(StoreOptions::file(path)).await.unwrap_err();
    assert_eq!(std::fs::read(path).unwrap(), before, "the file is untouched");
    let beside = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "and nothing is put beside it");
    error
}

#[tokio::test]
async fn spires_own_database_is_recognised_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("datastore.sqlite3");
    raw(
        &path,
        "CREATE TABLE registered_entries (id INTEGER); CREATE TABLE migrations (id INTEGER)",
    )
    .await;
    let error = refusal(&path).await;
    assert!(matches!(error, OpenError::Spire { .. }));
    assert!(error.to_string().contains("signet-server migrate -from-spire"), "{error}");
}

#[tokio::test]
async fn other_newer_and_damaged_files_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    raw(&path, "CREATE TABLE songs (id INTEGER)").await;
    assert!(matches!(refusal(&path).await, OpenError::Foreign { table, .. } if table == "songs"));

    std::fs::write(&path, vec![b'x'; 8_192]).unwrap();
    assert!(matches!(refusal(&path).await, OpenError::Corrupt { .. }));

    std::fs::remove_file(&path).unwrap();
    raw(
        &path,
        "CREATE TABLE signet_schema (version INTEGER); INSERT INTO signet_schema VALUES (99)",
    )
    .await;
    let error = Store::open(StoreOptions::file(&path)).await.unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");

    let error = Store::open(StoreOptions::file(dir.path())).await.unwrap_err();
    assert!(matches!(error, OpenError::Sqlite { .. }), "{error}");
    let error = Store::open(StoreOptions::file(dir.path().join("no/such/db"))).await.unwrap_err();
    assert!(error.to_string().contains("no/such/db"), "{error}");
}

#[tokio::test]
async fn a_truncated_database_is_an_error_and_not_an_empty_list() {
    let fixture = Fixture::new().await;
    let entries = (0..2_000).map(|n| new(&format!("e{n}"), draft(&format!("w{n}"), "p", &["x:1"])));
    fixture.store.create_entries(entries.collect(), UnixTime::from_seconds(1)).await.unwrap();
    fixture.store.close().await;
    let path = fixture.dir.path().join("s.db");
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length / 2 / 4_096 * 4_096)
        .unwrap();
    let failed = match Store::open(fixture.options()).await {
        Err(error) => matches!(error, OpenError::Corrupt { .. }),
        Ok(store) => {
            let listed = store.list_entries(&EntryFilter::default(), Default::default()).await;
            matches!(listed, Err(StoreError::Corrupt { .. }))
        }
    };
    assert!(failed);
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new().await;
    fixture.store.put_node(node("a"), UnixTime::from_seconds(1)).await.unwrap();
    for file in std::fs::read_dir(fixture.dir.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} {mode:o}", file.path());
    }
}

#[tokio::test]
async fn what_a_call_returned_survives_without_a_clean_close() {
    let fixture = Fixture::new().await;
    fixture.create("e", draft("a", "p", &["x:1"])).await;
    // A copy of the files now is what a crash now would leave.
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture.dir.path()).unwrap() {
        let file = file.unwrap();
        if !file.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    let store = Store::open(StoreOptions::file(copy.path().join("s.db"))).await.unwrap();
    assert!(store.entry(&id("e")).await.unwrap().is_some());
    assert_eq!(store.revision(), 1);
}

#[tokio::test]
async fn a_lock_held_by_another_process_is_named() {
    let fixture = Fixture::new().await;
    let mut options = fixture.options();
    options.busy_timeout = std::time::Duration::from_millis(20);
    let store = Store::open(options).await.unwrap();
    let path = fixture.dir.path().join("s.db");
    let mut other =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path)).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let error = store.put_node(node("a"), UnixTime::from_seconds(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    store.put_node(node("a"), UnixTime::from_seconds(1)).await.unwrap();
}

const SMALL_DISK: &str = "SIGNET_TEST_SMALL_DISK";

#[test]
fn a_full_disk_is_named_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(dir.path(), 3 << 10);
    let mut inside = Command::new(std::env::current_exe().unwrap());
    inside.args(["--exact", "store_on_a_small_disk", "--nocapture"]).env(SMALL_DISK, dir.path());
    let output = disk.command(&inside).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{output:?}");
    assert!(said.contains("Full {"), "{said}");
}

/// Not a test of its own: the process that [`a_full_disk_is_named_and_nothing_is_lost`] starts.
#[tokio::test]
async fn store_on_a_small_disk() {
    let Some(dir) = std::env::var_os(SMALL_DISK).map(PathBuf::from) else { return };
    std::fs::write(dir.join("ballast"), vec![0; 1 << 20]).unwrap();
    let path = dir.join("s.db");
    let store = Store::open(StoreOptions::file(&path)).await.unwrap();
    let mut kept = 0_u64;
    let error = loop {
        let batch = (0..100).map(|n| {
            let name = format!("e{kept}-{n}");
            new(&name, draft(&name, "p", &["x:1"]))
        });
        match store.create_entries(batch.collect(), UnixTime::from_seconds(1)).await {
            Ok(_) => kept += 100,
            Err(error) => break error,
        }
    };
    println!("{error:?}");
    assert!(kept > 0);
    // With room again, the same store goes on.
    make_room(&dir, std::process::id());
    store.put_node(node("after"), UnixTime::from_seconds(1)).await.unwrap();
    assert_eq!(store.count_entries(&EntryFilter::default()).await.unwrap(), kept);
    store.close().await;
    let store = Store::open(StoreOptions::file(&path)).await.unwrap();
    assert_eq!(store.count_entries(&EntryFilter::default()).await.unwrap(), kept);
    let page = store.list_entries(&EntryFilter::default(), Default::default()).await.unwrap();
    assert_eq!(page.items.len() as u64, kept);
    store.close().await;
}

#[tokio::test]
async fn only_one_exclusive_store_has_the_file() {
    let fixture = Fixture::new().await;
    let mut options = fixture.options();
    options.exclusive = true;
    let first = Store::open(options.clone()).await.unwrap();
    let second = Store::open(options.clone()).await.unwrap_err();
    assert!(matches!(second, OpenError::InUse { .. }), "{second}");
    first.close().await;
    Store::open(options).await.unwrap();
}

/// A place in the history means the same after a clean restart, and nothing after any other.
#[tokio::test]
async fn the_history_goes_on_after_a_clean_restart_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let mut options = StoreOptions::file(&path);
    options.exclusive = true;
    let store = Store::open(options.clone()).await.unwrap();
    store.put_node(node("a"), UnixTime::from_seconds(1)).await.unwrap();
    let first = store.known();
    store.close().await;
    let earlier = std::fs::read(&path).unwrap();

    let store = Store::open(options.clone()).await.unwrap();
    assert_eq!(store.known(), first);
    store.put_node(node("b"), UnixTime::from_seconds(1)).await.unwrap();
    store.close().await;

    // Somebody puts back a copy by hand.
    std::fs::write(&path, earlier).unwrap();
    let store = Store::open(options.clone()).await.unwrap();
    assert_eq!(store.revision(), first.revision);
    assert_ne!(store.known().epoch, first.epoch);
    let second = store.known();

    // What a killed process leaves.
    let copy = tempfile::tempdir().unwrap();
    for name in ["s.db", "s.db-wal", "s.db.lock"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let mut options = StoreOptions::file(copy.path().join("s.db"));
    options.exclusive = true;
    let killed = Store::open(options).await.unwrap();
    assert_ne!(killed.known().epoch, second.epoch);
}
