//! Labels of namespaces, read from an API server over real HTTP.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use signet_attest::workload::k8s::{
    cluster::Cluster,
    namespaces::{ApiNamespaces, NamespaceSource},
};
use signet_base::SystemClock;
use signet_k8s::ApiServer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const DEMO: &str = include_str!("fixtures/kubernetes/namespace_demo.json");

/// An API server that always answers this; counts how often it was asked.
async fn api_server(status: u16, body: &'static str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            assert!(request.starts_with(b"GET /api/v1/namespaces/demo HTTP/1.1\r\n"));
            count.fetch_add(1, Ordering::SeqCst);
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    });
    (port, asked)
}

fn namespaces(dir: &Path, port: u16) -> ApiNamespaces {
    let path = dir.join("kubeconfig");
    let yaml = format!(
        "current-context: x\nclusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c}}}}]\n"
    );
    std::fs::write(&path, yaml).unwrap();
    let clock = Arc::new(SystemClock);
    let api = ApiServer::from_file(&path, clock.clone()).unwrap();
    ApiNamespaces::with_api(api, clock)
}

#[tokio::test]
async fn all_who_wait_share_one_read_for_a_few_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (port, asked) = api_server(200, DEMO).await;
    let namespaces = Arc::new(namespaces(dir.path(), port));
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let namespaces = Arc::clone(&namespaces);
            tokio::spawn(async move { namespaces.labels("demo").await })
        })
        .collect();
    for caller in callers {
        let labels = caller.await.unwrap().unwrap();
        assert_eq!(labels["kubernetes.io/metadata.name"], "demo");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    namespaces.labels("demo").await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_the_api_server_refuses_is_said_with_the_permission_and_not_asked_in_a_loop() {
    let dir = tempfile::tempdir().unwrap();
    let (port, asked) = api_server(403, "no").await;
    let namespaces = namespaces(dir.path(), port);
    for _ in 0..3 {
        let error = namespaces.labels("demo").await.unwrap_err();
        assert!(error.contains("unable to get namespace \"demo\""), "{error}");
        assert!(error.contains("needs the permission to get namespaces"), "{error}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let error = namespaces.labels("../x").await.unwrap_err();
    assert!(error.contains("is not the name of a Kubernetes object"), "{error}");
}

#[tokio::test]
async fn an_api_server_that_is_away_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let port = signet_testkit::free_port();
    let error = namespaces(dir.path(), port).labels("demo").await.unwrap_err();
    assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[tokio::test]
async fn outside_a_cluster_it_is_said_what_is_missing() {
    // Tests run outside of clusters, unless somebody says otherwise.
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        || std::env::var_os("KUBECONFIG").is_some()
    {
        signet_testkit::skip!("there is a cluster in the environment");
    }
    let error = ApiNamespaces::new(Arc::new(Cluster::new(Arc::new(SystemClock))))
        .labels("demo")
        .await
        .unwrap_err();
    assert!(error.contains("unable to set up kube client: not in a cluster"), "{error}");
}
