//! A server in the test's process, and agents that speak to it over real sockets.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use signet_api::{
    connect,
    pb::spire::api::{
        server::{
            agent::v1::{
                self as agent_pb, agent_client::AgentClient, attest_agent_request,
                attest_agent_response,
            },
            bundle::v1::bundle_client::BundleClient,
            entry::v1::{self as entry_pb, entry_client::EntryClient},
            svid::v1::{self as svid_pb, svid_client::SvidClient},
        },
        types,
    },
};
use signet_base::{SharedClock, Tasks, TestClock};
use signet_daemon::{logging, program::Program};
use signet_identity::SpiffeId;
use signet_pki::{
    KeyType, PrivateKey,
    tls::{ServerCheck, StaticBundles, SwappableIdentity, TlsIdentity, TlsOptions, client_config},
    x509::{CsrParams, TrustBundle, create_csr},
};
use signet_server::{
    app::{App, Prepared, Running},
    config::{Config, RunFlags},
    context::Context,
};
use signet_store::Store;
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tonic::{Request, Status, transport::Channel};

/// A running server.
pub struct TestServer {
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    pub bundle_endpoint: Option<SocketAddr>,
    pub local: Channel,
    pub context: Context,
    pub clock: TestClock,
    pub tasks: Tasks,
    running: Option<Running>,
}

