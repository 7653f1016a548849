//! `k8s_psat` against answers recorded from a real cluster, over real HTTP.
#![cfg(feature = "server")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    sync::Arc,
};

use signet_attest::node::{
    Challenger, FailureClass, NodeAttestError, NodeAttestation, NodeAttestorAgent,
    NodeAttestorServer,
    k8s_psat::{
        agent::K8sPsatAgent,
        server::{Cluster, K8sPsatServer},
    },
};
use signet_base::SystemClock;
use signet_k8s::ApiServer;

const OK: &str = include_str!("fixtures/kubernetes/tokenreview_ok.response.json");
const JUNK: &str = include_str!("fixtures/kubernetes/tokenreview_junk.response.json");
const WRONG_AUDIENCE: &str =
    include_str!("fixtures/kubernetes/tokenreview_wrong_audience.response.json");
const UNBOUND: &str = include_str!("fixtures/kubernetes/tokenreview_unbound.response.json");
const POD: &str = include_str!("fixtures/kubernetes/pod_spire_agent.json");
const NODE: &str = include_str!("fixtures/kubernetes/node.json");

struct NoChallenge;

#[async_trait::async_trait]
impl Challenger for NoChallenge {
    async fn challenge(&mut self, _: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
        panic!("k8s_psat has no challenge")
    }
}

/// What an API server does that cannot be said by a status and a body.
const TRUNCATED: u16 = 1;
const ENDLESS: u16 = 2;
const SILENT: u16 = 3;
/// Once; then what is said of the same path further on.
const BUSY_ONCE: u16 = 4;

/// An API server that gives fixed answers by path: status and body.
fn api_server(mut answers: Vec<(&'static str, u16, String)>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                let read = stream.read(&mut chunk).unwrap();
                request.extend_from_slice(&chunk[..read]);
            }
            let head = String::from_utf8_lossy(&request).into_owned();
            let path = head.split(' ').nth(1).unwrap();
            assert!(head.to_lowercase().contains("authorization: bearer of-the-server"), "{head}");
            let at = answers.iter().position(|(wanted, ..)| *wanted == path);
            let (status, body) =
                at.map_or((404, "{}".to_owned()), |at| (answers[at].1, answers[at].2.clone()));
            let head = "HTTP/1.1 200 X\r\nConnection: close\r\n";
            let answer = match status {
                TRUNCATED => format!("{head}Content-Length: 9999\r\n\r\n{body}"),
                ENDLESS => {
                    let begin = format!("{head}\r\n{{\"a\":\"");
                    let mut alive = stream.write_all(begin.as_bytes()).is_ok();
                    while alive {
                        alive = stream.write_all(&[b'x'; 65536]).is_ok();
                    }
                    continue;
                }
                SILENT => {
                    held.push(stream);
                    continue;
                }
                BUSY_ONCE => {
                    answers.remove(at.unwrap());
                    "HTTP/1.1 429 X\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n".to_owned()
                }
                _ => format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                ),
            };
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    port
}

fn recorded(review: (u16, &str)) -> Vec<(&'static str, u16, String)> {
    vec![
        ("/apis/authentication.k8s.io/v1/tokenreviews", review.0, review.1.to_owned()),
        ("/api/v1/namespaces/spire/pods/spire-agent-lztb7", 200, POD.to_owned()),
        ("/api/v1/nodes/kube-node-1", 200, NODE.to_owned()),
    ]
}

fn kubeconfig(dir: &Path, port: u16) -> std::path::PathBuf {
    let path = dir.join("kubeconfig");
    std::fs::write(dir.join("token"), "of-the-server\n").unwrap();
    let yaml = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: main\nclusters:\n- name: c\n  cluster:\n    \
         server: http://127.0.0.1:{port}/\ncontexts:\n- name: main\n  context: {{cluster: c, user: \
         u}}\nusers:\n- name: u\n  user:\n    tokenFile: token\n"
    );
    std::fs::write(&path, yaml).unwrap();
    path
}

