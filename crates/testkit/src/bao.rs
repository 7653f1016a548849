//! A real OpenBao server for tests.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{ports::free_ports, programs::on_path};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(60);

/// A development server of OpenBao in memory, on a port of its own. It ends when this is dropped.
#[derive(Debug)]
pub struct Bao {
    child: Child,
    dir: PathBuf,
    port: u16,
    tls: bool,
}

impl Bao {
    /// The token that may do everything.
    pub const ROOT: &'static str = "root";

    /// Starts one; `None` where the program `bao` is missing.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(tls: bool) -> Option<Self> {
        Self::start_with(tls, "")
    }

    /// [`Bao::start`] with more in its configuration, where `DIR` stands for [`Bao::dir`].
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with(tls: bool, config: &str) -> Option<Self> {
        let (mut command, port, dir) = Self::prepare()?;
        command
            .args(["-dev", "-dev-no-store-token"])
            .arg(format!("-dev-root-token-id={}", Self::ROOT))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"));
        if !config.is_empty() {
            let config = config.replace("DIR", &dir.display().to_string());
            command.arg(configured(&dir, &config));
        }
        if tls {
            command.arg("-dev-tls").arg(format!("-dev-tls-cert-dir={}", dir.display()));
        }
        Some(Self::run(command, dir, (port, tls), "Development mode should NOT be used"))
    }

    /// Starts a server in memory that is no development server: it unseals itself, and does what
    /// `config` says at its first start. `None` where the program `bao` is missing.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_itself(config: &str) -> Option<Self> {
        let (mut command, port, dir) = Self::prepare()?;
        let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        let own = format!(
            "storage \"inmem\" {{}}\nlistener \"tcp\" {{ address = \"127.0.0.1:{port}\" \
             tls_disable = true }}\napi_addr = \"http://127.0.0.1:{port}\"\n\
             seal \"static\" {{ current_key_id = \"k\" current_key = \"{key}\" }}\n"
        );
        command.arg(configured(&dir, &(own + config)));
        // Its root token is taken back when everything was done.
        Some(Self::run(command, dir, (port, false), "revoked lease: lease_id=auth/token/root"))
    }

    /// The program, a port for it, and a directory.
    fn prepare() -> Option<(Command, u16, PathBuf)> {
        let mut command = Command::new(on_path("bao")?);
        command.arg("server");
        let port = free_ports(2);
        let dir = std::env::temp_dir().join(format!("signet-bao-{}-{port}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        Some((command, port, dir))
    }

    /// Starts it and waits until it writes `ready`.
    fn run(mut command: Command, dir: PathBuf, (port, tls): (u16, bool), ready: &str) -> Self {
        // What the machine says of another server is not for this one.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("VAULT_") || text.starts_with("BAO_") {
                command.env_remove(&name);
            }
        }
        let log = File::create(dir.join("bao.log")).expect("a log file");
        let child = command
            .env("HOME", &dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("bao starts");
        let mut bao = Self { child, dir, port, tls };
        let end = Instant::now() + START;
        while !bao.log().contains(ready) {
            let ended = bao.child.try_wait().expect("the state of a child");
            assert!(ended.is_none() && Instant::now() < end, "bao: {}", bao.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        bao
    }

    /// Its URL. A certificate of [`Bao::ca`] names the address.
    pub fn address(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.tls { "https" } else { "http" }, self.port)
    }

    /// With TLS: the PEM file of the CA that its certificate is from.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("vault-ca.pem")
    }

    /// A directory that is removed with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The key that unseals it.
    ///
    /// # Panics
    /// When it did not say.
    pub fn unseal_key(&self) -> String {
        let log = self.log();
        let line = log.lines().find_map(|line| line.trim().strip_prefix("Unseal Key: "));
        line.expect("a line with the key").trim().to_owned()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("bao.log")).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- bao wrote:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Writes a configuration and answers the argument that names it.
fn configured(dir: &Path, config: &str) -> String {
    let file = dir.join("bao.hcl");
    fs::write(&file, config).expect("a configuration file");
    format!("-config={}", file.display())
}
