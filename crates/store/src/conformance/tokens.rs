//! Promises about join tokens.

use signet_identity::JoinToken;
use signet_time::UnixTime;

use super::{Database, Fixture, draft, new, node};
use crate::{CreateEntryOutcome, CreateOutcome, TokenAttestation};

pub async fn a_token_is_spent_by_one_key_only_however_many_race(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let token = JoinToken {
        token: "secret".into(),
        expires_at: UnixTime::from_seconds(100),
        spent_by: None,
    };
    let entry = new("alias", draft("a", "spire/agent/join_token/secret", &["spiffe_id:x"]));
    let created = fixture
        .store
        .create_join_token(token.clone(), Some(entry), UnixTime::from_seconds(1))
        .await
        .unwrap();
    assert!(matches!(created, CreateOutcome::Created(Some(CreateEntryOutcome::Created(_)))));
    let again =
        fixture.store.create_join_token(token, None, UnixTime::from_seconds(1)).await.unwrap();
    assert_eq!(again, CreateOutcome::Exists);
    let spend = |token: &'static str, key: u8, now| {
        let store = fixture.store.clone();
        let node = node(token);
        async move { store.attest_with_token(token, [key; 32], node, now).await.unwrap() }
    };
    let mut racing = tokio::task::JoinSet::new();
    for key in 0..20_u8 {
        let spent = spend("secret", key, UnixTime::from_seconds(50));
        racing.spawn(async move { (key, spent.await) });
    }
    let outcomes = racing.join_all().await;
    let keys_of = |wanted| -> Vec<u8> {
        outcomes.iter().filter(|(_, it)| *it == wanted).map(|(key, _)| *key).collect()
    };
    let winners = keys_of(TokenAttestation::Attested);
    assert_eq!(winners.len(), 1);
    assert_eq!(keys_of(TokenAttestation::SpentByAnother).len(), 19);
    assert_eq!(
        spend("secret", winners[0], UnixTime::from_seconds(100)).await,
        TokenAttestation::Attested
    );
    assert_eq!(
        spend("secret", winners[0], UnixTime::from_seconds(101)).await,
        TokenAttestation::Expired
    );
    assert_eq!(spend("other", 0, UnixTime::from_seconds(1)).await, TokenAttestation::Unknown);
    let stored = fixture.store.join_token("secret").await.unwrap().unwrap();
    assert_eq!(stored.spent_by, Some([winners[0]; 32]));
    assert_eq!(fixture.store.prune_join_tokens(UnixTime::from_seconds(100)).await.unwrap(), 0);
    assert_eq!(fixture.store.prune_join_tokens(UnixTime::from_seconds(101)).await.unwrap(), 1);
}

pub async fn a_banned_agent_does_not_spend_its_token(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let store = &fixture.store;
    let token = JoinToken {
        token: "secret".into(),
        expires_at: UnixTime::from_seconds(100),
        spent_by: None,
    };
    store.create_join_token(token, None, UnixTime::from_seconds(1)).await.unwrap();
    let mut banned = node("secret");
    banned.serial_number.clear();
    store.put_node(banned.clone(), UnixTime::from_seconds(1)).await.unwrap();
    let before = store.revision();
    let outcome = store
        .attest_with_token("secret", [1; 32], node("secret"), UnixTime::from_seconds(2))
        .await
        .unwrap();
    assert_eq!(outcome, TokenAttestation::Banned);
    assert_eq!(store.join_token("secret").await.unwrap().unwrap().spent_by, None);
    assert_eq!(store.node(&banned.spiffe_id).await.unwrap(), Some(banned));
    assert_eq!(store.revision(), before);
}
