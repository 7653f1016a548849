//! A server and an agent with the configuration of the measurements.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use e2e::{Process, TestDir, node::caller};
use signet_api::pb::spire::api::server::{
    agent::v1::{CreateJoinTokenRequest, agent_client::AgentClient},
    entry::v1::entry_client::EntryClient,
};
use tokio::net::UnixStream;

use crate::client::{admin, create, entry, id, open_stream};

/// The trust domain.
pub const TRUST_DOMAIN: &str = "example.org";
/// The alias of the agent.
pub const NODE: &str = "/node1";

/// How long a program may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two questions whether it is.
const PAUSE: Duration = Duration::from_millis(100);

/// Both programs; SPIRE's own can be put in their place.
#[derive(Debug)]
pub struct Programs {
    dir: TestDir,
    port: u16,
    server_program: PathBuf,
    agent_program: PathBuf,
    /// How many agents there were.
    agents: u32,
    limits: bool,
    // Ended first.
    agent: Option<Process>,
    server: Option<Process>,
}

impl Programs {
    /// Starts both and registers two workloads, one of which is the caller.
    ///
    /// Without `limits` the server lets everybody ask as often as it can answer.
    ///
    /// # Errors
    /// When one is not ready in time.
    pub async fn start(server: &Path, agent: &Path, limits: bool) -> anyhow::Result<Self> {
        let dir = TestDir::new();
        for name in ["server", "pub", "adm"] {
            dir.subdir(name);
        }
        let port = e2e::free_port();
        let mut programs = Self {
            dir,
            port,
            server_program: server.to_owned(),
            agent_program: agent.to_owned(),
            agents: 0,
            limits,
            agent: None,
            server: None,
        };
        programs.start_server().await?;
        programs.start_agent().await?;
        Ok(programs)
    }

    /// The server's API socket.
    pub fn server_socket(&self) -> PathBuf {
        self.dir.join("server.sock")
    }

    /// The server's TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The Workload API socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.dir.join("pub/agent.sock")
    }

    /// The server's process.
    pub fn server_pid(&mut self) -> anyhow::Result<u32> {
        let server = self.server.as_mut().context("the server is not running")?;
        server.assert_running();
        Ok(server.pid())
    }

    /// The agent's process.
    pub fn agent_pid(&mut self) -> anyhow::Result<u32> {
        let agent = self.agent.as_mut().context("the agent is not running")?;
        agent.assert_running();
        Ok(agent.pid())
    }

    /// Ends both in good order.
    pub fn stop(&mut self) {
        for mut process in [self.agent.take(), self.server.take()].into_iter().flatten() {
            process.terminate();
        }
    }

    async fn start_server(&mut self) -> anyhow::Result<()> {
        let config = self.write(
            "server.conf",
            r#"server {
    bind_address = "127.0.0.1"
    bind_port = "PORT"
    socket_path = "DIR/server.sock"
    trust_domain = "TRUST_DOMAIN"
    data_dir = "DIR/server"
    log_level = "INFO"
    ratelimit { attestation = LIMITS, signing = LIMITS }
}
plugins {
    DataStore "sql" {
        plugin_data {
            database_type = "sqlite3"
            connection_string = "DIR/server/datastore.sqlite3"
        }
    }
    KeyManager "disk" { plugin_data { keys_path = "DIR/server/keys.json" } }
    NodeAttestor "join_token" { plugin_data {} }
}
"#,
        );
        let mut command = Command::new(&self.server_program);
        command.args(["run", "-config"]).arg(config);
        self.server = Some(Process::start("server", &mut command, &self.dir.join("server.log")));
        let end = Instant::now() + PATIENCE;
        while let Err(error) = admin(self).await {
            self.server_pid()?;
            anyhow::ensure!(Instant::now() < end, "the server is not ready: {error:#}");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn start_agent(&mut self) -> anyhow::Result<()> {
        let both = vec![entry(NODE, "/w1", &caller()), entry(NODE, "/w2", "unix:uid:4294967")];
        create(&mut EntryClient::new(admin(self).await?), both).await?;
        self.launch_agent("WorkloadAttestor \"unix\" { plugin_data {} }", Vec::new()).await?;
        let end = Instant::now() + PATIENCE;
        while let Err(error) = open_stream(&self.agent_socket()).await {
            self.agent_pid()?;
            anyhow::ensure!(Instant::now() < end, "the agent is not ready: {error:#}");
            tokio::time::sleep(PAUSE).await;
        }
        // What the start used is not what resting needs.
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(())
    }

    /// Ends the agent and starts a new one, with another workload attestor and more environment.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn restart_agent(
        &mut self,
        attestor: &str,
        environment: Vec<(String, String)>,
    ) -> anyhow::Result<()> {
        if let Some(mut agent) = self.agent.take() {
            agent.terminate();
        }
        self.launch_agent(attestor, environment).await?;
        let end = Instant::now() + PATIENCE;
        // Its public socket is there once it has attested.
        while UnixStream::connect(self.agent_socket()).await.is_err() {
            self.agent_pid()?;
            anyhow::ensure!(Instant::now() < end, "the agent is not ready");
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(())
    }

    async fn launch_agent(
        &mut self,
        attestor: &str,
        environment: Vec<(String, String)>,
    ) -> anyhow::Result<()> {
        let channel = admin(self).await?;
        let request = CreateJoinTokenRequest { ttl: 600, token: String::new(), agent_id: id(NODE) };
        let token = AgentClient::new(channel).create_join_token(request).await?;
        let token = token.into_inner().value;
        self.agents += 1;
        let data = self.dir.subdir(format!("agent{}", self.agents));
        let config = self.write(
            "agent.conf",
            &r#"agent {
    data_dir = "DATA"
    log_level = "INFO"
    server_address = "127.0.0.1"
    server_port = "PORT"
    socket_path = "DIR/pub/agent.sock"
    admin_socket_path = "DIR/adm/admin.sock"
    trust_domain = "TRUST_DOMAIN"
    insecure_bootstrap = true
}
plugins {
    KeyManager "disk" { plugin_data { directory = "DATA" } }
    NodeAttestor "join_token" { plugin_data {} }
    ATTESTOR
}
"#
            .replace("DATA", &data.display().to_string())
            .replace("ATTESTOR", attestor),
        );
        let mut command = Command::new(&self.agent_program);
        command.args(["run", "-config"]).arg(config).args(["-joinToken", &token]);
        command.envs(environment);
        self.agent = Some(Process::start("agent", &mut command, &self.dir.join("agent.log")));
        Ok(())
    }

    /// A file below the directory of both.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        if let Some((dir, _)) = name.rsplit_once('/') {
            self.dir.subdir(dir);
        }
        self.dir.write(name, text);
        path
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let text = text
            .replace("DIR", &self.dir.path().display().to_string())
            .replace("PORT", &self.port.to_string())
            .replace("LIMITS", &self.limits.to_string())
            .replace("TRUST_DOMAIN", TRUST_DOMAIN);
        self.dir.write(name, text)
    }
}
