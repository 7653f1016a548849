//! Tenants, required: refused at creation, when an agent asks, and when something is signed; and
//! administrators who see and touch their own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod support;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use signet_api::pb::{
    signet::api::server::tenancy::v1::{
        self as pb, assignment::Kind, tenancy_client::TenancyClient, tenant::State,
    },
    spire::api::{
        server::{
            agent::v1::{self as agent_pb, agent_client::AgentClient},
            entry::v1::{self as entry_pb, entry_client::EntryClient},
            svid::v1::{self as svid_pb, svid_client::SvidClient},
        },
        types,
    },
};
use signet_identity::{
    EntrySpec, SpiffeId,
    tenant::{Assignment, TenantState},
};
use signet_pki::{
    tls::TlsIdentity,
    x509::{CsrParams, create_csr},
};
use signet_store::NewEntry;
use signet_time::UnixTime;
use support::{Options, TestAgent, TestServer, new_key, pb_id, workload_csr};
use tonic::{Code, Status, transport::Channel};

const REQUIRED: &str = "ratelimit { attestation = false }\n tenancy = \"required\"\n \
                        tenant_path_template = \"/tenants/{tenant}\"";

async fn required(policy: Option<&str>) -> TestServer {
    let dir = tempfile::Builder::new().prefix("sg").tempdir().unwrap();
    let mut server = REQUIRED.to_owned();
    if let Some(policy) = policy {
        let file = dir.path().join("policy.conf");
        std::fs::write(&file, policy).unwrap();
        server.push_str(&format!("\n policy_file = \"{}\"", file.display()));
    }
    let options = Options { server, ..Options::default() };
    let server = TestServer::on(dir, options, signet_base::TestClock::new()).await;
    for name in ["blue", "red"] {
        let request = pb::SetTenantRequest { name: name.into(), state: 0 };
        tenancy(&server).set_tenant(request).await.unwrap();
    }
    server
}

fn tenancy(server: &TestServer) -> TenancyClient<Channel> {
    TenancyClient::new(server.local.clone())
}

fn id(path: &str) -> SpiffeId {
    format!("spiffe://example.org{path}").parse().unwrap()
}

async fn agent_of(server: &TestServer, tenants: &[&str]) -> TestAgent {
    let tenants = tenants.iter().map(|name| (*name).to_owned()).collect();
    let request = pb::CreateJoinTokenRequest { ttl: 600, agent_id: None, tenants };
    let token = tenancy(server).create_join_token(request).await.unwrap().into_inner().value;
    server.attest(&token, &new_key()).await.unwrap()
}

fn entry(path: &str, parent: &SpiffeId) -> types::Entry {
    types::Entry {
        spiffe_id: Some(pb_id(&id(path))),
        parent_id: Some(pb_id(parent)),
        selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:1".into() }],
        ..Default::default()
    }
}

/// Creates an entry; the ID, or what was refused.
async fn create_by(
    mut client: TenancyClient<Channel>,
    entry: types::Entry,
    tenant: &str,
) -> Result<String, types::Status> {
    let tenant = Some(pb::EntryTenant { tenant: tenant.into(), jwt_svid_tenant_claim: false });
    let entries = vec![pb::TenantEntry { entry: Some(entry), tenant }];
    let request = pb::BatchCreateEntryRequest { entries };
    let mut results = client.batch_create_entry(request).await.unwrap().into_inner().results;
    let result = results.remove(0);
    match result.status.unwrap() {
        status if status.code == 0 => Ok(result.entry.unwrap().entry.unwrap().id),
        status => Err(status),
    }
}

async fn create(
    server: &TestServer,
    path: &str,
    parent: &SpiffeId,
    tenant: &str,
) -> Result<String, types::Status> {
    create_by(tenancy(server), entry(path, parent), tenant).await
}

/// The code in brackets at the beginning of a text.
fn code(text: &str) -> &str {
    text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(text, |(code, _)| code)
}

