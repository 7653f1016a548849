//! Everything between a workload and its secret: server, agent, OpenBao, PostgreSQL and broker.

use std::{
    fmt, fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use signet_api::{
    connect,
    pb::workload::{
        JwtsvidRequest, X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    workload::SECURITY_HEADER,
};
use signet_base::SystemClock;
use signet_identity::TrustDomain;
use signet_pki::{
    PrivateKey,
    tls::{
        ServerCheck, StaticBundles, SwappableIdentity, TlsIdentity, TlsOptions, client_config,
        no_server_name,
    },
    x509::TrustBundle,
};
use signet_testkit::{Bao, Postgres};
use tonic::{Request, metadata::MetadataValue};

use crate::{
    Agent, AgentOptions, Node, Process, ServerOptions, TestDir, bins, cli, free_port,
    wait::{DEADLINE, eventually_within},
};

/// The `iss` of tokens.
pub const ISSUER: &str = "https://oidc.example.org";

/// The policy of these tests.
pub const POLICY: &str = r#"
tenant "blue" { namespace = "blue" path = "/tenants/blue/" }
tenant "red" { namespace = "red" path = "/tenants/red/" }
credential "orders-db" {
    engine = "database" role = "orders" ttl = "2m" max_uses = 200
    connection = "app" member_of = "app_rw"
}
credential "api-key" { engine = "kv" path = "api" ttl = "1m" }
credential "wrapped" { engine = "kv" path = "api" ttl = "1m" wrap_ttl = "1m" }
credential "once" { engine = "kv" path = "api" ttl = "1m" max_uses = 1 }
credential "seal" { engine = "transit" key = "k" operations = ["encrypt"] ttl = "1m" }
rule "orders" {
    tenant = "blue" ids = ["/tenants/blue/orders", "/tenants/blue/other"]
    credentials = ["orders-db", "api-key", "wrapped", "once", "seal"]
    service_accounts = ["shop/orders"]
}
rule "flood" { tenant = "blue" ids = ["/tenants/blue/flood"] credentials = ["api-key"] }
rule "reports" { tenant = "red" ids = ["/tenants/red/**"] credentials = ["api-key"] }
"#;

/// All of it. Ended in this order.
#[derive(Debug)]
pub struct Secrets {
    broker: Option<Process>,
    /// How often the broker was started.
    started: usize,
    /// Server and agent.
    pub node: Node,
    /// OpenBao, with its audit log in a file.
    pub bao: Bao,
    /// The database server.
    pub postgres: &'static Postgres,
    /// The database of these tests.
    pub database: String,
    dir: Arc<TestDir>,
    port: u16,
    settings: String,
    own: String,
    addresses: Vec<String>,
    program: PathBuf,
}

/// What is not as usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup<'a> {
    /// Further blocks of the broker's file.
    pub settings: &'a str,
    /// Further lines of its block `broker`.
    pub broker: &'a str,
    /// Further lines of the blocks `server` and `agent`.
    pub both: &'a str,
    /// Further blocks of the server's and the agent's file.
    pub top: &'a str,
    /// What the broker is told of OpenBao's address, in place of it.
    pub openbao: Option<Way<'a>>,
    /// Where the programs are, if not where cargo puts them.
    pub programs: Option<&'a Path>,
}

/// From OpenBao's address to those that the broker is told of.
#[derive(Clone, Copy)]
pub struct Way<'a>(pub &'a dyn Fn(&str) -> Vec<String>);

impl fmt::Debug for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way(..)")
    }
}

