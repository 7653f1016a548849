//! A server as an agent sees one, with switches for everything that can go wrong.

mod authority;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use signet_api::{
    convert,
    pb::{
        signet::api::push::v1::{self as push, push_server},
        spire::api::{
            server::{
                agent::v1::{
                    self as agent, agent_server, attest_agent_request as areq,
                    attest_agent_response as ares,
                },
                bundle::v1::{self as bundle, bundle_server},
                entry::v1::{self as entry, entry_server},
                svid::v1::{self as svid, svid_server},
            },
            types,
        },
    },
    status::{self, Reason},
};
use signet_base::SystemClock;
use signet_identity::{Bundle, JwtAuthority, SpiffeId, TrustDomain, X509Authority};
use signet_pki::{
    KeyType, PrivateKey, Signer,
    jwt::{JwtClaims, JwtIssuer},
    tls::{
        ClientPolicy, StaticBundles, SwappableIdentity, TlsIdentity, TlsOptions, peer_of,
        server_config,
    },
    x509::{CaIssuer, Csr, TrustBundle},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, StreamExt as _, wrappers::WatchStream};
use tonic::{Request, Response, Status, Streaming};

use self::authority::{issue, new_ca, now};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub const TRUST_DOMAIN: &str = "example.org";

/// What the server holds and how it behaves.
pub struct State {
    pub entries: BTreeMap<String, types::Entry>,
    /// Every authenticated call is refused like this.
    pub refuse: Option<Reason>,
    /// Attestation is refused like this.
    pub refuse_attestation: Option<Status>,
    pub reattestable: bool,
    /// The path of the ID that agents get, below `/spire/agent/`.
    pub agent_path: &'static str,
    /// Replies to attestations are lost as long as this is above zero.
    pub lose_replies: u32,
    pub has_sync: bool,
    pub page: usize,
    /// Signing fails for these entries.
    pub unsignable: Vec<String>,
    pub agent_ttl: i64,
    pub svid_ttl: i64,
    pub jwt_ttl: i64,
    pub federated: BTreeMap<String, Bundle>,
    pub tainted: Vec<usize>,
    pub jwt_tainted: bool,
    authorities: Vec<Arc<CaIssuer>>,
    jwt: Arc<JwtIssuer>,
    /// Who called what.
    pub calls: Vec<&'static str>,
    /// Public keys that attested.
    pub attested_keys: Vec<Vec<u8>>,
    pub agent_serial: usize,
}

pub struct FakeServer {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
    pub notices: watch::Sender<Option<push::Notice>>,
    pub bundle_pem: String,
    stop: tokio_util::sync::CancellationToken,
    identity: Arc<SwappableIdentity>,
}

#[derive(Clone)]
struct Peer(Option<SpiffeId>);

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<State>>,
    notices: watch::Receiver<Option<push::Notice>>,
}

pub fn trust_domain() -> TrustDomain {
    TRUST_DOMAIN.parse().unwrap()
}

