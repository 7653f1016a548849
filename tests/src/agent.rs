//! A running signet-agent.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    bins,
    cli::Cli,
    dir::TestDir,
    process::{Process, behind},
    wait::{DEADLINE, eventually_within},
};

/// What its configuration file says.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// `trust_domain`.
    pub trust_domain: String,
    /// `server_port`; the address is 127.0.0.1. Without a meaning where `agent` has `server_set`.
    pub port: u16,
    /// The bootstrap bundle; none for `insecure_bootstrap`, or for a URL in `agent`.
    pub bundle: Option<PathBuf>,
    /// The node attestor block.
    pub node_attestor: String,
    /// The key manager block.
    pub key_manager: String,
    /// The workload attestor block.
    pub workload_attestor: String,
    /// More lines in `agent {}`.
    pub agent: String,
    /// More blocks beside `agent {}`.
    pub top: String,
    /// The join token, if any.
    pub token: Option<String>,
    /// More arguments of `run`.
    pub args: Vec<String>,
    /// More environment.
    pub env: Vec<(String, String)>,
    /// What stands before the program, such as [`crate::SmallDisk::prefix`].
    pub prefix: Vec<String>,
    /// The program, if it is not that of [`bins::agent`].
    pub program: Option<PathBuf>,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            trust_domain: "example.org".to_owned(),
            port: 0,
            bundle: None,
            node_attestor: "NodeAttestor \"join_token\" { plugin_data {} }".to_owned(),
            key_manager: "KeyManager \"disk\" { plugin_data { directory = \"DIR/data\" } }"
                .to_owned(),
            workload_attestor: "WorkloadAttestor \"unix\" {
                plugin_data { discover_workload_path = true, workload_size_limit = -1 }
            }"
            .to_owned(),
            agent: String::new(),
            top: String::new(),
            token: None,
            args: Vec::new(),
            env: Vec::new(),
            prefix: Vec::new(),
            program: None,
        }
    }
}

/// An agent with a directory of its own.
#[derive(Debug)]
pub struct Agent {
    dir: Arc<TestDir>,
    data: PathBuf,
    options: AgentOptions,
    process: Option<Process>,
}

impl Agent {
    /// Writes a configuration and starts an agent that is ready when this returns.
    pub fn start_in(dir: &Arc<TestDir>, name: &str, options: AgentOptions) -> Self {
        let mut agent = Self::prepare_in(dir, name, options);
        agent.launch();
        agent.ready();
        agent
    }

    /// Only writes the configuration.
    pub fn prepare_in(dir: &Arc<TestDir>, name: &str, options: AgentOptions) -> Self {
        let data = dir.subdir(name);
        for sub in ["data", "pub", "adm"] {
            dir.subdir(Path::new(name).join(sub));
        }
        let agent = Self { dir: dir.clone(), data, options, process: None };
        agent.write_config();
        agent
    }

    fn write_config(&self) {
        let o = &self.options;
        let bootstrap = o.bundle.as_ref().map_or_else(
            || match o.agent.contains("trust_bundle_") {
                true => String::new(),
                false => "insecure_bootstrap = true".to_owned(),
            },
            |path| format!("trust_bundle_path = \"{}\"", path.display()),
        );
        let server = match o.agent.contains("server_set") {
            true => String::new(),
            false => format!("server_address = \"127.0.0.1\"\n server_port = \"{}\"", o.port),
        };
        // Each agent of a test has its own key. With `SIGNET_TEST_PLAIN=1` no keys of ours are used,
        // so that the tests themselves can be tried on SPIRE's programs.
        let own = match std::env::var_os("SIGNET_TEST_PLAIN") {
            Some(_) => "",
            None if o.agent.contains("svid_cache") => "",
            None => "svid_cache_key_file = \"DIR/svid_cache.key\"",
        };
        let config = format!(
            r#"agent {{
    data_dir = "DIR/data"
    log_level = "DEBUG"
    {server}
    socket_path = "DIR/pub/api.sock"
    admin_socket_path = "DIR/adm/admin.sock"
    trust_domain = "{td}"
    {bootstrap}
    {own}
    {agent}
}}
plugins {{
    {node_attestor}
    {key_manager}
    {workload_attestor}
}}
{top}
"#,
            td = o.trust_domain,
            agent = o.agent,
            node_attestor = o.node_attestor,
            key_manager = o.key_manager,
            workload_attestor = o.workload_attestor,
            top = o.top,
        );
        let dir = self.data.display().to_string();
        fs::write(self.config_file(), config.replace("DIR", &dir)).expect("a file");
    }

    /// Changes the options for the next start.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut AgentOptions)) {
        change(&mut self.options);
        self.write_config();
    }

    /// The `run` command, for tests that start it themselves.
    pub fn command(&self) -> Command {
        let program = self.options.program.clone().unwrap_or_else(bins::agent);
        let mut command = behind(&self.options.prefix, &program);
        command
            .args(["run", "-config"])
            .arg(self.config_file())
            .args(&self.options.args)
            .envs(self.options.env.iter().cloned());
        if let Some(token) = &self.options.token {
            command.args(["-joinToken", token]);
        }
        command
    }

    /// Starts it without waiting.
    pub fn launch(&mut self) {
        let process = Process::start("signet-agent", &mut self.command(), &self.log_file());
        self.process = Some(process);
    }

    /// Waits until it answers.
    pub fn ready(&mut self) {
        let (cli, socket) = (self.cli(), self.socket());
        let process = self.process.as_mut().expect("a started agent");
        eventually_within("the agent is ready", DEADLINE, || {
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
        self.process.as_mut().expect("a started agent")
    }

    /// Its commands on the Workload API socket.
    pub fn cli(&self) -> Cli {
        Cli::new(bins::agent(), &self.socket())
    }

    /// Its commands on the admin socket.
    pub fn admin_cli(&self) -> Cli {
        Cli::new(bins::agent(), &self.admin_socket())
    }

    /// The Workload API socket.
    pub fn socket(&self) -> PathBuf {
        self.data.join("pub/api.sock")
    }

    /// The admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.data.join("adm/admin.sock")
    }

    /// `data_dir`.
    pub fn data_dir(&self) -> PathBuf {
        self.data.join("data")
    }

    /// Waits until what is served now is also in the sealed cache: until that was written, and
    /// then left alone for longer than any change waits.
    pub fn sealed(&self) {
        let file = self.data_dir().join("svid-cache.sealed");
        let served = SystemTime::now();
        eventually_within("the sealed cache is written and at rest", DEADLINE, || {
            let written = fs::metadata(&file).and_then(|meta| meta.modified()).ok()?;
            let rest = written.max(served).elapsed().unwrap_or_default();
            (rest > Duration::from_secs(3)).then_some(())
        });
    }

    /// The directory that all of the test share.
    pub fn dir(&self) -> &Arc<TestDir> {
        &self.dir
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.data.join("agent.conf")
    }

    /// What it logs to.
    pub fn log_file(&self) -> PathBuf {
        self.data.join("agent.log")
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}
