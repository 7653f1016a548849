//! The secret broker with a real OpenBao and a real PostgreSQL.

use std::{
    fs,
    io::{Read, Write},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use e2e::{
    DEADLINE, Signal, TestDir, bins, eventually, eventually_within,
    secrets::{POLICY, Secrets, Setup},
    skip,
};
use serde_json::{Value, json};
use signet_api::{
    connect,
    pb::secretsstore::v1alpha1::{
        MountRequest, MountResponse, ObjectVersion, VersionRequest,
        csi_driver_provider_client::CsiDriverProviderClient,
    },
};
use signet_pki::{KeyType, PrivateKey, digest::sha256_hex};

/// How soon everything has ended once an identity has.
const PROMISED: Duration = Duration::from_secs(5);

const ORDERS: &str = "/tenants/blue/orders";
const REPORTS: &str = "/tenants/red/reports";
const DRAW: &str = "/v1/credentials/orders-db";

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"]["code"].as_str().unwrap_or("ok"))
}

/// Draws a database login.
#[track_caller]
fn login(secrets: &Secrets, path: &str) -> Value {
    let answer = secrets.ask(path, "POST", DRAW, &Value::Null);
    assert_eq!(code(&answer), (200, "ok"), "{}", answer.1);
    answer.1
}

fn ended(secrets: &Secrets, drawn: &Value) {
    eventually_within("the login is gone", PROMISED, || {
        (!secrets.has_login(&drawn["data"])).then_some(())
    });
}

#[test]
fn a_database_login_and_its_sessions_end_with_the_entry_and_one_id_is_in_every_log() {
    let secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let entry = secrets.workload(ORDERS, "");
    let id = "6f1a0a52-8c3b-4d6e-9f00-112233445566";
    let who = secrets.node.id(ORDERS);
    let headers = [("x-spiffe-id", who.as_str()), ("x-correlation-id", id)];
    let (status, drawn) = eventually("the agent and the broker know the workload", || {
        let answer = secrets.ask_once(&headers, "POST", DRAW, &Value::Null);
        (answer.0 == 200).then_some(answer)
    });
    assert_eq!((status, &drawn["correlation_id"]), (200, &json!(id)), "{drawn}");
    assert_eq!((&drawn["ttl"], &drawn["tenant"]), (&json!(120), &json!("blue")), "{drawn}");
    // The database's user names the workload: the end of its path, and a digest of its SPIFFE ID.
    let user = drawn["data"]["username"].as_str().expect("a user");
    let rest = user.strip_prefix("v-token-orders-").unwrap_or_else(|| panic!("{user}"));
    let digest = sha256_hex(who.as_bytes());
    assert_eq!(rest.get(..9), Some(format!("{}-", &digest[..8]).as_str()), "{user}");
    assert!(secrets.log().contains(id), "{}", secrets.log());
    assert!(secrets.node.agent.log().contains(id), "the agent's log");
    assert!(secrets.node.server.log().contains(id), "the server's log");
    let audit = fs::read_to_string(secrets.bao.dir().join("audit.log")).expect("an audit log");
    let line = audit.lines().find(|line| line.contains(id)).expect("OpenBao's audit log has it");
    assert!(line.contains(&secrets.node.id(ORDERS)), "with the identity: {line}");
    // The password is in no log and in no file of the broker's.
    let password = drawn["data"]["password"].as_str().expect("a password");
    assert!(!secrets.log().contains(password));
    let journal = fs::read_to_string(secrets.data_dir().join("leases.journal")).expect("a journal");
    assert!(journal.contains(id) && !journal.contains(password), "{journal}");

    let mut session = secrets.session(&drawn["data"], "mine");
    assert_eq!(secrets.revocations(), 0);
    secrets.node.server.delete(&entry);
    eventually_within("the session has ended", PROMISED, || session.ended());
    ended(&secrets, &drawn);
    let owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'mine'";
    assert_eq!(secrets.postgres.sql(&secrets.database, owner), "app_rw", "what it owned stays");
    assert_eq!(secrets.revocations(), 1, "one token for all leases of the identity");
    let answer = secrets.ask_once(&headers, "POST", DRAW, &Value::Null);
    assert!(matches!(code(&answer), (403, "identity_ended" | "workload_unattested")), "{answer:?}");
}

