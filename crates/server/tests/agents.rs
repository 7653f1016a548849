//! Attestation, renewal, ban, eviction: over real sockets.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::time::Duration;

use signet_api::{
    pb::spire::api::server::agent::v1::{
        BanAgentRequest, DeleteAgentRequest, PostStatusRequest, agent_client::AgentClient,
    },
    status::{Reason, denied_reason},
};
use signet_pki::{
    KeyType, PrivateKey,
    x509::{CsrParams, create_csr},
};
use support::{Options, TestServer, new_key, pb_id, workload_csr};
use tonic::Code;

#[tokio::test]
async fn an_agent_attests_syncs_and_signs() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    assert!(agent.id.path().starts_with("/spire/agent/join_token/"));
    assert_eq!(agent.expires_at, (signet_base::Clock::unix(&server.clock) + 3600).seconds());
    let entry = server.create_entry("spiffe://example.org/w", &agent.id, "unix:uid:0").await;
    assert_eq!(agent.entries(&server).await.unwrap(), std::slice::from_ref(&entry));
    let param = |entry_id: &str, csr: Vec<u8>| {
        signet_api::pb::spire::api::server::svid::v1::NewX509svidParams {
            entry_id: entry_id.into(),
            csr: csr.into(),
        }
    };
    let good = workload_csr("spiffe://example.org/other");
    let mut forged = good.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let results = agent
        .sign(
            &server,
            vec![
                param(&entry, good.clone()),
                param("", good.clone()),
                param(&entry, vec![]),
                param("unknown", good.clone()),
                param(&entry, forged),
                param(&entry, b"junk".to_vec()),
            ],
        )
        .await
        .unwrap();
    let statuses: Vec<_> = results.iter().map(|r| r.status.clone().unwrap()).collect();
    let codes: Vec<_> = statuses.iter().map(|status| status.code).collect();
    assert_eq!(codes, [0, 3, 3, 5, 3, 3]);
    assert_eq!(statuses[1].message, "missing entry ID");
    assert_eq!(statuses[3].message, "entry not found or not authorized");
    assert!(statuses[4].message.starts_with("invalid CSR signature"), "{}", statuses[4].message);
    let svid = results[0].svid.clone().unwrap();
    let chain: Vec<_> = svid.cert_chain.iter().map(|der| der.to_vec()).collect();
    let now = signet_base::Clock::unix(&server.clock);
    let verified = signet_pki::x509::verify_svid(&chain, &server.trust(), now).unwrap();
    assert_eq!(verified.id.path(), "/w", "the entry decides, not the CSR");
    server.stop().await;
}

#[tokio::test]
async fn a_join_token_is_spent_once_however_many_come_at_once() {
    let server = TestServer::start().await;
    let token = server.token(600).await;
    let mut attempts = tokio::task::JoinSet::new();
    let server = std::sync::Arc::new(server);
    for _ in 0..12 {
        let (server, token) = (std::sync::Arc::clone(&server), token.clone());
        attempts.spawn(async move { server.attest(&token, &new_key()).await.err() });
    }
    let outcomes = attempts.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_none()).count(), 1);
    for refusal in outcomes.into_iter().flatten() {
        assert_eq!(refusal.code(), Code::InvalidArgument);
        assert_eq!(
            refusal.message(),
            "failed to attest: join token does not exist or has already been used"
        );
    }
}

