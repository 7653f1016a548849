//! A KMS for tests that somebody else has written: `local-kms`.

use std::{
    fs::{self, File},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{ports::free_port, programs::on_path};

/// How long it may take to start.
const START: Duration = Duration::from_secs(60);

/// A `local-kms` on a port of its own, without keys. It ends when this is dropped.
#[derive(Debug)]
pub struct LocalKms {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl LocalKms {
    /// Its region.
    pub const REGION: &'static str = "eu-west-2";

    /// Starts one; `None` where the program `local-kms` is missing.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Option<Self> {
        let program = on_path("local-kms")?;
        let port = free_port();
        let dir = std::env::temp_dir().join(format!("signet-kms-{}-{port}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let log = File::create(dir.join("kms.log")).expect("a log file");
        let child = Command::new(program)
            .env("PORT", port.to_string())
            .env("KMS_REGION", Self::REGION)
            .env("KMS_ACCOUNT_ID", "123456789012")
            .env("KMS_DATA_PATH", dir.join("data"))
            .env("KMS_SEED_PATH", dir.join("no-seed"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("local-kms starts");
        let mut kms = Self { child, dir, port };
        let end = Instant::now() + START;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = kms.child.try_wait().expect("the state of a child");
            assert!(ended.is_none() && Instant::now() < end, "local-kms: {}", kms.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(kms)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("kms.log")).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for LocalKms {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- local-kms:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
