//! What the network port does with connections before any call.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use signet_api::pb::{
    signet::api::push::v1::{SubscribeRequest, push_client::PushClient},
    spire::api::{
        server::{agent::v1 as agent_pb, bundle::v1::GetBundleRequest},
        types,
    },
};
use signet_base::SharedClock;
use signet_pki::tls::{ServerCheck, StaticBundles, TlsOptions, client_config};
use support::{TestAgent, TestServer, new_key};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};
use tonic::{Code, Status};

/// A handshake in which the client offers `protocols`.
async fn handshake(
    server: &TestServer,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    handshake_from("127.0.0.1:0", server, protocols).await
}

async fn handshake_from(
    source: &str,
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
    let socket = TcpSocket::new_v4()?;
    socket.bind(source.parse::<SocketAddr>().unwrap())?;
    let stream = socket.connect(server.address).await?;
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

async fn is_open(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut bytes = [0; 1024];
    loop {
        // What was sent before the connection was closed is there already.
        match tokio::time::timeout(Duration::from_millis(1), stream.read(&mut bytes)).await {
            Ok(Ok(0) | Err(_)) => return false,
            Ok(Ok(_)) => {}
            Err(_) => return true,
        }
    }
}

#[tokio::test]
async fn strangers_of_one_address_leave_room_for_others_and_agents_do_not_count_as_such() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let mut idle = Vec::new();
    let mut turned_away = 0;
    for _ in 0..300 {
        match handshake(&server, &[b"h2"]).await {
            Ok(stream) => idle.push(stream),
            Err(_) => turned_away += 1,
        }
    }
    let mut open = 0;
    for stream in &mut idle {
        open += usize::from(is_open(stream).await);
    }
    assert!(open <= 256 && turned_away + 300 - open >= 44, "{open} are open");
    // From another address, at once.
    let mut other = handshake_from("127.0.0.2:0", &server, &[b"h2"]).await.unwrap();
    assert!(is_open(&mut other).await);
    // A client with a certificate is counted by that as soon as it has shown it.
    drop(idle.split_off(idle.len() - 10));
    let channels = channels_of(&server, &agent, 20).await;
    for channel in channels {
        let mut bundles = TestAgent::bundles(channel);
        bundles.get_bundle(GetBundleRequest::default()).await.unwrap();
    }
    server.stop().await;
}

/// Connections of one agent, which all stay open.
async fn channels_of(
    server: &TestServer,
    agent: &TestAgent,
    count: usize,
) -> Vec<tonic::transport::Channel> {
    let mut channels = Vec::new();
    for _ in 0..count {
        channels.push(agent.channel(server).await);
    }
    channels
}

#[tokio::test]
async fn whoever_has_no_certificate_sends_small_messages_only() {
    let server = TestServer::start().await;
    let token = vec![b'x'; 200 * 1024];
    let refused = server.attest_raw("join_token", &token, b"csr", &new_key()).await;
    let refused = refused.err().unwrap();
    // As in SPIRE's words for messages of more than 4 MiB.
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("grpc: received message larger than max ("), "{refused}");
    // An agent that attests anew is held to the same.
    let agent = server.agent().await;
    let mut client = agent_pb::agent_client::AgentClient::new(agent.channel(&server).await);
    let params = agent_pb::attest_agent_request::Params {
        data: Some(types::AttestationData { r#type: "x".into(), payload: token.into() }),
        params: None,
    };
    let step = Some(agent_pb::attest_agent_request::Step::Params(params));
    let request = tokio_stream::iter([agent_pb::AttestAgentRequest { step }]);
    let answer = match client.attest_agent(request).await {
        Ok(answer) => answer.into_inner().message().await,
        Err(status) => Err(status),
    };
    assert!(answer.unwrap_err().message().contains("received message larger than max ("));
    server.stop().await;
}

#[tokio::test]
async fn an_agent_has_few_push_streams_and_takes_none_from_another_one() {
    let server = TestServer::start().await;
    let (greedy, modest) = (server.agent().await, server.agent().await);
    let mut streams = Vec::new();
    let mut refused: Vec<Status> = Vec::new();
    for _ in 0..4 {
        let mut client = PushClient::new(greedy.channel(&server).await);
        for _ in 0..5 {
            match client.subscribe(SubscribeRequest::default()).await {
                Ok(stream) => streams.push(stream.into_inner()),
                Err(status) => refused.push(status),
            }
        }
    }
    assert_eq!((streams.len(), refused.len()), (8, 12));
    assert!(refused.iter().all(|status| status.code() == Code::ResourceExhausted), "{refused:?}");
    let mut client = PushClient::new(modest.channel(&server).await);
    client.subscribe(SubscribeRequest::default()).await.unwrap();
    // What is closed counts no more.
    streams.pop();
    let mut client = PushClient::new(greedy.channel(&server).await);
    let again = async {
        while client.subscribe(SubscribeRequest::default()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), again).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_call_whose_message_stops_half_way_does_not_hold_up_others() {
    let server = TestServer::start().await;
    // By hand: the preface, settings, the head of GetBundle, and the beginning of a message.
    let path = b"/spire.api.server.bundle.v1.Bundle/GetBundle";
    let mut head = vec![0x83, 0x87, 0x04, u8::try_from(path.len()).unwrap()];
    head.extend(path);
    head.extend(b"\x01\x01x\x0f\x10\x10application/grpc");
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    };
    let mut halves = Vec::new();
    for length in [100 * 1024_u32, 4 * 1024 * 1024] {
        let mut stream = handshake(&server, &[b"h2"]).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut half = vec![0];
        half.extend(length.to_be_bytes());
        half.extend(vec![7; 10_000]);
        for id in [1, 3] {
            let bytes = [frame(1, 4, id, &head), frame(0, 0, id, &half)].concat();
            stream.write_all(&[frame(4, 0, 0, &[]), bytes].concat()).await.unwrap();
        }
        halves.push(stream);
    }
    let mut bundles = TestAgent::bundles(server.connect(None).await);
    bundles.get_bundle(GetBundleRequest::default()).await.unwrap();
    // The second call of each connection finds no room, the long ones are refused by their length:
    // `grpc-status` 8 is in a head with its end.
    for (stream, expected) in halves.iter_mut().zip([1, 2]) {
        let mut refused = 0;
        while refused < expected {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            stream.read_exact(&mut payload).await.unwrap();
            refused += usize::from(head[3] == 1 && head[4] & 1 != 0);
        }
    }
    server.stop().await;
}
