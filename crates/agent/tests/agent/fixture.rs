//! One agent with its server and a place on disk.

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use signet_agent::{
    app::App,
    config::{Config, RunFlags},
    status::Status as AgentStatus,
};
use signet_api::{
    connect,
    pb::{
        signet::api::push::v1::Notice,
        workload::{
            JwtsvidRequest, X509svidRequest, X509svidResponse,
            spiffe_workload_api_client::SpiffeWorkloadApiClient,
        },
    },
};
use signet_base::{ShutdownError, SystemClock, Tasks};
use signet_daemon::program::Program;
use signet_time::UnixTime;
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::{Request, Status, Streaming, transport::Channel};

use crate::fake_server::{FakeServer, TRUST_DOMAIN};

/// Long enough for a busy machine; nothing waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Fixture {
    pub dir: TempDir,
    pub server: FakeServer,
    pub options: Options,
}

#[derive(Clone)]
pub struct Options {
    pub agent: String,
    pub unix: String,
    pub attestor: String,
    pub insecure: bool,
}

pub struct Running {
    pub tasks: Tasks,
    pub status: watch::Receiver<AgentStatus>,
    pub socket: PathBuf,
    pub admin: PathBuf,
}

/// The selector of whoever runs the tests.
pub fn own_uid() -> String {
    use std::os::unix::fs::MetadataExt as _;
    format!("unix:uid:{}", std::fs::metadata("/proc/self").unwrap().uid())
}

impl Fixture {
    /// A server whose agent holds a join token, with one entry for whoever runs the tests.
    pub async fn new() -> Self {
        let server = FakeServer::start().await;
        server.lock().add_entry("w1", &[&own_uid()]);
        let options = Options {
            agent: "join_token = \"token-1\"".into(),
            unix: String::new(),
            attestor: "NodeAttestor \"join_token\" { plugin_data {} }".into(),
            insecure: false,
        };
        Self { dir: tempfile::tempdir().unwrap(), server, options }
    }

    /// The same with an attestor that can attest again.
    pub async fn reattestable() -> Self {
        let mut fixture = Self::new().await;
        fixture.write_x509pop();
        fixture.server.lock().reattestable = true;
        fixture
    }

    /// The same on a node of Kubernetes, whose UID is to be written first.
    pub async fn in_kubernetes() -> Self {
        let mut fixture = Self::new().await;
        let token = fixture.dir.path().join("token");
        fixture.options.agent = String::new();
        fixture.options.attestor = format!(
            "NodeAttestor \"k8s_psat\" {{ plugin_data {{ cluster = \"c\" token_path = {token:?} }} }}"
        );
        fixture.server.lock().reattestable = true;
        fixture
    }

