use std::time::Duration;

use signet_base::TestClock;
use signet_identity::X509Authority;
use zeroize::Zeroizing;

use super::*;
use crate::entry::tests::entry;

mod served;

const RULE: RotationRule = RotationRule { availability_target: 0 };

struct Fixture {
    cache: Arc<Cache>,
    clock: TestClock,
    entries: EntryMap,
}

impl Fixture {
    fn new(max: usize) -> Self {
        let clock = TestClock::at_unix(UnixTime::from_seconds(1_000));
        let cache = Cache::new(bundle("td", 1), max, Arc::new(clock.clone()));
        Self { cache, clock, entries: EntryMap::new() }
    }

    fn put_entry(&mut self, entry: AgentEntry) {
        self.entries.insert(entry.id.clone(), Arc::new(entry));
        self.push();
    }

    fn remove_entry(&mut self, id: &str) {
        self.entries.remove(&id.parse().unwrap());
        self.push();
    }

    fn push(&self) -> EntryChanges {
        self.cache.update(&self.entries, BundleMap::from([own(1)]))
    }

    /// Signs whatever the cache wants, valid for `ttl` seconds.
    fn sign(&self, ttl: i64) -> Vec<String> {
        let wanted = self.cache.wanted(RULE);
        let ids = wanted.iter().map(|w| w.entry.id.to_string()).collect();
        let now = self.clock.unix();
        self.cache.put(
            wanted
                .into_iter()
                .map(|w| {
                    (w.entry.id.clone(), Some(svid(&w.entry, now.seconds(), (now + ttl).seconds())))
                })
                .collect(),
        );
        ids
    }
}

fn bundle(name: &str, content: u8) -> Arc<Bundle> {
    let mut bundle = Bundle::empty(name.parse().unwrap());
    bundle.x509_authorities = vec![X509Authority { der: vec![content].into(), tainted: false }];
    Arc::new(bundle)
}

fn own(content: u8) -> (TrustDomain, Arc<Bundle>) {
    ("td".parse().unwrap(), bundle("td", content))
}

fn svid(entry: &AgentEntry, from: i64, to: i64) -> Arc<X509Svid> {
    let leaf: Box<[u8]> = format!("{}{from}", entry.id).into_bytes().into();
    X509Svid::new(
        entry.spiffe_id.clone(),
        vec![leaf],
        Zeroizing::new(vec![1]),
        (UnixTime::from_seconds(from), UnixTime::from_seconds(to)),
    )
}

fn set(all: &[&str]) -> SelectorSet {
    all.iter().map(|s| s.parse().unwrap()).collect()
}

