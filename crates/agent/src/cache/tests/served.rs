//! What several server sets give, as one.

use super::*;
use crate::cache::served::Served;

/// Two sets with one clock.
struct Two {
    a: Fixture,
    b: Fixture,
    served: Served,
}

impl Two {
    fn new() -> Self {
        let mut a = Fixture::new(10);
        let mut b = Fixture::new(10);
        b.clock = a.clock.clone();
        b.cache = Cache::new(bundle("td", 2), 10, Arc::new(a.clock.clone()));
        let clock = Arc::new(a.clock.clone());
        let served = Served::new(Arc::clone(&a.cache), vec![Arc::clone(&b.cache)], RULE, clock);
        a.entries.clear();
        b.entries.clear();
        Self { a, b, served }
    }

    fn push_b(&self) {
        self.b.cache.update(&self.b.entries, BundleMap::from([own(2)]));
    }

    fn add_b(&mut self, entry: AgentEntry) {
        self.b.entries.insert(entry.id.clone(), Arc::new(entry));
        self.push_b();
    }
}

/// An entry with an ID of its own that gives the same identity as `entry(like, …)`.
fn alike(id: &str, like: &str, selectors: &[&str]) -> AgentEntry {
    AgentEntry { id: id.parse().unwrap(), ..entry(like, selectors) }
}

fn roots(bundle: &Bundle) -> Vec<u8> {
    bundle.x509_authorities.iter().map(|one| one.der[0]).collect()
}

fn expiries(update: &WorkloadUpdate) -> Vec<i64> {
    update.identities.iter().map(|one| one.svid.not_after.seconds()).collect()
}

#[tokio::test(start_paused = true)]
async fn identities_and_roots_are_the_union_and_what_both_say_is_given_once() {
    let mut two = Two::new();
    two.a.put_entry(entry("m", &["unix:uid:1"]));
    two.add_b(alike("a", "m", &["unix:uid:1"]));
    two.add_b(entry("x", &["unix:uid:1"]));
    two.add_b(entry("other", &["unix:uid:2"]));
    two.a.sign(3600);
    two.b.sign(7200);
    let mut workload = two.served.subscribe(set(&["unix:uid:1"]));
    let update = workload.ready().unwrap();
    assert_eq!(ids(&update), ["m", "x"], "in the order and with the ID of the first set");
    assert_eq!(expiries(&update), [4600, 8200], "each is of the first set that has it");
    assert_eq!((update.matched, roots(&update.bundle)), (2, vec![1, 2]));
    assert_eq!(two.served.matching(&set(&["unix:uid:1"])).len(), 2);
    assert_eq!(two.served.entries().len(), 3);
    assert_eq!(roots(&two.served.own_bundle()), [1, 2]);
    assert_eq!(roots(&two.served.bundles_for(&set(&["unix:uid:1"]))[0]), [1, 2]);
    // Whoever asks for the same gets the same value, with what was encoded of it.
    let mut again = two.served.subscribe(set(&["unix:uid:1"]));
    assert!(Arc::ptr_eq(&again.ready().unwrap(), &update));
}

#[tokio::test(start_paused = true)]
async fn an_svid_that_its_set_does_not_renew_in_time_gives_way_to_that_of_another() {
    let mut two = Two::new();
    two.a.put_entry(entry("m", &["unix:uid:1"]));
    two.add_b(alike("a", "m", &["unix:uid:1"]));
    two.a.sign(4000);
    two.b.sign(4000);
    let mut workload = two.served.subscribe(set(&["unix:uid:1"]));
    let first = workload.next().await.unwrap();
    // Half of its life later, both are due, and only the second set is there to renew.
    tokio::time::sleep(Duration::from_secs(2300)).await;
    assert_eq!(two.b.sign(4000), ["a"]);
    let began = tokio::time::Instant::now();
    let second = workload.next().await.unwrap();
    assert_eq!(ids(&second), ["m"], "it is the same identity");
    assert_eq!(expiries(&first), [5000]);
    assert_eq!(expiries(&second), [7300]);
    assert!(began.elapsed() < Duration::from_secs(1000), "long before the first one expires");
    // It stays so until the first set renews again.
    two.a.cache.taint(|_| true);
    two.a.sign(9000);
    let third = workload.next().await.unwrap();
    assert!(expiries(&third)[0] > 9000, "{third:?}");
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_gone_when_both_have_deleted_it_and_a_ban_ends_what_one_gave() {
    let mut two = Two::new();
    two.a.put_entry(entry("m", &["unix:uid:1"]));
    two.a.put_entry(entry("only-a", &["unix:uid:1"]));
    two.add_b(alike("a", "m", &["unix:uid:1"]));
    two.a.sign(3600);
    two.b.sign(3600);
    let mut workload = two.served.subscribe(set(&["unix:uid:1"]));
    assert_eq!(ids(&workload.next().await.unwrap()), ["m", "only-a"]);
    two.a.remove_entry("m");
    assert_eq!(ids(&workload.next().await.unwrap()), ["a", "only-a"], "the other has it still");
    two.b.entries.clear();
    two.push_b();
    assert_eq!(ids(&workload.next().await.unwrap()), ["only-a"]);
    two.a.cache.forget();
    let update = workload.next().await.unwrap();
    assert!(update.identities.is_empty() && update.matched == 0);
    assert_eq!(roots(&update.bundle), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_workload_waits_for_no_set_whose_identities_another_gives() {
    let mut two = Two::new();
    two.a.put_entry(entry("m", &["unix:uid:1"]));
    two.add_b(alike("a", "m", &["unix:uid:1"]));
    let mut workload = two.served.subscribe(set(&["unix:uid:1"]));
    assert!(workload.ready().is_none(), "nobody has signed yet");
    two.b.sign(3600);
    let update = workload.next().await.unwrap();
    assert_eq!(update.identities[0].svid.not_after.seconds(), 4600);
    two.a.put_entry(entry("new", &["unix:uid:1"]));
    let mut late = two.served.subscribe(set(&["unix:uid:1"]));
    assert!(late.ready().is_none(), "the first set has one that nobody else gives");
    two.a.sign(3600);
    assert_eq!(late.next().await.unwrap().identities.len(), 2);
    // Nor for long for one that does not have its own signed.
    two.a.put_entry(entry("newer", &["unix:uid:1"]));
    let mut later = two.served.subscribe(set(&["unix:uid:1", "unix:gid:2"]));
    let began = tokio::time::Instant::now();
    assert_eq!(ids(&later.next().await.unwrap()), ["a"], "what the other set gives");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn who_watches_all_bundles_hears_of_each_set_and_keeps_those_of_one_that_is_away() {
    let two = Two::new();
    let mut bundles = two.served.watch_bundles();
    let now = |bundles: &BundleMap| roots(&bundles[&"td".parse().unwrap()]);
    assert_eq!(now(&bundles.borrow_and_update()), [1, 2]);
    tokio::spawn(two.served.clone().follow_bundles());
    let mut next = (*bundle("td", 2)).clone();
    next.x509_authorities.push(X509Authority { der: vec![3].into(), tainted: false });
    // A root that both name is there once, and tainted where one says so.
    next.x509_authorities.push(X509Authority { der: vec![1].into(), tainted: true });
    let next = BundleMap::from([(next.trust_domain.clone(), Arc::new(next))]);
    two.b.cache.update(&EntryMap::new(), next);
    bundles.changed().await.unwrap();
    let seen = bundles.borrow_and_update().clone();
    assert_eq!(now(&seen), [1, 2, 3]);
    assert!(seen[&"td".parse().unwrap()].x509_authorities[0].tainted);
}
