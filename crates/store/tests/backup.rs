//! Promises about backup and restore.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::path::Path;

use common::{Fixture, draft, id, new, node};
use signet_store::{
    Changes, EntryFilter, OpenError, Store, StoreOptions,
    backup::{BackupError, back_up, restore},
};
use signet_time::UnixTime;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_backup_of_a_running_store_is_one_state_of_it() {
    let fixture = Fixture::new().await;
    let (db, copies) = (fixture.dir.path().join("s.db"), tempfile::tempdir().unwrap());
    // Each transaction creates two entries: a state has an even number of them.
    let store = fixture.store.clone();
    let writer = tokio::spawn(async move {
        for n in 0_u32.. {
            let pair = ["a", "b"].map(|side| {
                let name = format!("{side}{n}");
                new(&name, draft(&name, "p", &["x:1"]))
            });
            if store.create_entries(pair.to_vec(), UnixTime::from_seconds(1)).await.is_err() {
                return;
            }
        }
    });
    let mut last = 0;
    for n in 0..5 {
        let copy = copies.path().join(format!("{n}.db"));
        let summary = back_up(&db, &copy).await.unwrap();
        assert!(summary.entries % 2 == 0 && summary.entries >= last);
        assert_eq!(summary.position.revision, summary.entries);
        last = summary.entries;
        let opened = Store::open(StoreOptions::file(&copy)).await.unwrap();
        assert_eq!(opened.count_entries(&EntryFilter::default()).await.unwrap(), last);
        assert_eq!(opened.export().await.unwrap().entries.len() as u64, last);
        opened.close().await;
    }
    fixture.store.close().await;
    writer.await.unwrap();
    assert_eq!(names(copies.path()), ["0.db", "1.db", "2.db", "3.db", "4.db"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_backup_is_for_its_owner_only_and_overwrites_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new().await;
    let db = fixture.dir.path().join("s.db");
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("copy.db");
    back_up(&db, &copy).await.unwrap();
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o077, 0);
    let before = std::fs::read(&copy).unwrap();
    fixture.create("e", draft("a", "p", &["x:1"])).await;
    let refused = back_up(&db, &copy).await.unwrap_err();
    assert!(matches!(refused, BackupError::Exists(_)), "{refused}");
    assert_eq!(std::fs::read(&copy).unwrap(), before);
    let none = back_up(&fixture.dir.path().join("none.db"), &copies.path().join("x")).await;
    assert!(matches!(none.unwrap_err(), BackupError::Missing(_)));
    assert_eq!(names(copies.path()), ["copy.db"]);
}

/// A log that a crash left behind is older than the restored file or newer, and never replayed.
#[tokio::test]
async fn a_restore_brings_back_the_backup_and_nothing_else() {
    let fixture = Fixture::new().await;
    let (dir, copies) = (fixture.dir.path(), tempfile::tempdir().unwrap());
    let (db, copy) = (dir.join("s.db"), copies.path().join("copy.db"));
    fixture.create("kept", draft("a", "p", &["x:1"])).await;
    let saved = back_up(&db, &copy).await.unwrap();
    fixture.create("later", draft("b", "p", &["x:1"])).await;
    fixture.store.put_node(node("later"), UnixTime::from_seconds(1)).await.unwrap();
    // What a killed server leaves: the database with a log that was not checkpointed.
    let crashed = tempfile::tempdir().unwrap();
    for name in ["s.db", "s.db-wal"] {
        std::fs::copy(dir.join(name), crashed.path().join(name)).unwrap();
    }
    assert!(std::fs::metadata(crashed.path().join("s.db-wal")).unwrap().len() > 0);
    let db = crashed.path().join("s.db");
    let restored = restore(&copy, &db).await.unwrap();
    assert_eq!((restored.summary.entries, restored.summary.nodes), (1, 0));
    assert_ne!(restored.summary.position.epoch, saved.position.epoch);
    assert_eq!(restored.summary.position.revision, saved.position.revision);
    assert!(!crashed.path().join("s.db-wal").exists());

    let store = Store::open(StoreOptions::file(&db)).await.unwrap();
    assert!(store.entry(&id("kept")).await.unwrap().is_some());
    assert_eq!(store.entry(&id("later")).await.unwrap(), None);
    // Whoever followed the feed before reads everything anew.
    let followed = store.changes_since(&saved.position, 10).await.unwrap();
    assert_eq!(followed, Changes::Gone { now: restored.summary.position });
    store.close().await;

    // Nothing is lost by a mistake: the database of before is there, its log with it.
    let before = Store::open(StoreOptions::file(restored.before.unwrap())).await.unwrap();
    assert!(before.entry(&id("later")).await.unwrap().is_some());
    before.close().await;
    let again = restore(&copy, &db).await.unwrap();
    assert!(again.before.unwrap().to_str().unwrap().ends_with(".before-restore-2"));
}

#[tokio::test]
async fn nothing_is_restored_under_a_server_or_from_a_file_that_is_not_sound() {
    let fixture = Fixture::new().await;
    let (db, copies) = (fixture.dir.path().join("s.db"), tempfile::tempdir().unwrap());
    let copy = copies.path().join("copy.db");
    let entries = (0..2_000).map(|n| new(&format!("e{n}"), draft(&format!("w{n}"), "p", &["x:1"])));
    fixture.store.create_entries(entries.collect(), UnixTime::from_seconds(1)).await.unwrap();
    back_up(&db, &copy).await.unwrap();
    fixture.store.close().await;

    let mut options = StoreOptions::file(&db);
    options.exclusive = true;
    let running = Store::open(options).await.unwrap();
    let refused = restore(&copy, &db).await.unwrap_err();
    assert!(matches!(refused, BackupError::Open(OpenError::InUse { .. })), "{refused}");
    running.close().await;

    let before = std::fs::read(&db).unwrap();
    let damaged = copies.path().join("damaged.db");
    let mut bytes = std::fs::read(&copy).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8_192].fill(0xa5);
    std::fs::write(&damaged, bytes).unwrap();
    assert!(restore(&damaged, &db).await.is_err());
    std::fs::write(&damaged, b"").unwrap();
    assert!(restore(&damaged, &db).await.is_err());
    std::fs::write(&damaged, "not a database").unwrap();
    assert!(restore(&damaged, &db).await.is_err());
    assert_eq!(std::fs::read(&db).unwrap(), before);
    assert_eq!(names(fixture.dir.path()), ["s.db", "s.db.lock"]);
}
