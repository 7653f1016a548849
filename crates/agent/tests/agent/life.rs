//! Attesting, renewing, losing the server, being evicted and banned.

use signet_agent::sealed::SealedCache;
use signet_api::status::Reason;
use tonic::{Code, Status};

use crate::audit::capture;
use crate::fixture::{Fixture, eventually, id, next, own_uid};

#[tokio::test]
async fn a_restart_needs_no_new_attestation() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    assert_eq!(agent.fetch().await.unwrap(), [id("w1")]);
    agent.stop().await;
    let agent = fixture.serving().await;
    assert_eq!(agent.fetch().await.unwrap(), [id("w1")]);
    assert_eq!(fixture.server.lock().count("AttestAgent"), 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_lost_reply_does_not_burn_the_token() {
    let mut fixture = Fixture::new().await;
    fixture.server.lock().lose_replies = 1;
    let agent = fixture.start().await;
    eventually(|| fixture.server.lock().attested_keys.len() == 1).await;
    // Killed before the next attempt: what was durable must do.
    agent.tasks.token().cancel();
    agent.stop().await;
    fixture.options.insecure = false;
    let agent = fixture.serving().await;
    let keys = fixture.server.lock().attested_keys.clone();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1], "the same key, so the server answers again");
    agent.stop().await;
}

#[tokio::test]
async fn a_wrong_bundle_keeps_the_agent_from_attesting() {
    let mut fixture = Fixture::new().await;
    fixture.server.rotate_authority();
    let old = fixture.server.bundle_pem.clone();
    fixture.server.replace_authority();
    fixture.server.bundle_pem = old;
    let mut agent = fixture.start().await;
    agent.until(|status| !status.serving).await;
    eventually(|| fixture.data("agent-data.json").exists() || agent.admin.exists()).await;
    assert_eq!(fixture.server.lock().count("AttestAgent"), 0);
    agent.stop().await;
}

#[tokio::test]
async fn a_bundle_that_comes_after_the_agent_is_taken_at_once() {
    let (log, _guard) = capture();
    let fixture = Fixture::new().await;
    let config = fixture.config();
    let bundle = fixture.dir.path().join("bundle.pem");
    std::fs::remove_file(&bundle).unwrap();
    let clock = signet_base::SystemClock::shared();
    let app = signet_agent::app::App::build(config, clock, None).await.unwrap();
    let (tasks, mut status) = (signet_base::Tasks::new(), app.status());
    app.spawn(&tasks);
    let trouble = status.wait_for(|status| status.trouble.is_some()).await.unwrap().clone();
    assert!(trouble.trouble.unwrap().contains("bundle.pem: no such file"));
    std::fs::write(&bundle, &fixture.server.bundle_pem).unwrap();
    status.wait_for(|status| status.serving).await.unwrap();
    let text = log.text();
    assert!(text.contains("The trust bundle's file has changed; attesting at once"), "{text}");
    tasks.shutdown(std::time::Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn the_sealed_cache_serves_while_the_server_is_away() {
    let mut fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    agent.fetch().await.unwrap();
    eventually(|| fixture.data("svid-cache.sealed").exists()).await;
    agent.stop().await;
    fixture.server.stop();
    let mut agent = fixture.serving().await;
    assert_eq!(agent.fetch().await.unwrap(), [id("w1")]);
    assert!(!agent.status.borrow().server_reachable);
    fixture.server.restart().await;
    agent.until(|status| status.server_reachable).await;
    assert_eq!(fixture.server.lock().count("AttestAgent"), 1);
    agent.stop().await;
}

#[tokio::test]
async fn jwt_svids_outlast_a_restart_without_the_server() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let token = agent.jwt("a").await.unwrap();
    // Whatever becomes of the agent now, the token is kept.
    let own = agent.status.borrow().identity.clone().unwrap().id.clone();
    let key = fixture.dir.path().join("run/key");
    let sealed = SealedCache::new(&fixture.dir.path().join("data"), &key, &own);
    eventually(|| {
        // Between two writes file and key may be of different ones.
        let kept = sealed.load().ok().flatten().unwrap_or_default().jwt_svids;
        kept.iter().any(|(_, svid)| *svid.token == *token)
    })
    .await;
    agent.stop().await;
    fixture.server.stop();
    let asked = fixture.server.lock().count("NewJWTSVID");
    let agent = fixture.serving().await;
    assert_eq!(agent.jwt("a").await.unwrap(), token);
    assert_eq!(agent.jwt("b").await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fixture.server.lock().count("NewJWTSVID"), asked);
    agent.stop().await;
}

#[tokio::test]
async fn jwt_svids_of_a_key_that_was_tainted_meanwhile_are_not_served_again() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let token = agent.jwt("a").await.unwrap();
    agent.stop().await;
    fixture.server.lock().jwt_tainted = true;
    let mut agent = fixture.serving().await;
    agent.until(|status| status.server_reachable).await;
    assert_ne!(agent.jwt("a").await.unwrap(), token);
    agent.stop().await;
    fixture.server.stop();
}

