//! Promises about the change feed and about transactions.

use std::sync::Arc;

use signet_identity::JoinToken;
use signet_time::UnixTime;

use super::{Database, Fixture, Settings, Told, bundle, draft, id, new, node};
use crate::{
    Change, ChangeKind, ChangedTo, Changes, EntryFilter, FeedPosition, Operation, Store, StoreError,
};

/// The place of this revision in the history of `store`.
fn at(store: &Store, revision: u64) -> FeedPosition {
    FeedPosition { revision, ..store.known() }
}

async fn since(store: &Store, revision: u64, limit: u32) -> Vec<Change> {
    match store.changes_since(&at(store, revision), limit).await.unwrap() {
        Changes::Since(changes) => changes,
        Changes::Gone { now } => panic!("gone: {now:?}"),
    }
}

pub async fn the_feed_has_no_gaps_and_every_subscriber_hears_of_the_newest(
    database: &dyn Database,
) {
    let fixture = Fixture::new(database).await;
    let mut newest = fixture.store.subscribe();
    assert_eq!(newest.borrow_and_update().revision, 0);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..10 {
        let store = fixture.store.clone();
        tasks.spawn(async move {
            for m in 0..10 {
                let name = format!("e{n}-{m}");
                store
                    .create_entries(
                        vec![new(&name, draft(&name, "p", &["x:1"]))],
                        UnixTime::from_seconds(1),
                    )
                    .await
                    .unwrap();
            }
        });
    }
    tasks.join_all().await;
    fixture.store.put_node(node("a"), UnixTime::from_seconds(1)).await.unwrap();
    newest.wait_for(|known| known.revision == 101).await.unwrap();
    let changes = since(&fixture.store, 0, 1_000).await;
    let revisions: Vec<u64> = changes.iter().map(|change| change.revision).collect();
    assert_eq!(revisions, (1..=101).collect::<Vec<u64>>());
    let last = Change {
        revision: 101,
        kind: ChangeKind::Node,
        key: "spiffe://td/spire/agent/t/a".into(),
        to: ChangedTo::Node(node("a").into()),
    };
    assert_eq!(changes.last(), Some(&last));
    assert_eq!(since(&fixture.store, 100, 10).await, [last]);
    assert_eq!(since(&fixture.store, 101, 10).await, []);
    let ahead = fixture.store.changes_since(&at(&fixture.store, 102), 10).await.unwrap();
    assert_eq!(ahead, Changes::Gone { now: at(&fixture.store, 101) });
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.store.revision(), 101);
    let again = since(&fixture.store, 0, 1_000).await;
    assert!(again.iter().all(|change| change.to == ChangedTo::Unread));
    let keys = |all: &[Change]| -> Vec<_> {
        all.iter().map(|it| (it.revision, it.kind, it.key.clone())).collect()
    };
    assert_eq!(keys(&again), keys(&changes));
}

pub async fn what_another_process_writes_is_in_the_feed_too(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let other = database.open(Settings::default()).await;
    fixture.create("e1", draft("a", "p", &["x:1"])).await;
    other.put_node(node("n"), UnixTime::from_seconds(1)).await.unwrap();
    let entry = fixture.create("e2", draft("b", "p", &["x:1"])).await;
    fixture.store.delete_entries(vec![id("e2")], UnixTime::from_seconds(1)).await.unwrap();
    let changes = since(&fixture.store, 0, 10).await;
    let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(keys, ["e1", "spiffe://td/spire/agent/t/n", "e2", "e2"]);
    let changes = since(&fixture.store, 2, 10).await;
    let to: Vec<&ChangedTo> = changes.iter().map(|change| &change.to).collect();
    assert_eq!(to, [&ChangedTo::Entry(entry.into()), &ChangedTo::Gone]);
}

pub async fn a_caller_that_gives_up_leaves_nothing_half_done(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    for n in 0..50_u64 {
        let batch = (0..20).map(|m| {
            let name = format!("e{n}-{m}");
            new(&name, draft(&name, "p", &["x:1"]))
        });
        let work = fixture.store.create_entries(batch.collect(), UnixTime::from_seconds(1));
        _ = tokio::time::timeout(std::time::Duration::from_micros(n * 40), work).await;
    }
    fixture.create("last", draft("last", "p", &["x:1"])).await;
    let count = fixture.store.count_entries(&EntryFilter::default()).await.unwrap();
    assert_eq!(count % 20, 1, "whole batches only");
    assert_eq!(fixture.store.revision(), count);
    let changes = since(&fixture.store, 0, 10_000).await;
    assert_eq!(changes.len() as u64, count);
}

