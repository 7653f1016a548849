//! Entries, bundles, relationships and authorities as their callers see them.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

mod support;

use signet_api::pb::{
    grpc::health::v1::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    },
    spire::api::{
        server::{
            bundle::v1::{self as bundle_pb, bundle_client::BundleClient},
            entry::v1 as pb,
            localauthority::v1::{
                self as authority_pb, local_authority_client::LocalAuthorityClient,
            },
            logger::v1::{self as logger_pb, logger_client::LoggerClient},
            trustdomain::v1::{self as federation_pb, trust_domain_client::TrustDomainClient},
        },
        types::{
            self, BundleMask, EntryMask, LogLevel, federation_relationship::BundleEndpointProfile,
        },
    },
};
use support::TestServer;
use tonic::Code;

fn id(path: &str) -> Option<types::Spiffeid> {
    Some(types::Spiffeid { trust_domain: "example.org".into(), path: path.into() })
}

fn entry(path: &str, selector: &str) -> types::Entry {
    types::Entry {
        spiffe_id: id(path),
        parent_id: id("/node"),
        selectors: vec![types::Selector { r#type: "unix".into(), value: selector.into() }],
        ..Default::default()
    }
}

async fn create(
    server: &TestServer,
    entries: Vec<types::Entry>,
) -> Vec<(i32, String, Option<types::Entry>)> {
    let request = pb::BatchCreateEntryRequest { entries, output_mask: None };
    let response = server.entries().batch_create_entry(request).await.unwrap().into_inner();
    let results = response.results.into_iter().map(|result| {
        let status = result.status.unwrap();
        (status.code, status.message, result.entry)
    });
    results.collect()
}

#[tokio::test]
async fn each_item_of_a_batch_has_its_own_status_in_order() {
    let options = support::Options {
        server: "federation { require_bundle = true }".to_owned(),
        ..Default::default()
    };
    let server = TestServer::with(options).await;
    let fixed = types::Entry { id: "fixed".into(), ..entry("/fixed", "uid:1") };
    let results = create(
        &server,
        vec![
            entry("/a", "uid:1"),
            types::Entry { selectors: Vec::new(), ..entry("/b", "uid:1") },
            entry("/a", "uid:1"),
            fixed.clone(),
            types::Entry { spiffe_id: id("/other"), ..fixed },
            types::Entry { federates_with: vec!["none.test".into()], ..entry("/c", "uid:1") },
            types::Entry { id: "bad id!".into(), ..entry("/d", "uid:1") },
            types::Entry { spiffe_id: id("/spire/x"), ..entry("/e", "uid:1") },
        ],
    )
    .await;
    let codes: Vec<i32> = results.iter().map(|(code, ..)| *code).collect();
    assert_eq!(codes, [0, 3, 6, 0, 6, 13, 3, 3]);
    assert_eq!(results[1].1, "failed to convert entry: selector list is empty");
    assert_eq!(results[2].1, "similar entry already exists");
    assert_eq!(results[2].2.as_ref().unwrap().id, results[0].2.as_ref().unwrap().id);
    assert!(results[4].2.is_none());
    assert_eq!(
        results[5].1,
        "failed to create entry: unable to find federated bundle \"spiffe://none.test\""
    );
    server.stop().await;
}

#[tokio::test]
async fn an_entry_may_federate_with_a_trust_domain_whose_bundle_comes_later() {
    let server = TestServer::start().await;
    let early = types::Entry { federates_with: vec!["late.test".into()], ..entry("/a", "uid:1") };
    let results = create(&server, vec![early]).await;
    assert_eq!(results[0].0, 0, "{results:?}");
    let made = results[0].2.clone().unwrap();
    assert_eq!(made.federates_with, ["late.test"]);
    let update = types::Entry { federates_with: vec!["later.test".into()], ..made };
    let request = pb::BatchUpdateEntryRequest { entries: vec![update], ..Default::default() };
    let updated = server.entries().batch_update_entry(request).await.unwrap().into_inner();
    assert_eq!(updated.results[0].status.as_ref().unwrap().code, 0);
    server.stop().await;
}

#[tokio::test]
async fn lists_are_filtered_masked_and_paged() {
    let server = TestServer::start().await;
    let all: Vec<_> = (0..7).map(|n| entry(&format!("/w{n}"), &format!("uid:{}", n % 2))).collect();
    create(&server, all).await;

    let mut request = pb::ListEntriesRequest {
        output_mask: Some(EntryMask { spiffe_id: true, ..Default::default() }),
        page_size: 3,
        ..Default::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = server.entries().list_entries(request.clone()).await.unwrap().into_inner();
        assert!(page.entries.len() <= 3);
        assert!(page.entries.iter().all(|one| !one.id.is_empty() && one.selectors.is_empty()));
        seen.extend(page.entries.into_iter().map(|one| one.spiffe_id.unwrap().path));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, ["/w0", "/w1", "/w2", "/w3", "/w4", "/w5", "/w6"]);

    request.page_token = "junk".into();
    let refused = server.entries().list_entries(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert_eq!(refused.message(), "failed to list entries: could not parse token 'junk'");

    let by = |values: &[&str], behavior: i32| pb::CountEntriesRequest {
        filter: Some(pb::count_entries_request::Filter {
            by_selectors: Some(types::SelectorMatch {
                selectors: values
                    .iter()
                    .map(|value| types::Selector { r#type: "unix".into(), value: (*value).into() })
                    .collect(),
                r#match: behavior,
            }),
            // What SPIRE's command line sends when no flag is given.
            by_downstream: Some(false),
            ..Default::default()
        }),
    };
    for (filter, expected) in [
        (by(&["uid:0"], 0), 4),
        (by(&["uid:0", "uid:1"], 1), 7),
        (by(&["uid:0", "uid:1"], 2), 0),
        (by(&["uid:1", "uid:9"], 3), 3),
    ] {
        let count = server.entries().count_entries(filter).await.unwrap().into_inner().count;
        assert_eq!(count, expected);
    }
    let empty = server.entries().count_entries(by(&[], 0)).await.unwrap_err();
    assert_eq!(empty.message(), "malformed selectors filter: empty selector set");
    server.stop().await;
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names_and_counts_revisions() {
    let server = TestServer::start().await;
    let created = create(&server, vec![entry("/a", "uid:1")]).await;
    let id = created[0].2.as_ref().unwrap().id.clone();
    let update = |hint: &str, id: &str| pb::BatchUpdateEntryRequest {
        entries: vec![types::Entry {
            id: id.to_owned(),
            hint: hint.to_owned(),
            ..Default::default()
        }],
        input_mask: Some(EntryMask { hint: true, ..Default::default() }),
        output_mask: None,
    };
    for revision in 1..=2 {
        let response = server.entries().batch_update_entry(update("h", &id)).await.unwrap();
        let result = response.into_inner().results.remove(0);
        let after = result.entry.unwrap();
        assert_eq!((after.revision_number, after.hint.as_str()), (revision, "h"));
        assert_eq!(after.selectors.len(), 1);
    }
    for (hint, id, code) in [("h", "nope", 5), ("h", "", 5), (&*"x".repeat(1025), &*id, 3)] {
        let response = server.entries().batch_update_entry(update(hint, id)).await.unwrap();
        assert_eq!(response.into_inner().results[0].status.as_ref().unwrap().code, code);
    }
    let request = pb::BatchDeleteEntryRequest { ids: vec![id.clone(), id, String::new()] };
    let response = server.entries().batch_delete_entry(request).await.unwrap().into_inner();
    let codes: Vec<i32> =
        response.results.iter().map(|one| one.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [0, 5, 3]);
    server.stop().await;
}

#[tokio::test]
async fn an_agent_syncs_more_entries_than_one_page_holds() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let parent = support::pb_id(&agent.id);
    let all = (0..501).map(|n| types::Entry {
        parent_id: Some(parent.clone()),
        ..entry(&format!("/w{n}"), "uid:1")
    });
    create(&server, all.collect()).await;

    let mut client = pb::entry_client::EntryClient::new(agent.channel(&server).await);
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let first = pb::SyncAuthorizedEntriesRequest {
        output_mask: Some(EntryMask {
            spiffe_id: true,
            revision_number: true,
            ..Default::default()
        }),
        ids: Vec::new(),
    };
    requests.send(first).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut replies = client.sync_authorized_entries(stream).await.unwrap().into_inner();
    let mut ids = Vec::new();
    loop {
        let page = replies.message().await.unwrap().unwrap();
        assert!(page.entries.is_empty());
        ids.extend(page.entry_revisions.into_iter().map(|revision| revision.id));
        if !page.more {
            break;
        }
    }
    assert_eq!(ids.len(), 501);
    let wanted = pb::SyncAuthorizedEntriesRequest {
        ids: vec![ids[7].clone(), "unknown".into()],
        ..Default::default()
    };
    requests.send(wanted).await.unwrap();
    let page = replies.message().await.unwrap().unwrap();
    assert_eq!((page.entries.len(), page.more), (1, false));
    assert_eq!(page.entries[0].id, ids[7]);
    assert!(page.entries[0].parent_id.is_none());
    drop(requests);
    assert!(replies.message().await.unwrap().is_none());

    // An agent may sync, and nothing else here.
    let refused = client.list_entries(pb::ListEntriesRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    server.stop().await;
}

#[tokio::test]
async fn foreign_bundles_live_and_the_own_one_is_out_of_reach() {
    let server = TestServer::start().await;
    let mut client = BundleClient::new(server.local.clone());
    let own = client.get_bundle(bundle_pb::GetBundleRequest { output_mask: None }).await;
    let own = own.unwrap().into_inner();
    let foreign = types::Bundle {
        trust_domain: "spiffe://other.test".into(),
        refresh_hint: 7,
        x509_authorities: vec![types::X509Certificate {
            // Two certificates in one field, tainted: neither is anyone else's to say.
            asn1: [own.x509_authorities[0].asn1.as_ref(); 2].concat().into(),
            tainted: true,
        }],
        ..Default::default()
    };
    let broken = types::Bundle {
        trust_domain: "broken.test".into(),
        x509_authorities: vec![types::X509Certificate {
            asn1: vec![0x30, 1, 0].into(),
            tainted: false,
        }],
        ..Default::default()
    };
    let request = bundle_pb::BatchCreateFederatedBundleRequest {
        bundle: vec![foreign.clone(), foreign.clone(), broken, own.clone()],
        output_mask: None,
    };
    let results = client.batch_create_federated_bundle(request).await.unwrap().into_inner().results;
    let codes: Vec<i32> = results.iter().map(|one| one.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [0, 6, 3, 3]);
    let stored = results[0].bundle.as_ref().unwrap();
    assert_eq!((stored.trust_domain.as_str(), stored.x509_authorities.len()), ("other.test", 2));
    assert!(!stored.x509_authorities[0].tainted);

    // Updates heed the mask.
    let request = bundle_pb::BatchUpdateFederatedBundleRequest {
        bundle: vec![types::Bundle {
            trust_domain: "other.test".into(),
            refresh_hint: 9,
            ..Default::default()
        }],
        input_mask: Some(BundleMask { refresh_hint: true, ..Default::default() }),
        output_mask: None,
    };
    let results = client.batch_update_federated_bundle(request).await.unwrap().into_inner().results;
    let updated = results[0].bundle.as_ref().unwrap();
    assert_eq!((updated.refresh_hint, updated.x509_authorities.len()), (9, 2));

    // An entry that federates with it holds it.
    let entry = types::Entry { federates_with: vec!["other.test".into()], ..entry("/f", "uid:1") };
    assert_eq!(create(&server, vec![entry]).await[0].0, 0);
    let delete = |mode: i32, name: &str| bundle_pb::BatchDeleteFederatedBundleRequest {
        trust_domains: vec![name.to_owned()],
        mode,
    };
    for (request, code) in [
        (delete(0, "other.test"), 9),
        (delete(2, "spiffe://other.test"), 0),
        (delete(0, "other.test"), 5),
        (delete(0, "example.org"), 3),
    ] {
        let name = request.trust_domains[0].clone();
        let response = client.batch_delete_federated_bundle(request).await.unwrap().into_inner();
        assert_eq!(response.results[0].status.as_ref().unwrap().code, code);
        assert_eq!(response.results[0].trust_domain, name);
    }
    let wrong = client.batch_delete_federated_bundle(delete(9, "x")).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    let entries = server.entries().list_entries(pb::ListEntriesRequest::default()).await.unwrap();
    assert!(entries.into_inner().entries[0].federates_with.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn relationships_are_kept_with_their_bundles() {
    let server = TestServer::start().await;
    let mut client = TrustDomainClient::new(server.local.clone());
    let relationship = |name: &str, url: &str| types::FederationRelationship {
        trust_domain: name.into(),
        bundle_endpoint_url: url.into(),
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {})),
        trust_domain_bundle: Some(types::Bundle {
            trust_domain: name.into(),
            ..Default::default()
        }),
    };
    let request = federation_pb::BatchCreateFederationRelationshipRequest {
        federation_relationships: vec![
            relationship("other.test", "https://other.test/b"),
            relationship("other.test", "https://other.test/b"),
            relationship("third.test", "http://third.test"),
            relationship("example.org", "https://example.org"),
        ],
        output_mask: None,
    };
    let response = client.batch_create_federation_relationship(request).await.unwrap();
    let results = response.into_inner().results;
    let codes: Vec<i32> = results.iter().map(|one| one.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [0, 6, 3, 3]);
    let stored = results[0].federation_relationship.as_ref().unwrap();
    assert_eq!(stored.trust_domain_bundle.as_ref().unwrap().trust_domain, "other.test");

    let request = federation_pb::RefreshBundleRequest { trust_domain: "none.test".into() };
    let refused = client.refresh_bundle(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let names = vec!["spiffe://other.test".into(), "other.test".into(), String::new()];
    let request = federation_pb::BatchDeleteFederationRelationshipRequest { trust_domains: names };
    let response = client.batch_delete_federation_relationship(request).await.unwrap();
    let results: Vec<(i32, String)> = response
        .into_inner()
        .results
        .into_iter()
        .map(|one| (one.status.unwrap().code, one.trust_domain))
        .collect();
    let expected = [(0, "other.test"), (5, "other.test"), (3, "")];
    assert_eq!(results, expected.map(|(code, name)| (code, name.to_owned())));
    server.stop().await;
}

#[tokio::test]
async fn an_authority_goes_from_prepared_to_revoked_and_no_step_is_skipped() {
    let server = TestServer::start().await;
    let mut client = LocalAuthorityClient::new(server.local.clone());
    let state =
        client.get_x509_authority_state(authority_pb::GetX509AuthorityStateRequest {}).await;
    let first = state.unwrap().into_inner().active.unwrap().authority_id;
    for (authority_id, code) in [("", Code::InvalidArgument), (&*first, Code::InvalidArgument)] {
        let authority_id = authority_id.to_owned();
        let request = authority_pb::ActivateX509AuthorityRequest { authority_id };
        assert_eq!(client.activate_x509_authority(request).await.unwrap_err().code(), code);
    }
    let prepared =
        client.prepare_x509_authority(authority_pb::PrepareX509AuthorityRequest {}).await;
    let second = prepared.unwrap().into_inner().prepared_authority.unwrap().authority_id;
    let request = authority_pb::ActivateX509AuthorityRequest { authority_id: second.clone() };
    client.activate_x509_authority(request).await.unwrap();

    let revoke = authority_pb::RevokeX509AuthorityRequest { authority_id: first.clone() };
    let untainted = client.revoke_x509_authority(revoke.clone()).await.unwrap_err();
    assert_eq!(untainted.code(), Code::Internal);
    let taint = authority_pb::TaintX509AuthorityRequest { authority_id: first.clone() };
    client.taint_x509_authority(taint.clone()).await.unwrap();
    assert_eq!(client.taint_x509_authority(taint).await.unwrap_err().code(), Code::Internal);
    client.revoke_x509_authority(revoke).await.unwrap();

    let request = authority_pb::TaintX509UpstreamAuthorityRequest { subject_key_id: "ab".into() };
    let refused = client.taint_x509_upstream_authority(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), "upstream authority is not configured");
    let wit = client.prepare_wit_authority(authority_pb::PrepareWitAuthorityRequest {}).await;
    assert_eq!(wit.unwrap_err().code(), Code::Unimplemented);
    server.stop().await;
}

#[tokio::test]
async fn logger_and_health_answer_on_the_local_socket() {
    let server = TestServer::start().await;
    let mut logger = LoggerClient::new(server.local.clone());
    let level = |level: LogLevel| logger_pb::SetLogLevelRequest { new_level: level.into() };
    let set = logger.set_log_level(level(LogLevel::Trace)).await.unwrap().into_inner();
    assert_eq!((set.current_level(), set.launch_level()), (LogLevel::Trace, LogLevel::Info));
    let refused = logger.set_log_level(level(LogLevel::Unspecified)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let reset = logger.reset_log_level(logger_pb::ResetLogLevelRequest {}).await.unwrap();
    assert_eq!(reset.into_inner().current_level(), LogLevel::Info);

    let mut health = HealthClient::new(server.local.clone());
    let check = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let serving = health.check(check("")).await.unwrap().into_inner();
    assert_eq!(serving.status(), ServingStatus::Serving);
    let mut watched = health.watch(check("")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let one = health.check(check("x")).await.unwrap_err();
    assert_eq!(one.code(), Code::InvalidArgument);
    server.stop().await;
}
