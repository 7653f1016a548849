//! With `audit_log_enabled`, whatever is issued, changed or refused leaves a record.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use signet_api::pb::{
    signet::api::push::v1::{SubscribeRequest, push_client::PushClient},
    spire::api::{
        server::{
            agent::v1 as agent_pb, bundle::v1 as bundle_pb, entry::v1 as entry_pb,
            localauthority::v1 as authority_pb, svid::v1 as svid_pb, trustdomain::v1 as trust_pb,
        },
        types,
    },
};
use signet_base::{Clock as _, SystemClock};
use signet_daemon::logging::{LogFormat, LogSettings, with_writer};
use signet_pki::x509::{CsrParams, create_csr};
use signet_testkit::Captured;
use support::{Options, TestServer, new_key, pb_id, workload_csr};
use tonic::{Code, transport::Channel};

/// The log, read as records.
struct Lines(Captured);

impl Lines {
    fn text(&self) -> String {
        self.0.text()
    }

    /// The records of `method` with this outcome: `OK` or the name of a code.
    fn of(&self, method: &str, outcome: &str) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let wanted = |line: &Value| {
            let code = line["status_code"].as_str().unwrap_or("OK");
            line["type"] == "audit" && line["method"] == method && code == outcome
        };
        lines.filter(wanted).collect()
    }

    /// The one record of `method` with this outcome.
    fn one(&self, method: &str, outcome: &str) -> Value {
        let mut found = self.of(method, outcome);
        assert_eq!(found.len(), 1, "{method} {outcome}: {}", self.text());
        found.remove(0)
    }
}

/// What this thread logs, which is all that a test's server does.
fn capture() -> (Lines, tracing::subscriber::DefaultGuard) {
    let log = Captured::default();
    let settings = LogSettings { format: LogFormat::Json, ..LogSettings::default() };
    let (subscriber, _) = with_writer(&settings, SystemClock::shared(), log.clone());
    (Lines(log), tracing::subscriber::set_default(subscriber))
}

async fn audited() -> TestServer {
    TestServer::with(Options { server: "audit_log_enabled = true".into(), ..Options::default() })
        .await
}

fn svids(channel: Channel) -> svid_pb::svid_client::SvidClient<Channel> {
    svid_pb::svid_client::SvidClient::new(channel)
}

