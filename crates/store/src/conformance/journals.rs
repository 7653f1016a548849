//! Promises about CA journals.

use signet_time::UnixTime;

use super::{Database, Fixture};

pub async fn the_journal_of_each_server_is_its_own(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    fixture.store.put_journal("a", b"one", UnixTime::from_seconds(1)).await.unwrap();
    fixture.store.put_journal("a", b"two", UnixTime::from_seconds(2)).await.unwrap();
    fixture.store.put_journal("b", b"", UnixTime::from_seconds(2)).await.unwrap();
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.store.journal("a").await.unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(fixture.store.journal("b").await.unwrap().as_deref(), Some(&b""[..]));
    assert_eq!(fixture.store.journal("c").await.unwrap(), None);
}

pub async fn a_journal_is_given_to_another_server_only_if_it_has_none(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let store = &fixture.store;
    assert!(!store.rename_journal("a", "b", UnixTime::from_seconds(1)).await.unwrap());
    store.put_journal("a", b"one", UnixTime::from_seconds(1)).await.unwrap();
    assert!(store.rename_journal("a", "b", UnixTime::from_seconds(1)).await.unwrap());
    store.put_journal("a", b"two", UnixTime::from_seconds(1)).await.unwrap();
    assert!(!store.rename_journal("a", "b", UnixTime::from_seconds(1)).await.unwrap());
    let all = store.journals().await.unwrap();
    assert_eq!(all, [("a".to_owned(), b"two".to_vec()), ("b".to_owned(), b"one".to_vec())]);
}
