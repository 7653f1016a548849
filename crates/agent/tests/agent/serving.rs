//! What workloads and operators get.

use std::{process::Command, time::Duration};

use signet_agent::{
    app::{App, Listeners},
    config::{Config, RunFlags},
};
use signet_api::{
    connect,
    pb::{
        signet::api::agent::explain::v1::{ExplainWorkloadRequest, explain_client::ExplainClient},
        spire::{
            agent::debug::v1::{GetInfoRequest, debug_client::DebugClient},
            api::agent::delegatedidentity::v1::{
                SubscribeToX509BundlesRequest, delegated_identity_client::DelegatedIdentityClient,
            },
        },
        workload as pb,
    },
};
use signet_base::SystemClock;
use signet_daemon::program::Program;
use signet_identity::Bundle;
use tonic::{Code, Request};

use crate::fixture::{Fixture, PATIENCE, eventually, id, next, own_uid, workload};

#[tokio::test]
async fn a_pushed_change_reaches_an_open_stream_at_once() {
    // While notices come, polling alone would take minutes.
    let fixture = Fixture::new().await;
    fixture.notify(1);
    let agent = fixture.serving().await;
    let mut stream = agent.x509_stream().await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap(), [id("w1")]);
    eventually(|| fixture.server.lock().count("Subscribe") == 1).await;
    fixture.server.lock().add_entry("w2", &[&own_uid()]);
    fixture.notify(2);
    assert_eq!(next(&mut stream).await.unwrap(), [id("w1"), id("w2")]);
    fixture.server.lock().entries.remove("w1");
    fixture.notify(3);
    assert_eq!(next(&mut stream).await.unwrap(), [id("w2")]);
    fixture.server.lock().entries.clear();
    fixture.notify(4);
    let refusal = next(&mut stream).await.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied);
    agent.stop().await;
}

#[tokio::test]
async fn a_server_without_push_or_sync_is_polled() {
    let fixture = Fixture::new().await;
    fixture.server.lock().has_sync = false;
    let agent = fixture.serving().await;
    let mut stream = agent.x509_stream().await.unwrap();
    next(&mut stream).await.unwrap();
    fixture.server.lock().add_entry("w2", &[&own_uid()]);
    assert_eq!(next(&mut stream).await.unwrap(), [id("w1"), id("w2")]);
    let asked = fixture.server.lock().count("SyncAuthorizedEntries");
    assert_eq!(asked, 1, "asked once, then never again");
    agent.stop().await;
}

#[tokio::test]
async fn many_entries_come_in_pages_and_only_changed_ones_again() {
    let fixture = Fixture::new().await;
    {
        let mut state = fixture.server.lock();
        state.page = 10;
        for at in 0..35 {
            state.add_entry(&format!("e{at:02}"), &["unix:uid:4000000000"]);
        }
    }
    let agent = fixture.serving().await;
    assert_eq!(agent.fetch().await.unwrap(), [id("w1")]);
    assert_eq!(fixture.server.lock().count("SyncPage"), 4);
    let mut stream = agent.x509_stream().await.unwrap();
    next(&mut stream).await.unwrap();
    fixture.server.lock().add_entry("w1", &[&own_uid()]).hint = "changed".into();
    let update = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(update.svids[0].hint, "changed");
    assert_eq!(fixture.server.lock().count("SyncPage"), 5);
    agent.stop().await;
}

#[tokio::test]
async fn callers_without_the_header_or_an_entry_are_refused() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let mut client = agent.client().await;
    let refusal = client.fetch_x509svid(Request::new(pb::X509svidRequest {})).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert_eq!(refusal.message(), "security header missing from request");

    fixture.server.lock().entries.clear();
    fixture.server.lock().add_entry("secret", &["unix:uid:4000000000"]);
    let refusal = loop {
        match agent.fetch().await {
            Ok(_) => tokio::task::yield_now().await,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.code(), Code::PermissionDenied);
    let text = refusal.message();
    assert!(text.starts_with("no identity issued"), "{text}");
    let pid = std::process::id();
    assert!(text.contains(&format!("signet-agent explain -pid {pid}")), "{text}");
    assert!(!text.contains("secret") && !text.contains("4000000000"), "{text}");
    agent.stop().await;
}

#[tokio::test]
async fn wit_svids_are_not_implemented_and_say_so() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let mut client = agent.client().await;
    let call = client.fetch_witsvid(workload(pb::WitsvidRequest::default())).await;
    assert_eq!(call.unwrap_err().code(), Code::Unimplemented);
    agent.stop().await;
}