impl FakeServer {
    pub async fn start() -> Self {
        let ca = new_ca();
        let jwt_signer: Arc<dyn Signer> =
            PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
        let state = State {
            entries: BTreeMap::new(),
            refuse: None,
            refuse_attestation: None,
            reattestable: false,
            agent_path: "test/node",
            lose_replies: 0,
            has_sync: true,
            page: 500,
            unsignable: Vec::new(),
            agent_ttl: 3600,
            svid_ttl: 3600,
            jwt_ttl: 300,
            federated: BTreeMap::new(),
            tainted: Vec::new(),
            jwt_tainted: false,
            authorities: vec![ca],
            jwt: Arc::new(JwtIssuer::new("key-1", now() + 86_400, jwt_signer).unwrap()),
            calls: Vec::new(),
            attested_keys: Vec::new(),
            agent_serial: 0,
        };
        let bundle_pem = signet_pki::jwks::encode_pem(&state.bundle());
        let (notices, receiver) = watch::channel(None);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(state)),
            notices,
            bundle_pem,
            stop: tokio_util::sync::CancellationToken::new(),
            identity: Arc::new(SwappableIdentity::empty()),
        };
        server.present(&server.lock().authorities[0].clone());
        server.serve(listener, receiver);
        server
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Ends all connections and refuses new ones.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Comes back on the same port.
    pub async fn restart(&mut self) {
        self.stop = tokio_util::sync::CancellationToken::new();
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.serve(listener, self.notices.subscribe());
    }

    /// Signs with a new authority from now on; the old one stays in the bundle.
    pub fn rotate_authority(&self) {
        let ca = new_ca();
        self.present(&ca);
        self.lock().authorities.push(ca);
    }

    /// Forgets its old authority altogether, as a server that was set up anew.
    pub fn replace_authority(&mut self) {
        let ca = new_ca();
        self.present(&ca);
        self.lock().authorities = vec![ca];
        let bundle = self.lock().bundle();
        self.bundle_pem = signet_pki::jwks::encode_pem(&bundle);
    }

    fn present(&self, ca: &CaIssuer) {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let id = SpiffeId::server(trust_domain());
        let (der, _) = issue(ca, &id, key.public_key(), 3600);
        self.identity.set(TlsIdentity::new(&[der.into()], key.signer().unwrap()).unwrap());
    }

    fn serve(&self, listener: TcpListener, notices: watch::Receiver<Option<push::Notice>>) {
        let service = Service { state: Arc::clone(&self.state), notices };
        let routes = tonic::service::Routes::new(agent_server::AgentServer::new(service.clone()))
            .add_service(entry_server::EntryServer::new(service.clone()))
            .add_service(svid_server::SvidServer::new(service.clone()))
            .add_service(bundle_server::BundleServer::new(service.clone()))
            .add_service(push_server::PushServer::new(service));
        let (stop, identity) = (self.stop.clone(), Arc::clone(&self.identity));
        let state = Arc::clone(&self.state);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let ders: Vec<Vec<u8>> = {
                    let state = state.lock().unwrap();
                    let ders = state.bundle().x509_authorities;
                    ders.iter().map(|a| a.der.to_vec()).collect()
                };
                let trust = Arc::new(TrustBundle::new(trust_domain(), &ders).unwrap());
                let config = server_config(
                    Arc::clone(&identity),
                    Arc::new(StaticBundles(vec![trust])),
                    ClientPolicy { trust_domain: trust_domain(), admin_ids: Arc::new([]) },
                    SystemClock::shared(),
                    TlsOptions::default(),
                )
                .unwrap();
                let routes = routes.clone();
                tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
                    let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await else { return };
                    let peer = peer_of(tls.get_ref().1.peer_certificates()).unwrap();
                    let peer = Peer(peer.map(|peer| peer.id));
                    let tag = move |mut request: http::Request<hyper::body::Incoming>| {
                        request.extensions_mut().insert(peer.clone());
                        request
                    };
                    let service = tower::util::MapRequest::new(routes, tag);
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(tls), TowerToHyperService::new(service))
                        .await;
                }));
            }
        }));
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl State {
    pub fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::empty(trust_domain());
        for (at, ca) in self.authorities.iter().enumerate() {
            bundle.x509_authorities.push(X509Authority {
                der: Arc::clone(ca.certificate().der()),
                tainted: self.tainted.contains(&at),
            });
        }
        bundle.jwt_authorities.push(JwtAuthority {
            public_key: self.jwt.signer().public_key().spki_der().into(),
            key_id: Arc::clone(self.jwt.key_id()),
            expires_at: self.jwt.expires_at(),
            tainted: self.jwt_tainted,
        });
        bundle
    }

    pub fn add_entry(&mut self, id: &str, selectors: &[&str]) -> &mut types::Entry {
        let revision = self.entries.get(id).map_or(0, |entry| entry.revision_number + 1);
        let selectors = selectors
            .iter()
            .map(|text| {
                let (kind, value) = text.split_once(':').unwrap();
                types::Selector { r#type: kind.into(), value: value.into() }
            })
            .collect();
        let entry = types::Entry {
            id: id.into(),
            spiffe_id: Some(types::Spiffeid {
                trust_domain: TRUST_DOMAIN.into(),
                path: format!("/{id}"),
            }),
            selectors,
            created_at: 1,
            revision_number: revision,
            ..types::Entry::default()
        };
        self.entries.insert(id.into(), entry);
        self.entries.get_mut(id).unwrap()
    }

    pub fn count(&self, call: &str) -> usize {
        self.calls.iter().filter(|made| **made == call).count()
    }

    fn ca(&self) -> Arc<CaIssuer> {
        Arc::clone(self.authorities.last().unwrap())
    }
}

impl Service {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The agent that calls, unless it is refused.
    fn agent<T>(&self, request: &Request<T>, call: &'static str) -> Result<SpiffeId, Status> {
        let mut state = self.lock();
        state.calls.push(call);
        if let Some(reason) = state.refuse {
            return Err(status::permission_denied("authorization denied", reason));
        }
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0.clone());
        peer.ok_or_else(|| Status::permission_denied("no client certificate"))
    }
}