#[tokio::test]
async fn an_impossible_socket_is_found_before_anything_is_made() {
    for (blocked, is_dir, complaint) in [
        ("pub/a.sock", true, "is a directory"),
        ("pub/a.sock", false, "is not a socket"),
        ("pub", false, "creating directory"),
        ("adm/a.sock", true, "is a directory"),
        ("adm", false, "creating directory"),
    ] {
        let fixture = Fixture::new().await;
        let path = fixture.dir.path().join(blocked);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if is_dir {
            std::fs::create_dir(&path).unwrap();
        } else {
            std::fs::write(&path, "precious").unwrap();
        }
        let clock = signet_base::SystemClock::shared();
        let built = signet_agent::app::App::build(fixture.config(), clock, None).await;
        let error = built.unwrap_err().to_string();
        assert!(error.contains(blocked) && error.contains(complaint), "{blocked}: {error}");
        assert!(!fixture.dir.path().join("data").exists(), "{blocked}");
    }
}

#[tokio::test]
async fn an_evicted_agent_attests_again_by_itself_where_it_can() {
    let fixture = Fixture::reattestable().await;
    let agent = fixture.serving().await;
    let mut stream = agent.x509_stream().await.unwrap();
    next(&mut stream).await.unwrap();
    fixture.server.lock().refuse = Some(Reason::AgentNotAttested);
    eventually(|| fixture.server.lock().count("AttestAgent") == 2).await;
    fixture.server.lock().add_entry("w2", &[&own_uid()]);
    assert_eq!(next(&mut stream).await.unwrap(), [id("w1"), id("w2")]);
    agent.stop().await;
}

#[tokio::test]
async fn a_node_that_became_another_one_is_attested_anew() {
    let fixture = Fixture::in_kubernetes().await;
    fixture.node_is("1", "k8s_psat/c/1");
    let agent = fixture.serving().await;
    agent.stop().await;
    // While the agent was away: nothing of the node before is served.
    fixture.node_is("2", "k8s_psat/c/2");
    let mut agent = fixture.serving().await;
    assert_eq!(fixture.server.lock().count("AttestAgent"), 2);
    // While it runs.
    fixture.node_is("3", "k8s_psat/c/3");
    agent
        .until(|status| {
            let identity = status.identity.as_ref();
            identity.is_some_and(|identity| identity.id.path() == "/spire/agent/k8s_psat/c/3")
        })
        .await;
    assert_eq!(fixture.server.lock().count("AttestAgent"), 3);
    agent.stop().await;
    // A server that sees it otherwise is not asked again and again.
    fixture.node_is("4", "k8s_psat/c/3");
    let agent = fixture.serving().await;
    let synced = || fixture.server.lock().count("SyncAuthorizedEntries");
    let before = synced();
    eventually(|| synced() > before + 2).await;
    assert_eq!(fixture.server.lock().count("AttestAgent"), 4);
    agent.stop().await;
}

#[tokio::test]
async fn an_evicted_agent_that_cannot_attest_says_what_to_do() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    {
        let mut state = fixture.server.lock();
        state.refuse = Some(Reason::AgentNotAttested);
        state.refuse_attestation = Some(Status::invalid_argument("join token does not exist"));
    }
    let why = agent.died().await;
    assert!(why.contains("signet-server token generate"), "{why}");
    assert!(!fixture.data("svid-cache.sealed").exists());
    assert!(!fixture.dir.path().join("run/key").exists());
}

