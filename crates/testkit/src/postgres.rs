//! PostgreSQL servers for tests, and PgBouncer before them.

use std::{
    fs,
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{ports::free_port, programs};

/// Numbers directories and databases of this process.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Where releases are that Debian has not.
const FETCHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/postgresql");

/// The superuser of a test's servers.
pub const POSTGRES_USER: &str = "postgres";

/// A PostgreSQL server with a directory of its own. It ends and leaves nothing behind when it is
/// dropped, and also when this process ends.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    directory: PathBuf,
    port: u16,
    running: Mutex<Option<Held>>,
}

/// A program that ends when its standard input does.
#[derive(Debug)]
struct Held {
    process: Child,
    stdin: Option<ChildStdin>,
}

impl Held {
    /// Runs a program in the background until it writes a line in which `ready` stands. With this,
    /// however this process ends, the program ends and its directory goes.
    ///
    /// # Panics
    ///
    /// When the program ends before.
    fn run(program: &Command, directory: &Path, ready: &str) -> Self {
        // The shell outlives this process long enough to clean up after it.
        let script = "dir=$1; shift; \"$@\" 2>&1 & pid=$!; read -r how; \
            kill -\"${how:-INT}\" $pid; wait $pid; \
            [ -n \"$how\" ] || rm -rf \"$dir\"";
        let mut process = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(directory)
            .arg(program.get_program())
            .args(program.get_args())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting a program");
        let stdin = process.stdin.take();
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let mut said = Vec::new();
        loop {
            let line = lines.next().and_then(Result::ok);
            let line = line.unwrap_or_else(|| panic!("{program:?} ended: {}", said.join("\n")));
            let is_ready = line.contains(ready);
            said.push(line);
            if is_ready {
                break;
            }
        }
        // It must not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, stdin }
    }

    /// Tells it to end, and waits.
    fn end(&mut self) {
        self.stdin = None;
        _ = self.process.wait();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end();
    }
}

impl Postgres {
    /// The directory with the newest PostgreSQL programs of this machine.
    pub fn programs() -> Option<PathBuf> {
        programs::postgresql()
    }

    /// The programs of a release: Debian's, or those that `cargo xtask test --setup` has put below
    /// `target/tools`.
    pub fn programs_of(version: u32) -> Option<PathBuf> {
        let debian = PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"));
        let fetched = fs::read_dir(Path::new(FETCHED).join(version.to_string()));
        let fetched = fetched.into_iter().flatten().flatten();
        let fetched = fetched.map(|package| package.path().join("pginstall/bin"));
        let bin =
            std::iter::once(debian).chain(fetched).find(|bin| bin.join("initdb").is_file())?;
        let asked = as_nobody(&bin.join("initdb")).arg("--version").output();
        if asked.is_ok_and(|asked| asked.status.success()) {
            return Some(bin);
        }
        // Below a directory that only root may enter.
        let directory = new_directory("postgresql");
        let install = bin.parent()?;
        let copied = Command::new("cp").arg("-r").arg(install).arg(&directory).output();
        must("cp", &copied.expect("running cp"));
        Some(directory.join("pginstall/bin"))
    }

