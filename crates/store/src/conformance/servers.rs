//! Promises about the servers that share a store.

use signet_time::UnixTime;

use super::{Database, Fixture};
use crate::ServerRecord;

fn record(id: &str) -> ServerRecord {
    ServerRecord {
        id: id.to_owned(),
        host: "h".to_owned(),
        version: "1".to_owned(),
        started_at: UnixTime::from_seconds(10),
        seen_at: UnixTime::from_seconds(20),
        issued_until: UnixTime::from_seconds(300),
        retired_at: UnixTime::EPOCH,
    }
}

pub async fn a_retired_server_is_forgotten_with_its_journal_and_only_then(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let store = &fixture.store;
    for id in ["b", "a"] {
        store.put_server(&record(id)).await.unwrap();
        store.put_journal(id, b"x", UnixTime::from_seconds(1)).await.unwrap();
    }
    let later = ServerRecord {
        seen_at: UnixTime::from_seconds(30),
        issued_until: UnixTime::from_seconds(200),
        ..record("a")
    };
    store.put_server(&later).await.unwrap();
    let kept = ServerRecord { issued_until: UnixTime::from_seconds(300), ..later };
    assert_eq!(store.servers().await.unwrap(), [kept.clone(), record("b")]);

    assert!(!store.forget_server("a").await.unwrap(), "it is not retired");
    assert!(store.retire_server("a", UnixTime::from_seconds(40)).await.unwrap());
    assert!(!store.retire_server("a", UnixTime::from_seconds(50)).await.unwrap(), "it is");
    assert!(!store.retire_server("c", UnixTime::from_seconds(50)).await.unwrap(), "unknown");
    let retired = ServerRecord { retired_at: UnixTime::from_seconds(40), ..kept };
    assert_eq!(store.servers().await.unwrap(), [retired, record("b")]);
    store.put_server(&record("b")).await.unwrap();
    assert!(store.retire_server("b", UnixTime::from_seconds(60)).await.unwrap());
    store.put_server(&record("b")).await.unwrap();
    assert!(!store.forget_server("b").await.unwrap(), "it came back");

    assert!(store.forget_server("a").await.unwrap());
    assert_eq!(store.servers().await.unwrap(), [record("b")]);
    assert_eq!(store.journals().await.unwrap(), [("b".to_owned(), b"x".to_vec())]);
}

pub async fn a_lease_has_one_holder_until_it_ends(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let other = database.open(super::Settings::default()).await;
    let store = &fixture.store;
    assert!(store.take_lease("job", "a", 1_000, UnixTime::from_seconds(100)).await.unwrap());
    assert!(!other.take_lease("job", "b", 1_000, UnixTime::from_seconds(100)).await.unwrap());
    assert!(other.take_lease("another", "b", 1_000, UnixTime::from_seconds(100)).await.unwrap());
    // Renewed for no time at all it is given up.
    assert!(store.take_lease("job", "a", 0, UnixTime::from_seconds(100)).await.unwrap());
    assert!(other.take_lease("job", "b", 1_000, UnixTime::from_seconds(101)).await.unwrap());
    assert!(!store.take_lease("job", "a", 1_000, UnixTime::from_seconds(101)).await.unwrap());
}