impl Secrets {
    /// Starts everything; the test's own process has the workloads' identities.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn start(settings: &str) -> Result<Self, String> {
        Self::with(&Setup { settings, ..Setup::default() })
    }

    /// The same with the programs of another directory, all with these blocks in their
    /// configuration.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn start_from(programs: &Path, blocks: &str) -> Result<Self, String> {
        let setup = Setup { settings: blocks, top: blocks, ..Setup::default() };
        Self::with(&Setup { programs: Some(programs), ..setup })
    }

    /// The same, set up otherwise.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn with(setup: &Setup<'_>) -> Result<Self, String> {
        let program = |name: &str| setup.programs.map(|programs| programs.join(name));
        let &Setup { top, both, .. } = setup;
        let audit = "audit \"file\" \"main\" { options { file_path = \"DIR/audit.log\" } }";
        let postgres = Postgres::shared().ok_or("PostgreSQL is not installed")?;
        let bao = Bao::start_with(false, audit).ok_or("bao is not installed")?;
        let addresses = match setup.openbao {
            Some(Way(way)) => way(&bao.address()),
            None => vec![bao.address()],
        };
        let server = format!("jwt_issuer = \"{ISSUER}\"\naudit_log_enabled = true\n{both}");
        let agent = format!(
            "authorized_delegates = [\"spiffe://example.org/signet-broker\"]\n\
             audit_log_enabled = true\n{both}"
        );
        let node = Node::with(
            ServerOptions {
                server,
                top: top.to_owned(),
                program: program("signet-server"),
                ..ServerOptions::default()
            },
            AgentOptions {
                agent,
                top: top.to_owned(),
                program: program("signet-agent"),
                ..AgentOptions::default()
            },
        );
        let dir = Arc::new(TestDir::new());
        let program = program("signet-broker").unwrap_or_else(|| bins::find("signet-broker"));
        node.register("/signet-broker", &[&format!("unix:path:{}", program.display())], "");
        let database = postgres.database();
        // Roles are the whole server's, which other tests share.
        let role = "DO $$ BEGIN PERFORM pg_advisory_xact_lock(1); \
                    CREATE ROLE app_rw NOLOGIN; CREATE ROLE vault_admin LOGIN CREATEROLE \
                    PASSWORD 'v'; GRANT pg_signal_backend TO vault_admin; GRANT app_rw TO \
                    vault_admin WITH ADMIN OPTION; EXCEPTION WHEN duplicate_object THEN NULL; END $$";
        postgres.sql("postgres", role);
        postgres.sql(&database, "GRANT CREATE ON SCHEMA public TO app_rw");
        let secrets = Self {
            broker: None,
            started: 0,
            node,
            bao,
            postgres,
            database,
            dir,
            port: free_port(),
            settings: setup.settings.to_owned(),
            own: setup.broker.to_owned(),
            addresses,
            program,
        };
        secrets.set_policy(POLICY);
        secrets.write_config();
        secrets.bootstrap(&[]).ok();
        secrets.fill();
        Ok(secrets.up())
    }

    /// The secrets that are an operator's to put in.
    fn fill(&self) {
        let connection = serde_json::json!({
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": ["orders"],
            "connection_url": format!(
                "postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/{}?sslmode=disable",
                self.postgres.port(), self.database
            ),
            "username": "vault_admin",
            "password": "v",
            "password_authentication": "scram-sha-256",
            // Logins are the whole server's, which other tests share: they name the database too.
            "username_template": format!(
                "v-{{{{.DisplayName | truncate 28}}}}-{}-{{{{random 12}}}}-{{{{unix_time}}}}",
                self.database
            ),
        });
        self.bao_root("blue", "POST", "database/config/app", &connection);
        for (tenant, key) in [("blue", "blue-key"), ("red", "red-key")] {
            let value = serde_json::json!({ "data": { "key": key } });
            // A new mount is not ready at once.
            eventually_within("the secret is written", DEADLINE, || {
                let written = self.bao_call(tenant, Bao::ROOT, "POST", "secret/data/api", &value);
                (written.0 < 300).then_some(())
            });
        }
    }

    fn up(mut self) -> Self {
        self.launch();
        self.ready();
        self
    }

    /// Starts the broker without waiting.
    pub fn launch(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(["run", "-config"]).arg(self.config_file());
        self.broker = Some(Process::start("signet-broker", &mut command, &self.log_file()));
        self.started += 1;
    }

    /// Waits until the broker is ready.
    pub fn ready(&mut self) {
        let (log, started) = (self.log_file(), self.started);
        let broker = self.broker.as_mut().expect("a started broker");
        eventually_within("the broker is ready", DEADLINE, || {
            broker.assert_running();
            let text = fs::read_to_string(&log).unwrap_or_default();
            (text.matches("The broker is ready").count() >= started).then_some(())
        });
    }

    /// The broker's process.
    pub fn broker(&mut self) -> &mut Process {
        self.broker.as_mut().expect("a started broker")
    }

    /// What the broker logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The file that the broker logs to.
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("broker.log")
    }

    /// The broker's configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("broker.conf")
    }

    /// Where its journal is.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("broker-data")
    }

    /// Writes the policy; the broker has to be told.
    pub fn set_policy(&self, text: &str) {
        self.dir.write("policy.hcl", text);
    }

    fn write_config(&self) {
        let dir = self.dir.path().display();
        let text = format!(
            r#"broker {{
    trust_domain = "example.org"
    log_level = "DEBUG"
    data_dir = "{dir}/broker-data"
    policy_file = "{dir}/policy.hcl"
    workload_api_socket_path = "unix://{workload}"
    agent_admin_socket_path = "{admin}"
    socket_path = "{dir}/run/broker.sock"
    bind_address = "127.0.0.1"
    bind_port = {port}
    jwt_issuer = "{ISSUER}"
    require_jti = false
    {own}
}}
server {{ socket_path = "{server}" }}
openbao {{ addresses = {bao:?} timeout = "2s" }}
{settings}
"#,
            workload = self.node.agent.socket().display(),
            admin = self.node.agent.admin_socket().display(),
            server = self.node.server.socket().display(),
            bao = self.addresses,
            port = self.port,
            own = self.own,
            settings = self.settings,
        );
        self.dir.write("broker.conf", text);
    }

    /// Runs `bootstrap` with more flags, as root of OpenBao.
    pub fn bootstrap(&self, more: &[&str]) -> cli::Output {
        let keys = self.node.server.cli().line("bundle show -format spiffe").ok().stdout;
        let keys = self.dir.write("bundle.json", keys);
        let mut command = Command::new(&self.program);
        command
            .args(["bootstrap", "-config"])
            .arg(self.config_file())
            .args(["-brokerID", "spiffe://example.org/signet-broker", "-issuer", ISSUER])
            .arg("-keysFile")
            .arg(keys)
            .args(more)
            .env("BAO_TOKEN", Bao::ROOT);
        cli::run(&mut command, "")
    }

    /// Makes this test's process a workload; returns the entry's ID.
    pub fn workload(&self, path: &str, more: &str) -> String {
        let own = fs::read_link("/proc/self/exe").expect("/proc").display().to_string();
        self.node.register(path, &[&format!("unix:path:{own}")], more)
    }

    /// Asks the broker on its Unix socket as the identity `path`, again until the agent knows it.
    pub fn ask(&self, path: &str, method: &str, place: &str, body: &Value) -> (u16, Value) {
        let id = self.node.id(path);
        eventually_within("the agent knows the workload", DEADLINE, || {
            let answer = self.ask_once(&[("x-spiffe-id", &id)], method, place, body);
            let code = answer.1["error"]["code"].as_str().unwrap_or_default();
            (!matches!(code, "workload_unattested" | "identity_ended")).then_some(answer)
        })
    }

    /// Asks the broker once on its Unix socket.
    pub fn ask_once(
        &self,
        headers: &[(&str, &str)],
        method: &str,
        place: &str,
        body: &Value,
    ) -> (u16, Value) {
        let socket = self.dir.join("run/broker.sock");
        http(
            UnixStream::connect(socket).expect("the broker's socket"),
            method,
            place,
            headers,
            body,
        )
    }

    /// Asks the broker over TLS, with a certificate if there is one.
    pub fn ask_tls(
        &self,
        svid: Option<&X509>,
        headers: &[(&str, &str)],
        method: &str,
        place: &str,
        body: &Value,
    ) -> (u16, Value) {
        let bundle = &svid.expect("an SVID for its bundle").bundle;
        self.ask_tls_as(svid, bundle, headers, method, place, body)
    }

    /// As [`Secrets::ask_tls`]; `bundle` is what the broker's certificate is checked by.
    pub fn ask_tls_as(
        &self,
        svid: Option<&X509>,
        bundle: &Arc<TrustBundle>,
        headers: &[(&str, &str)],
        method: &str,
        place: &str,
        body: &Value,
    ) -> (u16, Value) {
        http(self.connect_tls(svid, bundle), method, place, headers, body)
    }

    /// A connection to the broker.
    pub fn connect_tls(
        &self,
        svid: Option<&X509>,
        bundle: &Arc<TrustBundle>,
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let check = ServerCheck::Id {
            id: "spiffe://example.org/signet-broker".parse().expect("an ID"),
            bundles: Arc::new(StaticBundles(vec![Arc::clone(bundle)])),
        };
        let identity = svid.map(|svid| Arc::new(SwappableIdentity::new(svid.identity.clone())));
        let config = client_config(check, identity, SystemClock::shared(), TlsOptions::default());
        let mut config = rustls::ClientConfig::clone(&config.expect("a TLS configuration"));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connection = ClientConnection::new(Arc::new(config), no_server_name());
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the broker's port");
        StreamOwned::new(connection.expect("a connection"), stream)
    }

    /// The X.509-SVID of this process for `path`.
    pub fn x509(&self, path: &str) -> X509 {
        let id = self.node.id(path);
        eventually_within("the workload's X.509-SVID", DEADLINE, || x509(&self.node.agent, &id))
    }

    /// A JWT-SVID of this process for `path`.
    pub fn jwt(&self, path: &str, audience: &[&str]) -> String {
        let id = self.node.id(path);
        eventually_within("the workload's JWT-SVID", DEADLINE, || {
            jwt(&self.node.agent, &id, audience)
        })
    }

    /// A call of OpenBao.
    pub fn bao_call(
        &self,
        namespace: &str,
        token: &str,
        method: &str,
        path: &str,
        body: &Value,
    ) -> (u16, Value) {
        let address = self.bao.address();
        let address = address.strip_prefix("http://").expect("plain HTTP");
        let headers = [("x-vault-token", token), ("x-vault-namespace", namespace)];
        let headers: Vec<_> = headers.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let stream = TcpStream::connect(address).expect("OpenBao");
        http(stream, method, &format!("/v1/{path}"), &headers, body)
    }

    /// A call of OpenBao as root that must succeed.
    #[track_caller]
    pub fn bao_root(&self, namespace: &str, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.bao_call(namespace, Bao::ROOT, method, path, body);
        assert!(status < 300, "{path}: {status} {answer}");
        answer
    }

    /// The records of OpenBao's audit log.
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.bao.dir().join("audit.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How many tokens were really taken back: answered without content.
    pub fn revocations(&self) -> usize {
        self.audit()
            .iter()
            .filter(|record| record["type"] == "response")
            .filter(|record| record["request"]["path"] == "auth/token/revoke-accessor")
            .filter(|record| record["error"].is_null() && record["response"]["warnings"].is_null())
            .count()
    }

    /// A session of a login that works until it is ended.
    pub fn session(&self, login: &Value, name: &str) -> Process {
        let dsn = format!(
            "host=127.0.0.1 port={} dbname={} user={} password={} sslmode=disable",
            self.postgres.port(),
            self.database,
            login["username"].as_str().expect("a user"),
            login["password"].as_str().expect("a password"),
        );
        let mut command = Command::new("psql");
        command
            .args(["--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--dbname", &dsn])
            .args(["--command", &format!("CREATE TABLE {name} (a int)")])
            .args(["--command", "SELECT pg_sleep(600)"]);
        let process = Process::start("psql", &mut command, &self.dir.join(format!("{name}.log")));
        let user = login["username"].as_str().expect("a user").to_owned();
        eventually_within("the session is open", DEADLINE, || {
            let sleeping = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}' AND query LIKE \
                 '%pg_sleep%'"
            );
            (self.postgres.sql("postgres", &sleeping) == "1").then_some(())
        });
        process
    }

    /// Whether a login is still there.
    pub fn has_login(&self, login: &Value) -> bool {
        let user = login["username"].as_str().expect("a user");
        let sql = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{user}'");
        self.postgres.sql("postgres", &sql) == "1"
    }
}

