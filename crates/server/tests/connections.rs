//! What the network port does with connections before any call.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::{io::ErrorKind, sync::Arc};

use signet_base::SharedClock;
use signet_pki::tls::{ServerCheck, StaticBundles, TlsOptions, client_config};
use support::TestServer;
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};

/// A handshake in which the client offers `protocols`.
async fn handshake(
    server: &TestServer,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let check = ServerCheck::Id {
        id: "spiffe://example.org/spire/server".parse().unwrap(),
        bundles: Arc::new(StaticBundles(vec![server.trust()])),
    };
    let clock: SharedClock = Arc::new(server.clock.clone());
    let config = client_config(check, None, clock, TlsOptions::default()).unwrap();
    let mut config = (*config).clone();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let stream = TcpStream::connect(server.address).await?;
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("server").unwrap(), stream)
        .await
}

#[tokio::test]
async fn a_client_that_does_not_offer_http_2_is_turned_away() {
    let server = TestServer::start().await;
    // As gRPC in Go: the handshake succeeds, then the connection is closed in order, with no
    // byte of HTTP/2.
    let mut silent = handshake(&server, &[]).await.unwrap();
    assert_eq!(silent.get_ref().1.alpn_protocol(), None);
    let mut answer = Vec::new();
    assert_eq!(silent.read_to_end(&mut answer).await.unwrap(), 0);

    let error = handshake(&server, &[b"http/1.1"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");

    // Settings of HTTP/2 are the first the server says.
    let mut good = handshake(&server, &[b"http/1.1", b"h2"]).await.unwrap();
    let mut head = [0; 9];
    good.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "a SETTINGS frame");
    server.stop().await;
}
