//! Promises about tenants.

use signet_identity::tenant::{Assigned, Assignment, TenantState};
use signet_time::UnixTime;

use super::{Database, Fixture, draft, id};
use crate::{ChangeKind, Changes, EntryUpdate, UpdateEntryOutcome};

pub async fn an_entry_keeps_its_tenant_through_updates_and_restarts(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let mut owned = draft("w", "p", &["unix:uid:1"]);
    owned.tenant = Some("blue".parse().unwrap());
    owned.jwt_svid_tenant_claim = true;
    let created = fixture.create("one", owned.clone()).await;
    assert_eq!(created.spec, owned);
    let update = EntryUpdate::new(id("one"), |draft| {
        draft.hint = "h".into();
        Ok(())
    });
    let updated =
        fixture.store.update_entries(vec![update], UnixTime::from_seconds(2)).await.unwrap();
    assert!(matches!(&updated[..], [UpdateEntryOutcome::Updated(entry)]
        if entry.tenant == owned.tenant && entry.jwt_svid_tenant_claim));
    fixture.create("two", draft("x", "p", &["unix:uid:1"])).await;
    let fixture = fixture.reopen().await;
    let stored = fixture.store.entry(&id("one")).await.unwrap().unwrap();
    assert_eq!((&stored.tenant, stored.jwt_svid_tenant_claim), (&owned.tenant, true));
    let other = fixture.store.entry(&id("two")).await.unwrap().unwrap();
    assert_eq!((&other.tenant, other.jwt_svid_tenant_claim), (&None, false));
}

pub async fn what_is_said_about_tenants_is_kept_and_told_of(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let before = fixture.store.known();
    let blue = || "blue".parse().unwrap();
    let agent = "spiffe://td/spire/agent/t/1".parse().unwrap();
    let both = [blue(), "red".parse().unwrap()].into_iter().collect();
    let first = Assignment::Tenant(blue(), TenantState::Active);
    let all = [
        Assignment::Agent(agent, both),
        Assignment::Tenant(blue(), TenantState::Suspended),
        Assignment::TrustDomain("x.test".parse().unwrap(), [blue()].into_iter().collect()),
    ];
    fixture.store.assign(first, UnixTime::from_seconds(1)).await.unwrap();
    for said in &all {
        fixture.store.assign(said.clone(), UnixTime::from_seconds(1)).await.unwrap();
    }
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.store.assignments().await.unwrap(), all);
    for said in &all {
        let read = fixture.store.assignment(&said.about()).await.unwrap();
        assert_eq!(read.as_ref(), Some(said));
        assert_eq!(said.about().to_string().parse::<Assigned>(), Ok(said.about()));
    }
    assert!(fixture.store.unassign(&all[0].about(), UnixTime::from_seconds(2)).await.unwrap());
    assert!(!fixture.store.unassign(&all[0].about(), UnixTime::from_seconds(2)).await.unwrap());
    assert_eq!(fixture.store.assignment(&all[0].about()).await.unwrap(), None);
    let Changes::Since(changes) = fixture.store.changes_since(&before, 100).await.unwrap() else {
        panic!("gone");
    };
    assert!(changes.iter().all(|change| change.kind == ChangeKind::Tenancy));
    let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
    let agent = "agent spiffe://td/spire/agent/t/1";
    assert_eq!(keys, ["tenant blue", agent, "tenant blue", "trust_domain x.test", agent]);
}
