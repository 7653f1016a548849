use signet_identity::{AttestedNode, EntrySpec, Selector, SelectorSet};
use signet_store::{NewEntry, StoreOptions};

use super::*;

fn id(path: &str) -> SpiffeId {
    format!("spiffe://td{path}").parse().unwrap()
}

fn selectors(all: &[&str]) -> SelectorSet {
    all.iter().map(|text| text.parse::<Selector>().unwrap()).collect()
}

async fn create(store: &Store, name: &str, spiffe_id: &str, parent: &str, all: &[&str]) {
    let draft = EntrySpec::new(id(spiffe_id), id(parent), selectors(all));
    let entry = NewEntry { id: name.parse().unwrap(), draft };
    store.create_entries(vec![entry], UnixTime::from_seconds(1)).await.unwrap();
}

async fn store() -> Store {
    let store = Store::open(StoreOptions::memory()).await.unwrap();
    let node = AttestedNode {
        spiffe_id: id("/spire/agent/a"),
        attestation_type: "t".to_owned(),
        serial_number: "1".to_owned(),
        expires_at: UnixTime::from_seconds(100),
        new_serial_number: String::new(),
        new_expires_at: UnixTime::EPOCH,
        selectors: selectors(&["t:x", "t:y"]),
        can_reattest: false,
        agent_version: String::new(),
    };
    store.put_node(node, UnixTime::from_seconds(1)).await.unwrap();
    create(&store, "child", "/child", "/spire/agent/a", &["u:1"]).await;
    create(&store, "grandchild", "/grandchild", "/child", &["u:2"]).await;
    create(&store, "circle", "/child", "/grandchild", &["u:3"]).await;
    create(&store, "alias", "/alias", "/spire/server", &["t:x"]).await;
    create(&store, "of-alias", "/of-alias", "/alias", &["u:4"]).await;
    create(&store, "no-alias", "/no-alias", "/spire/server", &["t:x", "t:z"]).await;
    create(&store, "hidden", "/hidden", "/no-alias", &["u:5"]).await;
    create(&store, "of-other", "/of-other", "/spire/agent/b", &["u:6"]).await;
    store
}

async fn open(store: &Store) -> (Arc<Cache>, Follower) {
    Cache::open(store.clone(), "td".parse().unwrap()).await.unwrap()
}

async fn authorized(cache: &Cache, agent: &str) -> Vec<String> {
    let entries = cache.authorized(&id(agent)).await.unwrap();
    let mut names: Vec<String> = entries.iter().map(|entry| entry.id.to_string()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_store_answers_as_memory_will_while_entries_are_being_read() {
    let store = store().await;
    let (cache, follower) = open(&store).await;
    let ask = async || {
        let names = ["child", "hidden", "of-alias"].map(|name| name.parse().ok());
        let for_agent = cache.entries_for_agent(&id("/spire/agent/a"), &names).await.unwrap();
        (
            authorized(&cache, "/spire/agent/a").await,
            authorized(&cache, "/spire/agent/b").await,
            authorized(&cache, "/spire/agent/unknown").await,
            cache.entries_of(&id("/child")).await.unwrap().len(),
            for_agent.iter().map(Option::is_some).collect::<Vec<_>>(),
        )
    };
    let before = ask().await;
    assert!(!cache.is_loaded() && cache.entry_count() == 0);
    assert_eq!(before.0, ["child", "circle", "grandchild", "of-alias"]);
    assert_eq!((before.1.as_slice(), before.2.len()), (["of-other".to_owned()].as_slice(), 0));
    assert_eq!((before.3, before.4.as_slice()), (2, [true, false, true].as_slice()));

    let token = signet_base::CancellationToken::new();
    let running = tokio::spawn(follower.run(token.clone(), Duration::from_secs(60)));
    cache.loaded().await.unwrap();
    assert_eq!(ask().await, before);
    assert_eq!((cache.entry_count(), cache.node_count()), (8, 1));
    token.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_changes_while_entries_are_being_read_is_seen_at_once_and_kept() {
    let store = store().await;
    let (cache, follower) = open(&store).await;
    let mut told = cache.subscribe(Some(&id("/spire/agent/b")));
    create(&store, "late", "/late", "/spire/agent/b", &["u:7"]).await;
    assert_eq!(authorized(&cache, "/spire/agent/b").await, ["late", "of-other"]);
    store
        .delete_entries(vec!["of-other".parse().unwrap()], UnixTime::from_seconds(2))
        .await
        .unwrap();
    assert_eq!(authorized(&cache, "/spire/agent/b").await, ["late"]);
    // Followed before it is loaded: whoever waits for a change must not wait for everything.
    follower.catch_up().await.unwrap();
    cache.fresh().await.unwrap();
    assert!(told.has_changed().unwrap() && !cache.is_loaded());
    told.mark_unchanged();

    let token = signet_base::CancellationToken::new();
    let running = tokio::spawn(follower.run(token.clone(), Duration::from_secs(60)));
    cache.loaded().await.unwrap();
    assert_eq!(authorized(&cache, "/spire/agent/b").await, ["late"]);
    create(&store, "later", "/later", "/spire/agent/b", &["u:8"]).await;
    cache.fresh().await.unwrap();
    assert_eq!(authorized(&cache, "/spire/agent/b").await, ["late", "later"]);
    assert!(told.has_changed().unwrap());
    token.cancel();
    running.await.unwrap().unwrap();
}