    /// One server that all tests of this process share; `None` where PostgreSQL is not installed.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
        SHARED.get_or_init(|| Some(Self::start(&Self::programs()?, &[]))).as_ref()
    }

    /// A new server. It does not sync its disk unless `settings` say so.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start(bin: &Path, settings: &[&str]) -> Self {
        let directory = new_directory("postgres");
        let data = directory.join("data");
        let made = as_nobody(&bin.join("initdb"))
            .arg("--pgdata")
            .arg(&data)
            .args(["--username", POSTGRES_USER, "--auth", "trust", "--no-sync"])
            .args(["--encoding", "UTF8", "--locale", "C"])
            .output()
            .expect("running initdb");
        must("initdb", &made);
        let server =
            Self { bin: bin.to_owned(), directory, port: free_port(), running: Mutex::new(None) };
        let mut text = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             fsync = off\nmax_connections = 200\nmax_wal_senders = 10\nwal_level = replica\n\
             log_min_messages = warning\n",
            server.port,
            server.directory.display()
        );
        for setting in settings {
            text.push_str(setting);
            text.push('\n');
        }
        append(&data.join("postgresql.conf"), &text);
        server.resume();
        server
    }

    /// A standby of this server, which takes no writes until it is promoted.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn standby(&self, name: &str) -> Self {
        let directory = new_directory("standby");
        let data = directory.join("data");
        let copied = as_nobody(&self.bin.join("pg_basebackup"))
            .arg("--pgdata")
            .arg(&data)
            .args(["--write-recovery-conf", "--no-sync", "--checkpoint", "fast"])
            .args(["--dbname", &format!("{} application_name={name}", self.dsn("postgres"))])
            .output()
            .expect("running pg_basebackup");
        must("pg_basebackup", &copied);
        let server =
            Self { bin: self.bin.clone(), directory, port: free_port(), running: Mutex::new(None) };
        let text = format!(
            "port = {}\nunix_socket_directories = '{}'\nsynchronous_standby_names = ''\n\
             wal_retrieve_retry_interval = 100ms\n",
            server.port,
            server.directory.display(),
        );
        append(&data.join("postgresql.conf"), &text);
        server.resume();
        server
    }

    /// Makes a standby a primary.
    ///
    /// # Panics
    ///
    /// When it cannot be.
    pub fn promote(&self) {
        self.sql("postgres", "SELECT pg_promote(true, 60)");
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`].
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn resume(&self) {
        let mut server = as_nobody(&self.bin.join("postgres"));
        server.arg("-D").arg(self.directory.join("data"));
        let running = Held::run(&server, &self.directory, "ready to accept");
        *self.running() = Some(running);
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, signal: &str) {
        if let Some(mut held) = self.running().take() {
            if let Some(stdin) = &mut held.stdin {
                _ = writeln!(stdin, "{signal}");
            }
            held.end();
        }
    }

    /// Ends it at once, as a power failure does; the directory stays.
    pub fn kill(&self) {
        self.end("QUIT");
    }

    /// Ends it in order; the directory stays.
    pub fn stop(&self) {
        self.end("INT");
    }

    /// Runs SQL in a database and answers what it says, a line for each row.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn sql(&self, database: &str, text: &str) -> String {
        let asked = Command::new(self.bin.join("psql"))
            .args(["--no-psqlrc", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"])
            .args(["--dbname", &self.dsn(database), "--command", text])
            .output()
            .expect("running psql");
        must("psql", &asked);
        String::from_utf8_lossy(&asked.stdout).trim().to_owned()
    }

    /// A new database, by name.
    pub fn database(&self) -> String {
        let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// The connection string of a database.
    pub fn dsn(&self, database: &str) -> String {
        dsn(self.port, database)
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its data are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        *self.running() = None;
        _ = fs::remove_dir_all(&self.directory);
    }
}

/// PgBouncer in transaction mode before a server.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    _running: Held,
}

impl PgBouncer {
    /// `None` where it is not installed.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn before(server: &Postgres) -> Option<Self> {
        let program = programs::on_path("pgbouncer")?;
        let directory = new_directory("pgbouncer");
        let port = free_port();
        let config = directory.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = 20\nmax_client_conn = 500\n",
            server.port
        );
        // With auth_type any, the user comes from the database line.
        let text = text.replace("* = host", &format!("* = user={POSTGRES_USER} host"));
        fs::write(&config, text).expect("writing pgbouncer.ini");
        let mut bouncer = as_nobody(&program);
        bouncer.arg(&config);
        let running = Held::run(&bouncer, &directory, "process up");
        Some(Self { port, _running: running })
    }

    /// The connection string of a database through it.
    pub fn dsn(&self, database: &str) -> String {
        dsn(self.port, database)
    }
}

fn dsn(port: u16, database: &str) -> String {
    format!("host=127.0.0.1 port={port} user={POSTGRES_USER} dbname={database} sslmode=disable")
}

/// A command that runs as somebody who is not root: PostgreSQL and PgBouncer refuse to be.
fn as_nobody(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"])
        .arg(program)
        .current_dir("/");
    command
}

fn is_root() -> bool {
    let asked = Command::new("id").arg("-u").output();
    asked.is_ok_and(|said| said.stdout.trim_ascii() == b"0")
}

/// A directory that belongs to whom [`as_nobody`] runs programs as.
fn new_directory(kind: &str) -> PathBuf {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("signet-{kind}-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory).expect("making a directory");
    if is_root() {
        let given = Command::new("chown").arg("nobody:nogroup").arg(&directory).output();
        must("chown", &given.expect("running chown"));
    }
    directory
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("opening a file");
    file.write_all(text.as_bytes()).expect("writing a file");
}

fn must(what: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
}
