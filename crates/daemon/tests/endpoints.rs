//! Health and metrics over real sockets.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use signet_base::{Readiness, Tasks};
use signet_config::{HealthSettings, PrometheusSettings};
use signet_daemon::{
    health::{Health, HealthServer},
    metrics::{Metrics, MetricsServer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
}

async fn health(readiness: &Readiness, tasks: &Tasks) -> SocketAddr {
    let settings = HealthSettings {
        bind_address: "127.0.0.1".into(),
        bind_port: 0,
        live_path: "/alive".into(),
        ready_path: "/ready".into(),
    };
    let health = Health::new();
    health.add("agent", Arc::new(readiness.clone()));
    let server = HealthServer::bind(&settings, health).await.unwrap();
    let address = server.address();
    server.spawn(tasks);
    address
}

#[tokio::test]
async fn health_answers_as_spire_does() {
    let tasks = Tasks::new();
    let readiness = Readiness::new();
    let guard = readiness.guard("socket");
    let address = health(&readiness, &tasks).await;
    let answer = get(address, "/ready").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(get(address, "/alive").await.starts_with("HTTP/1.1 200 "));
    assert!(get(address, "/live").await.starts_with("HTTP/1.1 404 "));
    drop(guard);
    // The answer is kept for a second.
    let mut answer = get(address, "/ready").await;
    while answer.starts_with("HTTP/1.1 500 ") {
        tokio::task::yield_now().await;
        answer = get(address, "/ready").await;
    }
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n{\"agent\":{}}\n"), "{answer}");
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_silent_or_garbled_caller_is_cut_off_and_shutdown_does_not_wait_for_it() {
    let tasks = Tasks::new();
    let address = health(&Readiness::new(), &tasks).await;
    let silent = TcpStream::connect(address).await.unwrap();
    let answer = ask(address, "\0\0\0 nonsense\r\n\r\n").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let huge = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(huge.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "));
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn metrics_are_served_on_any_path() {
    let tasks = Tasks::new();
    let metrics = Metrics::detached();
    metrics.counter(&["things"], "Things", &[]).add(&[], 3);
    let settings = PrometheusSettings { host: "localhost".into(), port: 0, tls: None };
    let server = MetricsServer::bind(&settings, metrics).await.unwrap();
    let address = server.address();
    server.spawn(&tasks);
    for path in ["/", "/metrics"] {
        let answer = get(address, path).await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("\nsignet_things 3\n"), "{answer}");
    }
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

/// A connection from `source` on which `request` was answered, and which is kept open.
async fn kept(source: &str, address: SocketAddr, request: &str) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(source.parse().unwrap())?;
    let mut stream = socket.connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = vec![0; 1024];
    match stream.read(&mut answer).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(stream),
    }
}

#[tokio::test]
async fn connections_that_are_kept_or_silent_starve_nobody() {
    const KEEP: &str = "GET /alive HTTP/1.1\r\nHost: x\r\n\r\n";
    let tasks = Tasks::new();
    let address = health(&Readiness::new(), &tasks).await;
    // More than are served at a time, of which one address has a half.
    let mut held = Vec::new();
    for _ in 0..100 {
        held.extend(kept("127.0.0.1:0", address, KEEP).await.ok());
        held.extend(TcpStream::connect(address).await.ok());
    }
    kept("127.0.0.2:0", address, KEEP).await.unwrap();
    // From the same address as soon as one of the others has been idle for a moment.
    let again = async { while kept("127.0.0.1:0", address, KEEP).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    drop(held);
}