    /// Makes the node another one, for the agent and for the server.
    pub fn node_is(&self, uid: &str, agent_path: &'static str) {
        let claims = format!(r#"{{"kubernetes.io":{{"node":{{"name":"n","uid":"{uid}"}}}}}}"#);
        let token = format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims));
        std::fs::write(self.dir.path().join("token"), token).unwrap();
        self.server.lock().agent_path = agent_path;
    }

    fn write_x509pop(&mut self) {
        use signet_pki::{KeyType, PrivateKey, pem, x509};

        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let params = x509::CaParams {
            trust_domain: "pop".parse().unwrap(),
            subject: x509::Name::spiffe_ca(),
            extensions: Vec::new(),
            now: UnixTime::from_seconds(1_700_000_000),
            not_after: UnixTime::from_seconds(4_000_000_000),
        };
        let issued = x509::self_sign_ca(&*key.signer().unwrap(), &params).unwrap();
        let (cert, key_file) = (self.dir.path().join("pop.crt"), self.dir.path().join("pop.key"));
        std::fs::write(&cert, pem::encode("CERTIFICATE", &issued.der)).unwrap();
        std::fs::write(&key_file, key.to_pem().as_bytes()).unwrap();
        self.options.agent = String::new();
        self.options.attestor = format!(
            "NodeAttestor \"x509pop\" {{ plugin_data {{ certificate_path = {cert:?} \
             private_key_path = {key_file:?} }} }}"
        );
    }

    pub fn config(&self) -> Config {
        let dir = self.dir.path().display();
        let bundle = self.dir.path().join("bundle.pem");
        std::fs::write(&bundle, &self.server.bundle_pem).unwrap();
        let trust = if self.options.insecure {
            "insecure_bootstrap = true".to_owned()
        } else {
            format!("trust_bundle_path = {bundle:?}")
        };
        let text = format!(
            "agent {{\n data_dir = \"{dir}/data\"\n server_address = \"127.0.0.1\"\n \
             server_port = {}\n trust_domain = \"{TRUST_DOMAIN}\"\n {trust}\n \
             socket_path = \"{dir}/pub/a.sock\"\n admin_socket_path = \"{dir}/adm/a.sock\"\n \
             svid_cache_key_file = \"{dir}/run/key\"\n {}\n \
             experimental {{ sync_interval = \"200ms\" }}\n}}\nplugins {{\n \
             KeyManager \"disk\" {{ plugin_data {{ directory = \"{dir}/data\" }} }}\n {}\n \
             WorkloadAttestor \"unix\" {{ plugin_data {{ {} }} }}\n}}\n",
            self.server.address.port(),
            self.options.agent,
            self.options.attestor,
            self.options.unix,
        );
        let file = self.dir.path().join("agent.conf");
        std::fs::write(&file, text).unwrap();
        let flags = RunFlags { config: file, ..RunFlags::default() };
        Config::load(Program::Signet, &flags, &|_| None).unwrap()
    }

    /// Starts an agent; it may not be serving yet.
    pub async fn start(&self) -> Running {
        let config = self.config();
        let socket = config.socket_path.clone().unwrap();
        let admin = config.admin_socket_path.clone().unwrap();
        let app = App::build(config, SystemClock::shared(), None).await.unwrap();
        let (tasks, status) = (Tasks::new(), app.status());
        app.spawn(&tasks);
        Running { tasks, status, socket, admin }
    }

    /// Starts an agent and waits until it serves.
    pub async fn serving(&self) -> Running {
        let mut agent = self.start().await;
        agent.until(|status| status.serving).await;
        eventually(|| agent.socket.exists()).await;
        agent
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    /// Tells subscribed agents that entries and bundles changed.
    pub fn notify(&self, revision: u64) {
        self.server.notices.send_replace(Some(Notice {
            feed_id: "feed".into(),
            entries_revision: revision,
            bundles_revision: revision,
            ..Notice::default()
        }));
    }
}

impl Running {
    pub async fn until(&mut self, check: impl Fn(&AgentStatus) -> bool) {
        let waiting = self.status.wait_for(|status| check(status));
        tokio::time::timeout(PATIENCE, waiting).await.expect("in time").unwrap();
    }

    pub async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(connect::unix(&self.socket).await.unwrap())
    }

    pub async fn x509_stream(&self) -> Result<Streaming<X509svidResponse>, Status> {
        let mut client = self.client().await;
        let call = client.fetch_x509svid(workload(X509svidRequest {}));
        let stream = tokio::time::timeout(PATIENCE, call).await.expect("in time")?;
        Ok(stream.into_inner())
    }

    /// The SPIFFE IDs of one fetch.
    pub async fn fetch(&self) -> Result<Vec<String>, Status> {
        next(&mut self.x509_stream().await?).await
    }

    /// A JWT-SVID for `audience`.
    pub async fn jwt(&self, audience: &str) -> Result<String, Status> {
        let request = JwtsvidRequest { audience: vec![audience.into()], spiffe_id: String::new() };
        let mut client = self.client().await;
        let call = client.fetch_jwtsvid(workload(request));
        let answer = tokio::time::timeout(PATIENCE, call).await.expect("in time")?;
        Ok(answer.into_inner().svids.remove(0).svid)
    }

    /// Stops the agent as SIGTERM does.
    pub async fn stop(self) {
        self.tasks.shutdown(PATIENCE).await.unwrap();
    }

    /// Waits for the agent to give up and returns what it says.
    pub async fn died(self) -> String {
        let token = self.tasks.token().clone();
        tokio::time::timeout(PATIENCE, token.cancelled()).await.expect("in time");
        match self.tasks.shutdown(PATIENCE).await {
            Err(ShutdownError::TaskFailed(why)) => why,
            other => panic!("{other:?}"),
        }
    }
}

/// The SPIFFE IDs of the next update.
pub async fn next(stream: &mut Streaming<X509svidResponse>) -> Result<Vec<String>, Status> {
    let update = tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time")?;
    let update = update.ok_or_else(|| Status::cancelled("the stream ended"))?;
    Ok(update.svids.into_iter().map(|svid| svid.spiffe_id).collect())
}

/// A request with the header a workload must send.
pub fn workload<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

pub fn id(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{name}")
}

/// Waits for a condition on another task's or process's doing.
pub async fn eventually(check: impl Fn() -> bool) {
    let waiting = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time");
}
