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

fn book() -> Book {
    let mut book = Book::new();
    book.rank(SourceId(1), 1);
    book.rank(SourceId(2), 2);
    book
}

fn now() -> Instant {
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn a_missing_entry_is_created_an_outdated_one_updated_an_undeclared_one_deleted() {
    let mut book = book();
    book.declare(key("missing"), declared(1, 1));
    book.declare(key("outdated"), declared(1, 1));
    book.declare(key("good"), declared(1, 1));
    book.saw(key("outdated"), current("o", 2));
    book.saw(key("good"), current("g", 1));
    book.saw(key("undeclared"), current("u", 1));
    let id = |id: &str| id.parse::<EntryId>().unwrap();
    assert_eq!(book.take(now()), Some(Work::Create(vec![(key("missing"), declared(1, 1))])));
    book.saw(key("missing"), current("m", 1));
    book.done(key("missing"));
    assert_eq!(book.take(now()), Some(Work::Delete(vec![(Some(key("undeclared")), id("u"))])));
    assert_eq!(
        book.take(now()),
        Some(Work::Update(vec![(key("outdated"), id("o"), declared(1, 1))]))
    );
    assert_eq!(book.take(now()), None);
    assert_eq!(book.tally(SourceId(1)), Tally { to_set: 3, set: 2, ..Tally::default() });
}

/// What a template edit does to a pod's entry: another is declared in its place.
fn replaced(book: &mut Book, old: &str, new: &str, id: &str) {
    book.declare(key(old), declared(1, 1));
    book.saw(key(old), current(id, 1));
    assert_eq!(book.take(now()), None);
    book.withdraw(key(old), SourceId(1), None);
    book.declare(key(new), declared(1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_takes_the_place_of_an_entry_is_created_before_that_is_deleted() {
    let mut book = book();
    replaced(&mut book, "old", "new", "o");
    let create = Work::Create(vec![(key("new"), declared(1, 1))]);
    let delete = Work::Delete(vec![(Some(key("old")), "o".parse().unwrap())]);
    assert_eq!(book.take(now()), Some(create.clone()));
    // While it is not known whether that was done, nothing is deleted.
    book.again(key("new"));
    assert_eq!(book.take(now()), Some(create));
    book.saw(key("new"), current("n", 1));
    book.done(key("new"));
    assert_eq!(book.take(now()), Some(delete));
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_fails_for_good_holds_up_no_deletion() {
    let delete = Work::Delete(vec![(Some(key("old")), "o".parse().unwrap())]);
    let mut refused = book();
    replaced(&mut refused, "old", "new", "o");
    assert!(matches!(refused.take(now()), Some(Work::Create(_))));
    refused.refused(key("new"), "no", now());
    assert_eq!(refused.take(now()), Some(delete.clone()));

    let mut failing = book();
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
    let mut book = book();
    replaced(&mut book, "old", "new", "o");
    assert!(matches!(book.take(now()), Some(Work::Create(_))));
    book.saw(key("new"), current("n", 1));
    book.done(key("new"));
    book.sort_out(now());
    book.declare(key("later"), declared(1, 1));
    assert!(matches!(book.take(now()), Some(Work::Delete(_))));
    assert!(matches!(book.take(now()), Some(Work::Create(_))));
}

#[tokio::test(start_paused = true)]
async fn what_a_refusal_depends_on_has_it_tried_again_at_once() {
    let mut book = book();
    let create = |ttl| Some(Work::Create(vec![(key("bad"), declared(1, ttl))]));
    book.declare(key("bad"), declared(1, 1));
    for _ in 0..5 {
        assert_eq!(book.take(now()), create(1));
        book.refused(key("bad"), "no bundle", now());
        tokio::time::advance(book.next_retry().unwrap() - now()).await;
    }
    assert_eq!(book.take(now()), create(1));
    book.refused(key("bad"), "no bundle", now());
    assert_eq!(book.refusal(SourceId(1)), Some((key("bad"), "no bundle")));
    assert_eq!(book.take(now()), None);
    // What it federates with has a bundle now.
    book.retry_refused();
    assert_eq!(book.take(now()), create(1));
    book.refused(key("bad"), "no bundle", now());
    // The resource was edited.
    book.declare(key("bad"), declared(1, 2));
    assert_eq!(book.take(now()), create(2));
    assert_eq!((book.tally(SourceId(1)).failures, book.refusal(SourceId(1))), (0, None));
}

#[tokio::test(start_paused = true)]
async fn of_two_that_declare_one_entry_the_preferred_sets_it_and_the_other_is_masked() {
    let mut book = book();
    book.declare(key("a"), declared(2, 2));
    book.declare(key("a"), declared(1, 1));
    assert_eq!(book.take(now()), Some(Work::Create(vec![(key("a"), declared(1, 1))])));
    assert_eq!(book.tally(SourceId(2)), Tally { masked: 1, ..Tally::default() });
    book.saw(key("a"), current("x", 1));
    book.done(key("a"));
    assert_eq!(book.take(now()), None);
    // The preferred one goes: the other takes over the entry that is there.
    book.withdraw(key("a"), SourceId(1), None);
    let work = Work::Update(vec![(key("a"), "x".parse().unwrap(), declared(2, 2))]);
    assert_eq!(book.take(now()), Some(work));
    assert_eq!(book.tally(SourceId(1)), Tally::default());
}

#[tokio::test(start_paused = true)]
async fn entries_of_join_tokens_stay() {
    let mut book = book();
    book.saw(key("t"), Current { join_token: true, ..current("t", 0) });
    assert_eq!(book.take(now()), None);
    book.saw(key("t"), current("second", 0));
    let work = Work::Delete(vec![(Some(key("t")), "second".parse().unwrap())]);
    assert_eq!(book.take(now()), Some(work));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_waits_longer_each_time_and_holds_up_nobody() {
    let mut book = book();
    book.declare(key("bad"), declared(1, 1));
    assert!(book.take(now()).is_some());
    let mut waits = Vec::new();
    for _ in 0..3 {
        book.refused(key("bad"), "no", now());
        assert_eq!(book.take(now()), None);
        assert_eq!(book.tally(SourceId(1)).failures, 1);
        book.declare(key("good"), declared(1, 1));
        assert_eq!(book.take(now()), Some(Work::Create(vec![(key("good"), declared(1, 1))])));
        book.withdraw(key("good"), SourceId(1), None);
        let wait = book.next_retry().unwrap() - now();
        waits.push(wait);
        tokio::time::advance(wait).await;
        assert_eq!(book.take(now()), Some(Work::Create(vec![(key("bad"), declared(1, 1))])));
    }
    assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
    book.saw(key("bad"), current("b", 1));
    book.done(key("bad"));
    assert_eq!(book.tally(SourceId(1)).failures, 0);
    assert!(book.take(now()).is_none() && book.is_settled());
}

#[tokio::test(start_paused = true)]
async fn batches_are_bounded_and_what_failed_as_a_batch_is_tried_alone() {
    let mut book = book();
    let keys: Vec<EntryKey> = (0..120).map(|n| key(&n.to_string())).collect();
    keys.iter().for_each(|key| book.declare(*key, declared(1, 1)));
    let Some(Work::Create(first)) = book.take(now()) else { panic!() };
    assert_eq!(first.len(), CREATE_BATCH);
    first.iter().for_each(|(key, _)| book.alone(*key, now()));
    let Some(Work::Create(second)) = book.take(now()) else { panic!() };
    assert_eq!(second.len(), CREATE_BATCH);
    let Some(Work::Create(third)) = book.take(now()) else { panic!() };
    assert_eq!(third.len(), 20);
    tokio::time::advance(Duration::from_secs(2)).await;
    for _ in 0..CREATE_BATCH {
        let Some(Work::Create(alone)) = book.take(now()) else { panic!() };
        assert_eq!(alone.len(), 1);
    }
    assert_eq!(book.take(now()), None);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_changes_while_it_waits_is_in_a_batch_once() {
    let mut book = book();
    for ttl in 0..5 {
        book.declare(key("a"), declared(1, ttl));
        book.declare(key("b"), declared(1, ttl));
        book.sort_out(now());
    }
    let Some(Work::Create(batch)) = book.take(now()) else { panic!() };
    assert_eq!(batch, [(key("a"), declared(1, 4)), (key("b"), declared(1, 4))]);
    assert_eq!(book.take(now()), None);
}

#[tokio::test(start_paused = true)]
async fn a_whole_list_takes_away_what_it_lacks() {
    let mut book = book();
    book.declare(key("a"), declared(1, 1));
    book.saw(key("a"), current("x", 1));
    assert_eq!(book.take(now()), None);
    book.saw_unwanted("old".parse().unwrap());
    book.saw_all(&HashSet::new());
    assert_eq!(book.held(), 0);
    assert_eq!(book.take(now()), Some(Work::Create(vec![(key("a"), declared(1, 1))])));
    assert_eq!(book.take(now()), None);
}