pub async fn a_place_of_another_history_is_gone(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let store = &fixture.store;
    store.put_node(node("a"), UnixTime::from_seconds(1)).await.unwrap();
    store.put_node(node("b"), UnixTime::from_seconds(1)).await.unwrap();
    for revision in [0, 1, 2] {
        let elsewhere = FeedPosition { epoch: "another".into(), revision };
        let answer = store.changes_since(&elsewhere, 10).await.unwrap();
        assert_eq!(answer, Changes::Gone { now: store.known() });
        assert!(!store.known().has_reached(&elsewhere));
    }
    assert!(store.known().has_reached(&at(store, 2)) && !store.known().has_reached(&at(store, 3)));
}

pub async fn a_pruned_feed_says_so_and_keeps_its_newest_change(database: &dyn Database) {
    let settings = Settings { changes_max_age: 50, changes_max_rows: 5, observer: None };
    let store = database.open(settings).await;
    for n in 0..10 {
        let name = format!("e{n}");
        store
            .create_entries(
                vec![new(&name, draft(&name, "p", &["x:1"]))],
                UnixTime::from_seconds(n),
            )
            .await
            .unwrap();
    }
    assert_eq!(store.prune_changes(UnixTime::from_seconds(20)).await.unwrap(), 5);
    let gone = store.changes_since(&at(&store, 4), 10).await.unwrap();
    assert_eq!(gone, Changes::Gone { now: at(&store, 10) });
    assert_eq!(since(&store, 5, 10).await.len(), 5);
    assert_eq!(since(&store, 5, 2).await.len(), 2);
    assert_eq!(store.prune_changes(UnixTime::from_seconds(58)).await.unwrap(), 3);
    assert_eq!(store.prune_changes(UnixTime::from_seconds(1_000)).await.unwrap(), 1);
    assert_eq!(since(&store, 10, 10).await, []);
    assert_eq!(store.revision(), 10);
}

pub async fn what_another_process_committed_is_committed_for_all(database: &dyn Database) {
    let here = database.open(Settings::default()).await;
    let there = database.open(Settings::default()).await;
    let mut told = here.subscribe();
    told.mark_unchanged();
    for n in 1..=5_u64 {
        there.put_node(node(&format!("n{n}")), UnixTime::from_seconds(1)).await.unwrap();
        let committed = here.committed().await.unwrap();
        assert_eq!(committed.revision, n);
        assert_eq!(committed.epoch, there.known().epoch);
        assert_eq!(here.known(), committed);
        assert!(told.has_changed().unwrap());
        assert_eq!(told.borrow_and_update().revision, n);
    }
}

