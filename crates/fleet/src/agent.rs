//! One simulated agent.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use signet_api::{
    connect,
    pb::{
        signet::api::push::v1::{Notice, SubscribeRequest, push_client::PushClient},
        spire::api::{
            server::{
                agent::v1::{
                    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest,
                    RenewAgentRequest, agent_client::AgentClient, attest_agent_request,
                    attest_agent_response,
                },
                entry::v1::{GetAuthorizedEntriesRequest, entry_client::EntryClient},
                svid::v1::{BatchNewX509svidRequest, NewX509svidParams, svid_client::SvidClient},
            },
            types::{AttestationData, EntryMask, Spiffeid, X509svid},
        },
    },
};
use signet_base::{Backoff, SystemClock};
use signet_identity::{SpiffeId, TrustDomain};
use signet_pki::{
    KeyType, PrivateKey,
    tls::{ServerCheck, SwappableIdentity, TlsIdentity, TlsOptions, client_config, no_server_name},
    x509::{CsrParams, create_csr},
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::TlsConnector;
use tonic::{Streaming, transport::Channel};

use crate::servers::TRUST_DOMAIN;

/// How often SPIRE's agents ask.
const POLL: Duration = Duration::from_secs(5);
/// How long an agent waits before it tries again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// SVIDs in one call, as SPIRE's agents ask for at most.
const BATCH: usize = 500;

/// What the fleet and those who watch it share.
#[derive(Debug, Default)]
pub struct Progress {
    /// When the creation of an entry was asked for, by ID; taken by its agent.
    pub created: Mutex<HashMap<String, Instant>>,
    /// When the deletion of an entry was asked for, by ID; taken by its agent.
    pub deleted: Mutex<HashMap<String, Instant>>,
    /// How long entries took from the call that creates them to their agent's SVID.
    pub appeared: Mutex<Vec<Duration>>,
    /// How long entries took from the call that deletes them until their agent dropped them.
    pub vanished: Mutex<Vec<Duration>>,
    /// X.509-SVIDs signed.
    pub signed: AtomicU64,
    /// Calls that failed, and were tried again.
    pub failures: AtomicU64,
    /// Agents that have all their entries.
    pub in_sync: AtomicUsize,
    /// The text of the last failure.
    pub last_failure: Mutex<String>,
}

/// Locks, whatever happened to the last one who held it.
pub fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an agent is told.
#[derive(Clone, Debug)]
pub struct Orders {
    /// Ports of the servers on 127.0.0.1; it moves to the next when one does not answer.
    pub ports: Arc<[u16]>,
    /// How many entries it should have.
    pub expected: usize,
    /// Asks every five seconds in place of following a stream.
    pub poll: bool,
    /// Grows when everyone is to renew at once.
    pub renew: watch::Receiver<u64>,
}

/// An attested agent.
pub struct Agent {
    number: usize,
    orders: Orders,
    progress: Arc<Progress>,
    identity: Arc<SwappableIdentity>,
    server: usize,
    /// The entries that it has, by ID.
    held: HashSet<String>,
    in_sync: bool,
}

impl Agent {
    /// The alias of agent `number`: the parent of its entries.
    pub fn alias(number: usize) -> String {
        format!("/node/{number}")
    }

    /// Attests with a new join token of the server behind `admin`.
    pub async fn attest(
        number: usize,
        admin: Channel,
        orders: Orders,
        progress: Arc<Progress>,
    ) -> anyhow::Result<Self> {
        let agent_id =
            Some(Spiffeid { trust_domain: TRUST_DOMAIN.to_owned(), path: Self::alias(number) });
        let request = CreateJoinTokenRequest { ttl: 3600, token: String::new(), agent_id };
        let token = AgentClient::new(admin).create_join_token(request).await?.into_inner();
        let server = number % orders.ports.len().max(1);
        let identity = Arc::new(SwappableIdentity::empty());
        let agent = Self {
            number,
            orders,
            progress,
            identity,
            server,
            held: HashSet::new(),
            in_sync: false,
        };
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let signer = key.signer()?;
        let params = attest_agent_request::Params {
            data: Some(AttestationData {
                r#type: "join_token".to_owned(),
                payload: token.value.into_bytes().into(),
            }),
            params: Some(AgentX509svidParams {
                csr: create_csr(&CsrParams::agent(), &*signer)?.into(),
            }),
        };
        let step = Some(attest_agent_request::Step::Params(params));
        let outgoing = tokio_stream::once(AttestAgentRequest { step });
        let channel = agent.dial(false).await?;
        let mut answers = AgentClient::new(channel).attest_agent(outgoing).await?.into_inner();
        let answer = answers.message().await?.context("no answer to the attestation")?;
        let Some(attest_agent_response::Step::Result(result)) = answer.step else {
            anyhow::bail!("a challenge instead of a result");
        };
        agent.take(result.svid, &key)?;
        Ok(agent)
    }

    /// Follows its entries until it is dropped.
    pub async fn run(mut self) {
        // Agents that lost the same server do not come back together.
        let mut pauses = Backoff::new(PAUSES.0, PAUSES.1).with_jitter(0.5);
        loop {
            let Err(error) = self.session().await;
            self.progress.failures.fetch_add(1, Ordering::Relaxed);
            *locked(&self.progress.last_failure) = format!("agent {}: {error:#}", self.number);
            self.server = (self.server + 1) % self.orders.ports.len().max(1);
            tokio::time::sleep(pauses.next_delay()).await;
        }
    }

    /// One connection, until it fails.
    async fn session(&mut self) -> anyhow::Result<std::convert::Infallible> {
        let channel = self.dial(true).await?;
        self.sync(&channel).await?;
        let mut renew = self.orders.renew.clone();
        renew.mark_unchanged();
        let mut notices = match self.orders.poll {
            true => None,
            false => Some(subscribe(&channel).await?),
        };
        loop {
            tokio::select! {
                notice = next(&mut notices) => {
                    match notice? {
                        Some(_) => {}
                        // The server ends streams now and then.
                        None => notices = Some(subscribe(&channel).await?),
                    }
                    self.sync(&channel).await?;
                }
                changed = renew.changed() => {
                    changed?;
                    self.renew(&channel).await?;
                    return Err(anyhow::anyhow!("renewed"));
                }
            }
        }
    }

    /// Fetches what it is authorised for, and has signed what is new.
    async fn sync(&mut self, channel: &Channel) -> anyhow::Result<()> {
        let mask = EntryMask { spiffe_id: true, selectors: true, ..EntryMask::default() };
        let request = GetAuthorizedEntriesRequest { output_mask: Some(mask) };
        let answer = EntryClient::new(channel.clone()).get_authorized_entries(request).await?;
        let entries = answer.into_inner().entries;
        let now: HashSet<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        for gone in self.held.difference(&now) {
            if let Some(deleted) = locked(&self.progress.deleted).remove(gone) {
                locked(&self.progress.vanished).push(deleted.elapsed());
            }
        }
        self.held.retain(|id| now.contains(id));
        let new: Vec<_> =
            entries.into_iter().filter(|entry| !self.held.contains(&entry.id)).collect();
        for batch in new.chunks(BATCH) {
            let mut params = Vec::with_capacity(batch.len());
            for entry in batch {
                let path = entry.spiffe_id.as_ref().map(|id| id.path.as_str()).unwrap_or_default();
                let id: SpiffeId = format!("spiffe://{TRUST_DOMAIN}{path}").parse()?;
                let signer = PrivateKey::generate(KeyType::EcP256)?.signer()?;
                let csr = create_csr(&CsrParams::workload(id), &*signer)?.into();
                params.push(NewX509svidParams { entry_id: entry.id.clone(), csr });
            }
            let request = BatchNewX509svidRequest { params };
            let answer = SvidClient::new(channel.clone()).batch_new_x509svid(request).await?;
            for (entry, result) in batch.iter().zip(answer.into_inner().results) {
                // One that was deleted meanwhile is refused.
                if result.status.is_some_and(|status| status.code == 0) {
                    self.progress.signed.fetch_add(1, Ordering::Relaxed);
                    if let Some(created) = locked(&self.progress.created).remove(&entry.id) {
                        locked(&self.progress.appeared).push(created.elapsed());
                    }
                    self.held.insert(entry.id.clone());
                }
            }
        }
        self.says_in_sync();
        Ok(())
    }

    fn says_in_sync(&mut self) {
        if !self.in_sync && self.held.len() >= self.orders.expected {
            self.in_sync = true;
            self.progress.in_sync.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn renew(&mut self, channel: &Channel) -> anyhow::Result<()> {
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let csr = create_csr(&CsrParams::agent(), &*key.signer()?)?.into();
        let request = RenewAgentRequest { params: Some(AgentX509svidParams { csr }) };
        let answer = AgentClient::new(channel.clone()).renew_agent(request).await?.into_inner();
        self.take(answer.svid, &key)?;
        self.held.clear();
        self.in_sync = false;
        Ok(())
    }

    fn take(&self, svid: Option<X509svid>, key: &PrivateKey) -> anyhow::Result<()> {
        let svid = svid.context("no SVID")?;
        let chain: Vec<Arc<[u8]>> = svid.cert_chain.iter().map(|der| der.to_vec().into()).collect();
        self.identity.set(TlsIdentity::new(&chain, key.signer()?)?);
        Ok(())
    }

    async fn dial(&self, known: bool) -> anyhow::Result<Channel> {
        let trust_domain: TrustDomain = TRUST_DOMAIN.parse()?;
        let check = ServerCheck::InsecureId { id: SpiffeId::server(trust_domain) };
        let identity = known.then(|| Arc::clone(&self.identity));
        let config = client_config(check, identity, SystemClock::shared(), TlsOptions::default())?;
        let connector = TlsConnector::from(config);
        let port = self.orders.ports.get(self.server).copied().context("no server")?;
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
}

async fn subscribe(channel: &Channel) -> anyhow::Result<Streaming<Notice>> {
    let answer = PushClient::new(channel.clone()).subscribe(SubscribeRequest::default()).await?;
    Ok(answer.into_inner())
}

/// The next notice; `None` when the stream ended in order. Without a stream, it comes in time.
async fn next(notices: &mut Option<Streaming<Notice>>) -> anyhow::Result<Option<Notice>> {
    match notices {
        Some(notices) => match notices.message().await {
            Ok(notice) => Ok(notice),
            Err(status) if status.code() == tonic::Code::Unavailable => Ok(None),
            Err(status) => Err(status.into()),
        },
        None => {
            tokio::time::sleep(Backoff::new(POLL, POLL).with_jitter(0.1).next_delay()).await;
            Ok(Some(Notice::default()))
        }
    }
}