#[tokio::test]
async fn a_banned_agent_forgets_everything_and_stops() {
    let fixture = Fixture::reattestable().await;
    let agent = fixture.serving().await;
    eventually(|| fixture.data("svid-cache.sealed").exists()).await;
    fixture.server.lock().refuse = Some(Reason::AgentBanned);
    let why = agent.died().await;
    assert!(why.contains("is banned"), "{why}");
    assert!(!fixture.data("svid-cache.sealed").exists());
    let data = std::fs::read_to_string(fixture.data("agent-data.json")).unwrap();
    assert!(data.starts_with("{\"svid\":null,"), "{data}");
}

#[tokio::test]
async fn refused_attestation_ends_the_agent() {
    let fixture = Fixture::reattestable().await;
    fixture.server.lock().refuse_attestation =
        Some(Status::permission_denied("failed to attest: agent is banned"));
    let why = fixture.start().await.died().await;
    assert!(why.contains("agent is banned"), "{why}");
}

#[tokio::test]
async fn the_agents_svid_is_renewed_in_time_and_kept() {
    let fixture = Fixture::new().await;
    {
        let mut state = fixture.server.lock();
        // With the cushion before it, half of it has passed when it comes.
        state.agent_ttl = 4;
    }
    let mut agent = fixture.serving().await;
    let first = agent.status.borrow().identity.clone().unwrap().not_after();
    fixture.server.lock().agent_ttl = 3600;
    agent
        .until(|status| status.identity.as_ref().is_some_and(|i| i.not_after() > first + 60))
        .await;
    assert!(fixture.server.lock().count("RenewAgent") >= 1);
    assert_eq!(agent.fetch().await.unwrap(), [id("w1")]);
    agent.stop().await;
    let agent = fixture.serving().await;
    assert_eq!(fixture.server.lock().count("AttestAgent"), 1, "the renewed SVID was kept");
    agent.stop().await;
}

#[tokio::test]
async fn two_agents_cannot_share_a_data_directory() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let config = fixture.config();
    let clock = signet_base::SystemClock::shared();
    let error = signet_agent::app::App::build(config, clock, None).await.unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    agent.stop().await;
}

#[tokio::test]
async fn a_server_set_up_anew_is_trusted_again_after_the_delay() {
    let mut fixture = Fixture::reattestable().await;
    fixture.options.agent = "rebootstrap_mode = \"auto\"\n rebootstrap_delay = \"1s\"".to_owned();
    let mut agent = fixture.serving().await;
    assert_eq!(agent.fetch().await.unwrap(), [id("w1")]);
    fixture.server.stop();
    fixture.server.replace_authority();
    // The bundle source knows the new authority.
    std::fs::write(fixture.dir.path().join("bundle.pem"), &fixture.server.bundle_pem).unwrap();
    agent.until(|status| !status.server_reachable).await;
    fixture.server.lock().add_entry("w2", &[&own_uid()]);
    fixture.server.restart().await;
    eventually(|| fixture.server.lock().count("AttestAgent") == 2).await;
    let mut stream = agent.x509_stream().await.unwrap();
    loop {
        match next(&mut stream).await {
            Ok(ids) if ids == [id("w1"), id("w2")] => break,
            Ok(_) => {}
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                stream = agent.x509_stream().await.unwrap();
            }
        }
    }
    agent.stop().await;
}

#[tokio::test]
async fn after_everything_expired_the_agent_recovers_by_itself() {
    let mut fixture = Fixture::reattestable().await;
    {
        let mut state = fixture.server.lock();
        state.agent_ttl = 10;
        state.svid_ttl = 10;
    }
    let mut agent = fixture.serving().await;
    agent.fetch().await.unwrap();
    fixture.server.stop();
    let expires = agent.status.borrow().identity.clone().unwrap().not_after();
    eventually(|| signet_base::Clock::unix(&signet_base::SystemClock) > expires + 1).await;
    assert_eq!(agent.fetch().await.unwrap_err().code(), Code::Unavailable, "nothing valid is left");
    let attested = fixture.server.lock().count("AttestAgent");
    {
        let mut state = fixture.server.lock();
        state.agent_ttl = 3600;
        state.svid_ttl = 3600;
    }
    fixture.server.restart().await;
    eventually(|| fixture.server.lock().count("AttestAgent") > attested).await;
    agent.until(|status| status.server_reachable).await;
    let ids = loop {
        match agent.fetch().await {
            Ok(ids) => break ids,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    };
    assert_eq!(ids, [id("w1")]);
    agent.stop().await;
}
