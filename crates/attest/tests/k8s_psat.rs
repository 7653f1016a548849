//! `k8s_psat` against answers recorded from a real cluster, over real HTTP.
#![cfg(feature = "server")]

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
use signet_remote::k8s::{ApiServer, KubeConfig};

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

/// An API server that gives fixed answers by path: status and body.
fn api_server(answers: Vec<(&'static str, u16, String)>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
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
            let (status, body) = answers
                .iter()
                .find(|(wanted, ..)| *wanted == path)
                .map_or((404, "{}".to_owned()), |(_, status, body)| (*status, body.clone()));
            let answer = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
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
        KubeConfig::from_file(&kubeconfig(dir.path(), api_server(answers)), Arc::new(SystemClock));
    let set = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
    let mut cluster = Cluster {
        service_account_allow_list: set(&["spire:spire-agent"]),
        audience: vec!["spire-server".to_owned()],
        allowed_node_label_keys: set(&["kubernetes.io/os"]),
        allowed_pod_label_keys: set(&["app"]),
        use_pod_uid_for_agent_id: false,
        api: Box::new(ApiServer::new(config.unwrap()).unwrap()),
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
            "exec and auth-provider users are not supported",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = KubeConfig::from_file(&path, Arc::new(SystemClock)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(error.contains("kubeconfig"), "{error}");
    }
}
