//! What the authorities mean for those who connect: admins, downstream servers, upstream
//! authorities, taint, jumps of the clock, broken files.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::{fs, path::Path, sync::Arc, time::Duration};

use signet_api::pb::spire::api::{
    server::{
        agent::v1::{ListAgentsRequest, agent_client::AgentClient},
        bundle::v1::{PublishJwtAuthorityRequest, bundle_client::BundleClient},
        entry::v1::BatchCreateEntryRequest,
        svid::v1::{
            MintJwtsvidRequest, MintX509svidRequest, NewDownstreamX509caRequest, NewX509svidParams,
            svid_client::SvidClient,
        },
    },
    types,
};
use signet_authority::AuthorityKind;
use signet_base::{Clock, SharedClock, TestClock};
use signet_identity::SpiffeId;
use signet_pki::{
    KeyType, PrivateKey, pem,
    tls::TlsIdentity,
    x509::{CaParams, Certificate, CsrParams, Name, create_csr, self_sign_ca, verify_svid},
};
use signet_server::app::App;
use support::{Options, TestAgent, TestServer, new_key, pb_id};
use tonic::Code;

/// Creates an entry with rights and takes its SVID through the agent.
async fn workload(
    server: &TestServer,
    agent: &TestAgent,
    entry: types::Entry,
) -> (String, TlsIdentity) {
    let request = BatchCreateEntryRequest {
        entries: vec![types::Entry {
            parent_id: Some(pb_id(&agent.id)),
            selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:0".into() }],
            ..entry
        }],
        ..Default::default()
    };
    let created = server.entries().batch_create_entry(request).await.unwrap().into_inner();
    let id = created.results[0].entry.clone().unwrap().id;
    let key = new_key();
    let csr = create_csr(&CsrParams::agent(), &*key.signer().unwrap()).unwrap();
    let params = vec![NewX509svidParams { entry_id: id.clone(), csr: csr.into() }];
    let svid = agent.sign(server, params).await.unwrap()[0].svid.clone().unwrap();
    let chain: Vec<Arc<[u8]>> = svid.cert_chain.iter().map(|der| der.as_ref().into()).collect();
    (id, TlsIdentity::new(&chain, key.signer().unwrap()).unwrap())
}

fn named(id: &str) -> types::Entry {
    let id: SpiffeId = id.parse().unwrap();
    types::Entry { spiffe_id: Some(pb_id(&id)), ..Default::default() }
}