macro_rules! refuse {
    ($($name:ident($request:ty) -> $response:ty;)+) => {$(
        fn $name<'life0, 'async_trait>(
            &'life0 self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented("not here")) })
        }
    )+};
}

#[tonic::async_trait]
impl agent_server::Agent for Service {
    type AttestAgentStream = Answers<agent::AttestAgentResponse>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<agent::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let mut requests = request.into_inner();
        let Some(areq::Step::Params(params)) = requests.message().await?.and_then(|r| r.step)
        else {
            return Err(Status::invalid_argument("params"));
        };
        let csr = Csr::from_der(&params.params.unwrap().csr).unwrap();
        let mut state = self.lock();
        state.calls.push("AttestAgent");
        if let Some(refusal) = &state.refuse_attestation {
            return Err(refusal.clone());
        }
        state.attested_keys.push(csr.public_key().spki_der().to_vec());
        if state.lose_replies > 0 {
            state.lose_replies -= 1;
            return Err(Status::unavailable("the reply is lost"));
        }
        state.refuse = None;
        let id = format!("spiffe://{TRUST_DOMAIN}/spire/agent/{}", state.agent_path);
        let id: SpiffeId = id.parse().unwrap();
        let (der, expires_at) = issue(&state.ca(), &id, csr.public_key(), state.agent_ttl);
        let result = ares::Result {
            svid: Some(types::X509svid {
                cert_chain: vec![Bytes::from(der)],
                id: Some(convert::id_to_pb(&id)),
                expires_at,
                hint: String::new(),
            }),
            reattestable: state.reattestable,
        };
        let answer = agent::AttestAgentResponse { step: Some(ares::Step::Result(result)) };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))))
    }

    async fn renew_agent(
        &self,
        request: Request<agent::RenewAgentRequest>,
    ) -> Result<Response<agent::RenewAgentResponse>, Status> {
        let id = self.agent(&request, "RenewAgent")?;
        let csr = Csr::from_der(&request.into_inner().params.unwrap().csr).unwrap();
        let mut state = self.lock();
        state.agent_serial += 1;
        let (der, expires_at) = issue(&state.ca(), &id, csr.public_key(), state.agent_ttl);
        Ok(Response::new(agent::RenewAgentResponse {
            svid: Some(types::X509svid {
                cert_chain: vec![Bytes::from(der)],
                id: Some(convert::id_to_pb(&id)),
                expires_at,
                hint: String::new(),
            }),
        }))
    }

    async fn post_status(
        &self,
        request: Request<agent::PostStatusRequest>,
    ) -> Result<Response<agent::PostStatusResponse>, Status> {
        self.agent(&request, "PostStatus")?;
        Ok(Response::new(agent::PostStatusResponse {}))
    }

    refuse! {
        count_agents(agent::CountAgentsRequest) -> agent::CountAgentsResponse;
        list_agents(agent::ListAgentsRequest) -> agent::ListAgentsResponse;
        get_agent(agent::GetAgentRequest) -> types::Agent;
        delete_agent(agent::DeleteAgentRequest) -> ();
        ban_agent(agent::BanAgentRequest) -> ();
        create_join_token(agent::CreateJoinTokenRequest) -> types::JoinToken;
    }
}

#[tonic::async_trait]
impl entry_server::Entry for Service {
    type SyncAuthorizedEntriesStream = Answers<entry::SyncAuthorizedEntriesResponse>;