#[test]
fn what_a_killed_broker_left_is_taken_back_once() {
    let mut secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let entry = secrets.workload(ORDERS, "");
    let drawn = login(&secrets, ORDERS);
    let mut session = secrets.session(&drawn["data"], "kept");
    secrets.broker().kill();
    secrets.node.server.delete(&entry);
    assert!(secrets.has_login(&drawn["data"]), "nobody takes it back meanwhile");
    secrets.launch();
    secrets.ready();
    ended(&secrets, &drawn);
    eventually_within("the session has ended", PROMISED, || session.ended());
    assert_eq!(secrets.revocations(), 1);

    // Once more, and nothing is left to do.
    secrets.broker().kill();
    secrets.launch();
    secrets.ready();
    assert_eq!(secrets.revocations(), 1);

    // What an identity that lives on holds, goes on across a kill: it is listed, renewed, given
    // back by the next broker.
    secrets.workload(ORDERS, "");
    let drawn = login(&secrets, ORDERS);
    secrets.broker().kill();
    secrets.launch();
    secrets.ready();
    let listed = secrets.ask(ORDERS, "GET", "/v1/leases", &Value::Null);
    assert_eq!(listed.1["leases"][0]["lease_id"], drawn["lease_id"], "{listed:?}");
    assert!(secrets.has_login(&drawn["data"]));
    let lease = drawn["lease_id"].as_str().expect("a lease");
    let renewed = secrets.ask(ORDERS, "POST", &format!("/v1/leases/{lease}/renew"), &Value::Null);
    assert_eq!(code(&renewed), (200, "ok"), "{renewed:?}");
    let back = secrets.ask(ORDERS, "DELETE", &format!("/v1/leases/{lease}"), &Value::Null);
    assert_eq!(code(&back), (200, "ok"), "{back:?}");
    ended(&secrets, &drawn);

    // A ban ends what the agent's workloads hold.
    let drawn = login(&secrets, ORDERS);
    let agent = secrets.node.agent_id();
    secrets.node.server.cli().line(&format!("agent ban -spiffeID {agent}")).ok();
    ended(&secrets, &drawn);
}

#[test]
fn a_policy_that_is_read_again_ends_what_it_does_not_grant() {
    let mut secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    secrets.workload(ORDERS, "");
    secrets.workload(REPORTS, "");
    let reread = |secrets: &mut Secrets, policy: &str, says: &str| {
        let before = secrets.log().matches(says).count();
        secrets.set_policy(policy);
        secrets.broker().signal(Signal::SIGHUP);
        eventually("the policy is read", || {
            (secrets.log().matches(says).count() > before).then_some(())
        });
    };
    let drawn = login(&secrets, ORDERS);
    let less = POLICY.replace("[\"orders-db\", \"api-key\"", "[\"api-key\"");
    reread(&mut secrets, &less, "The policy was read again");
    ended(&secrets, &drawn);
    let refused = secrets.ask(ORDERS, "POST", DRAW, &Value::Null);
    assert_eq!(code(&refused), (403, "no_rule"));
    reread(&mut secrets, "tenant {", "The policy is not whole");
    assert_eq!(code(&secrets.ask(ORDERS, "POST", DRAW, &Value::Null)), (403, "no_rule"));

    reread(&mut secrets, POLICY, "The policy was read again");
    let drawn = login(&secrets, ORDERS);
    let suspended =
        POLICY.replace("path = \"/tenants/blue/\"", "path = \"/tenants/blue/\" suspended = true");
    reread(&mut secrets, &suspended, "The policy was read again");
    ended(&secrets, &drawn);
    let refused = secrets.ask(ORDERS, "POST", DRAW, &Value::Null);
    assert_eq!(code(&refused), (403, "tenant_suspended"));
    let other = secrets.ask(REPORTS, "GET", "/v1/credentials/api-key", &Value::Null);
    assert_eq!(code(&other), (200, "ok"), "the other tenant goes on: {other:?}");
}