#[tokio::test]
async fn jwt_svids_are_cached_per_audience_and_validate() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let mut client = agent.client().await;
    let request = |audience: &[&str]| pb::JwtsvidRequest {
        audience: audience.iter().map(ToString::to_string).collect(),
        spiffe_id: String::new(),
    };
    let mut token = async |audience: &[&str]| {
        let answer = client.fetch_jwtsvid(workload(request(audience))).await.unwrap();
        answer.into_inner().svids.remove(0).svid
    };
    let first = token(&["a", "b"]).await;
    assert_eq!(token(&["b", "a"]).await, first);
    assert_ne!(token(&["a"]).await, first);
    assert_eq!(fixture.server.lock().count("NewJWTSVID"), 2);

    let mut client = agent.client().await;
    let check = |audience: &str, svid: &str| {
        workload(pb::ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() })
    };
    let valid = client.validate_jwtsvid(check("a", &first)).await.unwrap().into_inner();
    assert_eq!(valid.spiffe_id, id("w1"));
    assert!(valid.claims.unwrap().fields.contains_key("exp"));
    for (audience, svid) in [("c", first.as_str()), ("a", "x.y.z"), ("", &first), ("a", "")] {
        let refusal = client.validate_jwtsvid(check(audience, svid)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{audience} {svid}");
    }
    let refusal = client.fetch_jwtsvid(workload(request(&[]))).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);

    // A tainted key's tokens are given no more; a new one is signed.
    fixture.server.lock().jwt_tainted = true;
    let mut client = agent.client().await;
    loop {
        let answer = client.fetch_jwtsvid(workload(request(&["a", "b"]))).await.unwrap();
        if answer.into_inner().svids[0].svid != first {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    agent.stop().await;
}

#[tokio::test]
async fn bundles_come_with_federated_ones_and_only_when_they_differ() {
    let fixture = Fixture::new().await;
    {
        let mut state = fixture.server.lock();
        let mut other = Bundle::empty("other.org".parse().unwrap());
        other.x509_authorities = state.bundle().x509_authorities;
        state.federated.insert("other.org".into(), other);
        state.add_entry("w1", &[&own_uid()]).federates_with = vec!["other.org".into()];
    }
    let agent = fixture.serving().await;
    let mut client = agent.client().await;
    let mut stream =
        client.fetch_x509_bundles(workload(pb::X509BundlesRequest {})).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    let mut names: Vec<_> = first.bundles.keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["spiffe://example.org", "spiffe://other.org"]);
    // A new SVID alone is no news for bundles; a new authority is.
    fixture.server.lock().add_entry("w1", &[&own_uid()]).federates_with = vec!["other.org".into()];
    fixture.server.rotate_authority();
    let second = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
    assert!(
        second.bundles["spiffe://example.org"].len() > first.bundles["spiffe://example.org"].len()
    );
    agent.stop().await;
}

#[tokio::test]
async fn tainted_authorities_have_their_svids_replaced() {
    let fixture = Fixture::reattestable().await;
    let agent = fixture.serving().await;
    let mut stream = agent.x509_stream().await.unwrap();
    let mut leaf = async || {
        let update = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap();
        update.unwrap().unwrap().svids[0].x509_svid.clone()
    };
    let first = leaf().await;
    fixture.server.rotate_authority();
    leaf().await; // the new authority, in the bundle
    let attested = fixture.server.lock().count("AttestAgent");
    fixture.server.lock().tainted = vec![0];
    assert_ne!(leaf().await, first);
    eventually(|| fixture.server.lock().count("AttestAgent") > attested).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_entry_that_cannot_be_signed_does_not_hold_up_others() {
    let fixture = Fixture::new().await;
    {
        let mut state = fixture.server.lock();
        state.add_entry("w2", &[&own_uid()]);
        state.unsignable = vec!["w2".into()];
    }
    let agent = fixture.serving().await;
    let mut stream = agent.x509_stream().await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap(), [id("w1")]);
    fixture.server.lock().unsignable.clear();
    assert_eq!(next(&mut stream).await.unwrap(), [id("w1"), id("w2")]);
    agent.stop().await;
}

#[tokio::test]
async fn streams_end_when_the_agent_stops() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let mut stream = agent.x509_stream().await.unwrap();
    next(&mut stream).await.unwrap();
    let stopping = agent.tasks.clone();
    stopping.token().cancel();
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::Unavailable);
    agent.stop().await;
}