#[tokio::test]
async fn an_entry_that_does_not_fit_its_tenant_is_refused_at_creation_with_its_reason() {
    let server = required(None).await;
    let agent = agent_of(&server, &["blue"]).await;
    let suspend = pb::SetTenantRequest { name: "red".into(), state: State::Suspended.into() };
    tenancy(&server).set_tenant(suspend).await.unwrap();
    let nobody = id("/spire/agent/x/unassigned");
    let web = "/tenants/blue/web";
    for (path, parent, tenant, expected) in [
        (web, &agent.id, "", "tenant_missing"),
        (web, &agent.id, "green", "tenant_unknown"),
        ("/tenants/red/web", &agent.id, "red", "tenant_suspended"),
        ("/tenants/red/web", &agent.id, "blue", "tenant_path_mismatch"),
        ("/web", &agent.id, "blue", "tenant_path_mismatch"),
        (web, &nobody, "blue", "tenant_agent_missing"),
        (web, &id("/tenants/blue/nodes"), "blue", "tenant_parent_unknown"),
    ] {
        let refused = create(&server, path, parent, tenant).await.unwrap_err();
        assert_eq!(code(&refused.message), expected, "{path} {tenant}: {}", refused.message);
        let kind = if expected == "tenant_missing" {
            Code::InvalidArgument
        } else {
            Code::PermissionDenied
        };
        assert_eq!(Code::from(refused.code), kind, "{expected}");
    }
    let resume = pb::SetTenantRequest { name: "red".into(), state: State::Active.into() };
    tenancy(&server).set_tenant(resume).await.unwrap();
    let refused = create(&server, "/tenants/red/web", &agent.id, "red").await.unwrap_err();
    assert_eq!(code(&refused.message), "tenant_agent_mismatch");
    let mut federated = entry(web, &agent.id);
    federated.federates_with = vec!["other.test".into()];
    let refused = create_by(tenancy(&server), federated, "blue").await.unwrap_err();
    assert_eq!(code(&refused.message), "tenant_federation_mismatch");
    let mut downstream = entry(web, &agent.id);
    downstream.downstream = true;
    let refused = create_by(tenancy(&server), downstream, "blue").await.unwrap_err();
    assert_eq!(code(&refused.message), "tenant_downstream");

    // What fits is created, by nobody else a second time for another tenant, and not by SPIRE's
    // call, which cannot name a tenant.
    let created = create(&server, web, &agent.id, "blue").await.unwrap();
    assert_eq!(agent.entries(&server).await.unwrap(), [created]);
    let request = entry_pb::BatchCreateEntryRequest {
        entries: vec![entry("/tenants/blue/api", &agent.id)],
        ..Default::default()
    };
    let answer = server.entries().batch_create_entry(request).await.unwrap().into_inner();
    assert_eq!(code(&answer.results[0].status.as_ref().unwrap().message), "tenant_missing");
}

#[tokio::test]
async fn an_agent_without_a_tenant_can_neither_attest_nor_renew() {
    let server = required(None).await;
    let request = agent_pb::CreateJoinTokenRequest { ttl: 60, ..Default::default() };
    let refused = server.agents().create_join_token(request).await.unwrap_err();
    assert_eq!(code(refused.message()), "tenant_agent_missing");
    let agent = agent_of(&server, &["blue"]).await;
    let renewed = agent.renew(&server).await.unwrap();
    let key = agent.id.to_string();
    let none = pb::Assignment { kind: Kind::Agent.into(), key, tenants: Vec::new() };
    tenancy(&server).set_assignment(none).await.unwrap();
    let refused = renewed.renew(&server).await.map(|_| ()).unwrap_err();
    assert_eq!(
        (refused.code(), code(refused.message())),
        (Code::PermissionDenied, "tenant_agent_missing")
    );
}