#[test]
fn a_tenant_that_the_server_suspends_loses_what_it_holds() {
    let secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    secrets.workload(ORDERS, "");
    secrets.workload(REPORTS, "");
    secrets.node.server.cli().line("tenant create -name blue").ok();
    let drawn = login(&secrets, ORDERS);
    secrets.node.server.cli().line("tenant suspend -name blue").ok();
    ended(&secrets, &drawn);
    let refused = secrets.ask(ORDERS, "POST", DRAW, &Value::Null);
    assert_eq!(code(&refused), (403, "tenant_suspended"));
    let other = secrets.ask(REPORTS, "GET", "/v1/credentials/api-key", &Value::Null);
    assert_eq!(code(&other), (200, "ok"), "the other tenant goes on: {other:?}");
    secrets.node.server.cli().line("tenant resume -name blue").ok();
    eventually("the tenant is back", || {
        (secrets.ask(ORDERS, "POST", DRAW, &Value::Null).0 == 200).then_some(())
    });
}

#[test]
fn every_wrong_evidence_is_refused_with_its_reason_and_the_right_one_is_not() {
    let secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    for path in [ORDERS, REPORTS, "/nobody", "/tenants/blue/stranger"] {
        secrets.workload(path, "");
    }
    let none = Value::Null;
    let svid = secrets.x509(ORDERS);
    let tls = |path: &str, method: &str, place: &str| {
        secrets.ask_tls(Some(&secrets.x509(path)), &[], method, place, &none)
    };
    let answer = eventually("the broker knows the entry", || {
        let answer = tls(ORDERS, "GET", "/v1/credentials/api-key");
        (code(&answer).1 != "identity_ended").then_some(answer)
    });
    assert_eq!(code(&answer), (200, "ok"), "{answer:?}");
    assert_eq!(answer.1["data"]["data"]["key"], "blue-key", "{answer:?}");
    for (path, place, want) in [
        (REPORTS, "/v1/credentials/orders-db", "no_rule"),
        (REPORTS, "/v1/credentials/nothing", "unknown_credential"),
        ("/tenants/blue/stranger", "/v1/credentials/api-key", "no_rule"),
        ("/nobody", "/v1/credentials/api-key", "tenant_missing"),
    ] {
        let answer = eventually("the broker knows the entry", || {
            let answer = tls(path, "POST", place);
            (code(&answer).1 != "identity_ended").then_some(answer)
        });
        assert_eq!(code(&answer), (403, want), "{path} {place}");
    }
    // Each tenant's secret is its own, by the same name.
    let red = tls(REPORTS, "GET", "/v1/credentials/api-key");
    assert_eq!(red.1["data"]["data"]["key"], "red-key", "{red:?}");
    assert_eq!(code(&tls(ORDERS, "GET", "/v1/credentials/orders-db")), (405, "use_post"));

    let bearer = |token: &str, with: Option<&e2e::secrets::X509>| {
        let value = format!("Bearer {token}");
        let headers = [("authorization", value.as_str())];
        secrets.ask_tls_as(with, &svid.bundle, &headers, "GET", "/v1/credentials/api-key", &none)
    };
    let token = secrets.jwt(ORDERS, &["signet-broker"]);
    let answer = bearer(&token, None);
    assert_eq!(code(&answer), (200, "ok"), "{answer:?}");
    assert_eq!(code(&bearer(&token, None)), (403, "token_replayed"));
    let other = secrets.jwt(ORDERS, &["other"]);
    assert_eq!(code(&bearer(&other, None)), (403, "audience_mismatch"));
    let both = secrets.jwt(ORDERS, &["signet-broker", "other"]);
    assert_eq!(code(&bearer(&both, None)), (403, "audience_mismatch"));
    let red = secrets.jwt(REPORTS, &["signet-broker"]);
    assert_eq!(code(&bearer(&red, Some(&svid))), (403, "evidence_disagrees"));
    let (head, tail) = token.rsplit_once('.').expect("a token");
    assert_eq!(
        code(&bearer(&format!("{head}.{}", "A".repeat(tail.len())), None)),
        (403, "token_signature")
    );
    assert_eq!(code(&bearer("x", None)), (403, "token_malformed"));
    let nothing = secrets.ask_tls_as(None, &svid.bundle, &[], "GET", "/v1/leases", &none);
    assert_eq!(code(&nothing), (401, "no_evidence"));

    // Limits of the policy.
    assert_eq!(code(&tls(ORDERS, "POST", "/v1/credentials/once")), (200, "ok"));
    assert_eq!(code(&tls(ORDERS, "POST", "/v1/credentials/once")), (403, "max_uses"));
    let wrapped = tls(ORDERS, "POST", "/v1/credentials/wrapped");
    let wrapping = wrapped.1["data"]["wrapping_token"].as_str().expect("a wrapping token");
    let unwrap = || secrets.bao_call("blue", wrapping, "POST", "sys/wrapping/unwrap", &none);
    assert_eq!(unwrap().1["data"]["data"]["key"], "blue-key");
    assert_eq!(unwrap().0, 400, "a wrapping token opens once");
    let body = json!({ "parameters": { "operation": "encrypt", "plaintext": "eA==" } });
    let sealed = secrets.ask_tls(Some(&svid), &[], "POST", "/v1/credentials/seal", &body);
    assert!(sealed.1["data"]["ciphertext"].is_string(), "{sealed:?}");
    let body = json!({ "parameters": { "operation": "decrypt", "ciphertext": "x" } });
    let refused = secrets.ask_tls(Some(&svid), &[], "POST", "/v1/credentials/seal", &body);
    assert_eq!(code(&refused), (400, "parameter_refused"));
    let lease = "6f1a0a52-8c3b-4d6e-9f00-112233445566";
    assert_eq!(
        code(&tls(ORDERS, "DELETE", &format!("/v1/leases/{lease}"))),
        (404, "lease_unknown")
    );
}

