//! The clients that do the work, and doing much of it at once.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::Context;
use signet_api::{
    connect,
    pb::{
        spire::api::{
            server::{
                agent::v1::{
                    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest,
                    agent_client::AgentClient, attest_agent_request, attest_agent_response,
                },
                entry::v1::{BatchCreateEntryRequest, entry_client::EntryClient},
            },
            types::{AttestationData, Entry, Selector, Spiffeid},
        },
        workload::{
            X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
        },
    },
};
use signet_base::SystemClock;
use signet_identity::{SpiffeId, TrustDomain};
use signet_pki::{
    KeyType, PrivateKey,
    tls::{ServerCheck, SwappableIdentity, TlsIdentity, TlsOptions, client_config, no_server_name},
    x509::{CsrParams, create_csr},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Request, Streaming, transport::Channel};

use crate::{
    programs::{Programs, TRUST_DOMAIN},
    usage,
};

/// How many calls are under way at once.
pub const CONCURRENCY: usize = 8;

/// A message for the Workload API, with the header it wants.
pub fn workload<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = tonic::metadata::MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

/// Opens a stream of X.509-SVIDs on a connection of its own and reads its first message.
pub async fn open_stream(
    socket: &Path,
) -> anyhow::Result<(Streaming<X509svidResponse>, X509svidResponse)> {
    let channel = connect::unix(socket).await?;
    let request = workload(X509svidRequest {});
    let mut stream =
        SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request).await?.into_inner();
    let first = stream.message().await?.context("the stream ended at once")?;
    Ok((stream, first))
}

/// Does `count` pieces of work, [`CONCURRENCY`] at a time.
///
/// # Errors
/// The first that a piece of work returns.
pub async fn parallel<F, W>(count: usize, work: W) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send,
    W: Fn(usize) -> F + Clone + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (next, work) = (next.clone(), work.clone());
        workers.spawn(async move {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    return anyhow::Ok(());
                }
                work(at).await?;
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.context("a worker panicked")??;
    }
    Ok(())
}

/// What work costs the process that does it.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Milliseconds of its CPU for each piece.
    pub cpu_ms: f64,
    /// Pieces in a second.
    pub rate: f64,
}

/// Does `count` pieces of work in six rounds, [`CONCURRENCY`] at a time, and tells what a piece
/// cost the process `pid` in the cheapest round: the machine may have other things to do.
///
/// # Errors
/// The first that a piece of work returns.
pub async fn cheapest<F, W>(pid: u32, count: usize, work: W) -> anyhow::Result<Cost>
where
    F: Future<Output = anyhow::Result<()>> + Send,
    W: Fn(usize) -> F + Clone + Send + 'static,
{
    const ROUNDS: usize = 6;
    let each = (count / ROUNDS).max(1);
    let mut best: Option<Cost> = None;
    for round in 0..ROUNDS {
        let (cpu, start, work) = (usage::cpu(pid)?, Instant::now(), work.clone());
        parallel(each, move |at| work(round * each + at)).await?;
        let (cpu, wall) = (usage::cpu(pid)? - cpu, start.elapsed());
        let cost = Cost {
            cpu_ms: cpu.as_secs_f64() * 1e3 / each as f64,
            rate: (each as f64 / wall.as_secs_f64()).round(),
        };
        if best.is_none_or(|best| cost.cpu_ms < best.cpu_ms) {
            best = Some(cost);
        }
    }
    best.context("no work was done")
}

/// An ID of the trust domain.
pub fn id(path: &str) -> Option<Spiffeid> {
    Some(Spiffeid { trust_domain: TRUST_DOMAIN.to_owned(), path: path.to_owned() })
}

/// An entry with one selector, `type:value`.
pub fn entry(parent: &str, path: &str, selector: &str) -> Entry {
    let (kind, value) = selector.split_once(':').unwrap_or((selector, ""));
    Entry {
        spiffe_id: id(path),
        parent_id: id(parent),
        selectors: vec![Selector { r#type: kind.to_owned(), value: value.to_owned() }],
        ..Entry::default()
    }
}

/// Creates entries with one call and returns their IDs.
///
/// # Errors
/// When the call or one of the entries fails.
pub async fn create(
    client: &mut EntryClient<Channel>,
    entries: Vec<Entry>,
) -> anyhow::Result<Vec<String>> {
    let request = BatchCreateEntryRequest { entries, output_mask: None };
    let response = client.batch_create_entry(request).await?.into_inner();
    let mut ids = Vec::with_capacity(response.results.len());
    for result in response.results {
        let status = result.status.unwrap_or_default();
        anyhow::ensure!(status.code == 0, "creating an entry: {status:?}");
        ids.push(result.entry.context("no entry")?.id);
    }
    Ok(ids)
}

/// An agent of our own, attested with a new join token; the connection is mTLS with its SVID.
///
/// # Errors
/// When anything fails.
pub async fn join(programs: (&Channel, u16), alias: &str) -> anyhow::Result<Channel> {
    let (admin, port) = programs;
    let request = CreateJoinTokenRequest { ttl: 600, token: String::new(), agent_id: id(alias) };
    let token = AgentClient::new(admin.clone()).create_join_token(request).await?.into_inner();
    let identity = attest_with(port, &token.value).await?;
    dial(port, Some(identity)).await
}

/// What the server gives for a join token.
///
/// # Errors
/// When it gives nothing.
pub async fn attest_with(port: u16, token: &str) -> anyhow::Result<TlsIdentity> {
    let key = PrivateKey::generate(KeyType::EcP256)?;
    let signer = key.signer()?;
    let params = attest_agent_request::Params {
        data: Some(AttestationData {
            r#type: "join_token".to_owned(),
            payload: token.as_bytes().to_vec().into(),
        }),
        params: Some(AgentX509svidParams {
            csr: create_csr(&CsrParams::agent(), &*signer)?.into(),
        }),
    };
    let step = Some(attest_agent_request::Step::Params(params));
    let outgoing = tokio_stream::once(AttestAgentRequest { step });
    let anonymous = dial(port, None).await?;
    let mut answers = AgentClient::new(anonymous).attest_agent(outgoing).await?.into_inner();
    let answer = answers.message().await?.context("no answer to the attestation")?;
    let Some(attest_agent_response::Step::Result(result)) = answer.step else {
        anyhow::bail!("a challenge instead of a result");
    };
    let svid = result.svid.context("no SVID")?;
    let chain: Vec<Arc<[u8]>> = svid.cert_chain.iter().map(|der| der.to_vec().into()).collect();
    Ok(TlsIdentity::new(&chain, signer)?)
}

async fn dial(port: u16, identity: Option<TlsIdentity>) -> anyhow::Result<Channel> {
    let trust_domain: TrustDomain = TRUST_DOMAIN.parse()?;
    let check = ServerCheck::InsecureId { id: SpiffeId::server(trust_domain) };
    let identity = identity.map(|identity| Arc::new(SwappableIdentity::new(identity)));
    let config = client_config(check, identity, SystemClock::shared(), TlsOptions::default())?;
    let connector = TlsConnector::from(config);
    let connect = move || {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            connector.connect(no_server_name(), stream).await
        }
    };
    Ok(connect::over("https://localhost", connect).await?)
}

/// A connection to the server's socket.
///
/// # Errors
/// When it cannot be made.
pub async fn admin(programs: &Programs) -> anyhow::Result<Channel> {
    Ok(connect::unix(programs.server_socket()).await?)
}
