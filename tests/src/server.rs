//! A running signet-server.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use serde_json::Value;
use signet_testkit::free_port;

use crate::{
    bins,
    cli::Cli,
    dir::TestDir,
    process::{Process, behind},
    wait::{DEADLINE, eventually_within},
};

/// What its configuration file says.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// `trust_domain`.
    pub trust_domain: String,
    /// More lines in `server {}`.
    pub server: String,
    /// The key manager block.
    pub key_manager: String,
    /// More blocks in `plugins {}`; join_token is always there.
    pub plugins: String,
    /// More blocks beside `server {}`.
    pub top: String,
    /// More arguments of `run`.
    pub args: Vec<String>,
    /// More environment.
    pub env: Vec<(String, String)>,
    /// `database_type`.
    pub database_type: String,
    /// The database.
    pub database: String,
    /// What stands before the program, such as [`crate::SmallDisk::prefix`].
    pub prefix: Vec<String>,
    /// The program, if it is not that of [`bins::server`].
    pub program: Option<PathBuf>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            trust_domain: "example.org".to_owned(),
            server: String::new(),
            key_manager: "KeyManager \"disk\" { plugin_data { keys_path = \"DIR/keys.json\" } }"
                .to_owned(),
            plugins: String::new(),
            top: String::new(),
            args: Vec::new(),
            env: Vec::new(),
            database_type: "sqlite3".to_owned(),
            database: "DIR/datastore.sqlite3".to_owned(),
            prefix: Vec::new(),
            program: None,
        }
    }
}

impl ServerOptions {
    /// The defaults on a PostgreSQL database.
    pub fn on_postgres(dsn: &str) -> Self {
        Self { database_type: "postgres".to_owned(), database: dsn.to_owned(), ..Self::default() }
    }

    /// The defaults with more lines in `server {}`.
    pub fn with(server: &str) -> Self {
        Self { server: server.to_owned(), ..Self::default() }
    }
}

/// A server with a directory of its own (several may share one `TestDir`).
#[derive(Debug)]
pub struct Server {
    dir: Arc<TestDir>,
    data: PathBuf,
    options: ServerOptions,
    port: u16,
    process: Option<Process>,
}

impl Server {
    /// Writes a configuration and starts a server that is ready when this returns.
    pub fn start(options: ServerOptions) -> Self {
        Self::start_in(&Arc::new(TestDir::new()), "server", options)
    }

    /// [`Server::start`] below a directory that is there.
    pub fn start_in(dir: &Arc<TestDir>, name: &str, options: ServerOptions) -> Self {
        let mut server = Self::prepare_in(dir, name, options);
        server.launch();
        server.ready();
        server
    }

    /// Only writes the configuration.
    pub fn prepare_in(dir: &Arc<TestDir>, name: &str, options: ServerOptions) -> Self {
        let data = dir.subdir(name);
        let server = Self { dir: dir.clone(), data, options, port: free_port(), process: None };
        server.write_config();
        server
    }

    fn write_config(&self) {
        let ServerOptions {
            trust_domain,
            server,
            key_manager,
            plugins,
            top,
            database_type,
            database,
            ..
        } = &self.options;
        let dir = self.data.display();
        let config = format!(
            r#"server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    trust_domain = "{trust_domain}"
    data_dir = "DIR"
    socket_path = "DIR/api.sock"
    log_level = "DEBUG"
    ratelimit {{ attestation = false, signing = false }}
    {server}
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{ database_type = "{database_type}", connection_string = "{database}" }}
    }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    {key_manager}
    {plugins}
}}
{top}
"#,
            port = self.port,
        );
        fs::write(self.config_file(), config.replace("DIR", &dir.to_string())).expect("a file");
    }

    /// Changes the options for the next start.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut ServerOptions)) {
        change(&mut self.options);
        self.write_config();
    }

    /// The `run` command, for tests that start it themselves.
    pub fn command(&self) -> Command {
        let program = self.options.program.clone().unwrap_or_else(bins::server);
        let mut command = behind(&self.options.prefix, &program);
        command
            .args(["run", "-config"])
            .arg(self.config_file())
            .args(&self.options.args)
            .envs(self.options.env.iter().cloned());
        command
    }

    /// Starts it without waiting.
    pub fn launch(&mut self) {
        let process = Process::start("signet-server", &mut self.command(), &self.log_file());
        self.process = Some(process);
    }

    /// Waits until it answers.
    pub fn ready(&mut self) {
        let (cli, socket) = (self.cli(), self.socket());
        let process = self.process.as_mut().expect("a started server");
        eventually_within("the server is ready", DEADLINE, || {
            process.assert_running();
            (socket.exists() && cli.line("healthcheck").code == 0).then_some(())
        });
    }

    /// Ends it at once and starts it again on the same data.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
        self.ready();
    }

    /// Ends it at once.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a started server")
    }

    /// Its commands.
    pub fn cli(&self) -> Cli {
        Cli::new(bins::server(), &self.socket())
    }

    /// Its API socket.
    pub fn socket(&self) -> PathBuf {
        self.data.join("api.sock")
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.options.trust_domain
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory that all of the test share.
    pub fn dir(&self) -> &Arc<TestDir> {
        &self.dir
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.data.join("server.conf")
    }

    /// What it logs to.
    pub fn log_file(&self) -> PathBuf {
        self.data.join("server.log")
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// A new join token; the agent that uses it also gets `alias`.
    pub fn token(&self, alias: &str) -> String {
        let td = self.trust_domain();
        let made = self.cli().json(&format!("token generate -spiffeID spiffe://{td}{alias}"));
        made["value"].as_str().expect("a token").to_owned()
    }

    /// Creates an entry, `more` being further flags; returns its ID.
    pub fn register(&self, parent: &str, path: &str, selectors: &[&str], more: &str) -> String {
        let td = self.trust_domain();
        let selectors: String = selectors.iter().map(|s| format!(" -selector {s}")).collect();
        let made: Value = self.cli().json(&format!(
            "entry create -parentID spiffe://{td}{parent} -spiffeID spiffe://{td}{path}{selectors} {more}"
        ));
        made["results"][0]["entry"]["id"].as_str().expect("an entry ID").to_owned()
    }

    /// Deletes an entry.
    pub fn delete(&self, entry: &str) {
        self.cli().line(&format!("entry delete -entryID {entry}")).ok();
    }

    /// Writes the trust bundle as PEM to a file and returns its path.
    pub fn bundle_file(&self) -> PathBuf {
        let pem = self.cli().line("bundle show").ok().stdout;
        self.dir.write(format!("bundle-{}.pem", self.port), pem)
    }
}