#[test]
fn a_wit_svid_opens_with_a_proof_of_its_key_for_this_request_once() {
    let setup = Setup {
        broker: "proof_uris = [\"https://broker.example.org\"]",
        both: "experimental { feature_flags = [\"wit-svid\"] }",
        ..Setup::default()
    };
    let secrets = match Secrets::with(&setup) {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    // The CLI of the agent is the workload.
    let cli = secrets.node.agent.cli();
    let program = bins::agent().display().to_string();
    secrets.node.register(ORDERS, &[&format!("unix:path:{program}")], "");
    let key = "/v1/credentials/api-key";
    let proven = |target: &str| {
        let audience = format!("https://broker.example.org{target}");
        let printed = eventually("the workload has a WIT-SVID", || {
            let printed = cli.run(["api", "prove", "-audience", &audience, "-output", "json"]);
            (printed.code == 0).then(|| printed.json())
        });
        let field = |name: &str| printed[name].as_str().expect("a token").to_owned();
        (field("wit_svid"), field("proof"))
    };
    let ask = |(wit, proof): &(String, String), more: &[(&str, &str)]| {
        let own = [("workload-identity-token", &**wit), ("workload-proof-token", &**proof)];
        secrets.ask_once(&[&own[..], more].concat(), "GET", key, &Value::Null)
    };
    let (proof, answer) = eventually("the broker has the bundle and knows the workload", || {
        let proof = proven(key);
        let answer = ask(&proof, &[]);
        (answer.0 == 200).then_some((proof, answer))
    });
    assert_eq!(answer.1["data"]["data"]["key"], "blue-key", "{}", answer.1);
    assert_eq!(code(&ask(&proof, &[])), (403, "token_replayed"));
    assert_eq!(code(&ask(&proven("/v1/credentials/orders-db"), &[])), (403, "audience_mismatch"));
    // The token alone, with the proof of another key, or beside a bearer token, proves nothing.
    let (wit, _) = proven(key);
    let alone = [("workload-identity-token", &*wit)];
    let alone = secrets.ask_once(&alone, "GET", key, &Value::Null);
    assert_eq!(code(&alone), (403, "token_malformed"));
    let mut parts = proven(key);
    parts.1.truncate(parts.1.rfind('.').expect("a signature"));
    parts.1.push_str(&proof.1[proof.1.rfind('.').expect("a signature")..]);
    assert_eq!(code(&ask(&parts, &[])), (403, "proof_refused"));
    let bearer = [("authorization", "Bearer a.b.c")];
    assert_eq!(code(&ask(&proven(key), &bearer)), (403, "token_malformed"));
    // A transaction token that came along has to be bound.
    assert_eq!(code(&ask(&proven(key), &[("txn-token", "t")])), (403, "proof_refused"));
}

#[test]
fn a_sealed_openbao_is_said_to_be_and_what_ended_meanwhile_is_taken_back_later() {
    let mut secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let entry = secrets.workload(ORDERS, "");
    secrets.workload("/tenants/blue/other", "");
    let drawn = login(&secrets, ORDERS);
    login(&secrets, "/tenants/blue/other");
    // Revoked under the broker: the next request makes another token.
    secrets.bao_root("blue", "POST", "sys/leases/revoke-prefix/auth/token/create", &Value::Null);
    ended(&secrets, &drawn);
    let drawn = login(&secrets, ORDERS);

    secrets.bao_root("", "POST", "sys/seal", &Value::Null);
    let refused = eventually("it is sealed", || {
        let answer = secrets.ask("/tenants/blue/other", "POST", DRAW, &Value::Null);
        (answer.0 != 200).then_some(answer)
    });
    assert_eq!(code(&refused), (503, "openbao_sealed"), "{refused:?}");
    let revoked = secrets.revocations();
    secrets.node.server.delete(&entry);
    eventually("it is tried", || secrets.log().contains("Cannot take back yet").then_some(()));
    assert!(secrets.has_login(&drawn["data"]));
    let key = json!({ "key": secrets.bao.unseal_key() });
    secrets.bao_root("", "POST", "sys/unseal", &key);
    eventually("the login is gone", || (!secrets.has_login(&drawn["data"])).then_some(()));
    eventually("the broker works again", || {
        let answer = secrets.ask("/tenants/blue/other", "POST", DRAW, &Value::Null);
        (answer.0 == 200).then_some(())
    });
    assert_eq!(secrets.revocations(), revoked + 1);
    assert_eq!(secrets.broker().terminate(), 0);
}

#[test]
fn a_flood_by_one_workload_is_refused_and_makes_no_other_wait_long() {
    let secrets = match Secrets::start("limits { requests_per_second = 4 }") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let (calm, flood) = (ORDERS, "/tenants/blue/flood");
    secrets.workload(calm, "");
    secrets.workload(flood, "");
    for path in [calm, flood] {
        let first = secrets.ask(path, "GET", "/v1/credentials/api-key", &Value::Null);
        assert_eq!(first.0, 200, "{first:?}");
    }
    let svid = secrets.x509(calm);
    let flooding = secrets.x509(flood);
    let ask =
        |svid| secrets.ask_tls(Some(svid), &[], "GET", "/v1/credentials/api-key", &Value::Null);
    let measure = || {
        let mut times: Vec<Duration> = (0..25)
            .map(|_| {
                let began = Instant::now();
                let answer = ask(&svid);
                assert_eq!(answer.0, 200, "{answer:?}");
                let took = began.elapsed();
                // A workload that keeps to its rate.
                std::thread::sleep(Duration::from_millis(270));
                took
            })
            .collect();
        times.sort();
        times[times.len() * 99 / 100]
    };
    let alone = measure();
    let stop = AtomicBool::new(false);
    let (together, refused) = std::thread::scope(|scope| {
        let floods: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    // On one connection: handshakes would be most of the work.
                    let mut stream = secrets.connect_tls(Some(&flooding), &flooding.bundle);
                    let mut refused = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let request = "GET /v1/credentials/api-key HTTP/1.1\r\nhost: b\r\n\r\n";
                        stream.write_all(request.as_bytes()).expect("a request");
                        refused += usize::from(status(&mut stream) == 429);
                    }
                    refused
                })
            })
            .collect();
        let together = measure();
        stop.store(true, Ordering::Relaxed);
        let refused =
            floods.into_iter().map(|flood| flood.join().expect("no panic")).sum::<usize>();
        (together, refused)
    });
    eprintln!("p99 alone {alone:?}, beside a flood {together:?}, {refused} refused");
    assert!(refused > 0, "the flood is refused");
    // Two processors do the handshakes of both: a machine that is busy otherwise gets some slack.
    assert!(together <= alone * 2 + Duration::from_millis(250), "{alone:?} {together:?}");
}