fn ids(update: &WorkloadUpdate) -> Vec<&str> {
    update.identities.iter().map(|i| i.entry.id.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn serves_matching_identities_in_the_order_of_entry_ids() {
    let mut f = Fixture::new(10);
    f.put_entry(entry("b", &["unix:uid:1"]));
    f.put_entry(entry("a", &["unix:uid:1", "unix:gid:2"]));
    f.put_entry(entry("c", &["unix:uid:9"]));
    f.sign(3600);
    let mut sub = f.cache.subscribe(set(&["unix:uid:1", "unix:gid:2", "unix:user:x"]));
    assert_eq!(ids(&sub.next().await.unwrap()), ["a", "b"]);
    assert_eq!(f.cache.matching(&set(&["unix:uid:9"])).len(), 1);
    assert!(f.cache.matching(&set(&["unix:uid:2"])).is_empty());
}

#[tokio::test(start_paused = true)]
async fn all_readers_of_one_selector_set_share_one_update() {
    let mut f = Fixture::new(10);
    f.put_entry(entry("a", &["unix:uid:1"]));
    f.sign(3600);
    let mut one = f.cache.subscribe(set(&["unix:uid:1"]));
    let mut two = f.cache.subscribe(set(&["unix:uid:1"]));
    let (one_update, two_update) = (one.next().await.unwrap(), two.next().await.unwrap());
    assert!(Arc::ptr_eq(&one_update, &two_update));
    drop((one, two));
    let mut three = f.cache.subscribe(set(&["unix:uid:1"]));
    assert!(Arc::ptr_eq(&one_update, &three.next().await.unwrap()), "kept for the next call");
    assert_eq!(f.cache.subscriber_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn first_answer_waits_for_every_svid_but_not_for_one_that_fails() {
    let mut f = Fixture::new(10);
    f.put_entry(AgentEntry { disable_x509_svid_prefetch: true, ..entry("a", &["unix:uid:1"]) });
    f.put_entry(entry("b", &["unix:uid:1"]));
    assert_eq!(f.sign(3600), ["b"]);
    let mut sub = f.cache.subscribe(set(&["unix:uid:1"]));
    assert!(sub.ready().is_none());
    f.cache.demanded().await;
    assert_eq!(f.cache.wanted(RULE)[0].entry.id.as_str(), "a");
    f.cache.put(vec![("a".parse().unwrap(), None)]);
    let update = sub.next().await.unwrap();
    assert_eq!((ids(&update), update.matched), (vec!["b"], 2));
    f.sign(3600);
    assert_eq!(ids(&sub.next().await.unwrap()), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn only_the_sets_whose_update_differs_are_woken() {
    let mut f = Fixture::new(10);
    f.put_entry(entry("a", &["unix:uid:1"]));
    f.put_entry(entry("b", &["unix:uid:2"]));
    f.sign(3600);
    let mut one = f.cache.subscribe(set(&["unix:uid:1"]));
    let mut two = f.cache.subscribe(set(&["unix:uid:2"]));
    one.next().await.unwrap();
    two.next().await.unwrap();
    assert!(f.push().is_none(), "the same again changes nothing");
    f.put_entry(entry("c", &["unix:uid:1"]));
    assert!(!one.receiver.has_changed().unwrap(), "nothing is said before c is signed");
    f.sign(3600);
    assert_eq!(ids(&one.next().await.unwrap()), ["a", "c"]);
    assert!(!two.receiver.has_changed().unwrap());
    f.remove_entry("c");
    assert_eq!(ids(&one.next().await.unwrap()), ["a"]);
    assert!(!two.receiver.has_changed().unwrap());
    f.cache.update(&f.entries, BundleMap::from([own(2)]));
    one.next().await.unwrap();
    two.next().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn federated_bundles_reach_those_who_federate() {
    let mut f = Fixture::new(10);
    f.put_entry(AgentEntry {
        federates_with: vec!["other".parse().unwrap()],
        ..entry("a", &["unix:uid:1"])
    });
    f.put_entry(entry("b", &["unix:uid:2"]));
    f.sign(3600);
    let mut one = f.cache.subscribe(set(&["unix:uid:1"]));
    let mut two = f.cache.subscribe(set(&["unix:uid:2"]));
    assert!(one.next().await.unwrap().federated.is_empty());
    two.next().await.unwrap();
    let other = ("other".parse().unwrap(), bundle("other", 5));
    f.cache.update(&f.entries, BundleMap::from([own(1), other]));
    assert_eq!(one.next().await.unwrap().federated.len(), 1);
    assert!(!two.receiver.has_changed().unwrap());
    assert_eq!(f.cache.bundles_for(&set(&["unix:uid:1"])).len(), 2);
    f.cache.update(&f.entries, BundleMap::new());
    assert!(one.next().await.unwrap().federated.is_empty());
    assert_eq!(f.cache.own_bundle().x509_authorities.len(), 1, "the own bundle stays");
}

#[tokio::test(start_paused = true)]
async fn changed_entries_are_signed_anew_before_readers_see_them() {
    let mut f = Fixture::new(10);
    f.put_entry(entry("a", &["unix:uid:1"]));
    f.sign(3600);
    let mut sub = f.cache.subscribe(set(&["unix:uid:1"]));
    let before = sub.next().await.unwrap();
    f.put_entry(AgentEntry {
        revision_number: 1,
        spiffe_id: "spiffe://td/renamed".parse().unwrap(),
        ..entry("a", &["unix:uid:1"])
    });
    assert!(!sub.receiver.has_changed().unwrap());
    assert_eq!(f.sign(3600), ["a"]);
    let after = sub.next().await.unwrap();
    assert!(!Arc::ptr_eq(&before.identities[0].svid, &after.identities[0].svid));
    assert_eq!(after.identities[0].svid.spiffe_id.path(), "/renamed");
}

#[tokio::test(start_paused = true)]
async fn tainted_svids_are_replaced_and_served_on_only_if_signing_fails() {
    let mut f = Fixture::new(10);
    f.put_entry(entry("a", &["unix:uid:1"]));
    f.sign(3600);
    let mut old = f.cache.subscribe(set(&["unix:uid:1"]));
    old.next().await.unwrap();
    assert_eq!(f.cache.taint(|_| true), 1);
    let mut new = f.cache.subscribe(set(&["unix:uid:1", "unix:gid:1"]));
    assert!(new.ready().is_none(), "a new reader waits for the clean SVID");
    f.cache.put(vec![("a".parse().unwrap(), None)]);
    assert_eq!(new.next().await.unwrap().identities.len(), 1);
    assert_eq!(f.sign(3600), ["a"]);
    new.next().await.unwrap();
    old.next().await.unwrap();
    assert!(f.cache.wanted(RULE).is_empty());
}

#[tokio::test(start_paused = true)]
async fn svids_are_due_at_half_life_and_expired_ones_are_not_served() {
    let mut f = Fixture::new(10);
    f.put_entry(entry("a", &["unix:uid:1"]));
    f.sign(1000);
    assert!(f.cache.wanted(RULE).is_empty());
    tokio::time::advance(Duration::from_secs(551)).await;
    assert_eq!(f.cache.wanted(RULE).len(), 1);
    let due = f.cache.next_due(RULE).unwrap();
    assert!((1450..=1550).contains(&due.seconds()), "{due}");
    let mut sub = f.cache.subscribe(set(&["unix:uid:1"]));
    assert_eq!(sub.ready().unwrap().identities.len(), 1, "served on while valid");
    tokio::time::advance(Duration::from_secs(500)).await;
    f.cache.put(vec![("a".parse().unwrap(), None)]);
    let mut sub = f.cache.subscribe(set(&["unix:uid:1"]));
    let update = sub.ready().unwrap();
    assert_eq!((update.identities.len(), update.matched), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn keeps_the_limit_but_never_drops_what_is_in_use() {
    let mut f = Fixture::new(2);
    for (id, uid) in [("a", "unix:uid:1"), ("b", "unix:uid:2"), ("c", "unix:uid:3")] {
        f.put_entry(entry(id, &[uid]));
    }
    assert_eq!(f.sign(3600).len(), 2, "no more than fit are signed ahead");
    let mut subs: Vec<_> =
        [1, 2, 3].iter().map(|uid| f.cache.subscribe(set(&[&format!("unix:uid:{uid}")]))).collect();
    f.sign(3600);
    for sub in &mut subs {
        assert_eq!(sub.next().await.unwrap().identities.len(), 1);
    }
    assert_eq!(f.cache.svid_count(), 3, "a soft limit: all three are in use");
    drop(subs.remove(0));
    f.cache.wanted(RULE);
    assert_eq!(f.cache.svid_count(), 2);
    assert_eq!(f.cache.entry_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn snapshot_restores_into_a_new_cache() {
    let mut f = Fixture::new(10);
    f.put_entry(entry("a", &["unix:uid:1"]));
    f.sign(3600);
    let snapshot = f.cache.snapshot();
    let other = Cache::new(bundle("td", 1), 10, Arc::new(f.clock.clone()));
    other.update(&snapshot.entries, snapshot.bundles);
    other.put(snapshot.svids.into_iter().map(|(id, svid)| (id, Some(svid))).collect());
    let mut sub = other.subscribe(set(&["unix:uid:1"]));
    assert_eq!(ids(&sub.ready().unwrap()), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn workload_without_entries_is_answered_at_once() {
    let f = Fixture::new(10);
    let mut sub = f.cache.subscribe(set(&["unix:uid:1"]));
    let update = sub.ready().unwrap();
    assert_eq!((update.matched, update.identities.len()), (0, 0));
    assert_eq!(update.bundle.trust_domain.as_str(), "td");
}
