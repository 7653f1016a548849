//! What SDS costs: a crowd of proxies, and the plainest server that could serve them.
//!
//! `sds-load load SOCKET CONNECTIONS STREAMS [UID]` opens that many connections with that many
//! streams each, as that user if one is named (root only), sends what Envoy sends (a node with over 500
//! extensions), accepts every answer, and prints a
//! line whenever all streams have had one more. `sds-load bare SOCKET` is a tonic server without
//! anything behind it: it answers the first request of each stream, and all streams again for each
//! line on its standard input. `cargo xtask bench --only sds` compares both.

use std::{
    io::BufRead as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use e2e::raw::PlainBytes;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use signet_api::{
    connect,
    pb::envoy::{
        config::core::v3::{DataSource, Node},
        extensions::transport_sockets::tls::v3::{Secret, TlsCertificate},
        service::{
            discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            },
            secret::v3::secret_discovery_service_server::{
                SecretDiscoveryService, SecretDiscoveryServiceServer,
            },
        },
    },
};
use tokio::{
    net::UnixListener,
    sync::{mpsc, watch},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// How many extensions Envoy 1.40 lists.
const EXTENSIONS: usize = 516;
/// When a stream that was turned away is opened again.
const AGAIN: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["load", socket, connections, streams] => {
            load(socket, connections.parse()?, streams.parse()?).await
        }
        ["load", socket, connections, streams, uid] => {
            let uid: u32 = uid.parse()?;
            setgroups(&[]).context("giving up groups")?;
            setgid(Gid::from_raw(uid)).context("setting the group")?;
            setuid(Uid::from_raw(uid)).context("setting the user")?;
            load(socket, connections.parse()?, streams.parse()?).await
        }
        ["bare", socket] => bare(socket).await,
        _ => bail!("usage: sds-load load SOCKET CONNECTIONS STREAMS [UID] | bare SOCKET"),
    }
}

/// A request as it is on the wire.
fn request(node: bool, version: &str, nonce: &str) -> Vec<u8> {
    let mut request = DiscoveryRequest {
        version_info: version.to_owned(),
        resource_names: vec!["default".to_owned()],
        type_url: TYPE.to_owned(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    };
    if !node {
        return request.encode_to_vec();
    }
    request.node = None;
    let mut bytes = request.encode_to_vec();
    let mut node = Node { id: "proxy".to_owned(), ..Node::default() }.encode_to_vec();
    for number in 0..EXTENSIONS {
        let mut extension = Vec::new();
        for (field, text) in [
            (1, format!("envoy.filters.http.extension_{number}")),
            (2, "envoy.filters.http".into()),
        ] {
            encode_key(field, WireType::LengthDelimited, &mut extension);
            encode_varint(text.len() as u64, &mut extension);
            extension.extend_from_slice(text.as_bytes());
        }
        encode_key(9, WireType::LengthDelimited, &mut node);
        encode_varint(extension.len() as u64, &mut node);
        node.extend_from_slice(&extension);
    }
    encode_key(2, WireType::LengthDelimited, &mut bytes);
    encode_varint(node.len() as u64, &mut bytes);
    bytes.extend_from_slice(&node);
    bytes
}

async fn load(socket: &str, connections: usize, streams: usize) -> anyhow::Result<()> {
    let (first, all) = (request(true, "", ""), connections * streams);
    let received = Arc::new(AtomicUsize::new(0));
    for _ in 0..connections {
        let channel = connect::unix(socket).await?;
        for _ in 0..streams {
            let (channel, first, received) = (channel.clone(), first.clone(), received.clone());
            tokio::spawn(async move {
                // Proxies come again when they are turned away.
                loop {
                    let ended = stream(channel.clone(), first.clone(), &received, all).await;
                    eprintln!("{:#}", ended.err().unwrap_or_else(|| anyhow::anyhow!("ended")));
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
    }
    std::future::pending().await
}

async fn stream(
    channel: tonic::transport::Channel,
    first: Vec<u8>,
    received: &AtomicUsize,
    all: usize,
) -> anyhow::Result<()> {
    let (requests, outgoing) = mpsc::channel(2);
    requests.send(first).await?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let path = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets".parse()?;
    let call = client.streaming(Request::new(ReceiverStream::new(outgoing)), path, PlainBytes);
    let mut answers = call.await?.into_inner();
    while let Some(answer) = answers.message().await? {
        let answer = DiscoveryResponse::decode(&*answer)?;
        requests.send(request(false, &answer.version_info, &answer.nonce)).await?;
        let count = received.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_multiple_of(all) {
            println!("{{\"received\": {count}}}");
        }
    }
    bail!("the stream ended")
}

async fn bare(socket: &str) -> anyhow::Result<()> {
    let (sender, receiver) = watch::channel(1_u64);
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines() {
            sender.send_modify(|round| *round += 1);
        }
    });
    let listener = UnixListener::bind(socket).context("binding the socket")?;
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    tonic::transport::Server::builder()
        .add_service(SecretDiscoveryServiceServer::new(Bare(receiver)))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

struct Bare(watch::Receiver<u64>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Bare {
    type StreamSecretsStream = Answers<DiscoveryResponse>;
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (answers, outgoing) = mpsc::channel(2);
        let (mut requests, mut rounds) = (request.into_inner(), self.0.clone());
        tokio::spawn(async move {
            if !matches!(requests.next().await, Some(Ok(_))) {
                return;
            }
            loop {
                let round = *rounds.borrow_and_update();
                if answers.send(Ok(answer(round))).await.is_err() {
                    return;
                }
                loop {
                    tokio::select! {
                        changed = rounds.changed() => match changed {
                            Ok(()) => break,
                            Err(_) => return,
                        },
                        request = requests.next() => if !matches!(request, Some(Ok(_))) {
                            return;
                        },
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("only StreamSecrets"))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("only StreamSecrets"))
    }
}

/// As long as an SVID of one certificate and its key.
fn answer(round: u64) -> DiscoveryResponse {
    let inline = |length: usize| {
        Some(DataSource { inline_bytes: vec![b'x'; length].into(), ..DataSource::default() })
    };
    let secret = Secret {
        name: "default".to_owned(),
        tls_certificate: Some(TlsCertificate {
            certificate_chain: inline(900),
            private_key: inline(240),
        }),
        ..Secret::default()
    };
    DiscoveryResponse {
        version_info: round.to_string(),
        nonce: format!("{round:08x}"),
        type_url: TYPE.to_owned(),
        resources: vec![prost_types::Any {
            type_url: TYPE.to_owned(),
            value: secret.encode_to_vec(),
        }],
    }
}
