//! The demo's server and agent.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::{ISSUER, TRUST_DOMAIN, eventually};
use crate::run::finished;

/// The alias of the agent.
pub const NODE: &str = "/node";

/// Both programs and the directory they live in; dropped, they are gone.
pub struct Programs {
    bin: PathBuf,
    dir: PathBuf,
    port: u16,
    // The agent ends before its server.
    agent: Option<Child>,
    server: Option<Child>,
}

impl Programs {
    /// Makes the directory. Its path is short: sockets lie in it.
    pub fn new(bin: PathBuf) -> anyhow::Result<Self> {
        let dir = PathBuf::from(format!("/tmp/signet-demo-{}", std::process::id()));
        // It must be new: others may write to /tmp, too.
        let own = DirBuilder::new().mode(0o755).create(&dir);
        own.with_context(|| format!("making {}", dir.display()))?;
        for sub in ["server", "agent", "pub", "adm"] {
            fs::create_dir(dir.join(sub)).with_context(|| format!("making {}", dir.display()))?;
        }
        let port = signet_testkit::free_port();
        Ok(Self { bin, dir, port, agent: None, server: None })
    }

    /// Where everything is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn configure(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.join(name);
        let text = text
            .replace("DIR", &self.dir.display().to_string())
            .replace("PORT", &self.port.to_string())
            .replace("TRUST_DOMAIN", TRUST_DOMAIN)
            .replace("ISSUER", ISSUER);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    fn spawn(&self, program: &str, config: &Path, more: &[&str]) -> anyhow::Result<Child> {
        let log = File::create(self.dir.join(format!("{program}.log")))?;
        Command::new(self.bin.join(program))
            .args(["run", "-config"])
            .arg(config)
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {program}"))
    }

    /// Starts the server and waits until it is healthy.
    pub fn start_server(&mut self) -> anyhow::Result<()> {
        let config = self.configure(
            "server.conf",
            r#"server {
    trust_domain = "TRUST_DOMAIN"
    bind_address = "127.0.0.1"
    bind_port = "PORT"
    data_dir = "DIR/server"
    socket_path = "DIR/server/api.sock"
    jwt_issuer = "ISSUER"
}
plugins {
    DataStore "sql" {
        plugin_data { database_type = "sqlite3", connection_string = "DIR/server/store.sqlite3" }
    }
    KeyManager "disk" { plugin_data { keys_path = "DIR/server/keys.json" } }
    NodeAttestor "join_token" { plugin_data {} }
    CredentialComposer "uniqueid" { plugin_data {} }
}
"#,
        )?;
        self.server = Some(self.spawn("signet-server", &config, &[])?);
        eventually("healthy server", || {
            alive(&mut self.server, &self.dir.join("signet-server.log"))?;
            Ok(self.server_command(&["healthcheck"]).output()?.status.success().then_some(()))
        })
    }

    /// Starts the agent with a new join token and waits until it is healthy.
    pub fn start_agent(&mut self) -> anyhow::Result<()> {
        self.start_agent_with("")
    }

    /// The same with more lines in `agent {}`.
    pub fn start_agent_with(&mut self, more: &str) -> anyhow::Result<()> {
        let alias = format!("spiffe://{TRUST_DOMAIN}{NODE}");
        let made =
            self.server_says(&["token", "generate", "-spiffeID", &alias, "-output", "json"])?;
        let made: Value = serde_json::from_str(&made)?;
        let token = made.get("value").and_then(Value::as_str).context("no token")?.to_owned();
        fs::write(self.dir.join("bundle.pem"), self.server_says(&["bundle", "show"])?)?;
        let config = self.configure(
            "agent.conf",
            &r#"agent {
    MORE
    trust_domain = "TRUST_DOMAIN"
    server_address = "127.0.0.1"
    server_port = "PORT"
    trust_bundle_path = "DIR/bundle.pem"
    data_dir = "DIR/agent"
    socket_path = "DIR/pub/api.sock"
    admin_socket_path = "DIR/adm/admin.sock"
    svid_cache = "off"
}
plugins {
    NodeAttestor "join_token" { plugin_data {} }
    KeyManager "disk" { plugin_data { directory = "DIR/agent" } }
    WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }
}
"#
            .replace("MORE", more),
        )?;
        self.agent = Some(self.spawn("signet-agent", &config, &["-joinToken", &token])?);
        eventually("healthy agent", || {
            alive(&mut self.agent, &self.dir.join("signet-agent.log"))?;
            Ok(self.agent_command(&["healthcheck"]).output()?.status.success().then_some(()))
        })
    }

    fn command(&self, program: &str, args: &[&str], socket: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.args(args).arg("-socketPath").arg(self.dir.join(socket));
        command
    }

    fn server_command(&self, args: &[&str]) -> Command {
        self.command("signet-server", args, "server/api.sock")
    }

    fn agent_command(&self, args: &[&str]) -> Command {
        self.command("signet-agent", args, "pub/api.sock")
    }

    /// What a command of the server's CLI prints.
    pub fn server_says(&self, args: &[&str]) -> anyhow::Result<String> {
        finished(&mut self.server_command(args))
    }

    /// What a command of the agent's CLI prints.
    pub fn agent_says(&self, args: &[&str]) -> anyhow::Result<String> {
        finished(&mut self.agent_command(args))
    }

    /// The same on the admin socket.
    pub fn agent_admin_says(&self, args: &[&str]) -> anyhow::Result<String> {
        finished(&mut self.command("signet-agent", args, "adm/admin.sock"))
    }

    /// What a command of the agent's CLI says when it fails; none when it works.
    pub fn refusal(&self, args: &[&str]) -> anyhow::Result<Option<String>> {
        let output = self.agent_command(args).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((!output.status.success()).then_some(said))
    }

    /// Ends both programs in good order and removes the directory.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        for child in [&mut self.agent, &mut self.server] {
            if let Some(mut child) = child.take() {
                terminate(&mut child)?;
            }
        }
        fs::remove_dir_all(&self.dir).with_context(|| format!("removing {}", self.dir.display()))
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        for child in [&mut self.agent, &mut self.server].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Fails with the end of the log when the program has ended.
fn alive(child: &mut Option<Child>, log: &Path) -> anyhow::Result<()> {
    if let Some(child) = child
        && let Some(status) = child.try_wait()?
    {
        let text = fs::read_to_string(log).unwrap_or_default();
        bail!("it ended ({status}):\n{text}");
    }
    Ok(())
}

/// SIGTERM, and SIGKILL after ten seconds.
fn terminate(child: &mut Child) -> anyhow::Result<()> {
    finished(Command::new("kill").args(["-TERM", &child.id().to_string()]))?;
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}
