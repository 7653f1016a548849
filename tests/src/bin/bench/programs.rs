//! A server and an agent with the configuration of the measurements.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;
use e2e::{Process, TestDir, eventually, node::caller};

/// The trust domain.
pub const TRUST_DOMAIN: &str = "example.org";
/// The alias of the agent.
pub const NODE: &str = "/node1";

/// Both programs; SPIRE's own can be put in their place.
#[derive(Debug)]
pub struct Programs {
    dir: TestDir,
    port: u16,
    server_program: PathBuf,
    agent_program: PathBuf,
    // Ended first.
    agent: Option<Process>,
    server: Option<Process>,
}

impl Programs {
    /// Starts both and registers two workloads, one of which is the caller.
    pub fn start(server: &Path, agent: &Path) -> anyhow::Result<Self> {
        let dir = TestDir::new();
        for name in ["server", "agent", "pub", "adm"] {
            dir.subdir(name);
        }
        let port = TcpListener::bind("127.0.0.1:0").context("a free port")?.local_addr()?.port();
        let mut programs = Self {
            dir,
            port,
            server_program: server.to_owned(),
            agent_program: agent.to_owned(),
            agent: None,
            server: None,
        };
        programs.start_server();
        programs.start_agent()?;
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

    fn start_server(&mut self) {
        let config = self.write(
            "server.conf",
            r#"server {
    bind_address = "127.0.0.1"
    bind_port = "PORT"
    socket_path = "DIR/server.sock"
    trust_domain = "TRUST_DOMAIN"
    data_dir = "DIR/server"
    log_level = "INFO"
    ratelimit { attestation = false, signing = false }
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
        let mut server = Process::start("server", &mut command, &self.dir.join("server.log"));
        eventually("the server is healthy", || {
            server.assert_running();
            self.server_says(&["healthcheck"]).ok()
        });
        self.server = Some(server);
    }

    fn start_agent(&mut self) -> anyhow::Result<()> {
        let id = |path: &str| format!("spiffe://{TRUST_DOMAIN}{path}");
        let made = self.server_says(&["token", "generate", "-spiffeID", &id(NODE)])?;
        let token = made.trim().strip_prefix("Token: ").context("no token")?.to_owned();
        for (path, selector) in [("/w1", caller().as_str()), ("/w2", "unix:uid:4294967")] {
            let (id, parent) = (id(path), id(NODE));
            self.server_says(&[
                "entry",
                "create",
                "-spiffeID",
                &id,
                "-parentID",
                &parent,
                "-selector",
                selector,
            ])?;
        }
        let config = self.write(
            "agent.conf",
            r#"agent {
    data_dir = "DIR/agent"
    log_level = "INFO"
    server_address = "127.0.0.1"
    server_port = "PORT"
    socket_path = "DIR/pub/agent.sock"
    admin_socket_path = "DIR/adm/admin.sock"
    trust_domain = "TRUST_DOMAIN"
    insecure_bootstrap = true
}
plugins {
    KeyManager "disk" { plugin_data { directory = "DIR/agent" } }
    NodeAttestor "join_token" { plugin_data {} }
    WorkloadAttestor "unix" { plugin_data {} }
}
"#,
        );
        let mut command = Command::new(&self.agent_program);
        command.args(["run", "-config"]).arg(config).args(["-joinToken", &token]);
        let mut agent = Process::start("agent", &mut command, &self.dir.join("agent.log"));
        eventually("the agent serves an SVID", || {
            agent.assert_running();
            let mut fetch = Command::new(&self.agent_program);
            fetch.args(["api", "fetch", "x509", "-socketPath"]).arg(self.agent_socket());
            finished(&mut fetch).ok()
        });
        self.agent = Some(agent);
        // What the start used is not what resting needs.
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let text = text
            .replace("DIR", &self.dir.path().display().to_string())
            .replace("PORT", &self.port.to_string())
            .replace("TRUST_DOMAIN", TRUST_DOMAIN);
        self.dir.write(name, text)
    }

    fn server_says(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.server_program);
        finished(command.args(args).arg("-socketPath").arg(self.server_socket()))
    }
}

fn finished(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().context("starting a command")?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), output.stderr);
    if !output.status.success() {
        anyhow::bail!("{command:?}: {out}{}", String::from_utf8_lossy(&err));
    }
    Ok(out.into_owned())
}