async fn attest_with(
    answers: Vec<(&'static str, u16, String)>,
    change: impl FnOnce(&mut Cluster),
) -> Result<NodeAttestation, NodeAttestError> {
    let dir = tempfile::tempdir().unwrap();
    let config =
        ApiServer::from_file(&kubeconfig(dir.path(), api_server(answers)), Arc::new(SystemClock));
    let set = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
    let mut cluster = Cluster {
        service_account_allow_list: set(&["spire:spire-agent"]),
        audience: vec!["spire-server".to_owned()],
        allowed_node_label_keys: set(&["kubernetes.io/os"]),
        allowed_pod_label_keys: set(&["app"]),
        use_pod_uid_for_agent_id: false,
        api: Box::new(config.unwrap()),
    };
    change(&mut cluster);
    let clusters = BTreeMap::from([("demo-cluster".to_owned(), cluster)]);
    let server = K8sPsatServer::new("example.org".parse().unwrap(), clusters);
    std::fs::write(dir.path().join("projected"), "a.b.c\n").unwrap();
    let agent = K8sPsatAgent::new("demo-cluster", dir.path().join("projected")).unwrap();
    let (payload, _) = agent.begin().await.unwrap();
    assert_eq!(payload, br#"{"cluster":"demo-cluster","token":"a.b.c"}"#);
    server.attest(&payload, None, &mut NoChallenge).await
}

#[tokio::test]
async fn an_agent_gets_the_identity_and_selectors_that_spire_gave_it() {
    let found = attest_with(recorded((201, OK)), |_| {}).await.unwrap();
    assert_eq!(
        found.agent_id.to_string(),
        "spiffe://example.org/spire/agent/k8s_psat/demo-cluster/0c3f493c-db71-47a8-ab82-e6cf9ea9ade9"
    );
    let selectors: Vec<String> = found.selectors.iter().map(ToString::to_string).collect();
    assert_eq!(
        selectors,
        [
            "k8s_psat:agent_node_ip:10.88.0.1",
            "k8s_psat:agent_node_label:kubernetes.io/os:linux",
            "k8s_psat:agent_node_name:kube-node-1",
            "k8s_psat:agent_node_uid:0c3f493c-db71-47a8-ab82-e6cf9ea9ade9",
            "k8s_psat:agent_ns:spire",
            "k8s_psat:agent_pod_label:app:spire-agent",
            "k8s_psat:agent_pod_name:spire-agent-lztb7",
            "k8s_psat:agent_pod_uid:a17d7dee-1117-4bca-a413-8f251985aea7",
            "k8s_psat:agent_sa:spire-agent",
            "k8s_psat:cluster:demo-cluster",
        ]
    );
    assert!(found.can_reattest);
    let by_pod = attest_with(recorded((201, OK)), |c| c.use_pod_uid_for_agent_id = true).await;
    assert_eq!(
        by_pod.unwrap().agent_id.path(),
        "/spire/agent/k8s_psat/demo-cluster/pod/a17d7dee-1117-4bca-a413-8f251985aea7"
    );
}

#[tokio::test]
async fn tokens_that_are_not_for_this_server_are_refused() {
    use FailureClass::{Internal, PermissionDenied};
    let unbelieved = r#"{"status":{"authenticated":true,"user":{"username":"x"}}}"#;
    for (review, class, said) in [
        // As SPIRE: an agent tries again, and its operator reads what the API server found wrong.
        ((201, JUNK), Internal, "API response contains an error: invalid bearer token"),
        ((201, WRONG_AUDIENCE), Internal, "is invalid for the target audiences"),
        ((201, r#"{"status":{}}"#), PermissionDenied, "token not authenticated"),
        ((201, unbelieved), PermissionDenied, "token not authenticated"),
        ((201, UNBOUND), Internal, "fail to get pod name"),
        ((401, "{}"), Internal, "401"),
        ((500, "down"), Internal, "500"),
        ((201, "{"), Internal, "cannot be read"),
    ] {
        let error = attest_with(recorded(review), |_| {}).await.unwrap_err();
        assert_eq!(error.class, class, "{}: {error}", review.1);
        assert!(error.message.contains(said), "{error} does not say {said}");
        assert!(!error.message.contains("a.b.c"), "the token is in the message: {error}");
    }
    let other = |c: &mut Cluster| c.service_account_allow_list = BTreeSet::new();
    let error = attest_with(recorded((201, OK)), other).await.unwrap_err();
    assert!(error.message.contains("is not an allowed service account"), "{error}");
}

#[tokio::test]
async fn a_pod_that_was_replaced_does_not_vouch_for_the_old_token() {
    let mut answers = recorded((201, OK));
    answers[1].2 = POD.replace("a17d7dee-1117-4bca-a413-8f251985aea7", "another");
    let error = attest_with(answers, |_| {}).await.unwrap_err();
    assert_eq!(error.class, FailureClass::PermissionDenied, "{error}");
    let mut answers = recorded((201, OK));
    answers.remove(1);
    let error = attest_with(answers, |_| {}).await.unwrap_err();
    assert!(error.message.contains("fail to get pod"), "{error}");
}

#[tokio::test]
async fn malformed_payloads_and_missing_tokens_are_named() {
    let server = K8sPsatServer::new("example.org".parse().unwrap(), BTreeMap::new());
    for bad in [
        &b"{"[..],
        br#"{"cluster":"","token":"x"}"#,
        br#"{"cluster":"c","token":""}"#,
        br#"{"cluster":"c","token":"x"}"#,
    ] {
        let error = server.attest(bad, None, &mut NoChallenge).await.unwrap_err();
        assert_eq!(error.class, FailureClass::InvalidArgument, "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("none");
    let agent = K8sPsatAgent::new("c", absent.clone()).unwrap();
    let error = agent.begin().await.err().unwrap();
    assert!(error.message.contains(absent.to_str().unwrap()), "{error}");
    assert!(K8sPsatAgent::new("", absent).is_err());
}

#[test]
fn what_was_left_by_an_agent_of_another_node_is_told_by_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let agent = K8sPsatAgent::new("c", path.clone()).unwrap();
    let may_be = |token: Option<&str>, id: &str| {
        match token {
            Some(claims) => {
                std::fs::write(&path, format!("e30.{}.x\n", URL_SAFE_NO_PAD.encode(claims)))
            }
            None => std::fs::write(&path, "junk"),
        }
        .unwrap();
        agent.may_still_be(&format!("spiffe://td/spire/agent/{id}").parse().unwrap())
    };
    let of_node = r#"{"kubernetes.io":{"node":{"name":"n","uid":"1"},"pod":{"uid":"2"}}}"#;
    assert!(may_be(Some(of_node), "k8s_psat/c/1"));
    assert!(!may_be(Some(of_node), "k8s_psat/c/0"));
    // Of these nothing can be said.
    for id in ["k8s_psat/c/pod/0", "k8s_psat/other/0", "join_token/0"] {
        assert!(may_be(Some(of_node), id), "{id}");
    }
    for token in [
        None,
        Some("{}"),
        Some("[]"),
        Some(r#"{"kubernetes.io":{"pod":{"uid":"2"}}}"#),
        Some(r#"{"kubernetes.io":{"node":{"name":"n"}}}"#),
    ] {
        assert!(may_be(token, "k8s_psat/c/0"), "{token:?}");
    }
}

#[test]
fn kubeconfig_files_that_cannot_be_used_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    for (text, why) in [
        ("[", "is not a kubeconfig file"),
        ("clusters: []\n", "current-context is not set"),
        ("current-context: x\n", "context \"x\" is not defined"),
        (
            "current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\n",
            "cluster \"c\" is not defined",
        ),
        (
            "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: \
             [{name: c, cluster: {server: 'https://h'}}]\nusers: [{name: u, user: {exec: {}}}]\n",
            "exec: command is not set",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = ApiServer::from_file(&path, Arc::new(SystemClock)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(error.contains("kubeconfig"), "{error}");
    }
}

const REVIEW: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const POD_PATH: &str = "/api/v1/namespaces/spire/pods/spire-agent-lztb7";
const NODE_PATH: &str = "/api/v1/nodes/kube-node-1";

fn failure(code: u16, message: &str) -> String {
    format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"{message}","code":{code}}}"#
    )
}

#[tokio::test]
async fn whatever_an_api_server_answers_wrongly_is_said_and_lets_nobody_in() {
    let forbidden = "nodes is forbidden: User cannot get resource nodes at the cluster scope";
    let not_found = include_str!("fixtures/kubernetes/pod_404.json");
    for (path, status, body, wanted) in [
        (REVIEW, 401, failure(401, "Unauthorized"), "cannot create tokenreviews.authentication"),
        (REVIEW, 403, failure(403, "no reviews"), "needs the permission to create tokenreviews"),
        (REVIEW, 404, "404 page not found".to_owned(), "404 page not found"),
        (REVIEW, 500, failure(500, "etcd is away"), "500 etcd is away"),
        (REVIEW, TRUNCATED, OK[..300].to_owned(), "unable to validate token with TokenReview API"),
        (REVIEW, ENDLESS, String::new(), "is larger than"),
        (REVIEW, 201, "\"text\"".to_owned(), "cannot be read"),
        (REVIEW, 201, OK[..300].to_owned(), "cannot be read"),
        (POD_PATH, 404, not_found.to_owned(), "pods \"absent\" not found"),
        (POD_PATH, 403, failure(403, "no pods"), "needs the permission to get pods"),
        (POD_PATH, TRUNCATED, POD[..300].to_owned(), "fail to get pod from k8s API server"),
        (NODE_PATH, 403, failure(403, forbidden), forbidden),
        (NODE_PATH, 503, "starting".to_owned(), "503 starting"),
        (NODE_PATH, 200, r#"{"metadata":{}}"#.to_owned(), "node UID is empty"),
        (NODE_PATH, ENDLESS, String::new(), "is larger than"),
    ] {
        let mut answers = recorded((201, OK));
        let answer = answers.iter_mut().find(|(at, ..)| *at == path).unwrap();
        (answer.1, answer.2) = (status, body);
        let error = attest_with(answers, |_| {}).await.unwrap_err();
        assert!(error.message.contains(wanted), "{path} {status} {wanted}: {error}");
        assert_eq!(error.class, FailureClass::Internal, "{error}");
        assert!(!error.message.contains("a.b.c"), "the token is in the message: {error}");
    }
}

#[tokio::test]
async fn a_busy_api_server_is_asked_again() {
    for path in [REVIEW, POD_PATH, NODE_PATH] {
        let mut answers = vec![(path, BUSY_ONCE, String::new())];
        answers.extend(recorded((201, OK)));
        assert!(attest_with(answers, |_| {}).await.is_ok(), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_given_up() {
    let mut answers = recorded((201, OK));
    answers[0].1 = SILENT;
    let error = attest_with(answers, |_| {}).await.unwrap_err();
    assert!(error.message.contains("did not answer within 30000 ms"), "{error}");
}

#[tokio::test]
async fn what_the_review_says_of_a_bad_token_is_passed_on() {
    let error = attest_with(recorded((201, JUNK)), |_| {}).await.unwrap_err();
    let review: serde_json::Value = serde_json::from_str(JUNK).unwrap();
    let why = review["status"]["error"].as_str().unwrap();
    assert!(!why.is_empty() && error.message.contains(why), "{error}");
}

#[tokio::test]
async fn each_cluster_has_its_own_api_server_and_rules() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let cluster = |dir: &Path, review: &str, account: &str| {
        let path = kubeconfig(dir, api_server(recorded((201, review))));
        let api = ApiServer::from_file(&path, Arc::new(SystemClock)).unwrap();
        Cluster {
            service_account_allow_list: BTreeSet::from([account.to_owned()]),
            audience: vec!["spire-server".to_owned()],
            allowed_node_label_keys: BTreeSet::new(),
            allowed_pod_label_keys: BTreeSet::new(),
            use_pod_uid_for_agent_id: false,
            api: Box::new(api),
        }
    };
    let clusters = BTreeMap::from([
        ("good".to_owned(), cluster(dirs[0].path(), OK, "spire:spire-agent")),
        ("bad".to_owned(), cluster(dirs[1].path(), JUNK, "spire:spire-agent")),
    ]);
    let server = K8sPsatServer::new("example.org".parse().unwrap(), clusters);
    let attest = async |cluster: &str| {
        let payload = format!(r#"{{"cluster":"{cluster}","token":"a.b.c"}}"#);
        server.attest(payload.as_bytes(), None, &mut NoChallenge).await
    };
    let found = attest("good").await.unwrap();
    assert!(found.agent_id.path().starts_with("/spire/agent/k8s_psat/good/"));
    assert_eq!(attest("bad").await.unwrap_err().class, FailureClass::Internal);
    let error = attest("absent").await.unwrap_err();
    assert_eq!(error.message, "not configured for cluster \"absent\"");
}

#[tokio::test]
async fn the_agent_reads_its_token_anew_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let agent = K8sPsatAgent::new("c", path.clone()).unwrap();
    for token in ["first.x.y", "second.x.y"] {
        std::fs::write(&path, token).unwrap();
        let (payload, _) = agent.begin().await.unwrap();
        assert!(String::from_utf8(payload.clone()).unwrap().contains(token));
    }
    for (content, why) in [("", "the file is empty"), ("\u{fffd}", "")] {
        std::fs::write(&path, content).unwrap();
        let outcome = agent.begin().await.map(drop);
        assert_eq!(outcome.is_err(), !why.is_empty(), "{content:?}");
    }
    std::fs::write(&path, [b'x'; 65 * 1024]).unwrap();
    let error = agent.begin().await.err().unwrap();
    assert!(error.message.contains("is longer than"), "{error}");
}
