//! Commands that work on the database and the keys themselves, as the configuration file of a
//! server names them, and not through a server: `backup`, `restore`, `migrate`, `server`.

use std::{path::PathBuf, process::ExitCode};

use signet_daemon::{
    cli::{EXIT_FAILED, EXIT_USAGE},
    flags::CommonFlags,
    program::Program,
};

use crate::config::{Config, RunFlags};

/// Which configuration names the database and the keys.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigFlags {
    /// The server's configuration file
    #[arg(long = "config", value_name = "FILE", default_value = "conf/server/server.conf")]
    pub config: PathBuf,
    /// Replace $NAME and ${NAME} in the configuration file by environment variables
    #[arg(long = "expandEnv")]
    pub expand_env: bool,
}

/// Does `work` with the configuration, and prints what it answers. Exits with 64 when the
/// configuration is wrong, or when `is_usage` says so of an error.
pub(crate) fn run<E: Into<anyhow::Error>>(
    program: Program,
    flags: &ConfigFlags,
    work: impl AsyncFnOnce(&Config) -> Result<String, E>,
    is_usage: impl FnOnce(&E) -> bool,
) -> ExitCode {
    let name = program.server_name();
    let run_flags = RunFlags {
        config: flags.config.clone(),
        common: CommonFlags { expand_env: flags.expand_env, ..CommonFlags::default() },
        ..RunFlags::default()
    };
    let config = match Config::load(program, &run_flags, &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: starting: {error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    match runtime.block_on(work(&config)) {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let code = if is_usage(&error) { EXIT_USAGE } else { EXIT_FAILED };
            let error: anyhow::Error = error.into();
            eprintln!("{name}: {error:#}");
            ExitCode::from(code)
        }
    }
}
