use super::*;

fn holder(path: &str) -> Holder {
    Holder { tenant: "acme".into(), id: format!("spiffe://example.org{path}").parse().unwrap() }
}

fn token(path: &str, accessor: &str) -> Token {
    Token {
        holder: holder(path),
        accessor: accessor.into(),
        secret: Some(Arc::new(Secret::new("s.secret".to_owned()))),
        policies: BTreeSet::from(["p".to_owned(), "q".to_owned()]),
        issued: UnixTime::from_seconds(100),
        expires: UnixTime::from_seconds(1_000),
        ending: None,
    }
}

fn lease(id: &str, accessor: &str) -> Lease {
    Lease {
        lease_id: id.to_owned(),
        credential: "db".to_owned(),
        issued_at: UnixTime::from_seconds(100),
        expires_at: UnixTime::from_seconds(900),
        correlation_id: "c".to_owned(),
        bao_lease: Some(format!("database/creds/x/{id}")),
        accessor: accessor.into(),
        ending: None,
    }
}

fn gone(path: &'static str) -> impl Fn(&Holder) -> Option<String> {
    move |h: &Holder| (h.id.path() == path).then(|| "entry deleted".to_owned())
}

#[tokio::test]
async fn what_a_crash_leaves_is_taken_back_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let store = LeaseStore::open(&path, UnixTime::from_seconds(100)).unwrap();
    store.add_token(token("/a", "one")).await.unwrap();
    store.add_token(token("/b", "two")).await.unwrap();
    assert!(store.add_lease(lease("l1", "one")).await.unwrap());
    assert!(store.add_lease(lease("l2", "two")).await.unwrap());
    let ending = store.end_holders(gone("/a"));
    assert_eq!(ending.len(), 1);
    assert!(store.end_holders(gone("/a")).is_empty(), "marked once");
    assert!(!store.add_lease(lease("l3", "one")).await.unwrap(), "nothing more is handed out");
    store.token_ended("none");
    // The last event has to be on the disk before the crash.
    store.renew_lease("l2", UnixTime::from_seconds(950)).await.unwrap();
    drop(store);

    let store = LeaseStore::open(&path, UnixTime::from_seconds(100)).unwrap();
    let (tokens, leases) = store.unfinished();
    assert_eq!(tokens.iter().map(|t| &*t.accessor).collect::<Vec<_>>(), ["one"]);
    assert!(leases.is_empty() && tokens[0].secret.is_none());
    assert_eq!(
        store.leases(&holder("/b"), UnixTime::from_seconds(100))[0].expires_at,
        UnixTime::from_seconds(950)
    );
    store.token_ended("one");
    store.renew_token("two", UnixTime::from_seconds(1_100)).await.unwrap();
    drop(store);
    let store = LeaseStore::open(&path, UnixTime::from_seconds(100)).unwrap();
    assert!(store.unfinished().0.is_empty());
    assert!(store.usable(&holder("/b"), "p", &BTreeSet::from(["p".into(), "q".into()])).is_none());
}

#[tokio::test]
async fn a_token_is_used_only_within_what_is_granted() {
    let dir = tempfile::tempdir().unwrap();
    let store = LeaseStore::open(&dir.path().join("journal"), UnixTime::from_seconds(100)).unwrap();
    store.add_token(token("/a", "one")).await.unwrap();
    let set = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<BTreeSet<_>>();
    assert!(store.usable(&holder("/a"), "p", &set(&["p", "q", "r"])).is_some());
    assert!(store.usable(&holder("/a"), "p", &set(&["p"])).is_none(), "it may do more");
    assert!(store.usable(&holder("/a"), "r", &set(&["p", "q", "r"])).is_none(), "it may do less");
    assert!(store.usable(&holder("/b"), "p", &set(&["p", "q"])).is_none(), "another's");
}

#[tokio::test]
async fn uses_count_until_their_time_is_over_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let store = LeaseStore::open(&path, UnixTime::from_seconds(100)).unwrap();
    store.add_token(token("/a", "one")).await.unwrap();
    let first = store.reserve(&holder("/a"), "db", Some(2), UnixTime::from_seconds(100)).unwrap();
    let second = store.reserve(&holder("/a"), "db", Some(2), UnixTime::from_seconds(100)).unwrap();
    assert!(
        store.reserve(&holder("/a"), "db", Some(2), UnixTime::from_seconds(100)).is_none(),
        "two are under way"
    );
    drop(second);
    assert!(store.add_lease(lease("l1", "one")).await.unwrap());
    drop(first);
    assert!(store.reserve(&holder("/a"), "db", Some(1), UnixTime::from_seconds(100)).is_none());
    drop(store);
    let store = LeaseStore::open(&path, UnixTime::from_seconds(100)).unwrap();
    assert!(store.reserve(&holder("/a"), "db", Some(1), UnixTime::from_seconds(899)).is_none());
    assert!(store.reserve(&holder("/a"), "db", Some(1), UnixTime::from_seconds(900)).is_some());
    assert!(store.reserve(&holder("/b"), "db", Some(1), UnixTime::from_seconds(100)).is_some());
}

#[tokio::test]
async fn a_ban_is_new_once_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let set = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<BTreeSet<_>>();
    let store = LeaseStore::open(&path, UnixTime::from_seconds(100)).unwrap();
    assert_eq!(store.banned(&set(&["a"]), UnixTime::from_seconds(100)), ["a"]);
    assert!(store.banned(&set(&["a"]), UnixTime::from_seconds(101)).is_empty());
    store.add_token(token("/a", "one")).await.unwrap();
    drop(store);
    let store = LeaseStore::open(&path, UnixTime::from_seconds(100)).unwrap();
    assert!(store.banned(&set(&["a"]), UnixTime::from_seconds(102)).is_empty());
    assert_eq!(store.bans(), BTreeMap::from([("a".to_owned(), UnixTime::from_seconds(100))]));
    assert!(store.banned(&set(&[]), UnixTime::from_seconds(103)).is_empty());
    assert_eq!(store.banned(&set(&["a"]), UnixTime::from_seconds(104)), ["a"]);
}

#[tokio::test]
async fn what_has_expired_is_forgotten_unless_it_is_to_be_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = LeaseStore::open(&dir.path().join("journal"), UnixTime::from_seconds(100)).unwrap();
    store.add_token(token("/a", "one")).await.unwrap();
    store.add_token(token("/b", "two")).await.unwrap();
    store.end_holders(gone("/b"));
    store.tidy(UnixTime::from_seconds(2_000));
    assert_eq!(store.counts(), (1, 0, 1));
}
