//! Standbys, and where tokens go.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::json;
use signet_http::HttpClient;

use super::*;

/// A server that answers every request with these bytes, and keeps what it was asked.
struct Fake {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Fake {
    fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (asked, connections) = (Arc::default(), Arc::<AtomicUsize>::default());
        let fake = Self { address, asked: Arc::clone(&asked), connections: connections.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                connections.fetch_add(1, Ordering::SeqCst);
                let Ok(mut stream) = stream else { return };
                let head = head(&mut stream);
                let answer = answer(&head);
                asked.lock().unwrap().push(head);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        fake
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).to_ascii_lowercase()
}

fn answer(status: &str, more: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n{body}"
    )
}

fn client(addresses: &[&Fake]) -> Bao {
    let http = HttpClient::builder().build().unwrap();
    let addresses = addresses.iter().map(|fake| fake.address.clone()).collect();
    Bao::new(&http, addresses, Duration::from_secs(20))
}

#[tokio::test]
async fn a_redirect_is_not_followed_to_a_server_that_is_not_configured() {
    let elsewhere = Fake::start(|_| answer("200 OK", "", "{}"));
    let to = format!("location: {}/v1/secret/data/x?list=true\r\n", elsewhere.address);
    let standby = Fake::start(move |_| answer("307 Temporary Redirect", &to, ""));
    let active = Fake::start(|_| answer("200 OK", "", r#"{"data":{"a":"b"}}"#));

    let call = BaoCall::get("", "secret/data/x").by("s.token");
    let (status, found) = client(&[&standby, &active]).call(call).await.unwrap();
    assert_eq!((status, &found["data"]["a"]), (200, &json!("b")));
    assert!(active.asked()[0].contains("x-vault-token: s.token"), "{:?}", active.asked());

    let alone = client(&[&standby]);
    let error = alone.call(call).await.unwrap_err();
    assert!(error.is_temporary());
    assert_eq!(
        error.to_string(),
        format!(
            "OpenBao at {} is a standby that sends requests to {}; name the active server in \
             addresses",
            standby.address, elsewhere.address
        )
    );
    assert_eq!(elsewhere.connections.load(Ordering::SeqCst), 0, "nobody went there");
}

#[tokio::test]
async fn the_active_server_is_asked_first_once_it_is_known() {
    let standby = Fake::start(|_| answer("307 Temporary Redirect", "location: http://x/\r\n", ""));
    let active = Fake::start(|_| answer("200 OK", "", "{}"));
    let bao = client(&[&standby, &active]);
    for _ in 0..3 {
        bao.call(BaoCall::get("", "x")).await.unwrap();
    }
    assert_eq!((standby.asked().len(), active.asked().len()), (1, 3));
}

#[tokio::test]
async fn the_health_of_a_standby_is_read_whatever_its_status() {
    for status in ["429 Standby", "472 DR", "473 Performance Standby", "200 OK"] {
        let body = r#"{"initialized":true,"sealed":false,"standby":true,"version":"2.7.2"}"#;
        let fake = Fake::start(move |_| answer(status, "", body));
        let health = client(&[&fake]).health().await.unwrap();
        assert_eq!(health, Health { version: "2.7.2".to_owned(), sealed: false }, "{status}");
    }
    let body = r#"{"initialized":true,"sealed":true,"version":"2.7.2"}"#;
    let sealed = Fake::start(move |_| answer("503 Sealed", "", body));
    assert!(client(&[&sealed]).health().await.unwrap().sealed);
    // What is no health of OpenBao's is none.
    let other = Fake::start(|_| answer("429 Too Many", "", r#"{"errors":["slow down"]}"#));
    let error = client(&[&other]).health().await.unwrap_err();
    assert!(error.is_temporary() && error.to_string().contains("slow down"), "{error}");
}