#[tokio::test]
async fn a_lost_answer_does_not_burn_the_token_for_its_key() {
    let server = TestServer::start().await;
    let token = server.token(600).await;
    let key = new_key();
    let first = server.attest(&token, &key).await.unwrap();
    let again = server.attest(&token, &key).await.unwrap();
    assert_eq!(first.id, again.id);
    again.entries(&server).await.unwrap();
    // The SVID of the lost answer is not the active one.
    let refused = first.entries(&server).await.unwrap_err();
    assert_eq!(denied_reason(&refused), Some(Reason::AgentNotActive));
    assert!(server.attest(&token, &new_key()).await.is_err());
    // A ban holds against it.
    let id = Some(pb_id(&again.id));
    server.agents().ban_agent(BanAgentRequest { id }).await.unwrap();
    let refused = server.attest(&token, &key).await.err().unwrap();
    assert_eq!(refused.message(), "failed to attest: agent is banned");
    assert_eq!(refused.code(), Code::PermissionDenied);
    // Once the agent was deleted the token is gone for its key too.
    let id = Some(pb_id(&again.id));
    server.agents().delete_agent(DeleteAgentRequest { id }).await.unwrap();
    assert!(server.attest(&token, &key).await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn an_expired_token_and_bad_requests_are_refused_by_name() {
    let server = TestServer::start().await;
    let token = server.token(10).await;
    server.clock.jump_forward(Duration::from_secs(11));
    let refused = server.attest(&token, &new_key()).await.err().unwrap();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "join token expired"));
    let key = new_key();
    let csr = create_csr(&CsrParams::agent(), &*key.signer().unwrap()).unwrap();
    let mut forged = csr.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let token = server.token(600).await;
    for (kind, payload, csr, code, text) in [
        (
            "",
            &b"x"[..],
            &csr[..],
            Code::InvalidArgument,
            "malformed param: missing attestation data type",
        ),
        (
            "join_token",
            b"",
            &csr,
            Code::InvalidArgument,
            "malformed param: missing attestation data payload",
        ),
        ("join_token", b"x", b"", Code::InvalidArgument, "malformed param: missing CSR"),
        ("join_token", b"x", b"junk", Code::InvalidArgument, "malformed CSR"),
        ("join_token", token.as_bytes(), &forged, Code::InvalidArgument, "invalid CSR signature"),
        ("join_token", b"../../x", &csr, Code::InvalidArgument, "failed to attest: join token"),
        (
            "nothing",
            b"x",
            &csr,
            Code::FailedPrecondition,
            "error getting node attestor: could not find node attestor type \"nothing\"",
        ),
    ] {
        let refused = server.attest_raw(kind, payload, csr, &key).await.err().unwrap();
        assert_eq!(refused.code(), code, "{kind}");
        assert!(refused.message().starts_with(text), "{}", refused.message());
    }
    // None of them spent it.
    server.attest(&token, &key).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_renewed_svid_becomes_active_when_it_is_first_used() {
    let server = TestServer::start().await;
    let old = server.agent().await;
    let new = old.renew(&server).await.unwrap();
    // A lost answer: the old one goes on, and may renew again.
    old.entries(&server).await.unwrap();
    let newer = old.renew(&server).await.unwrap();
    let refused = new.entries(&server).await.unwrap_err();
    assert_eq!(denied_reason(&refused), Some(Reason::AgentNotActive));
    newer.entries(&server).await.unwrap();
    let refused = old.entries(&server).await.unwrap_err();
    assert_eq!(denied_reason(&refused), Some(Reason::AgentNotActive));
    server.stop().await;
}

#[tokio::test]
async fn banned_evicted_and_expired_agents_are_told_so() {
    let server = TestServer::start().await;
    let (banned, evicted, expired) =
        (server.agent().await, server.agent().await, server.agent().await);
    for agent in [&banned, &evicted, &expired] {
        agent.entries(&server).await.unwrap();
    }
    // The connection was open before: a ban counts for its next call too.
    let mut open = AgentClient::new(banned.channel(&server).await);
    open.post_status(PostStatusRequest::default()).await.unwrap();
    let id = Some(pb_id(&banned.id));
    server.agents().ban_agent(BanAgentRequest { id }).await.unwrap();
    let refused = open.post_status(PostStatusRequest::default()).await.unwrap_err();
    assert_eq!(denied_reason(&refused), Some(Reason::AgentBanned));
    assert_eq!(
        refused.message(),
        "authorization denied for method /spire.api.server.agent.v1.Agent/PostStatus"
    );
    let id = Some(pb_id(&evicted.id));
    server.agents().delete_agent(DeleteAgentRequest { id }).await.unwrap();
    let refused = evicted.entries(&server).await.unwrap_err();
    assert_eq!(denied_reason(&refused), Some(Reason::AgentNotAttested));

    let mut open = AgentClient::new(expired.channel(&server).await);
    open.post_status(PostStatusRequest::default()).await.unwrap();
    server.clock.jump_forward(Duration::from_secs(3_601));
    let refused = open.post_status(PostStatusRequest::default()).await.unwrap_err();
    assert_eq!(denied_reason(&refused), Some(Reason::AgentExpired));
    server.stop().await;
}

#[tokio::test]
async fn only_those_named_in_the_table_may_call() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let list = || signet_api::pb::spire::api::server::agent::v1::ListAgentsRequest::default();
    for channel in [server.connect(None).await, agent.channel(&server).await] {
        let refused = AgentClient::new(channel).list_agents(list()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert_eq!(denied_reason(&refused), None);
    }
    let refused = server.agents().post_status(PostStatusRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "an agent never comes over the socket");
    assert_eq!(server.agents().list_agents(list()).await.unwrap().into_inner().agents.len(), 1);
    // A bundle is for anyone; what is local only is not on the network at all.
    let anyone = server.connect(None).await;
    let get = signet_api::pb::spire::api::server::bundle::v1::GetBundleRequest::default();
    support::TestAgent::bundles(anyone.clone()).get_bundle(get).await.unwrap();
    let mut debug =
        signet_api::pb::spire::api::server::debug::v1::debug_client::DebugClient::new(anyone);
    let refused = debug.get_info(signet_api::pb::spire::api::server::debug::v1::GetInfoRequest {});
    assert_eq!(refused.await.unwrap_err().code(), Code::Unimplemented);
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_ends_the_handshake() {
    let server = TestServer::start().await;
    let stranger = TestServer::start().await;
    let agent = stranger.agent().await;
    let refused = match server.try_connect(Some(agent.identity())).await {
        Err(_) => true,
        // TLS 1.3: the client learns of it with its first call.
        Ok(channel) => {
            AgentClient::new(channel).post_status(PostStatusRequest::default()).await.is_err()
        }
    };
    assert!(refused);
    server.stop().await;
    stranger.stop().await;
}

#[tokio::test]
async fn a_batch_over_the_limit_is_refused_at_once() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let param = signet_api::pb::spire::api::server::svid::v1::NewX509svidParams::default();
    let refused = agent.sign(&server, vec![param; 501]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(
        refused.message(),
        "rejecting request due to certificate signing rate limiting: rate (count=501) exceeds \
         burst size (burst=500)"
    );
    let refused = agent.sign(&server, vec![]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn agents_go_on_after_a_restart_of_the_server() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let entry = server.create_entry("spiffe://example.org/w", &agent.id, "unix:uid:0").await;
    let renewed = agent.renew(&server).await.unwrap();
    let (dir, clock) = server.stop().await;
    let server = TestServer::on(dir, Options::default(), clock).await;
    assert_eq!(renewed.entries(&server).await.unwrap(), [entry]);
    server.stop().await;
}

#[tokio::test]
async fn two_servers_do_not_share_a_data_directory() {
    let server = TestServer::start().await;
    let mut config = support::config(server.dir.path(), &Options::default());
    config.socket_path = server.dir.path().join("b.sock");
    let clock = server.clock.clone();
    let shared: signet_base::SharedClock = std::sync::Arc::new(clock.clone());
    let error = signet_server::app::App::build(config, shared, support::log(&clock)).await;
    let error = error.err().unwrap().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn rsa_agents_attest_too() {
    let server = TestServer::start().await;
    let token = server.token(600).await;
    let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let agent = server.attest(&token, &key).await.unwrap();
    agent.entries(&server).await.unwrap();
    server.stop().await;
}
