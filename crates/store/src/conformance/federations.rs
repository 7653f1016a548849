//! Promises about federation relationships.

use signet_identity::{BundleEndpointProfile, FederationRelationship};
use signet_time::UnixTime;

use super::{Database, Fixture, bundle};
use crate::{CreateOutcome, FederationUpdate, PageRequest};

pub async fn federation_relationships_come_with_their_bundles(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let relationship = FederationRelationship {
        trust_domain: "x.test".parse().unwrap(),
        bundle_endpoint_url: "https://x.test/".into(),
        profile: BundleEndpointProfile::HttpsSpiffe {
            endpoint_spiffe_id: "spiffe://x.test/endpoint".parse().unwrap(),
        },
    };
    let batch = vec![(relationship.clone(), Some(bundle("x.test"))), (relationship.clone(), None)];
    let created = fixture.store.create_federations(batch, UnixTime::from_seconds(1)).await.unwrap();
    assert_eq!(created, [CreateOutcome::Created(relationship.clone()), CreateOutcome::Exists]);
    assert_eq!(fixture.store.count_bundles().await.unwrap(), 1);
    let to_web = |it: &mut FederationRelationship| it.profile = BundleEndpointProfile::HttpsWeb;
    let update = |name: &str| FederationUpdate::new(name.parse().unwrap(), to_web, None);
    let updates = vec![update("x.test"), update("y.test")];
    let updated =
        fixture.store.update_federations(updates, UnixTime::from_seconds(1)).await.unwrap();
    let expected =
        FederationRelationship { profile: BundleEndpointProfile::HttpsWeb, ..relationship };
    assert_eq!(updated, [Some(expected.clone()), None]);
    let page = fixture.store.list_federations(PageRequest::first(5)).await.unwrap();
    assert_eq!(page.items, [expected]);
    let names = vec!["x.test".parse().unwrap(), "y.test".parse().unwrap()];
    assert_eq!(
        fixture.store.delete_federations(names, UnixTime::from_seconds(1)).await.unwrap(),
        [true, false]
    );
}
