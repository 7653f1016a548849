//! Trust anchors that are no authorities: refused as Go refuses them, whoever meets them.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use e2e::{
    Agent, AgentOptions, Server, ServerOptions, TestDir, clients::go_binary, eventually, skip,
};
use serde_json::{Value, json};
use signet_api::{
    connect,
    pb::spire::api::server::agent::v1::{CountAgentsRequest, agent_client::AgentClient},
};
use signet_base::SystemClock;
use signet_identity::SpiffeId;
use signet_pki::{
    PrivateKey, pem,
    tls::{
        ClientPolicy, ServerCheck, StaticBundles, SwappableIdentity, TlsIdentity, TlsOptions,
        client_config, no_server_name, server_config,
    },
};
use signet_testkit::{AnchorCase, TRUST_DOMAIN, anchor_cases};
use signet_time::UnixTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::grpc::runtime;

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("a time")
}

/// Those that show each way for an anchor to be none, after one that is good.
fn telling_cases(path: &str) -> Vec<AnchorCase> {
    let wanted = [
        "all is well",
        "the root has always been valid",
        "the root permits the trust domain",
        "the root has expired",
        "the root is not valid yet",
        "the root says that it is no CA",
        "the root may not sign certificates",
        "the root allows no CA below it",
        "the root permits another trust domain",
    ];
    let mut cases = anchor_cases(UnixTime::from_seconds(now()), path);
    cases.retain(|case| wanted.contains(&case.name));
    assert_eq!(cases.len(), wanted.len());
    cases
}

fn pem_of(ders: &[Vec<u8>]) -> String {
    pem::encode_certificates(ders.iter().map(Vec::as_slice))
}

fn identity(case: &AnchorCase) -> Arc<SwappableIdentity> {
    let chain = [case.leaf.clone().into(), case.ca.clone().into()];
    let signer = PrivateKey::from_der(&case.leaf_key).expect("a key").signer().expect("a signer");
    Arc::new(SwappableIdentity::new(TlsIdentity::new(&chain, signer).expect("an identity")))
}

#[test]
fn the_table_of_anchors_says_what_go_says() {
    let program = match go_binary() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let dir = TestDir::new();
    let now = now();
    let cases = anchor_cases(UnixTime::from_seconds(now), "/spire/server");
    let encode = |der: &Vec<u8>| STANDARD.encode(der);
    let list: Vec<Value> = cases
        .iter()
        .map(|case| {
            json!({
                "Name": case.name,
                "Now": now,
                "Roots": case.roots.iter().map(encode).collect::<Vec<_>>(),
                "CA": encode(&case.ca),
                "Leaf": encode(&case.leaf),
            })
        })
        .collect();
    let file = dir.join("cases.json");
    fs::write(&file, Value::from(list).to_string()).expect("a file");
    let output = Command::new(program).arg("anchors").arg(&file).output().expect("Go's verdicts");
    assert!(output.status.success(), "{output:?}");
    let verdicts = String::from_utf8(output.stdout).expect("text");
    let verdicts: Vec<Value> =
        verdicts.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(verdicts.len(), cases.len());
    for (case, verdict) in cases.iter().zip(&verdicts) {
        assert_eq!(verdict["name"], case.name);
        for (what, ours) in
            [("svid", case.any), ("any", case.any), ("server", case.server), ("ca", case.ca_alone)]
        {
            assert_eq!(verdict[what] == "ok", ours, "{}: {what}: {}", case.name, verdict[what]);
        }
    }
}

#[test]
fn an_admin_under_an_anchor_that_is_none_is_not_served() {
    let server = Server::start(ServerOptions {
        trust_domain: "server.test".to_owned(),
        server: format!("admin_ids = [\"spiffe://{TRUST_DOMAIN}/admin\"]"),
        ..ServerOptions::default()
    });
    let roots = server.dir().join("roots.pem");
    for case in telling_cases("/admin") {
        fs::write(&roots, pem_of(&case.roots)).expect("a file");
        let set = format!("bundle set -id spiffe://{TRUST_DOMAIN} -path {}", roots.display());
        server.cli().line(&set).ok();
        let outcome = runtime().block_on(count_agents(server.port(), &case));
        assert_eq!(outcome.is_ok(), case.any, "{}: {outcome:?}", case.name);
    }
}

/// Calls what only admins may.
async fn count_agents(port: u16, case: &AnchorCase) -> Result<i32, String> {
    let id: SpiffeId = "spiffe://server.test/spire/server".parse().expect("an ID");
    let config = client_config(
        ServerCheck::InsecureId { id },
        Some(identity(case)),
        SystemClock::shared(),
        TlsOptions::default(),
    );
    let connector = TlsConnector::from(config.expect("a configuration"));
    let dial = move || {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            connector.connect(no_server_name(), stream).await
        }
    };
    let channel = connect::over("https://localhost", dial).await.map_err(|e| e.to_string())?;
    let answer = AgentClient::new(channel).count_agents(CountAgentsRequest::default()).await;
    answer.map(|answer| answer.into_inner().count).map_err(|status| status.to_string())
}

#[test]
fn a_join_token_is_not_sent_to_a_server_under_an_anchor_that_is_none() {
    for case in telling_cases("/spire/server") {
        let listener = Listener::start(&case);
        let dir = Arc::new(TestDir::new());
        let bundle: PathBuf = dir.join("bundle.pem");
        fs::write(&bundle, pem_of(&case.roots)).expect("a file");
        let token = "c0ffee00-0000-4000-8000-00000000cafe";
        let options = AgentOptions {
            port: listener.port,
            bundle: Some(bundle),
            token: Some(token.to_owned()),
            ..AgentOptions::default()
        };
        let mut agent = Agent::prepare_in(&dir, "agent", options);
        agent.launch();
        if case.any {
            eventually("the token arrives", || listener.has_heard(token).then_some(()));
            continue;
        }
        eventually("the agent gives up", || {
            agent.log().contains("Node attestation failed").then_some(())
        });
        assert!(listener.heard.lock().unwrap().is_empty(), "{}", case.name);
        assert!(agent.log().contains("CN=root"), "{}: {}", case.name, agent.log());
    }
}

/// Something that speaks TLS as a server under the case's root, and keeps what it is told.
struct Listener {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Listener {
    fn start(case: &AnchorCase) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let policy = ClientPolicy {
            trust_domain: TRUST_DOMAIN.parse().expect("a trust domain"),
            admin_ids: Arc::new([]),
        };
        let config = server_config(
            identity(case),
            Arc::new(StaticBundles::default()),
            policy,
            SystemClock::shared(),
            TlsOptions::default(),
        );
        let acceptor = TlsAcceptor::from(config.expect("a configuration"));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let port = listener.local_addr().expect("an address").port();
        let ears = Arc::clone(&heard);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                // An empty SETTINGS frame, for clients that wait for one.
                drop(stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await);
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    ears.lock().unwrap().extend_from_slice(&buffer[..read]);
                }
            }
        });
        Self { port, heard, _runtime: runtime }
    }

    fn has_heard(&self, text: &str) -> bool {
        let heard = self.heard.lock().unwrap();
        heard.windows(text.len()).any(|part| part == text.as_bytes())
    }
}