#[tokio::test]
async fn what_an_agent_and_its_workloads_get_is_recorded() {
    let (lines, _guard) = capture();
    let server = audited().await;
    let token = server.token(600).await;
    let agent = server.attest(&token, &new_key()).await.unwrap();
    let created = lines.one("CreateJoinToken", "OK");
    assert_eq!((&created["ttl"], &created["authorized_as"]), (&600.into(), &"local".into()));
    assert!(created["caller_uid"].is_number());
    let attested = lines.one("AttestAgent", "OK");
    assert_eq!(attested["agent_id"], agent.id.to_string());
    assert_eq!(attested["node_attestor_type"], "join_token");
    assert!(attested["serial_num"].is_string() && attested["caller_addr"].is_string());

    let entry = server.create_entry("spiffe://example.org/w", &agent.id, "unix:uid:1").await;
    let record = lines.one("BatchCreateEntry", "OK");
    assert_eq!(record["entry_id"], entry);
    assert_eq!(record["spiffe_id"], "spiffe://example.org/w");
    assert_eq!(record["selectors"], "unix:uid:1");
    assert_eq!((&record["admin"], &record["expires_at"]), (&false.into(), &0.into()));

    let params = |id: &str| svid_pb::NewX509svidParams {
        entry_id: id.into(),
        csr: workload_csr("spiffe://example.org/w").into(),
    };
    agent.sign(&server, vec![params(&entry), params("nosuch")]).await.unwrap();
    let signed = lines.one("BatchNewX509SVID", "OK");
    assert_eq!(
        (&signed["entry_id"], &signed["authorized_as"]),
        (&entry.as_str().into(), &"agent".into())
    );
    assert_eq!(signed["caller_id"], agent.id.to_string());
    assert!(signed["serial_num"].is_string() && signed["expires_at"].is_number(), "{signed}");
    assert_eq!(lines.one("BatchNewX509SVID", "NotFound")["entry_id"], "nosuch");

    let request =
        svid_pb::NewJwtsvidRequest { entry_id: entry.clone(), audience: vec!["a".into()] };
    let mut client = svids(agent.channel(&server).await);
    let jwt = client.new_jwtsvid(request).await.unwrap().into_inner().svid.unwrap().token;
    let record = lines.one("NewJWTSVID", "OK");
    assert_eq!(
        (&record["audience"], &record["spiffe_id"]),
        (&"a".into(), &"spiffe://example.org/w".into())
    );
    assert!(record["kid"].is_string() && record["expires_at"].is_number(), "{record}");

    let renewed = agent.renew(&server).await.unwrap();
    assert_eq!(lines.one("RenewAgent", "OK")["spiffe_id"], agent.id.to_string());
    server.delete_entry(&entry).await;
    assert_eq!(lines.one("BatchDeleteEntry", "OK")["entry_id"], entry);

    // Refusals: a token that is spent, an agent that is banned, a stranger.
    assert!(server.attest(&token, &new_key()).await.is_err());
    assert_eq!(lines.one("AttestAgent", "InvalidArgument")["node_attestor_type"], "join_token");
    let id = Some(pb_id(&agent.id));
    server.agents().ban_agent(agent_pb::BanAgentRequest { id: id.clone() }).await.unwrap();
    assert_eq!(lines.one("BanAgent", "OK")["spiffe_id"], agent.id.to_string());
    assert!(renewed.entries(&server).await.is_err());
    let refused = lines.one("GetAuthorizedEntries", "PermissionDenied");
    assert_eq!(refused["caller_id"], agent.id.to_string());
    let mut stranger = entry_pb::entry_client::EntryClient::new(server.connect(None).await);
    let call = stranger.count_entries(entry_pb::CountEntriesRequest::default()).await;
    assert_eq!(call.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(lines.one("CountEntries", "PermissionDenied")["authorized_as"], "nobody");
    server.agents().delete_agent(agent_pb::DeleteAgentRequest { id }).await.unwrap();
    assert_eq!(lines.one("DeleteAgent", "OK")["spiffe_id"], agent.id.to_string());

    let text = lines.text();
    assert!(!text.contains(&jwt), "no JWT-SVID is logged");
    server.stop().await;
}

#[tokio::test]
async fn what_operators_do_is_recorded_item_by_item() {
    let (lines, _guard) = capture();
    let server = audited().await;
    let mut minting = svids(server.local.clone());
    let request = svid_pb::MintX509svidRequest {
        csr: workload_csr("spiffe://example.org/w").into(),
        ttl: 60,
    };
    minting.mint_x509svid(request).await.unwrap();
    let minted = lines.one("MintX509SVID", "OK");
    assert_eq!(
        (&minted["spiffe_id"], &minted["ttl"]),
        (&"spiffe://example.org/w".into(), &60.into())
    );
    let request = svid_pb::MintJwtsvidRequest {
        id: Some(types::Spiffeid { trust_domain: "example.org".into(), path: "/w".into() }),
        audience: vec!["a".into()],
        ttl: 0,
    };
    minting.mint_jwtsvid(request).await.unwrap();
    assert_eq!(lines.one("MintJWTSVID", "OK")["audience"], "a");
    assert!(minting.mint_witsvid(svid_pb::MintWitsvidRequest::default()).await.is_err());
    lines.one("MintWITSVID", "Unimplemented");

    let mut bundles = bundle_pb::bundle_client::BundleClient::new(server.local.clone());
    let own = bundles.get_bundle(bundle_pb::GetBundleRequest::default()).await.unwrap();
    let foreign = |name: &str| types::Bundle {
        trust_domain: name.into(),
        x509_authorities: own.get_ref().x509_authorities.clone(),
        ..types::Bundle::default()
    };
    let bundle = vec![foreign("other.org"), foreign("example.org")];
    let request = bundle_pb::BatchSetFederatedBundleRequest { bundle, ..Default::default() };
    bundles.batch_set_federated_bundle(request).await.unwrap();
    assert_eq!(lines.one("BatchSetFederatedBundle", "OK")["trust_domain_id"], "other.org");
    let own_refused = lines.one("BatchSetFederatedBundle", "InvalidArgument");
    assert_eq!(own_refused["trust_domain_id"], "example.org");
    let request = bundle_pb::AppendBundleRequest {
        x509_authorities: own.get_ref().x509_authorities.clone(),
        ..Default::default()
    };
    bundles.append_bundle(request).await.unwrap();
    assert_eq!(lines.one("AppendBundle", "OK")["x509_authorities"], 1);

    let mut trust = trust_pb::trust_domain_client::TrustDomainClient::new(server.local.clone());
    let relationship = types::FederationRelationship {
        trust_domain: "other.org".into(),
        bundle_endpoint_url: "https://other.org/bundle".into(),
        bundle_endpoint_profile: Some(
            types::federation_relationship::BundleEndpointProfile::HttpsWeb(
                types::HttpsWebProfile {},
            ),
        ),
        trust_domain_bundle: None,
    };
    let request = trust_pb::BatchCreateFederationRelationshipRequest {
        federation_relationships: vec![relationship],
        ..Default::default()
    };
    trust.batch_create_federation_relationship(request).await.unwrap();
    let record = lines.one("BatchCreateFederationRelationship", "OK");
    assert_eq!(record["bundle_endpoint_url"], "https://other.org/bundle");
    let request = trust_pb::BatchDeleteFederationRelationshipRequest {
        trust_domains: vec!["other.org".into(), "nosuch.org".into()],
    };
    trust.batch_delete_federation_relationship(request).await.unwrap();
    lines.one("BatchDeleteFederationRelationship", "OK");
    let missing = lines.one("BatchDeleteFederationRelationship", "NotFound");
    assert_eq!(missing["trust_domain_id"], "nosuch.org");

    let mut authorities =
        authority_pb::local_authority_client::LocalAuthorityClient::new(server.local.clone());
    let request = authority_pb::PrepareX509AuthorityRequest {};
    authorities.prepare_x509_authority(request).await.unwrap();
    assert!(lines.one("PrepareX509Authority", "OK")["local_authority_id"].is_string());
    let request = authority_pb::TaintX509AuthorityRequest { authority_id: "nosuch".into() };
    assert!(authorities.taint_x509_authority(request).await.is_err());
    assert_eq!(lines.one("TaintX509Authority", "InvalidArgument")["local_authority_id"], "nosuch");
    server.stop().await;
}

#[tokio::test]
async fn a_downstream_server_and_a_caller_beyond_its_limit_are_recorded() {
    let (lines, _guard) = capture();
    let server = audited().await;
    let agent = server.agent().await;
    let entry = types::Entry {
        spiffe_id: Some(types::Spiffeid { trust_domain: "example.org".into(), path: "/d".into() }),
        parent_id: Some(pb_id(&agent.id)),
        selectors: vec![types::Selector { r#type: "a".into(), value: "b".into() }],
        downstream: true,
        ..types::Entry::default()
    };
    let request = entry_pb::BatchCreateEntryRequest { entries: vec![entry], ..Default::default() };
    let created = server.entries().batch_create_entry(request).await.unwrap().into_inner();
    let entry_id = created.results[0].entry.clone().unwrap().id;
    let key = new_key();
    let params = CsrParams::workload("spiffe://example.org/d".parse().unwrap());
    let csr = create_csr(&params, &*key.signer().unwrap()).unwrap();
    let params = svid_pb::NewX509svidParams { entry_id, csr: csr.into() };
    let signed = agent.sign(&server, vec![params]).await.unwrap().remove(0).svid.unwrap();
    let chain: Vec<Arc<[u8]>> = signed.cert_chain.iter().map(|der| der.as_ref().into()).collect();
    let identity = signet_pki::tls::TlsIdentity::new(&chain, key.signer().unwrap()).unwrap();
    let mut client = svids(server.connect(Some(identity)).await);
    let request = svid_pb::NewDownstreamX509caRequest {
        csr: workload_csr("spiffe://example.org/ca").into(),
        preferred_ttl: 0,
    };
    client.new_downstream_x509ca(request).await.unwrap();
    let record = lines.one("NewDownstreamX509CA", "OK");
    assert_eq!(record["authorized_as"], "downstream");
    assert_eq!(record["caller_id"], "spiffe://example.org/d");
    assert!(record["csr"].is_string() && record["expires_at"].is_number());

    let many = vec![svid_pb::NewX509svidParams::default(); 501];
    let refused = agent.sign(&server, many).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    lines.one("BatchNewX509SVID", "ResourceExhausted");
    server.stop().await;
}

#[tokio::test]
async fn every_refusal_leaves_a_line_though_nothing_is_audited() {
    let (lines, _guard) = capture();
    let server = TestServer::start().await;
    assert!(server.attest("guessed", &new_key()).await.is_err());
    let mut stranger = entry_pb::entry_client::EntryClient::new(server.connect(None).await);
    assert!(stranger.count_entries(entry_pb::CountEntriesRequest::default()).await.is_err());
    let request = entry_pb::GetEntryRequest { id: "nosuch".into(), ..Default::default() };
    assert!(server.entries().get_entry(request).await.is_err());
    let text = lines.text();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = |method: &str| {
        let found = lines.iter().find(|line| line["method"] == method && line["level"] == "error");
        found.unwrap_or_else(|| panic!("{method}: {text}")).clone()
    };
    let guessed = line("AttestAgent");
    assert_eq!(
        guessed["msg"],
        "Invalid argument: failed to attest: join token does not exist or has already been used"
    );
    assert_eq!(guessed["node_attestor_type"], "join_token");
    assert_eq!(guessed["service"], "agent.v1.Agent");
    assert!(guessed["caller_addr"].is_string() && guessed["request_id"].is_string(), "{guessed}");
    let denied = line("CountEntries");
    assert_eq!(denied["msg"], "Failed to authenticate caller");
    assert!(denied["caller_addr"].is_string(), "{denied}");
    let missing = line("GetEntry");
    assert_eq!(
        (&missing["msg"], &missing["entry_id"]),
        (&"Entry not found".into(), &"nosuch".into())
    );
    assert!(lines.iter().all(|line| line["type"] != "audit"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn a_request_is_named_alike_at_both_ends() {
    let (lines, _guard) = capture();
    let server = audited().await;
    let id = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
    let mut request =
        tonic::Request::new(entry_pb::GetEntryRequest { id: "x".into(), ..Default::default() });
    request.metadata_mut().insert(signet_api::REQUEST_ID, id.parse().unwrap());
    let refused = server.entries().get_entry(request).await.unwrap_err();
    assert_eq!(refused.metadata().get(signet_api::REQUEST_ID).unwrap(), id);
    assert_eq!(lines.one("GetEntry", "NotFound")["request_id"], id);
    server.stop().await;
}

#[tokio::test]
async fn a_call_beyond_the_limit_leaves_its_traces_under_the_callers_request_id() {
    let (lines, _guard) = capture();
    let server = audited().await;
    let agent = server.agent().await;
    let mut client = PushClient::new(agent.channel(&server).await);
    let mut open = Vec::new();
    let id = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
    let refused = loop {
        assert!(open.len() < 100, "no limit");
        let mut request = tonic::Request::new(SubscribeRequest::default());
        request.metadata_mut().insert(signet_api::REQUEST_ID, id.parse().unwrap());
        match client.subscribe(request).await {
            Ok(stream) => open.push(stream),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.metadata().get(signet_api::REQUEST_ID).unwrap(), id);
    let record = lines.one("Subscribe", "ResourceExhausted");
    assert_eq!(
        (&record["request_id"], &record["service"]),
        (&id.into(), &"signet.api.push.v1.Push".into())
    );
    assert_eq!(record["caller_id"], agent.id.to_string());
    let text = lines.text();
    let mut all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = all.find(|line| line["level"] == "error" && line["request_id"] == id);
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(line["msg"].as_str().unwrap().starts_with("Too many calls of"), "{line}");
    server.stop().await;
}

#[tokio::test]
async fn what_the_server_prunes_leaves_a_record() {
    let (lines, _guard) = capture();
    let server = audited().await;
    let agent = server.agent().await;
    let expires_at = server.clock.unix().seconds() + 60;
    let entry = types::Entry {
        spiffe_id: Some(pb_id(&"spiffe://example.org/w".parse().unwrap())),
        parent_id: Some(pb_id(&agent.id)),
        selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:1".into() }],
        expires_at,
        ..Default::default()
    };
    let request = entry_pb::BatchCreateEntryRequest { entries: vec![entry], ..Default::default() };
    server.entries().batch_create_entry(request).await.unwrap();
    server.clock.jump_forward(Duration::from_secs(61));
    // The loop that prunes waits for minutes of the runtime's time.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(301)).await;
    tokio::time::resume();
    let pruned = || {
        let text = lines.text();
        let mut all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.find(|line| line["msg"] == "Pruned an expired registration")
    };
    let pruned = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            match pruned() {
                Some(pruned) => break pruned,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    let pruned = pruned.await.expect("a record");
    assert_eq!(
        (&pruned["type"], &pruned["spiffe_id"]),
        (&"audit".into(), &"spiffe://example.org/w".into())
    );
    assert_eq!(
        (&pruned["parent_id"], &pruned["expires_at"]),
        (&agent.id.to_string().into(), &expires_at.into())
    );
    assert!(pruned["entry_id"].is_string(), "{pruned}");
    server.stop().await;
}