#[test]
fn the_secrets_store_csi_driver_gets_a_pods_files_for_its_own_token_only() {
    let dir = TestDir::new();
    let (port, ca) = crate::openbao::reviewer(&dir);
    let ca = STANDARD.encode(fs::read(ca).expect("a CA"));
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": {
            "server": format!("https://localhost:{port}"), "certificate-authority-data": ca,
        } }],
        "users": [{ "name": "u", "user": { "token": "t" } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    let kubeconfig = dir.write("kubeconfig", kubeconfig.to_string());
    let socket = dir.join("provider/signet.sock");
    let settings = format!(
        "csi_provider {{ socket_path = \"{}\" path_template = \"/tenants/blue/{{name}}\" namespaces = [\"shop\"] kubeconfig \
         = \"{}\" }}",
        socket.display(),
        kubeconfig.display()
    );
    let secrets = match Secrets::start(&settings) {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let entry = secrets.workload(ORDERS, "");
    let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
    let now = signet_base::Clock::unix(&signet_base::SystemClock);
    let attributes = |account: &str, pod: &str, audience: &str| {
        let claims = json!({
            "who": format!("shop/{account}"), "pod": "orders-1", "uid": "p-1",
            "aud": [audience], "iat": now, "exp": now + 600, "sub": "x",
        });
        let token = crate::openbao::token(&key, &claims);
        json!({
            "objects": "[{\"credential\":\"orders-db\",\"path\":\"db.json\"},\
                         {\"credential\":\"api-key\",\"field\":\"key\"}]",
            "csi.storage.k8s.io/pod.name": pod,
            "csi.storage.k8s.io/pod.namespace": "shop",
            "csi.storage.k8s.io/pod.uid": "p-1",
            "csi.storage.k8s.io/serviceAccount.name": "orders",
            "csi.storage.k8s.io/serviceAccount.tokens":
                json!({ "signet-broker": { "token": token } }).to_string(),
        })
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mount = |attributes: &Value, current: Vec<ObjectVersion>| {
        runtime.block_on(async {
            let channel = connect::unix(&socket).await.expect("the provider's socket");
            let request = MountRequest {
                attributes: attributes.to_string(),
                secrets: "{}".to_owned(),
                target_path: "/none".to_owned(),
                permission: "420".to_owned(),
                current_object_version: current,
            };
            CsiDriverProviderClient::new(channel).mount(request).await.map(|a| a.into_inner())
        })
    };
    let version = runtime.block_on(async {
        let channel = connect::unix(&socket).await.expect("the provider's socket");
        let request = VersionRequest { version: "v1alpha1".to_owned() };
        CsiDriverProviderClient::new(channel)
            .version(request)
            .await
            .expect("a version")
            .into_inner()
    });
    assert_eq!((&*version.version, &*version.runtime_name), ("v1alpha1", "signet-broker"));

    let own = attributes("orders", "orders-1", "signet-broker");
    let first: MountResponse = eventually_within("the identity is known", DEADLINE, || {
        let answer = mount(&own, Vec::new());
        match answer {
            Err(status) if status.message().contains("identity_ended") => None,
            answer => Some(answer.expect("files")),
        }
    });
    let paths: Vec<_> = first.files.iter().map(|file| (&*file.path, file.mode)).collect();
    assert_eq!(paths, [("db.json", 420), ("api-key", 420)]);
    assert_eq!(first.files[1].contents, "blue-key");
    let login: Value = serde_json::from_slice(&first.files[0].contents).expect("JSON");
    assert!(secrets.has_login(&login));
    // Asked again with what is there: the files go on, and no other login is made.
    let again = mount(&own, first.object_version.clone()).expect("versions");
    assert_eq!((again.files.len(), &again.object_version), (0, &first.object_version));

    for (what, attributes, says) in [
        (
            "another account's token",
            attributes("other", "orders-1", "signet-broker"),
            "evidence_disagrees",
        ),
        (
            "another pod's token",
            attributes("orders", "orders-2", "signet-broker"),
            "evidence_disagrees",
        ),
        ("another audience", attributes("orders", "orders-1", "kubernetes"), "token_signature"),
        ("no token", json!({ "objects": own["objects"] }), "no_evidence"),
        ("no objects", json!({}), "parameter_refused"),
    ] {
        let status = mount(&attributes, Vec::new()).expect_err(what);
        assert!(status.message().contains(says), "{what}: {status}");
    }
    secrets.node.server.delete(&entry);
    eventually_within("the login is gone", PROMISED, || (!secrets.has_login(&login)).then_some(()));
    let status = mount(&own, Vec::new()).expect_err("an identity that has ended");
    assert!(status.message().contains("identity_ended"), "{status}");
}

/// Reads one answer; its status.
fn status(stream: &mut impl Read) -> u16 {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|text| text.parse().ok()).expect("a length");
    stream.read_exact(&mut vec![0; length]).expect("a body");
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status")
}