/// An X.509-SVID with its bundle.
#[derive(Clone, Debug)]
pub struct X509 {
    /// It with its key, for TLS.
    pub identity: TlsIdentity,
    /// The bundle of its trust domain.
    pub bundle: Arc<TrustBundle>,
}

fn blocking<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}

/// This process's X.509-SVID of an ID, if the agent has it.
pub fn x509(agent: &Agent, id: &str) -> Option<X509> {
    let answer = blocking(async {
        let channel = connect::unix(agent.socket()).await.ok()?;
        let mut client = SpiffeWorkloadApiClient::new(channel);
        let answers = client.fetch_x509svid(asked(X509svidRequest {})).await.ok()?;
        answers.into_inner().message().await.ok()?
    })?;
    let svid = answer.svids.into_iter().find(|svid| svid.spiffe_id == id)?;
    let split = signet_api::convert::split_der(&svid.x509_svid).expect("DER");
    let chain: Vec<Arc<[u8]>> = split.into_iter().map(Arc::from).collect();
    let key = PrivateKey::from_der(&svid.x509_svid_key).expect("a key");
    let roots = signet_api::convert::split_der(&svid.bundle).expect("DER");
    let trust_domain: TrustDomain = "example.org".parse().expect("a trust domain");
    let identity = TlsIdentity::new(&chain, key.signer().expect("a signer")).expect("a pair");
    let bundle = Arc::new(TrustBundle::new(trust_domain, &roots).expect("a bundle"));
    Some(X509 { identity, bundle })
}

/// A JWT-SVID of this process, if the agent has the ID.
pub fn jwt(agent: &Agent, id: &str, audience: &[&str]) -> Option<String> {
    let request = JwtsvidRequest {
        audience: audience.iter().map(|one| (*one).to_owned()).collect(),
        spiffe_id: id.to_owned(),
    };
    blocking(async {
        let channel = connect::unix(agent.socket()).await.ok()?;
        let mut client = SpiffeWorkloadApiClient::new(channel);
        let answer = client.fetch_jwtsvid(asked(request)).await.ok()?.into_inner();
        answer.svids.into_iter().next().map(|svid| svid.svid)
    })
}

/// One request and its answer.
pub fn http(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.push_str(&body);
    // A peer that refuses may close before it has read everything.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunked(body) } else { body.to_owned() };
    (status, serde_json::from_str(&body).unwrap_or_default())
}

fn unchunked(mut text: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_default();
        if size == 0 || rest.len() < size {
            break;
        }
        whole.push_str(&rest[..size]);
        text = rest[size..].trim_start_matches("\r\n");
    }
    whole
}