#[tokio::test]
async fn an_admin_is_one_by_entry_or_configuration_and_only_as_long_as_that_says_so() {
    let options = Options {
        server: "admin_ids = [\"spiffe://example.org/ops\"]".into(),
        ..Options::default()
    };
    let server = TestServer::with(options).await;
    let agent = server.agent().await;
    let admin = types::Entry { admin: true, ..named("spiffe://example.org/admin") };
    let (entry, admin) = workload(&server, &agent, admin).await;
    let (_, ops) = workload(&server, &agent, named("spiffe://example.org/ops")).await;
    let (_, nobody) = workload(&server, &agent, named("spiffe://example.org/nobody")).await;

    let mut admin = AgentClient::new(server.connect(Some(admin)).await);
    let mut ops = AgentClient::new(server.connect(Some(ops)).await);
    let mut nobody = AgentClient::new(server.connect(Some(nobody)).await);
    admin.list_agents(ListAgentsRequest::default()).await.unwrap();
    ops.list_agents(ListAgentsRequest::default()).await.unwrap();
    let refused = nobody.list_agents(ListAgentsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // On the connection that is open.
    server.delete_entry(&entry).await;
    let refused = admin.list_agents(ListAgentsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    ops.list_agents(ListAgentsRequest::default()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_downstream_server_gets_a_ca_whose_svids_verify() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let downstream = types::Entry { downstream: true, ..named("spiffe://example.org/down") };
    let (_, downstream) = workload(&server, &agent, downstream).await;
    let (_, nobody) = workload(&server, &agent, named("spiffe://example.org/nobody")).await;
    let signer = new_key().signer().unwrap();
    let params = CsrParams {
        uri: Some("spiffe://example.org".parse().unwrap()),
        subject: Name::default(),
        dns_names: vec![],
        extensions: vec![],
    };
    let csr = create_csr(&params, &*signer).unwrap();
    let request = NewDownstreamX509caRequest { csr: csr.into(), preferred_ttl: 600 };
    let mut nobody = SvidClient::new(server.connect(Some(nobody)).await);
    let refused = nobody.new_downstream_x509ca(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let channel = server.connect(Some(downstream)).await;
    let answer = SvidClient::new(channel.clone()).new_downstream_x509ca(request).await.unwrap();
    let answer = answer.into_inner();
    let ca = Certificate::from_der(&answer.ca_cert_chain[0]).unwrap();
    assert_eq!(ca.not_after(), server.clock.unix() + 600);
    assert_eq!(ca.subject().organizational_unit, ["DOWNSTREAM-1"]);
    let own = Certificate::from_der(&answer.x509_authorities[0]).unwrap();
    assert!(ca.is_signed_by(own.public_key().unwrap()));

    let chain: Vec<Arc<[u8]>> =
        answer.ca_cert_chain.iter().map(|der| der.as_ref().into()).collect();
    let issuer = signet_pki::x509::CaIssuer::new(ca, chain.clone(), signer).unwrap();
    let id: SpiffeId = "spiffe://example.org/deep".parse().unwrap();
    let key = new_key();
    let now = server.clock.unix();
    let leaf = issuer
        .issue_svid(&signet_pki::x509::SvidParams {
            spiffe_id: &id,
            public_key: key.public_key(),
            dns_names: &[],
            subject: None,
            extensions: &[],
            now,
            not_after: now + 60,
        })
        .unwrap();
    verify_svid(&[leaf.der.as_slice(), &*chain[0]], &server.trust(), now).unwrap();

    let jwt_authority = types::JwtKey {
        public_key: key.public_key().spki_der().to_vec().into(),
        key_id: "downstream-key".into(),
        expires_at: (now + 600).seconds(),
        tainted: false,
    };
    let request = PublishJwtAuthorityRequest { jwt_authority: Some(jwt_authority) };
    let published = BundleClient::new(channel).publish_jwt_authority(request).await.unwrap();
    assert_eq!(published.into_inner().jwt_authorities.len(), 2);
    server.stop().await;
}

fn write_upstream(dir: &Path, clock: &TestClock) {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let now = clock.unix();
    let params = CaParams {
        trust_domain: "example.org".parse().unwrap(),
        subject: Name::country_organization("US", "Root"),
        extensions: vec![],
        now,
        not_after: now + 365 * 86_400,
    };
    let root = self_sign_ca(&*key.signer().unwrap(), &params).unwrap();
    fs::write(dir.join("root.pem"), pem::encode_certificates([root.der.as_slice()])).unwrap();
    fs::write(dir.join("root.key"), key.to_pem().as_bytes()).unwrap();
}

#[tokio::test]
async fn an_upstream_authority_on_disk_signs_the_ca_and_may_be_exchanged() {
    let dir = tempfile::Builder::new().prefix("sg").tempdir().unwrap();
    let clock = TestClock::new();
    write_upstream(dir.path(), &clock);
    let path = dir.path().display();
    let options = Options {
        plugins: format!(
            "UpstreamAuthority \"disk\" {{ plugin_data {{ cert_file_path = \"{path}/root.pem\" \
             key_file_path = \"{path}/root.key\" }} }}"
        ),
        ..Options::default()
    };
    let server = TestServer::on(dir, options, clock).await;
    let agent = server.agent().await;
    assert_eq!(agent.chain.len(), 2, "the CA goes along");
    agent.entries(&server).await.unwrap();
    let authority = &server.context.parts.authority;
    let first = authority.view().borrow().x509.active.clone().unwrap();
    assert!(!first.upstream_authority_id.is_empty());
    authority.taint(AuthorityKind::X509, &first.authority_id).await.unwrap_err();

    write_upstream(server.dir.path(), &server.clock);
    let prepared = authority.prepare(AuthorityKind::X509).await.unwrap();
    assert_ne!(prepared.upstream_authority_id, first.upstream_authority_id);
    authority.activate(AuthorityKind::X509, &prepared.authority_id).await.unwrap();
    server.context.parts.cache.fresh().await.unwrap();
    let renewed = server.agent().await;
    renewed.entries(&server).await.unwrap();
    agent.entries(&server).await.unwrap();
    authority.taint_upstream(&first.upstream_authority_id).await.unwrap();
    authority.revoke_upstream(&first.upstream_authority_id).await.unwrap();
    server.context.parts.cache.fresh().await.unwrap();
    assert!(
        server.try_connect(Some(agent.identity())).await.is_err() || {
            agent.entries(&server).await.is_err()
        }
    );
    renewed.entries(&server).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_taint_renews_the_servers_own_svid_at_once() {
    let server = TestServer::start().await;
    let authority = server.context.parts.authority.clone();
    let mut own = server.context.server_svid.clone();
    let first = authority.view().borrow().x509.active.clone().unwrap().authority_id;
    let issuer =
        |chain: &Arc<[Arc<[u8]>]>| Certificate::from_der(&chain[0]).unwrap().authority_key_id_hex();
    assert_eq!(issuer(&own.borrow_and_update()), first);
    let prepared = authority.prepare(AuthorityKind::X509).await.unwrap().authority_id;
    authority.activate(AuthorityKind::X509, &prepared).await.unwrap();
    authority.taint(AuthorityKind::X509, &first).await.unwrap();
    own.changed().await.unwrap();
    assert_eq!(issuer(&own.borrow()), prepared);
    authority.revoke(AuthorityKind::X509, &first).await.unwrap();
    server.context.parts.cache.fresh().await.unwrap();
    server.agent().await.entries(&server).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_server_heals_itself_after_its_clock_jumped_over_everything() {
    for forward in [true, false] {
        let server = TestServer::start().await;
        let before = server.agent().await;
        let mut own = server.context.server_svid.clone();
        own.borrow_and_update();
        let days = Duration::from_secs(3 * 86_400);
        if forward {
            server.clock.jump_forward(days)
        } else {
            server.clock.jump_back(days)
        }
        // A refused signature wakes the authorities; the server's own SVID follows.
        let _ = server
            .context
            .parts
            .authority
            .sign_server_x509(new_key().public_key())
            .await
            .unwrap_err();
        own.changed().await.unwrap();
        server.context.parts.cache.fresh().await.unwrap();
        let after = server.agent().await;
        after.entries(&server).await.unwrap();
        drop(before);
        server.stop().await;
    }
}

#[tokio::test]
async fn minting_checks_the_csr() {
    let server = TestServer::start().await;
    let mut client = SvidClient::new(server.local.clone());
    let csr = |uri: Option<&str>, dns: &[&str]| {
        let params = CsrParams {
            uri: uri.map(|uri| uri.parse().unwrap()),
            dns_names: dns.iter().map(|name| (*name).to_owned()).collect(),
            ..CsrParams::agent()
        };
        create_csr(&params, &*new_key().signer().unwrap()).unwrap()
    };
    let w = Some("spiffe://example.org/w");
    for (csr, text) in [
        (vec![], "missing CSR"),
        (b"junk".to_vec(), "malformed CSR"),
        (csr(None, &[]), "CSR URI SAN is required"),
        (csr(Some("spiffe://other.org/w"), &[]), "CSR URI SAN is invalid"),
        (csr(Some("spiffe://example.org/spire/server"), &[]), "CSR URI SAN is invalid"),
        (csr(w, &["a..b"]), "CSR DNS name is invalid"),
        (csr(w, &["x.a.b", "*.a.b"]), "CSR DNS name contains a wildcard"),
    ] {
        let request = MintX509svidRequest { csr: csr.into(), ttl: 0 };
        let refused = client.mint_x509svid(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{text}");
        assert!(refused.message().starts_with(text), "{}", refused.message());
    }
    let request = MintX509svidRequest { csr: csr(w, &["a.example"]).into(), ttl: 60 };
    let svid = client.mint_x509svid(request).await.unwrap().into_inner().svid.unwrap();
    let leaf = Certificate::from_der(&svid.cert_chain[0]).unwrap();
    assert_eq!(leaf.subject().common_name, "a.example");
    assert_eq!(leaf.not_after(), server.clock.unix() + 60);

    let id = Some(pb_id(&"spiffe://example.org/w".parse().unwrap()));
    let refused = client
        .mint_jwtsvid(MintJwtsvidRequest { id: id.clone(), audience: vec![], ttl: 0 })
        .await
        .unwrap_err();
    assert_eq!(refused.message(), "at least one audience is required");
    // One token of megabytes, or one that nobody would read.
    let long = |count, bytes| vec!["a".repeat(bytes); count];
    for audience in [long(1, 3 << 20), long(65, 1), long(1, 4097), long(20, 4000)] {
        let request = MintJwtsvidRequest { id: id.clone(), audience, ttl: 0 };
        let refused = client.mint_jwtsvid(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("audience"), "{}", refused.message());
    }
    let request = MintJwtsvidRequest { id, audience: vec!["a".into()], ttl: 0 };
    let svid = client.mint_jwtsvid(request).await.unwrap().into_inner().svid.unwrap();
    assert_eq!(svid.expires_at - svid.issued_at, 300);
    server.stop().await;
}

#[tokio::test]
async fn without_its_store_a_yes_from_memory_holds_for_a_while_and_not_longer() {
    let options = Options { server: "max_store_staleness = \"2s\"".into(), ..Options::default() };
    let server = TestServer::with(options).await;
    let agent = server.agent().await;
    let entry = server.create_entry("spiffe://example.org/w", &agent.id, "unix:uid:0").await;
    assert_eq!(agent.entries(&server).await.unwrap(), std::slice::from_ref(&entry));
    server.context.parts.store.close().await;
    assert_eq!(agent.entries(&server).await.unwrap(), [entry]);
    let refused = async {
        loop {
            match agent.entries(&server).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(refused) => break refused,
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().starts_with("the registration store has not answered"));
    server.stop().await;
}

#[tokio::test]
async fn broken_files_stop_the_start_and_are_named() {
    for (file, content) in [("keys.json", "{\"keys\":"), ("db", "this is not a database at all")] {
        let server = TestServer::start().await;
        let (dir, clock) = server.stop().await;
        let path = dir.path().join("data").join(file);
        fs::write(&path, content.repeat(100)).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(dir.path().join(format!("data/db{suffix}")));
        }
        let config = support::config(dir.path(), &Options::default());
        let shared: SharedClock = Arc::new(clock.clone());
        let error = App::build(config, shared, support::log(&clock)).await.err().unwrap();
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }
}
