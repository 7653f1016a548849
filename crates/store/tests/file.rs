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
use signet_store::{
    Change, ChangeKind, ChangedTo, Changes, EntryFilter, OpenError, Store, StoreError, StoreOptions,
};
use signet_testkit::{SmallDisk, make_room};
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
    fixture.store.create_entries(entries.collect(), 1).await.unwrap();
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
    fixture.store.put_node(node("a"), 1).await.unwrap();
    for file in std::fs::read_dir(fixture.dir.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} {mode:o}", file.path());
    }
}

#[tokio::test]
async fn the_feed_has_no_gaps_and_every_subscriber_hears_of_the_newest() {
    let fixture = Fixture::new().await;
    let mut newest = fixture.store.subscribe();
    assert_eq!(*newest.borrow_and_update(), 0);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..10 {
        let store = fixture.store.clone();
        tasks.spawn(async move {
            for m in 0..10 {
                let name = format!("e{n}-{m}");
                store
                    .create_entries(vec![new(&name, draft(&name, "p", &["x:1"]))], 1)
                    .await
                    .unwrap();
            }
        });
    }
    tasks.join_all().await;
    fixture.store.put_node(node("a"), 1).await.unwrap();
    newest.wait_for(|revision| *revision == 101).await.unwrap();
    let Changes::Since(changes) = fixture.store.changes_since(0, 1_000).await.unwrap() else {
        panic!("gone");
    };
    let revisions: Vec<u64> = changes.iter().map(|change| change.revision).collect();
    assert_eq!(revisions, (1..=101).collect::<Vec<u64>>());
    let last = Change {
        revision: 101,
        kind: ChangeKind::Node,
        key: "spiffe://td/spire/agent/t/a".into(),
        to: ChangedTo::Node(node("a").into()),
    };
    assert_eq!(changes.last(), Some(&last));
    assert_eq!(fixture.store.changes_since(100, 10).await.unwrap(), Changes::Since(vec![last]));
    assert_eq!(fixture.store.changes_since(101, 10).await.unwrap(), Changes::Since(vec![]));
    assert_eq!(fixture.store.changes_since(102, 10).await.unwrap(), Changes::Gone { newest: 101 });
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.store.revision(), 101);
    let Changes::Since(again) = fixture.store.changes_since(0, 1_000).await.unwrap() else {
        panic!("gone");
    };
    assert!(again.iter().all(|change| change.to == ChangedTo::Unread));
    let keys = |all: &[Change]| -> Vec<_> {
        all.iter().map(|it| (it.revision, it.kind, it.key.clone())).collect()
    };
    assert_eq!(keys(&again), keys(&changes));
}

#[tokio::test]
async fn a_pruned_feed_says_so_and_keeps_its_newest_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::file(dir.path().join("s.db"));
    options.changes_max_age = 50;
    options.changes_max_rows = 5;
    let store = Store::open(options).await.unwrap();
    for n in 0..10 {
        let name = format!("e{n}");
        store.create_entries(vec![new(&name, draft(&name, "p", &["x:1"]))], n).await.unwrap();
    }
    assert_eq!(store.prune_changes(20).await.unwrap(), 5);
    assert_eq!(store.changes_since(4, 10).await.unwrap(), Changes::Gone { newest: 10 });
    assert!(
        matches!(store.changes_since(5, 10).await.unwrap(), Changes::Since(all) if all.len() == 5)
    );
    assert_eq!(store.prune_changes(58).await.unwrap(), 3);
    assert_eq!(store.prune_changes(1_000).await.unwrap(), 1);
    assert_eq!(store.changes_since(10, 10).await.unwrap(), Changes::Since(vec![]));
    assert_eq!(store.revision(), 10);
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
async fn a_caller_that_gives_up_leaves_nothing_half_done() {
    let fixture = Fixture::new().await;
    for n in 0..50_u64 {
        let batch = (0..20).map(|m| {
            let name = format!("e{n}-{m}");
            new(&name, draft(&name, "p", &["x:1"]))
        });
        let work = fixture.store.create_entries(batch.collect(), 1);
        _ = tokio::time::timeout(std::time::Duration::from_micros(n * 40), work).await;
    }
    fixture.create("last", draft("last", "p", &["x:1"])).await;
    let count = fixture.store.count_entries(&EntryFilter::default()).await.unwrap();
    assert_eq!(count % 20, 1, "whole batches only");
    assert_eq!(fixture.store.revision(), count);
    let Changes::Since(changes) = fixture.store.changes_since(0, 10_000).await.unwrap() else {
        panic!("gone");
    };
    assert_eq!(changes.len() as u64, count);
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
    let error = store.put_node(node("a"), 1).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    store.put_node(node("a"), 1).await.unwrap();
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
        match store.create_entries(batch.collect(), 1).await {
            Ok(_) => kept += 100,
            Err(error) => break error,
        }
    };
    println!("{error:?}");
    assert!(kept > 0);
    // With room again, the same store goes on.
    make_room(&dir, std::process::id());
    store.put_node(node("after"), 1).await.unwrap();
    assert_eq!(store.count_entries(&EntryFilter::default()).await.unwrap(), kept);
    store.close().await;
    let store = Store::open(StoreOptions::file(&path)).await.unwrap();
    assert_eq!(store.count_entries(&EntryFilter::default()).await.unwrap(), kept);
    let page = store.list_entries(&EntryFilter::default(), Default::default()).await.unwrap();
    assert_eq!(page.items.len() as u64, kept);
    store.close().await;
}

#[tokio::test]
async fn what_another_process_writes_is_in_the_feed_too() {
    let fixture = Fixture::new().await;
    let other = Store::open(fixture.options()).await.unwrap();
    fixture.create("e1", draft("a", "p", &["x:1"])).await;
    other.put_node(node("n"), 1).await.unwrap();
    let entry = fixture.create("e2", draft("b", "p", &["x:1"])).await;
    fixture.store.delete_entries(vec![id("e2")], 1).await.unwrap();
    let Changes::Since(changes) = fixture.store.changes_since(0, 10).await.unwrap() else {
        panic!("gone");
    };
    let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(keys, ["e1", "spiffe://td/spire/agent/t/n", "e2", "e2"]);
    let Changes::Since(changes) = fixture.store.changes_since(2, 10).await.unwrap() else {
        panic!("gone");
    };
    let to: Vec<&ChangedTo> = changes.iter().map(|change| &change.to).collect();
    assert_eq!(to, [&ChangedTo::Entry(entry.into()), &ChangedTo::Gone]);
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