/// What a test may change of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines in `server {}`.
    pub server: String,
    /// Blocks in `plugins {}`.
    pub plugins: String,
    /// The trust domain, unless it is `example.org`.
    pub trust_domain: Option<&'static str>,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let dir = tempfile::Builder::new().prefix("sg").tempdir().unwrap();
        Self::on(dir, options, TestClock::new()).await
    }

    pub async fn on(dir: tempfile::TempDir, options: Options, clock: TestClock) -> Self {
        Self::on_store(None, dir, options, clock).await
    }

    /// On a store that is open already, if one is given.
    pub async fn on_store(
        store: Option<Store>,
        dir: tempfile::TempDir,
        options: Options,
        clock: TestClock,
    ) -> Self {
        let config = config(dir.path(), &options);
        let shared: SharedClock = Arc::new(clock.clone());
        let bundle_endpoint = match &config.federation.bundle_endpoint {
            Some(_) => Some(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap()),
            None => None,
        };
        let prepared = Prepared { store, bundle_endpoint, ..Prepared::default() };
        let app = App::build_on(prepared, config, shared, log(&clock)).await.unwrap();
        let (address, bundle_endpoint) = (app.address().unwrap(), app.bundle_endpoint());
        let context = app.context().clone();
        let socket = app.socket_path().clone();
        let tasks = Tasks::new();
        let running = app.spawn(&tasks).unwrap();
        let local = connect::unix(&socket).await.unwrap();
        Self { dir, address, bundle_endpoint, local, context, clock, tasks, running: Some(running) }
    }

    /// Stops, and gives back what survives.
    pub async fn stop(mut self) -> (tempfile::TempDir, TestClock) {
        self.tasks.token().cancel();
        // Channels of the test stay open: the server must not wait for them.
        let _ = self.tasks.shutdown(Duration::from_secs(5)).await;
        if let Some(running) = self.running.take() {
            running.close().await;
        }
        (self.dir, self.clock)
    }

    pub fn entries(&self) -> EntryClient<Channel> {
        EntryClient::new(self.local.clone())
    }

    pub fn agents(&self) -> AgentClient<Channel> {
        AgentClient::new(self.local.clone())
    }

    pub async fn token(&self, ttl: i32) -> String {
        let request = agent_pb::CreateJoinTokenRequest { ttl, ..Default::default() };
        self.agents().create_join_token(request).await.unwrap().into_inner().value
    }

    pub async fn create_entry(&self, id: &str, parent: &SpiffeId, selector: &str) -> String {
        let (kind, value) = selector.split_once(':').unwrap();
        let entry = types::Entry {
            spiffe_id: Some(pb_id(&id.parse().unwrap())),
            parent_id: Some(pb_id(parent)),
            selectors: vec![types::Selector { r#type: kind.into(), value: value.into() }],
            ..Default::default()
        };
        let request =
            entry_pb::BatchCreateEntryRequest { entries: vec![entry], ..Default::default() };
        let results =
            self.entries().batch_create_entry(request).await.unwrap().into_inner().results;
        let result = results.into_iter().next().unwrap();
        assert_eq!(result.status.unwrap().code, 0);
        result.entry.unwrap().id
    }

    pub async fn delete_entry(&self, id: &str) {
        let request = entry_pb::BatchDeleteEntryRequest { ids: vec![id.to_owned()] };
        self.entries().batch_delete_entry(request).await.unwrap();
    }

    /// The server's bundle as an operator would hand it to an agent.
    pub fn trust(&self) -> Arc<TrustBundle> {
        self.context.parts.cache.own_bundle().unwrap().trust.clone().unwrap()
    }

    pub async fn connect(&self, identity: Option<TlsIdentity>) -> Channel {
        self.try_connect(identity).await.unwrap()
    }

    pub async fn try_connect(
        &self,
        identity: Option<TlsIdentity>,
    ) -> Result<Channel, connect::ConnectError> {
        let check = ServerCheck::Id {
            id: "spiffe://example.org/spire/server".parse().unwrap(),
            bundles: Arc::new(StaticBundles(vec![self.trust()])),
        };
        let identity = identity.map(|identity| Arc::new(SwappableIdentity::new(identity)));
        let clock: SharedClock = Arc::new(self.clock.clone());
        let config = client_config(check, identity, clock, TlsOptions::default()).unwrap();
        let connector = TlsConnector::from(config);
        let address = self.address;
        connect::over("https://server", move || {
            let connector = connector.clone();
            async move {
                let stream = tokio::net::TcpStream::connect(address).await?;
                connector.connect(ServerName::try_from("server").unwrap(), stream).await
            }
        })
        .await
    }

    /// Attests with a token and a key.
    pub async fn attest(&self, token: &str, key: &PrivateKey) -> Result<TestAgent, Status> {
        let csr = create_csr(&CsrParams::agent(), &*key.signer().unwrap()).unwrap();
        self.attest_raw("join_token", token.as_bytes(), &csr, key).await
    }

    pub async fn attest_raw(
        &self,
        kind: &str,
        payload: &[u8],
        csr: &[u8],
        key: &PrivateKey,
    ) -> Result<TestAgent, Status> {
        let channel = self.connect(None).await;
        let params = attest_agent_request::Params {
            data: Some(types::AttestationData {
                r#type: kind.into(),
                payload: payload.to_vec().into(),
            }),
            params: Some(agent_pb::AgentX509svidParams { csr: csr.to_vec().into() }),
        };
        let request =
            agent_pb::AttestAgentRequest { step: Some(attest_agent_request::Step::Params(params)) };
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender.send(request).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut replies = AgentClient::new(channel).attest_agent(stream).await?.into_inner();
        let reply = replies.message().await?.unwrap();
        let Some(attest_agent_response::Step::Result(result)) = reply.step else {
            panic!("a challenge")
        };
        let svid = result.svid.unwrap();
        Ok(TestAgent::new(svid, key.clone()))
    }

    /// A fresh agent by a fresh token.
    pub async fn agent(&self) -> TestAgent {
        let token = self.token(600).await;
        self.attest(&token, &new_key()).await.unwrap()
    }
}

pub fn config(dir: &std::path::Path, options: &Options) -> Config {
    let dir = dir.display();
    let text = format!(
        r#"
        server {{
            trust_domain = "{}"
            data_dir = "{dir}/data"
            bind_address = "127.0.0.1"
            bind_port = 0
            socket_path = "{dir}/api.sock"
            {}
        }}
        plugins {{
            DataStore "sql" {{
                plugin_data {{ database_type = "sqlite3" connection_string = "{dir}/data/db" }}
            }}
            KeyManager "disk" {{ plugin_data {{ keys_path = "{dir}/data/keys.json" }} }}
            NodeAttestor "join_token" {{ plugin_data {{}} }}
            {}
        }}
        "#,
        options.trust_domain.unwrap_or("example.org"),
        if options.server.is_empty() {
            "ratelimit { attestation = false }"
        } else {
            options.server.as_str()
        },
        options.plugins
    );
    let path = format!("{dir}/server.conf");
    std::fs::write(&path, text).unwrap();
    let flags = RunFlags { config: path.into(), ..RunFlags::default() };
    Config::load(Program::Signet, &flags, &|_| None).unwrap()
}

pub fn log(clock: &TestClock) -> logging::LogHandle {
    let clock: SharedClock = Arc::new(clock.clone());
    logging::with_writer(&logging::LogSettings::default(), clock, std::io::sink()).1
}

/// An attested agent.
#[derive(Clone)]
pub struct TestAgent {
    pub id: SpiffeId,
    pub key: PrivateKey,
    pub chain: Vec<Arc<[u8]>>,
    pub expires_at: i64,
}

impl TestAgent {
    fn new(svid: types::X509svid, key: PrivateKey) -> Self {
        let id = svid.id.unwrap();
        Self {
            id: format!("spiffe://{}{}", id.trust_domain, id.path).parse().unwrap(),
            key,
            chain: svid.cert_chain.iter().map(|der| der.as_ref().into()).collect(),
            expires_at: svid.expires_at,
        }
    }

    pub fn identity(&self) -> TlsIdentity {
        TlsIdentity::new(&self.chain, self.key.signer().unwrap()).unwrap()
    }

    pub async fn channel(&self, server: &TestServer) -> Channel {
        server.connect(Some(self.identity())).await
    }

    /// The entries that the agent is authorised for, by ID.
    pub async fn entries(&self, server: &TestServer) -> Result<Vec<String>, Status> {
        let mut client = EntryClient::new(self.channel(server).await);
        let request = entry_pb::GetAuthorizedEntriesRequest::default();
        let answer = client.get_authorized_entries(request).await?.into_inner();
        let mut ids: Vec<_> = answer.entries.into_iter().map(|entry| entry.id).collect();
        ids.sort();
        Ok(ids)
    }

    pub async fn sign(
        &self,
        server: &TestServer,
        params: Vec<svid_pb::NewX509svidParams>,
    ) -> Result<Vec<svid_pb::batch_new_x509svid_response::Result>, Status> {
        let mut client = SvidClient::new(self.channel(server).await);
        let request = svid_pb::BatchNewX509svidRequest { params };
        Ok(client.batch_new_x509svid(request).await?.into_inner().results)
    }

    /// Renews with a new key; the answer is the renewed agent.
    pub async fn renew(&self, server: &TestServer) -> Result<Self, Status> {
        let key = new_key();
        let csr = create_csr(&CsrParams::agent(), &*key.signer().unwrap()).unwrap();
        let params = Some(agent_pb::AgentX509svidParams { csr: csr.into() });
        let mut client = AgentClient::new(self.channel(server).await);
        let answer = client.renew_agent(agent_pb::RenewAgentRequest { params }).await?;
        Ok(Self::new(answer.into_inner().svid.unwrap(), key))
    }

    pub fn bundles(channel: Channel) -> BundleClient<Channel> {
        BundleClient::new(channel)
    }
}

pub fn new_key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

pub fn workload_csr(id: &str) -> Vec<u8> {
    let params = CsrParams::workload(id.parse().unwrap());
    create_csr(&params, &*new_key().signer().unwrap()).unwrap()
}

pub fn pb_id(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid { trust_domain: id.trust_domain().to_string(), path: id.path().into() }
}

pub fn plain<T>(message: T) -> Request<T> {
    Request::new(message)
}