async fn jwt(server: &TestServer, agent: &TestAgent, entry_id: &str) -> Result<String, Status> {
    let mut client = SvidClient::new(agent.channel(server).await);
    let request =
        svid_pb::NewJwtsvidRequest { entry_id: entry_id.into(), audience: vec!["a".into()] };
    Ok(client.new_jwtsvid(request).await?.into_inner().svid.unwrap().token)
}

async fn x509(server: &TestServer, agent: &TestAgent, entry_id: &str) -> types::Status {
    let csr = workload_csr("spiffe://example.org/any").into();
    let params = vec![svid_pb::NewX509svidParams { entry_id: entry_id.into(), csr }];
    agent.sign(server, params).await.unwrap().remove(0).status.unwrap()
}

#[tokio::test]
async fn what_no_longer_fits_is_neither_sent_to_an_agent_nor_signed() {
    let server = required(None).await;
    let agent = agent_of(&server, &["blue", "red"]).await;
    let blue = create(&server, "/tenants/blue/web", &agent.id, "blue").await.unwrap();
    let red = create(&server, "/tenants/red/web", &agent.id, "red").await.unwrap();
    assert_eq!(x509(&server, &agent, &red).await.code, 0);

    // Behind the back of the rules: as from before tenants were required, or by a race.
    let foreign = |entry_id: &str, path: &str, tenant: Option<&str>| {
        let selectors = ["unix:uid:1".parse().unwrap()].into_iter().collect();
        let mut draft = EntrySpec::new(id(path), agent.id.clone(), selectors);
        draft.tenant = tenant.map(|name| name.parse().unwrap());
        NewEntry { id: entry_id.parse().unwrap(), draft }
    };
    let behind = vec![
        foreign("none", "/tenants/blue/none", None),
        foreign("path", "/tenants/red/path", Some("blue")),
        foreign("green", "/tenants/green/x", Some("green")),
    ];
    server.context.parts.store.create_entries(behind, UnixTime::from_seconds(1)).await.unwrap();
    let mut both = vec![blue.clone(), red.clone()];
    both.sort();
    assert_eq!(agent.entries(&server).await.unwrap(), both);
    for (entry_id, expected) in
        [("none", "tenant_missing"), ("path", "tenant_path_mismatch"), ("green", "tenant_unknown")]
    {
        let status = x509(&server, &agent, entry_id).await;
        assert_eq!(code(&status.message), expected);
        assert_eq!(code(jwt(&server, &agent, entry_id).await.unwrap_err().message()), expected);
    }

    // Suspended, and not any more for this agent.
    let red_tenant = || "red".parse().unwrap();
    let suspended = Assignment::Tenant(red_tenant(), TenantState::Suspended);
    server.context.parts.store.assign(suspended, UnixTime::from_seconds(1)).await.unwrap();
    assert_eq!(agent.entries(&server).await.unwrap(), std::slice::from_ref(&blue));
    assert_eq!(code(&x509(&server, &agent, &red).await.message), "tenant_suspended");
    let only_red = Assignment::Agent(agent.id.clone(), [red_tenant()].into_iter().collect());
    server.context.parts.store.assign(only_red, UnixTime::from_seconds(1)).await.unwrap();
    assert_eq!(agent.entries(&server).await.unwrap(), [""; 0]);
    assert_eq!(code(&x509(&server, &agent, &blue).await.message), "tenant_agent_mismatch");

    // By hand too, and whoever asks.
    let mut minting = SvidClient::new(server.local.clone());
    for (path, expected) in [("/tenants/red/x", "tenant_suspended"), ("/x", "tenant_missing")] {
        let request = svid_pb::MintJwtsvidRequest {
            id: Some(pb_id(&id(path))),
            audience: vec!["a".into()],
            ttl: 0,
        };
        let refused = minting.mint_jwtsvid(request).await.unwrap_err();
        assert_eq!(code(refused.message()), expected);
        let csr = workload_csr(&id(path).to_string()).into();
        let request = svid_pb::MintX509svidRequest { csr, ttl: 0 };
        let refused = minting.mint_x509svid(request).await.unwrap_err();
        assert_eq!(code(refused.message()), expected);
    }
}

