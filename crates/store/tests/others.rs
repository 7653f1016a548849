//! Promises about nodes, tokens, bundles, federation, the journal.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use common::{Fixture, bundle, draft, id, new, node, set};
use signet_identity::{
    AttestedNode, BundleEndpointProfile, FederationRelationship, JoinToken, JwtAuthority,
    MatchBehavior, SpiffeId,
};
use signet_store::{
    BundleUpdate, CreateEntryOutcome, CreateOutcome, FederationUpdate, NodeFilter, PageRequest,
    Store, StoreOptions, TokenAttestation,
};

#[tokio::test]
async fn a_node_survives_a_restart_and_is_replaced_with_its_selectors() {
    let fixture = Fixture::new().await;
    let mut one = node("one");
    fixture.store.put_node(one.clone(), 1).await.unwrap();
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.store.node(&one.spiffe_id).await.unwrap(), Some(one.clone()));
    one.selectors = set(&["t:zone:b"]);
    fixture.store.put_node(one.clone(), 1).await.unwrap();
    let by = async |zone: &str| {
        let selectors = Some((set(&[zone]), MatchBehavior::Superset));
        let filter = NodeFilter { selectors, ..Default::default() };
        fixture.store.count_nodes(&filter).await.unwrap()
    };
    assert_eq!((by("t:zone:a").await, by("t:zone:b").await), (0, 1));
}