#[tokio::test]
async fn operators_see_what_is_and_why() {
    let fixture = Fixture::new().await;
    fixture.server.lock().add_entry("w2", &[&own_uid(), "unix:user:nobody-here"]);
    let agent = fixture.serving().await;
    agent.fetch().await.unwrap();
    let channel = connect::unix(&agent.admin).await.unwrap();
    let info = DebugClient::new(channel.clone()).get_info(GetInfoRequest {}).await.unwrap();
    let info = info.into_inner();
    assert_eq!(info.svid_chain.len(), 2, "the agent's SVID and the authority");
    assert!(info.last_sync_success > 0);

    let request = ExplainWorkloadRequest {
        pid: i32::try_from(std::process::id()).unwrap(),
        ..ExplainWorkloadRequest::default()
    };
    let why = ExplainClient::new(channel.clone()).explain_workload(request).await.unwrap();
    let why = why.into_inner();
    assert_eq!(why.attestors[0].name, "unix");
    assert_eq!(why.matches[0].entry_id, "w1");
    assert!(why.matches[0].x509_svid_expires_at > 0);
    assert_eq!(why.near_misses[0].entry_id, "w2");
    assert_eq!(why.near_misses[0].missing[0].value, "user:nobody-here");
    assert!(why.server_reachable);

    let refusal = DelegatedIdentityClient::new(channel)
        .subscribe_to_x509_bundles(SubscribeToX509BundlesRequest {})
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied);
    assert_eq!(refusal.message(), "caller not configured as an authorized delegate");
    agent.stop().await;
}