#[tokio::test]
async fn a_client_that_knows_no_tenants_cannot_wipe_one() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    // Without the setting a tenant decides nothing, but is kept and goes into tokens.
    let tenant = pb::EntryTenant { tenant: "blue".into(), jwt_svid_tenant_claim: true };
    let given =
        pb::TenantEntry { entry: Some(entry("/web", &agent.id)), tenant: Some(tenant.clone()) };
    let request = pb::BatchCreateEntryRequest { entries: vec![given] };
    let created = tenancy(&server).batch_create_entry(request).await.unwrap().into_inner();
    let mut stored = created.results[0].entry.clone().unwrap().entry.unwrap();
    stored.hint = "changed".into();
    let request =
        entry_pb::BatchUpdateEntryRequest { entries: vec![stored.clone()], ..Default::default() };
    let updated = server.entries().batch_update_entry(request).await.unwrap().into_inner();
    assert_eq!(updated.results[0].entry.as_ref().unwrap().hint, "changed");
    let request = pb::GetEntryTenantsRequest { ids: vec![stored.id.clone(), "other".into()] };
    let known = tenancy(&server).get_entry_tenants(request).await.unwrap().into_inner().tenants;
    assert_eq!(known.into_iter().collect::<Vec<_>>(), [(stored.id.clone(), tenant)]);

    let token = jwt(&server, &agent, &stored.id).await.unwrap();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["tenant"], "blue");
    let plain = server.create_entry("spiffe://example.org/plain", &agent.id, "unix:uid:1").await;
    let token = jwt(&server, &agent, &plain).await.unwrap();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims.get("tenant"), None);
}

/// A channel of whoever has this SPIFFE ID.
async fn as_admin(server: &TestServer, path: &str) -> Channel {
    let key = new_key();
    let csr = create_csr(&CsrParams::workload(id(path)), &*key.signer().unwrap()).unwrap();
    let csr = signet_pki::x509::Csr::verified_public_key(&csr).unwrap();
    let params = signet_authority::WorkloadX509Params {
        spiffe_id: &id(path),
        public_key: &csr,
        ttl: None,
        dns_names: &[],
        subject: None,
    };
    let svid = server.context.parts.authority.sign_workload_x509(params).await.unwrap();
    let identity = TlsIdentity::new(&svid.chain, key.signer().unwrap()).unwrap();
    server.connect(Some(identity)).await
}

const POLICY: &str = r#"
admin "spiffe://example.org/ops/blue" {
    tenants = ["blue"] paths = ["/tenants/blue"] verbs = ["entry.*", "agent.*", "svid.mint", "tenant.read"]
}
admin "spiffe://example.org/ops/reader" { tenants = ["*"] verbs = ["entry.read"] }
"#;

