//! The HTTP client against small servers of our own on loopback.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use signet_http::{HttpClient, HttpError, Proxies, Trust, connect_via_proxy, expect_success};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener},
    sync::mpsc,
    task::JoinHandle,
};

/// Reads one request with its body (by Content-Length) and gives `answer`.
async fn answer_one(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> String {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                break;
            }
        }
        request.push(stream.read_u8().await.unwrap());
    }
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
    String::from_utf8(request).unwrap()
}

async fn server(answer: impl Into<Vec<u8>>) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = answer.into();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer_one(stream, &answer).await
    });
    (address, task)
}

fn client() -> HttpClient {
    HttpClient::builder()
        .proxies(Proxies::none())
        .timeout(Duration::from_secs(5))
        .max_body(1_000)
        .build()
        .unwrap()
}

#[tokio::test]
async fn gets_and_posts() {
    let (address, seen) = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    let answer = client().get(&format!("http://{address}/a/b?c=d")).await.unwrap();
    assert_eq!(expect_success(answer, "").unwrap(), "hi");
    let seen = seen.await.unwrap();
    assert!(seen.starts_with("GET /a/b?c=d HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains(&format!("host: {address}\r\n")), "{seen}");

    let (address, seen) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
    let answer = client().post(&format!("http://{address}"), "text/plain", "body").await.unwrap();
    assert_eq!(answer.status(), 204);
    let seen = seen.await.unwrap();
    assert!(seen.starts_with("POST / HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nbody"), "{seen}");
}

#[tokio::test]
async fn redirects_are_answers_and_failures_show_their_body() {
    let (address, _) =
        server("HTTP/1.1 302 Found\r\nLocation: http://evil/\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client().get(&format!("http://{address}/")).await.unwrap().status(), 302);
    let (address, _) = server("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno\n!").await;
    let url = format!("http://{address}/x?token=secret");
    let error = expect_success(client().get(&url).await.unwrap(), &url).unwrap_err();
    assert_eq!(error.to_string(), format!("http://{address}/x answers with status 403: no!"));
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused_however_it_is_sent() {
    let body = "x".repeat(1_001);
    let plain = format!("HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n{body}");
    let chunked =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n{body}\r\n0\r\n\r\n");
    let until_close = format!("HTTP/1.1 200 OK\r\n\r\n{body}");
    for answer in [plain, chunked, until_close] {
        let (address, _) = server(answer).await;
        let error = client().get(&format!("http://{address}/")).await.unwrap_err();
        assert!(matches!(error, HttpError::TooLarge { limit: 1_000, .. }), "{error:?}");
    }
    let (address, _) =
        server(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(200_000))).await;
    assert!(client().get(&format!("http://{address}/")).await.is_err());
}

#[tokio::test]
async fn a_server_that_is_slow_or_cut_off_ends_in_an_error() {
    let (address, _) = server("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi").await;
    let error = client().get(&format!("http://{address}/")).await.unwrap_err();
    assert!(matches!(error, HttpError::Exchange { .. }), "{error:?}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let quick = HttpClient::builder()
        .proxies(Proxies::none())
        .timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    let error = quick.get(&format!("http://{address}/")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{address} did not answer within 50 ms"));

    drop(listener);
    let error = client().get(&format!("http://{address}/")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("connecting to {address}"));
}

/// A TLS server that answers one request, and its self-signed certificate.
async fn tls_server(answer: &'static str) -> (SocketAddr, CertificateDer<'static>) {
    tls_server_that(answer, true).await
}

/// A TLS server that closes the connection as TLS wants it, or without a word.
async fn tls_server_that(
    answer: &'static str,
    is_polite: bool,
) -> (SocketAddr, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(stream).await else { return };
        if is_polite {
            answer_one(stream, answer.as_bytes()).await;
            return;
        }
        // A request without a body ends with an empty line.
        let mut last = [0; 4];
        while &last != b"\r\n\r\n" {
            last.rotate_left(1);
            last[3] = stream.read_u8().await.unwrap();
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    });
    (address, certificate)
}

#[tokio::test]
async fn a_server_that_leaves_without_a_word_is_believed_only_what_it_said_in_full() {
    for (answer, whole) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", false),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi", false),
        ("HTTP/1.1 200 OK\r\nConten", false),
    ] {
        // Whether the answer and the end are seen together is up to the machine.
        for _ in 0..5 {
            let (address, root) = tls_server_that(answer, false).await;
            let trust = Trust::Roots(vec![root]);
            let client =
                HttpClient::builder().proxies(Proxies::none()).trust(trust).build().unwrap();
            let got = client.get(&format!("https://localhost:{}/", address.port())).await;
            assert_eq!(got.is_ok_and(|answer| answer.body() == "hi"), whole, "{answer}");
        }
    }
}

#[tokio::test]
async fn a_server_is_trusted_by_its_roots_and_by_its_name_only() {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let asked = async |host: &str, port: u16, trust: Trust| {
        let client = HttpClient::builder().proxies(Proxies::none()).trust(trust).build().unwrap();
        client.get(&format!("https://{host}:{port}/")).await
    };
    let (address, root) = tls_server(OK).await;
    let answer = asked("localhost", address.port(), Trust::Roots(vec![root])).await;
    assert_eq!(answer.unwrap().status(), 200);

    let (address, root) = tls_server(OK).await;
    let error = asked("127.0.0.1", address.port(), Trust::Roots(vec![root])).await.unwrap_err();
    assert!(matches!(error, HttpError::Tls { .. }), "{error:?}");

    let (_, other) = tls_server(OK).await;
    for trust in [Trust::System, Trust::Roots(vec![other])] {
        let (address, _) = tls_server(OK).await;
        let error = asked("localhost", address.port(), trust).await.unwrap_err();
        assert!(matches!(error, HttpError::Tls { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn requests_go_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let seen = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer_one(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await
    });
    let client = HttpClient::builder().socket(&path).build().unwrap();
    assert_eq!(client.get("http://localhost/x").await.unwrap().status(), 200);
    assert!(seen.await.unwrap().contains("host: localhost\r\n"));
}

#[tokio::test]
async fn plain_requests_are_handed_to_the_proxy() {
    let (address, seen) = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let proxies = Proxies::new(&format!("http://u:p@{address}"), "", "").unwrap();
    let client = HttpClient::builder().proxies(proxies).build().unwrap();
    client.get("http://example.invalid/x").await.unwrap();
    let seen = seen.await.unwrap();
    assert!(seen.starts_with("GET http://example.invalid/x HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("proxy-authorization: Basic dTpw\r\n"), "{seen}");
}

#[tokio::test]
async fn tunnels_go_through_the_proxy_and_lose_no_byte() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        answer_one(&mut stream, b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\nfirst").await
    });
    let proxies = Proxies::new("", &format!("http://{address}"), "").unwrap();
    let mut stream: TcpStream = connect_via_proxy(&proxies, "server.invalid", 8081).await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "first");
    let seen = proxy.await.unwrap();
    assert!(seen.starts_with("CONNECT server.invalid:8081 HTTP/1.1\r\n"), "{seen}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_its_words() {
    let (address, _) = server("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    let proxies = Proxies::new("", &format!("{address}"), "").unwrap();
    let error = connect_via_proxy(&proxies, "[2001:db8::1]", 8081).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "proxy {address} does not connect to [2001:db8::1]:8081: \
             HTTP/1.1 407 Proxy Authentication Required"
        )
    );
}

/// A server that answers so many requests over each connection and then closes it; counts the
/// connections, and says when each was closed.
async fn persistent_server(requests: usize) -> (SocketAddr, Arc<AtomicUsize>, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let (closed, closings) = mpsc::channel(100);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let closed = closed.clone();
            tokio::spawn(async move {
                for _ in 0..requests {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                }
                drop(stream);
                closed.send(()).await.unwrap();
            });
        }
    });
    (address, connections, closings)
}

#[tokio::test]
async fn a_connection_is_kept_where_the_client_is_told_so() {
    let get = async |client: &HttpClient, address: SocketAddr| {
        let answer = client.get(&format!("http://{address}/")).await.unwrap();
        assert_eq!(answer.body(), "ok");
    };
    let (address, connections, _) = persistent_server(usize::MAX).await;
    let keeping = HttpClient::builder().proxies(Proxies::none()).keep_alive().build().unwrap();
    for _ in 0..10 {
        get(&keeping, address).await;
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    // Clones share it; at once, each has its own.
    let clone = keeping.clone();
    tokio::join!(get(&keeping, address), get(&clone, address));
    assert_eq!(connections.load(Ordering::Relaxed), 2);
    let other = keeping.with_proxies(Proxies::none());
    get(&other, address).await;
    assert_eq!(connections.load(Ordering::Relaxed), 3, "other proxies are another way");
    for _ in 0..2 {
        get(&client(), address).await;
    }
    assert_eq!(connections.load(Ordering::Relaxed), 5, "unless told so, none is kept");
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_no_request() {
    let (address, connections, mut closings) = persistent_server(1).await;
    let client = HttpClient::builder().proxies(Proxies::none()).keep_alive().build().unwrap();
    for round in 1..=5 {
        let answer = client.get(&format!("http://{address}/")).await.unwrap();
        assert_eq!(answer.body(), "ok");
        closings.recv().await.unwrap();
        assert_eq!(connections.load(Ordering::Relaxed), round);
    }
}
