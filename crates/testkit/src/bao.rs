//! A real OpenBao server for tests.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

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
        let here = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&here).any(|dir| dir.join("bao").is_file()) {
            return None;
        }
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("its number").port();
        drop(free);
        let dir = std::env::temp_dir().join(format!("signet-bao-{}-{port}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let log = File::create(dir.join("bao.log")).expect("a log file");
        let mut command = Command::new("bao");
        command
            .args(["server", "-dev", "-dev-no-store-token"])
            .arg(format!("-dev-root-token-id={}", Self::ROOT))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"));
        if !config.is_empty() {
            let file = dir.join("bao.hcl");
            let config = config.replace("DIR", &dir.display().to_string());
            fs::write(&file, config).expect("a configuration file");
            command.arg(format!("-config={}", file.display()));
        }
        if tls {
            command.arg("-dev-tls").arg(format!("-dev-tls-cert-dir={}", dir.display()));
        }
        // What the machine says of another server is not for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("VAULT_")
                || name.to_string_lossy().starts_with("BAO_")
            {
                command.env_remove(name);
            }
        }
        let child = command
            .env("HOME", &dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("bao starts");
        let mut bao = Self { child, dir, port, tls };
        let end = Instant::now() + START;
        while !bao.log().contains("Development mode should NOT be used") {
            let ended = bao.child.try_wait().expect("the state of a child");
            assert!(ended.is_none() && Instant::now() < end, "bao: {}", bao.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(bao)
    }

    /// Starts a server in memory that is no development server: it unseals itself, and does what
    /// `config` says at its first start. `None` where the program `bao` is missing.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_itself(config: &str) -> Option<Self> {
        let here = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&here).any(|dir| dir.join("bao").is_file()) {
            return None;
        }
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("its number").port();
        drop(free);
        let dir = std::env::temp_dir().join(format!("signet-bao-{}-{port}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let file = dir.join("bao.hcl");
        let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        let own = format!(
            "storage \"inmem\" {{}}\nlistener \"tcp\" {{ address = \"127.0.0.1:{port}\" \
             tls_disable = true }}\napi_addr = \"http://127.0.0.1:{port}\"\n\
             seal \"static\" {{ current_key_id = \"k\" current_key = \"{key}\" }}\n"
        );
        fs::write(&file, own + config).expect("a configuration file");
        let log = File::create(dir.join("bao.log")).expect("a log file");
        let child = Command::new("bao")
            .arg("server")
            .arg(format!("-config={}", file.display()))
            .env("HOME", &dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("bao starts");
        let mut bao = Self { child, dir, port, tls: false };
        let end = Instant::now() + START;
        // Its root token is taken back when everything was done.
        while !bao.log().contains("revoked lease: lease_id=auth/token/root") {
            let ended = bao.child.try_wait().expect("the state of a child");
            assert!(ended.is_none() && Instant::now() < end, "bao: {}", bao.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(bao)
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