#[tokio::test]
async fn lists_of_nodes_find_what_a_look_at_each_finds() {
    let fixture = Fixture::new().await;
    let mut all = Vec::new();
    for n in 0..60_i64 {
        let mut node = node(&n.to_string());
        node.attestation_type = if n % 3 == 0 { "k8s_psat" } else { "join_token" }.into();
        node.serial_number = if n % 4 == 0 { String::new() } else { n.to_string() };
        node.can_reattest = n % 5 == 0;
        node.expires_at = n;
        let zone = format!("t:zone:{}", n % 2);
        node.selectors = if n % 7 == 0 { set(&[]) } else { set(&[&zone, "t:all"]) };
        fixture.store.put_node(node.clone(), 1).await.unwrap();
        all.push(node);
    }
    let mut filters = vec![
        NodeFilter::default(),
        NodeFilter { attestation_type: Some("k8s_psat".into()), ..Default::default() },
        NodeFilter { banned: Some(true), ..Default::default() },
        NodeFilter { banned: Some(false), can_reattest: Some(true), ..Default::default() },
        NodeFilter { expires_before: Some(30), ..Default::default() },
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

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let fixture = Fixture::new().await;
    let one = node("one");
    fixture.store.put_node(one.clone(), 1).await.unwrap();
    let revision = fixture.store.revision();
    let update = fixture.store.update_node(&one.spiffe_id, 2, |_| false).await.unwrap();
    assert_eq!(update, Some((one.clone(), false)));
    assert_eq!(fixture.store.revision(), revision);
    let update = fixture.store.update_node(&one.spiffe_id, 2, |node| {
        node.serial_number.clear();
        true
    });
    let (banned, changed) = update.await.unwrap().unwrap();
    assert!(banned.is_banned() && changed);
    assert_eq!(fixture.store.revision(), revision + 1);
    let nobody = node("nobody").spiffe_id;
    assert_eq!(fixture.store.update_node(&nobody, 2, |_| true).await.unwrap(), None);
}

#[tokio::test]
async fn deleting_a_join_token_node_takes_its_own_entry_along_and_no_other() {
    let fixture = Fixture::new().await;
    let mut one = node("one");
    one.attestation_type = "join_token".into();
    fixture.store.put_node(one.clone(), 1).await.unwrap();
    let alias = format!("spiffe_id:{}", one.spiffe_id);
    fixture.create("alias", draft("a", "spire/agent/t/one", &[&alias])).await;
    fixture.create("workload", draft("b", "spire/agent/t/one", &["unix:uid:0"])).await;
    assert_eq!(fixture.store.delete_node(&one.spiffe_id, 2).await.unwrap(), Some(one.clone()));
    assert_eq!(fixture.store.delete_node(&one.spiffe_id, 2).await.unwrap(), None);
    assert_eq!(fixture.store.entry(&id("alias")).await.unwrap(), None);
    assert!(fixture.store.entry(&id("workload")).await.unwrap().is_some());
}

#[tokio::test]
async fn pruning_nodes_spares_the_banned_and_those_that_cannot_come_back() {
    let fixture = Fixture::new().await;
    for (name, expires_at, serial, can_reattest) in [
        ("old", 10, "1", true),
        ("banned", 10, "", true),
        ("tofu", 10, "1", false),
        ("young", 90, "1", true),
    ] {
        let mut node = node(name);
        (node.expires_at, node.can_reattest) = (expires_at, can_reattest);
        node.serial_number = serial.into();
        fixture.store.put_node(node, 1).await.unwrap();
    }
    let names = |ids: Vec<SpiffeId>| -> Vec<String> {
        ids.iter().map(|id| id.path().rsplit('/').next().unwrap().to_owned()).collect()
    };
    let pruned = fixture.store.prune_nodes(50, false, 10, 60).await.unwrap();
    assert_eq!(names(pruned), ["old"]);
    let pruned = fixture.store.prune_nodes(50, true, 10, 60).await.unwrap();
    assert_eq!(names(pruned), ["tofu"]);
}

#[tokio::test]
async fn a_token_is_spent_by_one_key_only_however_many_race() {
    let fixture = Fixture::new().await;
    let token = JoinToken { token: "secret".into(), expires_at: 100, spent_by: None };
    let entry = new("alias", draft("a", "spire/agent/join_token/secret", &["spiffe_id:x"]));
    let created = fixture.store.create_join_token(token.clone(), Some(entry), 1).await.unwrap();
    assert!(matches!(created, CreateOutcome::Created(Some(CreateEntryOutcome::Created(_)))));
    let again = fixture.store.create_join_token(token, None, 1).await.unwrap();
    assert_eq!(again, CreateOutcome::Exists);
    let spend = |token: &'static str, key: u8, now| {
        let store = fixture.store.clone();
        let node = node(token);
        async move { store.attest_with_token(token, [key; 32], node, now).await.unwrap() }
    };
    let mut racing = tokio::task::JoinSet::new();
    for key in 0..20_u8 {
        let spent = spend("secret", key, 50);
        racing.spawn(async move { (key, spent.await) });
    }
    let outcomes = racing.join_all().await;
    let keys_of = |wanted| -> Vec<u8> {
        outcomes.iter().filter(|(_, it)| *it == wanted).map(|(key, _)| *key).collect()
    };
    let winners = keys_of(TokenAttestation::Attested);
    assert_eq!(winners.len(), 1);
    assert_eq!(keys_of(TokenAttestation::SpentByAnother).len(), 19);
    assert_eq!(spend("secret", winners[0], 100).await, TokenAttestation::Attested);
    assert_eq!(spend("secret", winners[0], 101).await, TokenAttestation::Expired);
    assert_eq!(spend("other", 0, 1).await, TokenAttestation::Unknown);
    let stored = fixture.store.join_token("secret").await.unwrap().unwrap();
    assert_eq!(stored.spent_by, Some([winners[0]; 32]));
    assert_eq!(fixture.store.prune_join_tokens(100).await.unwrap(), 0);
    assert_eq!(fixture.store.prune_join_tokens(101).await.unwrap(), 1);
}