pub async fn writers_of_two_processes_lose_nothing_and_leave_no_gap(database: &dyn Database) {
    const EACH: u64 = 40;
    let mut writers = tokio::task::JoinSet::new();
    for process in ["a", "b", "c"] {
        let store = database.open(Settings::default()).await;
        writers.spawn(async move {
            for n in 0..EACH {
                let name = format!("{process}{n}");
                let entry = new(&name, draft(&name, "p", &["x:1"]));
                store.create_entries(vec![entry], UnixTime::from_seconds(1)).await.unwrap();
                let shared = "shared".parse().unwrap();
                let grown = store.change_bundle(&shared, UnixTime::from_seconds(1), |bundle| {
                    bundle.refresh_hint += 1;
                    Ok::<_, ()>(())
                });
                grown.await.unwrap().unwrap();
            }
        });
    }
    writers.join_all().await;
    let store = database.open(Settings::default()).await;
    let all = 3 * EACH;
    assert_eq!(store.count_entries(&EntryFilter::default()).await.unwrap(), all);
    let shared = store.bundle(&"shared".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((shared.refresh_hint.cast_unsigned(), shared.sequence_number), (all, all));
    let changes = since(&store, 0, 10_000).await;
    let revisions: Vec<u64> = changes.iter().map(|change| change.revision).collect();
    assert_eq!(revisions, (1..=2 * all).collect::<Vec<_>>());
    assert_eq!(store.committed().await.unwrap().revision, 2 * all);
}

pub async fn every_operation_is_told_of_by_its_name(database: &dyn Database) {
    let told = Arc::new(Told::default());
    let observer = Some(Arc::clone(&told) as _);
    let store = database.open(Settings { observer, ..Settings::default() }).await;
    told.take();
    store.put_node(node("a"), UnixTime::from_seconds(1)).await.unwrap();
    store.node(&node("a").spiffe_id).await.unwrap();
    store
        .change_bundle(&"td".parse().unwrap(), UnixTime::from_seconds(1), |_| Err::<(), _>(()))
        .await
        .unwrap()
        .unwrap_err();
    store.import(&Default::default(), UnixTime::from_seconds(1)).await.unwrap_err();
    store.close().await;
    store.ping().await.unwrap_err();
    let names: Vec<_> = told
        .take()
        .into_iter()
        .map(|(operation, tries, done)| (operation.noun(), operation.verb(), tries, done))
        .collect();
    assert_eq!(
        names,
        [
            ("node", "create", 1, true),
            ("node", "fetch", 1, true),
            ("bundle", "append", 1, true),
            ("store", "import", 1, false),
            ("store", "ping", 1, false),
        ]
    );
    let mut all: Vec<_> = Operation::ALL.iter().map(|it| (it.noun(), it.verb())).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), Operation::ALL.len(), "no two operations share a name");
}

pub async fn a_closed_store_says_so(database: &dyn Database) {
    let store = database.open(Settings::default()).await;
    store.ping().await.unwrap();
    store.close().await;
    let closed = |error| matches!(error, StoreError::Closed { .. });
    assert!(closed(store.ping().await.unwrap_err()));
    assert!(closed(store.put_node(node("a"), UnixTime::from_seconds(1)).await.unwrap_err()));
    assert!(closed(store.count_entries(&EntryFilter::default()).await.unwrap_err()));
}

pub async fn everything_that_was_exported_is_imported_as_it_was(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let store = &fixture.store;
    let token = JoinToken {
        token: "t".into(),
        expires_at: UnixTime::from_seconds(9),
        spent_by: Some([7; 32]),
    };
    store.create_join_token(token, None, UnixTime::from_seconds(1)).await.unwrap();
    store
        .set_bundles(vec![bundle("td"), bundle("a.test")], UnixTime::from_seconds(1))
        .await
        .unwrap();
    store.put_node(node("a"), UnixTime::from_seconds(1)).await.unwrap();
    for n in (0..20).rev() {
        fixture.create(&format!("e{n}"), draft(&format!("w{n}"), "p", &["x:1"])).await;
    }
    let mut contents = store.export().await.unwrap();
    let not_empty = store.import(&contents, UnixTime::from_seconds(2)).await.unwrap_err();
    assert!(matches!(not_empty, StoreError::NotEmpty { .. }), "{not_empty}");
    assert_eq!(store.export().await.unwrap(), contents);

    // All is deleted, and brought back.
    let ids = contents.entries.iter().map(|entry| entry.id.clone()).collect();
    store.delete_entries(ids, UnixTime::from_seconds(3)).await.unwrap();
    store.delete_node(&node("a").spiffe_id, UnixTime::from_seconds(3)).await.unwrap();
    store.prune_join_tokens(UnixTime::from_seconds(100)).await.unwrap();
    let names = vec!["td".parse().unwrap(), "a.test".parse().unwrap()];
    store
        .delete_bundles(names, crate::DeleteBundleMode::Restrict, UnixTime::from_seconds(3))
        .await
        .unwrap();
    contents.entries[0].revision_number = 17;
    store.import(&contents, UnixTime::from_seconds(4)).await.unwrap();
    assert_eq!(store.export().await.unwrap(), contents);
    let changes = since(store, store.revision() - 20, 100).await;
    assert!(changes.iter().all(|change| change.kind == ChangeKind::Entry));
}
