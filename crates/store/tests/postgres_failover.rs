//! What is kept, lost and noticed when a replica takes the place of the primary.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use std::time::Duration;

use signet_identity::Entry;
use signet_store::{
    Changes, CreateEntryOutcome, EntryFilter, Store,
    conformance::{draft, id, new},
    postgres::{ConnectionString, PostgresOptions, ThisProcess},
};
use signet_testkit::{Postgres, skip};
use signet_time::UnixTime;

fn options(primary: &Postgres, replica: &Postgres) -> PostgresOptions {
    let mut options = PostgresOptions::new(at(&[primary, replica], ""));
    options.patience = Duration::from_secs(120);
    options
}

fn at(servers: &[&Postgres], more: &str) -> ConnectionString {
    let hosts = vec!["127.0.0.1"; servers.len()].join(",");
    let ports: Vec<_> = servers.iter().map(|server| server.port().to_string()).collect();
    let ports = ports.join(",");
    let dsn =
        format!("host={hosts} port={ports} user=postgres dbname=postgres sslmode=disable {more}");
    ConnectionString::parse(&dsn, &ThisProcess).unwrap()
}

/// Waits until a replica holds so many entries.
fn caught_up(replica: &Postgres, entries: &str) {
    while replica.sql("postgres", "SELECT to_regclass('signet_entries') IS NOT NULL") != "t"
        || replica.sql("postgres", "SELECT count(*) FROM signet_entries") != entries
    {
        std::thread::yield_now();
    }
}

async fn scanned(store: &Store) -> Vec<String> {
    let mut found = Vec::new();
    let since = store.committed().await.unwrap();
    let take = |some: Vec<Entry>| found.extend(some.into_iter().map(|entry| entry.id.to_string()));
    store.read_entries(&since, take).await.unwrap();
    found
}

async fn create(store: &Store, name: &str) -> bool {
    let entry = new(name, draft(name, "p", &["x:1"]));
    match store.create_entries(vec![entry], UnixTime::from_seconds(1)).await {
        Ok(outcomes) => matches!(outcomes[0], CreateEntryOutcome::Created(_)),
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lagged_is_noticed_and_nothing_old_is_believed() {
    let Some(programs) = Postgres::programs() else { skip!("PostgreSQL is not installed") };
    let primary = Postgres::start(&programs, &[]);
    let replica = primary.standby("lagging");
    let here = Store::open_postgres(options(&primary, &replica)).await.unwrap();
    let there = Store::open_postgres(options(&primary, &replica)).await.unwrap();
    assert!(create(&here, "kept").await);
    there.committed().await.unwrap();
    caught_up(&replica, "1");
    replica.stop();
    for n in 0..5 {
        assert!(create(&here, &format!("lost{n}")).await);
    }
    let before = here.known();
    assert_eq!(before.revision, 6);

    primary.kill();
    replica.resume();
    replica.promote();
    // Another server, which had not seen what is lost, gives the same revisions to other changes.
    for n in 0..7 {
        assert!(create(&there, &format!("other{n}")).await);
    }
    let now = here.committed().await.unwrap();
    assert_ne!(now.epoch, before.epoch, "another history");
    match here.changes_since(&before, 10).await.unwrap() {
        Changes::Gone { .. } => {}
        Changes::Since(changes) => panic!("{changes:?}"),
    }
    assert_eq!(here.count_entries(&EntryFilter::default()).await.unwrap(), 8);
    assert!(here.entry(&id("lost0")).await.unwrap().is_none());
    assert_eq!(there.committed().await.unwrap().epoch, now.epoch, "the other one learns of it");
    assert!(create(&here, "lost0").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_read_from_a_replica_that_has_come_far_enough_and_from_no_other() {
    let Some(programs) = Postgres::programs() else { skip!("PostgreSQL is not installed") };
    let primary = Postgres::start(&programs, &[]);
    let replica = primary.standby("readable");
    let mut options = PostgresOptions::new(at(&[&primary], ""));
    // Who reads there sees an entry more, which tells who was asked.
    options.replica = Some(at(&[&replica], "search_path=marked,public"));
    let store = Store::open_postgres(options).await.unwrap();
    assert!(create(&store, "a").await);
    assert!(create(&store, "b").await);
    for text in [
        "CREATE SCHEMA marked",
        "CREATE TABLE marked.signet_entries AS SELECT * FROM signet_entries",
        "UPDATE marked.signet_entries SET entry_id = 'replica' WHERE entry_id = 'b'",
    ] {
        primary.sql("postgres", text);
    }
    let marked = "SELECT to_regclass('marked.signet_entries') IS NOT NULL";
    while replica.sql("postgres", marked) != "t" {
        std::thread::yield_now();
    }
    let marked = "SELECT count(*) FROM marked.signet_entries WHERE entry_id = 'replica'";
    while replica.sql("postgres", marked) != "1" {
        std::thread::yield_now();
    }
    assert_eq!(scanned(&store).await, ["a", "replica"]);

    // It stands still, and lacks what is there since.
    replica.sql("postgres", "SELECT pg_wal_replay_pause()");
    assert!(create(&store, "c").await);
    assert_eq!(scanned(&store).await, ["a", "b", "c"]);
    replica.sql("postgres", "SELECT pg_wal_replay_resume()");
    caught_up(&replica, "3");
    assert_eq!(scanned(&store).await, ["a", "replica"]);
    // A primary of its own now: another history, whatever it holds.
    replica.promote();
    replica.sql("postgres", "UPDATE signet_feed SET epoch = 'another'");
    assert_eq!(scanned(&store).await, ["a", "b", "c"]);
    replica.stop();
    assert_eq!(scanned(&store).await, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_synchronous_replica_nothing_acknowledged_is_lost() {
    let Some(programs) = Postgres::programs() else { skip!("PostgreSQL is not installed") };
    // Commits wait for the replica's disk only while there is one to wait for.
    let primary = Postgres::start(&programs, &["synchronous_commit = on"]);
    let replica = primary.standby("other");
    primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
    primary.sql("postgres", "SELECT pg_reload_conf()");
    let store = Store::open_postgres(options(&primary, &replica)).await.unwrap();
    assert!(create(&store, "first").await);
    let (told, mut heard) = tokio::sync::mpsc::channel(10_000);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let (store, told) = (store.clone(), told.clone());
        writers.spawn(async move {
            for n in 0.. {
                let name = format!("w{writer}-{n}");
                if create(&store, &name).await && told.send(name).await.is_err() {
                    return;
                }
            }
        });
    }
    let mut acknowledged = vec!["first".to_owned()];
    while acknowledged.len() < 100 {
        acknowledged.push(heard.recv().await.unwrap());
    }
    tokio::task::block_in_place(|| {
        primary.kill();
        replica.promote();
    });
    let until = acknowledged.len() + 50;
    while acknowledged.len() < until + 50 {
        acknowledged.push(heard.recv().await.unwrap());
    }
    drop(heard);
    writers.abort_all();
    for name in &acknowledged {
        assert!(store.entry(&id(name)).await.unwrap().is_some(), "{name} was acknowledged");
    }
}