#[tokio::test]
async fn bundles_keep_their_order_and_grow_by_one_with_each_change() {
    let fixture = Fixture::new().await;
    let key = |name: &str, expires_at| JwtAuthority {
        public_key: name.as_bytes().into(),
        key_id: name.into(),
        expires_at,
        tainted: false,
    };
    let mut first = bundle("td");
    first.sequence_number = 0;
    first.jwt_authorities = vec![key("z", 5), key("a", 6)];
    first.wit_authorities = vec![key("w", 7)];
    let stored = fixture.store.append_bundle(first.clone(), 1).await.unwrap();
    assert_eq!(stored.sequence_number, 1);
    assert_eq!(stored.jwt_authorities, first.jwt_authorities);
    let again = fixture.store.append_bundle(first, 1).await.unwrap();
    assert_eq!(again.sequence_number, 1);
    let own = "td".parse().unwrap();
    let tainted = fixture.store.change_bundle(&own, 2, |bundle| {
        bundle.x509_authorities[0].tainted = true;
        Ok::<_, String>(bundle.x509_authorities.len())
    });
    let (tainted, count) = tainted.await.unwrap().unwrap();
    assert_eq!((tainted.sequence_number, count), (2, 1));
    let refused = fixture.store.change_bundle(&own, 2, |bundle| {
        bundle.x509_authorities.clear();
        Err::<(), _>("no")
    });
    assert_eq!(refused.await.unwrap(), Err("no"));
    let fixture = fixture.reopen().await;
    let read = fixture.store.bundle(&"td".parse().unwrap()).await.unwrap();
    assert_eq!(read, Some(tainted));
    let created =
        fixture.store.create_bundles(vec![bundle("td"), bundle("x.test")], 1).await.unwrap();
    assert_eq!(created, [CreateOutcome::Exists, CreateOutcome::Created(bundle("x.test"))]);
    let updates = vec![
        BundleUpdate::new("x.test".parse().unwrap(), |bundle| bundle.refresh_hint = 9),
        BundleUpdate::new("none.test".parse().unwrap(), |_| {}),
    ];
    let updated = fixture.store.update_bundles(updates, 1).await.unwrap();
    assert_eq!(updated[0].as_ref().unwrap().refresh_hint, 9);
    assert_eq!(updated[1], None);
    let page = fixture.store.list_bundles(PageRequest::first(1)).await.unwrap();
    let rest = PageRequest { after: page.next, size: Some(1) };
    assert_eq!(page.items[0].trust_domain.as_str(), "td");
    let page = fixture.store.list_bundles(rest).await.unwrap();
    assert_eq!((page.items[0].trust_domain.as_str(), page.next), ("x.test", None));
}

#[tokio::test]
async fn federation_relationships_come_with_their_bundles() {
    let fixture = Fixture::new().await;
    let relationship = FederationRelationship {
        trust_domain: "x.test".parse().unwrap(),
        bundle_endpoint_url: "https://x.test/".into(),
        profile: BundleEndpointProfile::HttpsSpiffe {
            endpoint_spiffe_id: "spiffe://x.test/endpoint".parse().unwrap(),
        },
    };
    let batch = vec![(relationship.clone(), Some(bundle("x.test"))), (relationship.clone(), None)];
    let created = fixture.store.create_federations(batch, 1).await.unwrap();
    assert_eq!(created, [CreateOutcome::Created(relationship.clone()), CreateOutcome::Exists]);
    assert_eq!(fixture.store.count_bundles().await.unwrap(), 1);
    let update = |name: &str| FederationUpdate {
        trust_domain: name.parse().unwrap(),
        change: Box::new(|it| it.profile = BundleEndpointProfile::HttpsWeb),
        bundle: None,
    };
    let updates = vec![update("x.test"), update("y.test")];
    let updated = fixture.store.update_federations(updates, 1).await.unwrap();
    let expected =
        FederationRelationship { profile: BundleEndpointProfile::HttpsWeb, ..relationship };
    assert_eq!(updated, [Some(expected.clone()), None]);
    let page = fixture.store.list_federations(PageRequest::first(5)).await.unwrap();
    assert_eq!(page.items, [expected]);
    let names = vec!["x.test".parse().unwrap(), "y.test".parse().unwrap()];
    assert_eq!(fixture.store.delete_federations(names, 1).await.unwrap(), [true, false]);
}

#[tokio::test]
async fn the_journal_of_each_server_is_its_own() {
    let fixture = Fixture::new().await;
    fixture.store.put_journal("a", b"one", 1).await.unwrap();
    fixture.store.put_journal("a", b"two", 2).await.unwrap();
    fixture.store.put_journal("b", b"", 2).await.unwrap();
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.store.journal("a").await.unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(fixture.store.journal("b").await.unwrap().as_deref(), Some(&b""[..]));
    assert_eq!(fixture.store.journal("c").await.unwrap(), None);
}

#[tokio::test]
async fn a_store_in_memory_works_too() {
    let store = Store::open(StoreOptions::memory()).await.unwrap();
    store.put_node(node("one"), 1).await.unwrap();
    assert_eq!(store.count_nodes(&NodeFilter::default()).await.unwrap(), 1);
    store.ping().await.unwrap();
    store.close().await;
    assert!(store.ping().await.is_err());
}
