//! Promises about bundles.

use signet_identity::JwtAuthority;
use signet_time::UnixTime;

use super::{Database, Fixture, bundle, draft, id};
use crate::{BundleUpdate, CreateOutcome, DeleteBundleMode, DeleteBundleOutcome, PageRequest};

pub async fn deleting_a_bundle_treats_its_entries_as_the_mode_says(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let names = ["a.test", "b.test", "c.test"];
    fixture.store.set_bundles(names.map(bundle).to_vec(), UnixTime::from_seconds(1)).await.unwrap();
    for (n, name) in names.iter().enumerate() {
        let mut draft = draft(&format!("w{n}"), "p", &["x:1"]);
        draft.federates_with = vec![name.parse().unwrap()];
        fixture.create(&format!("e{n}"), draft).await;
    }
    let delete = async |name: &str, mode| {
        let names = vec![name.parse().unwrap()];
        fixture
            .store
            .delete_bundles(names, mode, UnixTime::from_seconds(2))
            .await
            .unwrap()
            .remove(0)
    };
    assert_eq!(delete("a.test", DeleteBundleMode::Restrict).await, DeleteBundleOutcome::InUse(1));
    let gone = |name| DeleteBundleOutcome::Deleted(bundle(name));
    assert_eq!(delete("a.test", DeleteBundleMode::Delete).await, gone("a.test"));
    assert_eq!(delete("b.test", DeleteBundleMode::Dissociate).await, gone("b.test"));
    assert_eq!(delete("a.test", DeleteBundleMode::Delete).await, DeleteBundleOutcome::NotFound);
    assert_eq!(fixture.store.entry(&id("e0")).await.unwrap(), None);
    let dissociated = fixture.store.entry(&id("e1")).await.unwrap().unwrap();
    assert!(dissociated.federates_with.is_empty());
    assert_eq!(dissociated.revision_number, 1);
    assert_eq!(fixture.store.count_bundles().await.unwrap(), 1);
}

pub async fn another_key_of_a_known_id_is_appended_and_a_tainted_one_does_not_come_back(
    database: &dyn Database,
) {
    let fixture = Fixture::new(database).await;
    let key = |bytes: &[u8], expires_at| JwtAuthority {
        public_key: bytes.into(),
        key_id: "kid".into(),
        expires_at,
        tainted: false,
    };
    let append = async |keys: Vec<JwtAuthority>| {
        let mut added = bundle("td");
        added.jwt_authorities = keys;
        fixture.store.append_bundle(added, UnixTime::from_seconds(1)).await.unwrap().jwt_authorities
    };
    let (old, new, later) = (
        key(b"old", UnixTime::from_seconds(5)),
        key(b"new", UnixTime::from_seconds(5)),
        key(b"old", UnixTime::from_seconds(6)),
    );
    append(vec![old.clone()]).await;
    let stored = append(vec![new.clone(), old.clone(), later.clone()]).await;
    assert_eq!(stored, [old.clone(), new, later]);
    let own = "td".parse().unwrap();
    let taint = fixture.store.change_bundle(&own, UnixTime::from_seconds(2), |bundle| {
        bundle.jwt_authorities[0].tainted = true;
        Ok::<_, String>(())
    });
    taint.await.unwrap().unwrap();
    let stored = append(vec![old]).await;
    assert!(stored.len() == 3 && stored[0].tainted);
}

pub async fn bundles_keep_their_order_and_grow_by_one_with_each_change(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let key = |name: &str, expires_at| JwtAuthority {
        public_key: name.as_bytes().into(),
        key_id: name.into(),
        expires_at,
        tainted: false,
    };
    let mut first = bundle("td");
    first.sequence_number = 0;
    first.jwt_authorities =
        vec![key("z", UnixTime::from_seconds(5)), key("a", UnixTime::from_seconds(6))];
    first.wit_authorities = vec![key("w", UnixTime::from_seconds(7))];
    let stored =
        fixture.store.append_bundle(first.clone(), UnixTime::from_seconds(1)).await.unwrap();
    assert_eq!(stored.sequence_number, 1);
    assert_eq!(stored.jwt_authorities, first.jwt_authorities);
    assert_eq!(stored.wit_authorities, first.wit_authorities);
    let again = fixture.store.append_bundle(first, UnixTime::from_seconds(1)).await.unwrap();
    assert_eq!(again.sequence_number, 1);
    let own = "td".parse().unwrap();
    let tainted = fixture.store.change_bundle(&own, UnixTime::from_seconds(2), |bundle| {
        bundle.x509_authorities[0].tainted = true;
        Ok::<_, String>(bundle.x509_authorities.len())
    });
    let (tainted, count) = tainted.await.unwrap().unwrap();
    assert_eq!((tainted.sequence_number, count), (2, 1));
    let refused = fixture.store.change_bundle(&own, UnixTime::from_seconds(2), |bundle| {
        bundle.x509_authorities.clear();
        Err::<(), _>("no")
    });
    assert_eq!(refused.await.unwrap(), Err("no"));
    let fixture = fixture.reopen().await;
    let read = fixture.store.bundle(&"td".parse().unwrap()).await.unwrap();
    assert_eq!(read, Some(tainted));
    let created = fixture
        .store
        .create_bundles(vec![bundle("td"), bundle("x.test")], UnixTime::from_seconds(1))
        .await
        .unwrap();
    assert_eq!(created, [CreateOutcome::Exists, CreateOutcome::Created(bundle("x.test"))]);
    let updates = vec![
        BundleUpdate::new("x.test".parse().unwrap(), |bundle| bundle.refresh_hint = 9),
        BundleUpdate::new("none.test".parse().unwrap(), |_| {}),
    ];
    let updated = fixture.store.update_bundles(updates, UnixTime::from_seconds(1)).await.unwrap();
    assert_eq!(updated[0].as_ref().unwrap().refresh_hint, 9);
    assert_eq!(updated[1], None);
    let page = fixture.store.list_bundles(PageRequest::first(1)).await.unwrap();
    let rest = PageRequest { after: page.next, size: Some(1) };
    assert_eq!(page.items[0].trust_domain.as_str(), "td");
    let page = fixture.store.list_bundles(rest).await.unwrap();
    assert_eq!((page.items[0].trust_domain.as_str(), page.next), ("x.test", None));
}

pub async fn setting_what_is_there_already_makes_no_change(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let store = &fixture.store;
    store.set_bundles(vec![bundle("a.test")], UnixTime::from_seconds(1)).await.unwrap();
    let before = store.revision();
    store.set_bundles(vec![bundle("a.test")], UnixTime::from_seconds(2)).await.unwrap();
    assert_eq!(store.revision(), before);
    let mut other = bundle("a.test");
    other.sequence_number += 1;
    store.set_bundles(vec![other], UnixTime::from_seconds(3)).await.unwrap();
    assert_eq!(store.revision(), before + 1);
}