    async fn get_authorized_entries(
        &self,
        request: Request<entry::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<entry::GetAuthorizedEntriesResponse>, Status> {
        self.agent(&request, "GetAuthorizedEntries")?;
        let entries = self.lock().entries.values().cloned().collect();
        Ok(Response::new(entry::GetAuthorizedEntriesResponse { entries }))
    }

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<entry::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        self.agent(&request, "SyncAuthorizedEntries")?;
        let (has_sync, page, entries) = {
            let state = self.lock();
            (state.has_sync, state.page, state.entries.clone())
        };
        if !has_sync {
            return Err(Status::unimplemented("no sync"));
        }
        let mut requests = request.into_inner();
        requests.message().await?.unwrap();
        if entries.len() <= page {
            let answer = entry::SyncAuthorizedEntriesResponse {
                entries: entries.into_values().collect(),
                ..Default::default()
            };
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))));
        }
        let all: Vec<types::Entry> = entries.values().cloned().collect();
        let pages = all.len().div_ceil(page);
        let revisions: Vec<_> = all
            .chunks(page)
            .enumerate()
            .map(|(at, chunk)| {
                Ok(entry::SyncAuthorizedEntriesResponse {
                    entry_revisions: chunk
                        .iter()
                        .map(|entry| entry::EntryRevision {
                            id: entry.id.clone(),
                            revision_number: entry.revision_number,
                            created_at: entry.created_at,
                        })
                        .collect(),
                    entries: Vec::new(),
                    more: at + 1 < pages,
                })
            })
            .collect();
        let state = Arc::clone(&self.state);
        let fulls = requests.map(move |request| {
            let request = request?;
            state.lock().unwrap().calls.push("SyncPage");
            assert!(request.ids.len() <= page && request.ids.is_sorted());
            let entries = request.ids.iter().filter_map(|id| entries.get(id).cloned()).collect();
            Ok(entry::SyncAuthorizedEntriesResponse { entries, ..Default::default() })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(revisions).chain(fulls))))
    }

    refuse! {
        count_entries(entry::CountEntriesRequest) -> entry::CountEntriesResponse;
        list_entries(entry::ListEntriesRequest) -> entry::ListEntriesResponse;
        get_entry(entry::GetEntryRequest) -> types::Entry;
        batch_create_entry(entry::BatchCreateEntryRequest) -> entry::BatchCreateEntryResponse;
        batch_update_entry(entry::BatchUpdateEntryRequest) -> entry::BatchUpdateEntryResponse;
        batch_delete_entry(entry::BatchDeleteEntryRequest) -> entry::BatchDeleteEntryResponse;
    }
}

#[tonic::async_trait]
impl svid_server::Svid for Service {
    async fn batch_new_x509svid(
        &self,
        request: Request<svid::BatchNewX509svidRequest>,
    ) -> Result<Response<svid::BatchNewX509svidResponse>, Status> {
        self.agent(&request, "BatchNewX509SVID")?;
        let params = request.into_inner().params;
        assert!(params.len() <= 500);
        let state = self.lock();
        let results = params
            .iter()
            .map(|params| {
                let known = state.entries.get(&params.entry_id);
                let Some(entry) = known.filter(|e| !state.unsignable.contains(&e.id)) else {
                    let status =
                        status::item(tonic::Code::NotFound, "entry not found or not authorized");
                    return svid::batch_new_x509svid_response::Result {
                        status: Some(status),
                        svid: None,
                    };
                };
                let id = convert::id_from_pb(entry.spiffe_id.as_ref()).unwrap();
                let key = Csr::verified_public_key(&params.csr).unwrap();
                let (der, expires_at) = issue(&state.ca(), &id, &key, state.svid_ttl);
                svid::batch_new_x509svid_response::Result {
                    status: Some(status::item_ok()),
                    svid: Some(types::X509svid {
                        cert_chain: vec![Bytes::from(der)],
                        id: entry.spiffe_id.clone(),
                        expires_at,
                        hint: entry.hint.clone(),
                    }),
                }
            })
            .collect();
        Ok(Response::new(svid::BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<svid::NewJwtsvidRequest>,
    ) -> Result<Response<svid::NewJwtsvidResponse>, Status> {
        self.agent(&request, "NewJWTSVID")?;
        let request = request.into_inner();
        let state = self.lock();
        let entry = state
            .entries
            .get(&request.entry_id)
            .ok_or_else(|| Status::not_found("entry not found or not authorized"))?;
        let id = convert::id_from_pb(entry.spiffe_id.as_ref()).unwrap();
        let signed = state
            .jwt
            .sign(&JwtClaims {
                spiffe_id: &id,
                audience: &request.audience,
                issued_at: now(),
                expires_at: now() + state.jwt_ttl,
                issuer: None,
                jti: true,
            })
            .unwrap();
        Ok(Response::new(svid::NewJwtsvidResponse {
            svid: Some(types::Jwtsvid {
                token: signed.token,
                id: entry.spiffe_id.clone(),
                expires_at: signed.expires_at.seconds(),
                issued_at: signed.issued_at.seconds(),
                hint: entry.hint.clone(),
            }),
        }))
    }

    refuse! {
        mint_x509svid(svid::MintX509svidRequest) -> svid::MintX509svidResponse;
        mint_jwtsvid(svid::MintJwtsvidRequest) -> svid::MintJwtsvidResponse;
        mint_witsvid(svid::MintWitsvidRequest) -> svid::MintWitsvidResponse;
        batch_new_witsvid(svid::BatchNewWitsvidRequest) -> svid::BatchNewWitsvidResponse;
        new_downstream_x509ca(svid::NewDownstreamX509caRequest)
            -> svid::NewDownstreamX509caResponse;
    }
}

// Last, because it uses the macro above.
mod bundles;