#[tokio::test]
async fn an_administrator_sees_and_touches_what_its_rule_names_and_nothing_else() {
    let server = required(Some(POLICY)).await;
    let agent = agent_of(&server, &["blue", "red"]).await;
    let own = agent_of(&server, &["blue"]).await;
    let theirs = agent_of(&server, &["red"]).await;
    let blue = create(&server, "/tenants/blue/web", &agent.id, "blue").await.unwrap();
    let red = create(&server, "/tenants/red/web", &agent.id, "red").await.unwrap();

    let channel = as_admin(&server, "/ops/blue").await;
    let mut entries = EntryClient::new(channel.clone());
    let listed = entries.list_entries(entry_pb::ListEntriesRequest::default()).await.unwrap();
    let listed: Vec<_> = listed.into_inner().entries.into_iter().map(|entry| entry.id).collect();
    assert_eq!(listed, std::slice::from_ref(&blue));
    let page = entry_pb::ListEntriesRequest { page_size: 1, ..Default::default() };
    let paged = entries.list_entries(page).await.unwrap().into_inner();
    assert_eq!(paged.entries.len(), 1);
    let count = entries.count_entries(entry_pb::CountEntriesRequest::default()).await.unwrap();
    assert_eq!(count.into_inner().count, 1);
    let get = entry_pb::GetEntryRequest { id: red.clone(), output_mask: None };
    assert_eq!(entries.get_entry(get).await.unwrap_err().code(), Code::NotFound);
    let delete = entry_pb::BatchDeleteEntryRequest { ids: vec![red.clone()] };
    let deleted = entries.batch_delete_entry(delete).await.unwrap().into_inner();
    assert_eq!(deleted.results[0].status.as_ref().unwrap().code, Code::NotFound as i32);
    let mut stolen = entry("/tenants/blue/web", &agent.id);
    stolen.id = red.clone();
    let update = entry_pb::BatchUpdateEntryRequest { entries: vec![stolen], ..Default::default() };
    let updated = entries.batch_update_entry(update).await.unwrap().into_inner();
    assert_eq!(updated.results[0].status.as_ref().unwrap().code, Code::NotFound as i32);

    let tenants = || TenancyClient::new(channel.clone());
    assert!(create_by(tenants(), entry("/tenants/blue/api", &agent.id), "blue").await.is_ok());
    let refused = create_by(tenants(), entry("/tenants/red/api", &agent.id), "red").await;
    assert_eq!(code(&refused.unwrap_err().message), "tenant_caller_mismatch");
    let mut admin = entry("/tenants/blue/admin", &agent.id);
    admin.admin = true;
    let refused = create_by(tenants(), admin, "blue").await.unwrap_err();
    assert_eq!(code(&refused.message), "policy_escalation");
    // Nor can it give one of its own away.
    let given = pb::TenantEntry {
        entry: Some(types::Entry { id: blue.clone(), ..entry("/tenants/red/stolen", &agent.id) }),
        tenant: Some(pb::EntryTenant { tenant: "red".into(), jwt_svid_tenant_claim: false }),
    };
    let request = pb::BatchUpdateEntryRequest { entries: vec![given], input_mask: None };
    let updated = tenants().batch_update_entry(request).await.unwrap().into_inner();
    assert_eq!(code(&updated.results[0].status.as_ref().unwrap().message), "policy_scope");

    let mut minting = SvidClient::new(channel.clone());
    let mut mint = async |path: &str| {
        let csr = workload_csr(&id(path).to_string()).into();
        minting.mint_x509svid(svid_pb::MintX509svidRequest { csr, ttl: 0 }).await
    };
    assert!(mint("/tenants/blue/x").await.is_ok());
    let refused = mint("/tenants/red/x").await.unwrap_err();
    assert_eq!(code(refused.message()), "tenant_caller_mismatch");

    let mut agents = AgentClient::new(channel.clone());
    let seen = agents.list_agents(agent_pb::ListAgentsRequest::default()).await.unwrap();
    assert_eq!(seen.into_inner().agents.len(), 2, "not that of red alone");
    let mut ban = async |agent: &TestAgent| {
        let request = agent_pb::BanAgentRequest { id: Some(pb_id(&agent.id)) };
        agents.ban_agent(request).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(ban(&theirs).await, Err(Code::NotFound));
    assert_eq!(ban(&agent).await, Err(Code::PermissionDenied), "it serves red too");
    assert_eq!(ban(&own).await, Ok(()));
    let suspend = pb::SetTenantRequest { name: "blue".into(), state: State::Suspended.into() };
    let refused = tenants().set_tenant(suspend).await.unwrap_err();
    assert_eq!(refused.message(), "the policy does not let the caller do tenant.manage");
    let visible = tenants().list_tenants(pb::ListTenantsRequest {}).await.unwrap().into_inner();
    assert_eq!(visible.tenants.len(), 1);

    let reader = as_admin(&server, "/ops/reader").await;
    let mut entries = EntryClient::new(reader.clone());
    let count = entries.count_entries(entry_pb::CountEntriesRequest::default()).await.unwrap();
    assert_eq!(count.into_inner().count, 3);
    let delete = entry_pb::BatchDeleteEntryRequest { ids: vec![red] };
    let refused = entries.batch_delete_entry(delete).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_administrator_without_a_tenant_is_none_and_one_by_entry_has_its_entrys() {
    let server = required(None).await;
    let agent = agent_of(&server, &["blue"]).await;
    let blue = create(&server, "/tenants/blue/web", &agent.id, "blue").await.unwrap();
    let mut admin = entry("/tenants/blue/admin", &agent.id);
    admin.admin = true;
    create_by(tenancy(&server), admin, "blue").await.unwrap();
    let red = agent_of(&server, &["red"]).await;
    create(&server, "/tenants/red/web", &red.id, "red").await.unwrap();

    let channel = as_admin(&server, "/tenants/blue/admin").await;
    let mut entries = EntryClient::new(channel.clone());
    let listed = entries.list_entries(entry_pb::ListEntriesRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().entries.len(), 2);
    let get = entry_pb::GetEntryRequest { id: blue, output_mask: None };
    assert!(entries.get_entry(get).await.is_ok());
    let refused =
        create_by(TenancyClient::new(channel.clone()), entry("/tenants/red/x", &red.id), "red");
    assert_eq!(code(&refused.await.unwrap_err().message), "tenant_caller_mismatch");
    let mut second = entry("/tenants/blue/second", &agent.id);
    second.admin = true;
    let refused = create_by(TenancyClient::new(channel), second, "blue").await.unwrap_err();
    assert_eq!(code(&refused.message), "policy_escalation");

    // From before tenants were required.
    let selectors = ["unix:uid:1".parse().unwrap()].into_iter().collect();
    let mut draft = EntrySpec::new(id("/old-admin"), agent.id.clone(), selectors);
    draft.admin = true;
    let old = NewEntry { id: "old".parse().unwrap(), draft };
    server.context.parts.store.create_entries(vec![old], UnixTime::from_seconds(1)).await.unwrap();
    let mut entries = EntryClient::new(as_admin(&server, "/old-admin").await);
    let refused = entries.list_entries(entry_pb::ListEntriesRequest::default()).await.unwrap_err();
    assert_eq!(code(refused.message()), "tenant_missing");
}

#[tokio::test]
async fn a_policy_is_read_again_without_a_restart_and_a_broken_one_changes_nothing() {
    let rule = |verbs: &str| {
        format!("admin \"spiffe://example.org/ops/a\" {{ tenants = [\"*\"] verbs = [{verbs}] }}")
    };
    let server = required(Some(&rule("\"entry.read\""))).await;
    let file = server.dir.path().join("policy.conf");
    let channel = as_admin(&server, "/ops/a").await;
    let may_read = async || {
        let request = entry_pb::CountEntriesRequest::default();
        EntryClient::new(channel.clone()).count_entries(request).await.is_ok()
    };
    assert!(may_read().await);
    std::fs::write(&file, rule("\"agent.read\"")).unwrap();
    assert!(server.context.parts.policy.reload().unwrap());
    assert!(!may_read().await);
    std::fs::write(&file, rule("\"entry.eat\"")).unwrap();
    assert!(server.context.parts.policy.reload().is_err());
    assert!(!may_read().await);
    std::fs::write(&file, rule("\"entry.*\"")).unwrap();
    assert!(server.context.parts.policy.reload().unwrap());
    assert!(!server.context.parts.policy.reload().unwrap(), "nothing is different");
    assert!(may_read().await);
}
