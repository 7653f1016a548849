use super::*;
use crate::fingerprint::BodyParts;

fn key(name: &str) -> EntryKey {
    EntryKey::new(name, "spiffe://td/p", vec![("k8s", "pod-uid:1")])
}

fn body(ttl: i32) -> EntryBody {
    EntryBody::new(BodyParts { x509_svid_ttl: ttl, ..BodyParts::default() })
}

fn declared(source: u32, ttl: i32) -> Declared {
    Declared { source: SourceId(source), pod: None, body: body(ttl) }
}

fn current(id: &str, ttl: i32) -> Current {
    Current { id: id.parse().unwrap(), body: body(ttl), join_token: false }
}

fn reconciler() -> EntryReconciler {
    let mut reconciler = EntryReconciler::new();
    reconciler.rank(SourceId(1), 1);
    reconciler.rank(SourceId(2), 2);
    reconciler
}

fn now() -> Instant {
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn a_missing_entry_is_created_an_outdated_one_updated_an_undeclared_one_deleted() {
    let mut reconciler = reconciler();
    reconciler.declare(key("missing"), declared(1, 1));
    reconciler.declare(key("outdated"), declared(1, 1));
    reconciler.declare(key("good"), declared(1, 1));
    reconciler.saw(key("outdated"), current("o", 2));
    reconciler.saw(key("good"), current("g", 1));
    reconciler.saw(key("undeclared"), current("u", 1));
    let id = |id: &str| id.parse::<EntryId>().unwrap();
    assert_eq!(reconciler.take(now()), Some(Work::Create(vec![(key("missing"), declared(1, 1))])));
    reconciler.saw(key("missing"), current("m", 1));
    reconciler.done(key("missing"));
    assert_eq!(
        reconciler.take(now()),
        Some(Work::Delete(vec![(Some(key("undeclared")), id("u"))]))
    );
    assert_eq!(
        reconciler.take(now()),
        Some(Work::Update(vec![(key("outdated"), id("o"), declared(1, 1))]))
    );
    assert_eq!(reconciler.take(now()), None);
    assert_eq!(
        reconciler.counts(SourceId(1)),
        EntryCounts { to_set: 3, set: 2, ..EntryCounts::default() }
    );
}

/// What a template edit does to a pod's entry: another is declared in its place.
fn replaced(reconciler: &mut EntryReconciler, old: &str, new: &str, id: &str) {
    reconciler.declare(key(old), declared(1, 1));
    reconciler.saw(key(old), current(id, 1));
    assert_eq!(reconciler.take(now()), None);
    reconciler.withdraw(key(old), SourceId(1), None);
    reconciler.declare(key(new), declared(1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_takes_the_place_of_an_entry_is_created_before_that_is_deleted() {
    let mut reconciler = reconciler();
    replaced(&mut reconciler, "old", "new", "o");
    let create = Work::Create(vec![(key("new"), declared(1, 1))]);
    let delete = Work::Delete(vec![(Some(key("old")), "o".parse().unwrap())]);
    assert_eq!(reconciler.take(now()), Some(create.clone()));
    // While it is not known whether that was done, nothing is deleted.
    reconciler.again(key("new"));
    assert_eq!(reconciler.take(now()), Some(create));
    reconciler.saw(key("new"), current("n", 1));
    reconciler.done(key("new"));
    assert_eq!(reconciler.take(now()), Some(delete));
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_fails_for_good_holds_up_no_deletion() {
    let delete = Work::Delete(vec![(Some(key("old")), "o".parse().unwrap())]);
    let mut refused = reconciler();
    replaced(&mut refused, "old", "new", "o");
    assert!(matches!(refused.take(now()), Some(Work::Create(_))));
    refused.refused(key("new"), "no", now());
    assert_eq!(refused.take(now()), Some(delete.clone()));

    let mut failing = reconciler();
    replaced(&mut failing, "old", "new", "o");
    for _ in 0..2 {
        assert!(matches!(failing.take(now()), Some(Work::Create(_))));
        failing.again(key("new"));
    }
    let next: Vec<_> = (0..2).map(|_| failing.take(now()).unwrap()).collect();
    assert!(next.contains(&delete), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn deletions_do_not_wait_for_what_is_created_after_them() {
    let mut reconciler = reconciler();
    replaced(&mut reconciler, "old", "new", "o");
    assert!(matches!(reconciler.take(now()), Some(Work::Create(_))));
    reconciler.saw(key("new"), current("n", 1));
    reconciler.done(key("new"));
    reconciler.sort_out(now());
    reconciler.declare(key("later"), declared(1, 1));
    assert!(matches!(reconciler.take(now()), Some(Work::Delete(_))));
    assert!(matches!(reconciler.take(now()), Some(Work::Create(_))));
}

#[tokio::test(start_paused = true)]
async fn what_a_refusal_depends_on_has_it_tried_again_at_once() {
    let mut reconciler = reconciler();
    let create = |ttl| Some(Work::Create(vec![(key("bad"), declared(1, ttl))]));
    reconciler.declare(key("bad"), declared(1, 1));
    for _ in 0..5 {
        assert_eq!(reconciler.take(now()), create(1));
        reconciler.refused(key("bad"), "no bundle", now());
        tokio::time::advance(reconciler.next_retry().unwrap() - now()).await;
    }
    assert_eq!(reconciler.take(now()), create(1));
    reconciler.refused(key("bad"), "no bundle", now());
    assert_eq!(reconciler.refusal(SourceId(1)), Some((key("bad"), "no bundle")));
    assert_eq!(reconciler.take(now()), None);
    // What it federates with has a bundle now.
    reconciler.retry_refused();
    assert_eq!(reconciler.take(now()), create(1));
    reconciler.refused(key("bad"), "no bundle", now());
    // The resource was edited.
    reconciler.declare(key("bad"), declared(1, 2));
    assert_eq!(reconciler.take(now()), create(2));
    assert_eq!(
        (reconciler.counts(SourceId(1)).failures, reconciler.refusal(SourceId(1))),
        (0, None)
    );
}

#[tokio::test(start_paused = true)]
async fn of_two_that_declare_one_entry_the_preferred_sets_it_and_the_other_is_masked() {
    let mut reconciler = reconciler();
    reconciler.declare(key("a"), declared(2, 2));
    reconciler.declare(key("a"), declared(1, 1));
    assert_eq!(reconciler.take(now()), Some(Work::Create(vec![(key("a"), declared(1, 1))])));
    assert_eq!(reconciler.counts(SourceId(2)), EntryCounts { masked: 1, ..EntryCounts::default() });
    reconciler.saw(key("a"), current("x", 1));
    reconciler.done(key("a"));
    assert_eq!(reconciler.take(now()), None);
    // The preferred one goes: the other takes over the entry that is there.
    reconciler.withdraw(key("a"), SourceId(1), None);
    let work = Work::Update(vec![(key("a"), "x".parse().unwrap(), declared(2, 2))]);
    assert_eq!(reconciler.take(now()), Some(work));
    assert_eq!(reconciler.counts(SourceId(1)), EntryCounts::default());
}

#[tokio::test(start_paused = true)]
async fn entries_of_join_tokens_stay() {
    let mut reconciler = reconciler();
    reconciler.saw(key("t"), Current { join_token: true, ..current("t", 0) });
    assert_eq!(reconciler.take(now()), None);
    reconciler.saw(key("t"), current("second", 0));
    let work = Work::Delete(vec![(Some(key("t")), "second".parse().unwrap())]);
    assert_eq!(reconciler.take(now()), Some(work));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_waits_longer_each_time_and_holds_up_nobody() {
    let mut reconciler = reconciler();
    reconciler.declare(key("bad"), declared(1, 1));
    assert!(reconciler.take(now()).is_some());
    let mut waits = Vec::new();
    for _ in 0..3 {
        reconciler.refused(key("bad"), "no", now());
        assert_eq!(reconciler.take(now()), None);
        assert_eq!(reconciler.counts(SourceId(1)).failures, 1);
        reconciler.declare(key("good"), declared(1, 1));
        assert_eq!(reconciler.take(now()), Some(Work::Create(vec![(key("good"), declared(1, 1))])));
        reconciler.withdraw(key("good"), SourceId(1), None);
        let wait = reconciler.next_retry().unwrap() - now();
        waits.push(wait);
        tokio::time::advance(wait).await;
        assert_eq!(reconciler.take(now()), Some(Work::Create(vec![(key("bad"), declared(1, 1))])));
    }
    assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
    reconciler.saw(key("bad"), current("b", 1));
    reconciler.done(key("bad"));
    assert_eq!(reconciler.counts(SourceId(1)).failures, 0);
    assert!(reconciler.take(now()).is_none() && reconciler.is_settled());
}

#[tokio::test(start_paused = true)]
async fn batches_are_bounded_and_what_failed_as_a_batch_is_tried_alone() {
    let mut reconciler = reconciler();
    let keys: Vec<EntryKey> = (0..120).map(|n| key(&n.to_string())).collect();
    keys.iter().for_each(|key| reconciler.declare(*key, declared(1, 1)));
    let Some(Work::Create(first)) = reconciler.take(now()) else { panic!() };
    assert_eq!(first.len(), CREATE_BATCH);
    first.iter().for_each(|(key, _)| reconciler.alone(*key, now()));
    let Some(Work::Create(second)) = reconciler.take(now()) else { panic!() };
    assert_eq!(second.len(), CREATE_BATCH);
    let Some(Work::Create(third)) = reconciler.take(now()) else { panic!() };
    assert_eq!(third.len(), 20);
    tokio::time::advance(Duration::from_secs(2)).await;
    for _ in 0..CREATE_BATCH {
        let Some(Work::Create(alone)) = reconciler.take(now()) else { panic!() };
        assert_eq!(alone.len(), 1);
    }
    assert_eq!(reconciler.take(now()), None);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_changes_while_it_waits_is_in_a_batch_once() {
    let mut reconciler = reconciler();
    for ttl in 0..5 {
        reconciler.declare(key("a"), declared(1, ttl));
        reconciler.declare(key("b"), declared(1, ttl));
        reconciler.sort_out(now());
    }
    let Some(Work::Create(batch)) = reconciler.take(now()) else { panic!() };
    assert_eq!(batch, [(key("a"), declared(1, 4)), (key("b"), declared(1, 4))]);
    assert_eq!(reconciler.take(now()), None);
}

#[tokio::test(start_paused = true)]
async fn a_whole_list_takes_away_what_it_lacks() {
    let mut reconciler = reconciler();
    reconciler.declare(key("a"), declared(1, 1));
    reconciler.saw(key("a"), current("x", 1));
    assert_eq!(reconciler.take(now()), None);
    reconciler.saw_unwanted("old".parse().unwrap());
    reconciler.saw_all(&HashSet::new());
    assert_eq!(reconciler.held(), 0);
    assert_eq!(reconciler.take(now()), Some(Work::Create(vec![(key("a"), declared(1, 1))])));
    assert_eq!(reconciler.take(now()), None);
}
