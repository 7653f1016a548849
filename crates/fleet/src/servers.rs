//! The servers under test.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signet_api::connect;
use tonic::transport::Channel;

use crate::{Options, measure};

/// The trust domain of every simulation.
pub const TRUST_DOMAIN: &str = "fleet.test";
/// How long a server may take to be ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// One server.
#[derive(Debug)]
pub struct Server {
    program: PathBuf,
    dir: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
    child: Option<Child>,
}

/// All servers, in a directory that is removed with them.
#[derive(Debug)]
pub struct Servers {
    /// At least one.
    pub all: Vec<Server>,
    // Removed after the servers have ended.
    _dir: tempfile::TempDir,
}

impl Servers {
    /// Starts as many as asked for, and waits until they are ready.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        if options.servers > 1 && options.postgres.is_none() {
            bail!("--servers {}: several servers need --postgres", options.servers);
        }
        let dir = tempfile::Builder::new().prefix("fleet").tempdir().context("a directory")?;
        let mut all = Vec::new();
        for number in 0..options.servers.max(1) {
            let place = dir.path().join(format!("s{number}"));
            fs::create_dir(&place).context("a directory")?;
            fs::set_permissions(&place, fs::Permissions::from_mode(0o700))
                .context("a directory")?;
            let port = signet_testkit::free_port();
            fs::write(place.join("server.conf"), config(&place, port, options.postgres.as_deref()))
                .context("server.conf")?;
            let mut server =
                Server { program: options.server.clone(), dir: place, port, child: None };
            server.launch()?;
            server.ready().await?;
            all.push(server);
        }
        Ok(Self { all, _dir: dir })
    }

    /// Resident memory of all of them together, MB.
    pub fn rss(&self) -> anyhow::Result<f64> {
        self.pids().map(measure::rss).sum()
    }

    /// What all of them have used of CPU so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        self.pids().map(measure::cpu).sum()
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.all.iter().filter_map(|server| server.child.as_ref()).map(Child::id)
    }
}

impl Server {
    /// A connection to its local socket.
    pub async fn admin(&self) -> anyhow::Result<Channel> {
        Ok(connect::unix(self.dir.join("api.sock")).await?)
    }

    /// Ends it as a power cut would, and starts it again; waits until it is ready.
    pub async fn crash_and_restart(&mut self) -> anyhow::Result<Duration> {
        self.end(Signal::SIGKILL);
        let start = Instant::now();
        self.launch()?;
        self.ready().await?;
        Ok(start.elapsed())
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("server.log"))
            .context("server.log")?;
        let child = Command::new(&self.program)
            .args(["run", "-config"])
            .arg(self.dir.join("server.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("server.log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait().context("a server")?
            {
                bail!("the server ended ({status}):\n{}", self.log());
            }
            // The local socket is served when everything is.
            if self.admin().await.is_ok()
                && tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the server is not ready after {} s:\n{}", PATIENCE.as_secs(), self.log())
    }

    /// The end of its log.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(20)).copied().collect::<Vec<_>>().join("\n")
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        if let Ok(pid) = child.id().try_into() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        let _ = child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Signal::SIGKILL);
    }
}

/// What SPIRE's server reads as well.
fn config(dir: &Path, port: u16, postgres: Option<&str>) -> String {
    let dir = dir.display();
    let (kind, connection) = match postgres {
        Some(connection) => ("postgres", connection.replace('\\', "\\\\").replace('"', "\\\"")),
        None => ("sqlite3", format!("{dir}/data/datastore.sqlite3")),
    };
    format!(
        r#"server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    socket_path = "{dir}/api.sock"
    trust_domain = "{TRUST_DOMAIN}"
    data_dir = "{dir}/data"
    log_level = "INFO"
    ratelimit {{ attestation = false, signing = false }}
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{ database_type = "{kind}", connection_string = "{connection}" }}
    }}
    KeyManager "disk" {{ plugin_data {{ keys_path = "{dir}/data/keys.json" }} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#
    )
}
