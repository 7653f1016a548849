//! Promises about attested nodes.

use signet_identity::{AttestedNode, MatchBehavior, SpiffeId};
use signet_time::UnixTime;

use super::{Database, Fixture, draft, id, node, set};
use crate::{NodeFilter, PageRequest};

pub async fn a_node_survives_a_restart_and_is_replaced_with_its_selectors(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let mut one = node("one");
    fixture.store.put_node(one.clone(), UnixTime::from_seconds(1)).await.unwrap();
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.store.node(&one.spiffe_id).await.unwrap(), Some(one.clone()));
    one.selectors = set(&["t:zone:b"]);
    fixture.store.put_node(one.clone(), UnixTime::from_seconds(1)).await.unwrap();
    let by = async |zone: &str| {
        let selectors = Some((set(&[zone]), MatchBehavior::Superset));
        let filter = NodeFilter { selectors, ..Default::default() };
        fixture.store.count_nodes(&filter).await.unwrap()
    };
    assert_eq!((by("t:zone:a").await, by("t:zone:b").await), (0, 1));
}

pub async fn of_two_that_create_a_node_one_does(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let store = &fixture.store;
    let of = |serial: &str| {
        let mut node = node("one");
        node.serial_number = serial.to_owned();
        node
    };
    let now = UnixTime::from_seconds(1);
    let both =
        futures_util::join!(store.create_node(of("1"), now), store.create_node(of("2"), now));
    let (first, second) = (both.0.unwrap(), both.1.unwrap());
    assert!(first != second, "one, and not both");
    let stored = store.node(&of("1").spiffe_id).await.unwrap().expect("a node");
    assert_eq!(stored.serial_number, if first { "1" } else { "2" });
    assert!(!store.create_node(of("3"), now).await.unwrap());
    assert_eq!(store.node(&of("1").spiffe_id).await.unwrap(), Some(stored), "as it was");
    store.delete_node(&of("1").spiffe_id, now).await.unwrap();
    assert!(store.create_node(of("3"), now).await.unwrap());
}

pub async fn lists_of_nodes_find_what_a_look_at_each_finds(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let mut all = Vec::new();
    for n in 0..60_i64 {
        let mut node = node(&n.to_string());
        node.attestation_type = if n % 3 == 0 { "k8s_psat" } else { "join_token" }.into();
        node.serial_number = if n % 4 == 0 { String::new() } else { n.to_string() };
        node.can_reattest = n % 5 == 0;
        node.expires_at = UnixTime::from_seconds(n);
        let zone = format!("t:zone:{}", n % 2);
        node.selectors = if n % 7 == 0 { set(&[]) } else { set(&[&zone, "t:all"]) };
        fixture.store.put_node(node.clone(), UnixTime::from_seconds(1)).await.unwrap();
        all.push(node);
    }
    let mut filters = vec![
        NodeFilter::default(),
        NodeFilter { attestation_type: Some("k8s_psat".into()), ..Default::default() },
        NodeFilter { banned: Some(true), ..Default::default() },
        NodeFilter { banned: Some(false), can_reattest: Some(true), ..Default::default() },
        NodeFilter { expires_before: Some(UnixTime::from_seconds(30)), ..Default::default() },
    ];
    use MatchBehavior::{Any, Exact, Subset, Superset};
    for behavior in [Any, Exact, Subset, Superset] {
        for selectors in [&["t:zone:1", "t:all"][..], &["t:zone:0"], &["t:none"]] {
            filters.push(NodeFilter {
                selectors: Some((set(selectors), behavior)),
                attestation_type: Some("join_token".into()),
                ..Default::default()
            });
        }
    }
    for filter in filters {
        let expected: Vec<&AttestedNode> = all.iter().filter(|node| filter.accepts(node)).collect();
        let mut found = Vec::new();
        let mut request = PageRequest::first(4);
        loop {
            let page = fixture.store.list_nodes(&filter, request).await.unwrap();
            found.extend(page.items);
            let Some(next) = page.next else { break };
            request.after = Some(next);
        }
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{filter:?}");
        let count = fixture.store.count_nodes(&filter).await.unwrap();
        assert_eq!(count, expected.len() as u64);
    }
}

pub async fn an_update_that_changes_nothing_writes_nothing(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let one = node("one");
    fixture.store.put_node(one.clone(), UnixTime::from_seconds(1)).await.unwrap();
    let revision = fixture.store.revision();
    let update = fixture
        .store
        .update_node(&one.spiffe_id, UnixTime::from_seconds(2), |_| false)
        .await
        .unwrap();
    assert_eq!(update, Some((one.clone(), false)));
    assert_eq!(fixture.store.revision(), revision);
    let update = fixture.store.update_node(&one.spiffe_id, UnixTime::from_seconds(2), |node| {
        node.serial_number.clear();
        true
    });
    let (banned, changed) = update.await.unwrap().unwrap();
    assert!(banned.is_banned() && changed);
    assert_eq!(fixture.store.revision(), revision + 1);
    let nobody = node("nobody").spiffe_id;
    assert_eq!(
        fixture.store.update_node(&nobody, UnixTime::from_seconds(2), |_| true).await.unwrap(),
        None
    );
}

pub async fn deleting_a_join_token_node_takes_its_own_entry_along_and_no_other(
    database: &dyn Database,
) {
    let fixture = Fixture::new(database).await;
    let mut one = node("one");
    one.attestation_type = "join_token".into();
    fixture.store.put_node(one.clone(), UnixTime::from_seconds(1)).await.unwrap();
    let alias = format!("spiffe_id:{}", one.spiffe_id);
    fixture.create("alias", draft("a", "spire/agent/t/one", &[&alias])).await;
    fixture.create("workload", draft("b", "spire/agent/t/one", &["unix:uid:0"])).await;
    assert_eq!(
        fixture.store.delete_node(&one.spiffe_id, UnixTime::from_seconds(2)).await.unwrap(),
        Some(one.clone())
    );
    assert_eq!(
        fixture.store.delete_node(&one.spiffe_id, UnixTime::from_seconds(2)).await.unwrap(),
        None
    );
    assert_eq!(fixture.store.entry(&id("alias")).await.unwrap(), None);
    assert!(fixture.store.entry(&id("workload")).await.unwrap().is_some());
}

pub async fn pruning_nodes_spares_the_banned_and_those_that_cannot_come_back(
    database: &dyn Database,
) {
    let fixture = Fixture::new(database).await;
    for (name, expires_at, serial, can_reattest) in [
        ("old", 10, "1", true),
        ("banned", 10, "", true),
        ("tofu", 10, "1", false),
        ("young", 90, "1", true),
    ] {
        let mut node = node(name);
        node.expires_at = UnixTime::from_seconds(expires_at);
        node.can_reattest = can_reattest;
        node.serial_number = serial.into();
        fixture.store.put_node(node, UnixTime::from_seconds(1)).await.unwrap();
    }
    let names = |ids: Vec<SpiffeId>| -> Vec<String> {
        ids.iter().map(|id| id.path().rsplit('/').next().unwrap().to_owned()).collect()
    };
    let pruned = fixture
        .store
        .prune_nodes(UnixTime::from_seconds(50), false, 10, UnixTime::from_seconds(60))
        .await
        .unwrap();
    assert_eq!(names(pruned), ["old"]);
    let pruned = fixture
        .store
        .prune_nodes(UnixTime::from_seconds(50), true, 10, UnixTime::from_seconds(60))
        .await
        .unwrap();
    assert_eq!(names(pruned), ["tofu"]);
}