#[tokio::test]
async fn delegates_get_the_identities_of_others() {
    use signet_api::pb::spire::api::{
        agent::delegatedidentity::v1::{FetchJwtsviDsRequest, SubscribeToX509sviDsRequest},
        types::Selector,
    };

    let mut fixture = Fixture::new().await;
    fixture.options.agent.push_str(&format!("\n authorized_delegates = [{:?}]", id("w1")));
    {
        let mut state = fixture.server.lock();
        state.add_entry("w2", &["k8s:ns:shop"]);
        state.add_entry("w3", &["k8s:ns:shop"]).admin = true;
    }
    let agent = fixture.serving().await;
    let mut client = DelegatedIdentityClient::new(connect::unix(&agent.admin).await.unwrap());
    let shop = vec![Selector { r#type: "k8s".into(), value: "ns:shop".into() }];
    let request = SubscribeToX509sviDsRequest { selectors: shop.clone(), pid: 0 };
    let mut stream = client.subscribe_to_x509svi_ds(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    let paths: Vec<_> = first
        .x509_svids
        .iter()
        .map(|svid| svid.x509_svid.clone().unwrap().id.unwrap().path)
        .collect();
    assert_eq!(paths, ["/w2"], "an administrator's identity is not for delegates");

    let request = FetchJwtsviDsRequest { audience: vec!["a".into()], selectors: shop, pid: 0 };
    let answer = client.fetch_jwtsvi_ds(request).await.unwrap().into_inner();
    assert_eq!(answer.svids.len(), 1);
    let both = SubscribeToX509sviDsRequest::default();
    let refusal = client.subscribe_to_x509svi_ds(both).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);

    // No longer a delegate: the open stream ends at its next update.
    fixture.server.lock().entries.remove("w1");
    fixture.server.lock().add_entry("w2", &["k8s:ns:shop"]);
    let ended = loop {
        match tokio::time::timeout(PATIENCE, stream.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no status"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::PermissionDenied);
    agent.stop().await;
}

const CHILD: &str = "SIGNET_TEST_CHILD_SOCKET";
const THEN: &str = "SIGNET_TEST_CHILD_THEN";

/// Not a test of its own: the workload of the tests below, in a process of its own.
#[test]
fn child_process() {
    use std::os::unix::process::CommandExt as _;

    let Ok(socket) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (ids, _open) = runtime.block_on(async {
        let channel = connect::unix(&socket).await.unwrap();
        let mut client =
            pb::spiffe_workload_api_client::SpiffeWorkloadApiClient::new(channel.clone());
        let mut stream =
            client.fetch_x509svid(workload(pb::X509svidRequest {})).await.unwrap().into_inner();
        (next(&mut stream).await.unwrap(), (stream, channel))
    });
    println!("CHILD {} {}", std::process::id(), ids.join(","));
    if let Ok(program) = std::env::var(THEN) {
        // The same process, now another program.
        let error = child(&program, &socket).env_remove(THEN).exec();
        panic!("{error}");
    }
}

fn child(program: impl AsRef<std::ffi::OsStr>, socket: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", "serving::child_process", "--nocapture"]).env(CHILD, socket);
    command
}

#[tokio::test]
async fn a_process_that_becomes_another_program_gets_other_selectors() {
    let mut fixture = Fixture::new().await;
    fixture.options.unix = "discover_workload_path = true".into();
    let one = std::env::current_exe().unwrap();
    let two = fixture.dir.path().join("two");
    std::fs::copy(&one, &two).unwrap();
    {
        let mut state = fixture.server.lock();
        state.entries.clear();
        state.add_entry("one", &[&format!("unix:path:{}", one.display())]);
        state.add_entry("two", &[&format!("unix:path:{}", two.display())]);
    }
    let agent = fixture.serving().await;
    let mut command = child(&one, agent.socket.to_str().unwrap());
    command.env(THEN, &two);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let calls: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.split_once("CHILD ")?.1.split_once(' ')).collect();
    let [(first_pid, first), (second_pid, second)] = calls[..] else { panic!("{text}") };
    assert_eq!(first_pid, second_pid);
    assert_eq!((first, second), (id("one").as_str(), id("two").as_str()));
    agent.stop().await;
}

#[tokio::test]
async fn svids_on_open_streams_are_renewed_before_they_expire() {
    let fixture = Fixture::new().await;
    fixture.server.lock().svid_ttl = 6;
    let agent = fixture.serving().await;
    let mut stream = agent.x509_stream().await.unwrap();
    let mut leaves = Vec::new();
    for _ in 0..3 {
        let update = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap();
        let svid = update.unwrap().unwrap().svids.remove(0);
        let leaf = signet_pki::x509::Certificate::from_der(&svid.x509_svid).unwrap();
        let now = signet_base::Clock::unix(&signet_base::SystemClock);
        assert!(now < leaf.not_after());
        leaves.push(svid.x509_svid);
    }
    leaves.dedup();
    assert_eq!(leaves.len(), 3);
    agent.stop().await;
}

#[tokio::test]
async fn a_small_cache_signs_on_demand() {
    let mut fixture = Fixture::new().await;
    fixture.options.agent.push_str("\n x509_svid_cache_max_size = 1");
    for at in 0..5 {
        fixture.server.lock().add_entry(&format!("e{at}"), &["unix:uid:4000000000"]);
    }
    fixture.server.lock().add_entry("w1", &[&own_uid()]).additional_attributes =
        Some(signet_api::pb::spire::api::types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: true,
            ..Default::default()
        });
    let agent = fixture.serving().await;
    assert_eq!(agent.fetch().await.unwrap(), [id("w1")]);
    agent.stop().await;
}

#[tokio::test]
async fn requests_of_the_public_socket_are_small() {
    use signet_api::pb::grpc::health::v1::{HealthCheckRequest, health_client::HealthClient};

    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let mut health = HealthClient::new(connect::unix(&agent.socket).await.unwrap());
    let asked = |length| HealthCheckRequest { service: "x".repeat(length) };
    let known = health.check(asked(0)).await.unwrap().into_inner();
    assert_eq!(known.status, 1);
    let refused = health.check(asked(20_000)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_serves_on_the_listeners_that_it_is_handed_and_says_which_port_is_taken() {
    let fixture = Fixture::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let top = format!(
        "health_checks {{ listener_enabled = true bind_address = \"127.0.0.1\" bind_port = {port} }}"
    );
    drop(fixture.config());
    let file = fixture.dir.path().join("agent.conf");
    let written = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{written}{top}\n")).unwrap();
    let flags = RunFlags { config: file, ..RunFlags::default() };
    let config = || Config::load(Program::Signet, &flags, &|_| None).unwrap();

    let error = App::build(config(), SystemClock::shared(), None).await.unwrap_err();
    let error = signet_base::chain(&error);
    assert!(error.contains(&format!("port {port} is in use")), "{error}");
    assert!(!fixture.data("keys.json").exists() && !fixture.data("agent-data.json").exists());

    let health = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listeners = Listeners { health: Some(health), ..Listeners::default() };
    App::build_on(listeners, config(), SystemClock::shared(), None).await.unwrap();
}
