//! The flags that `run` and `validate` of every program share.

use std::path::{Path, PathBuf};

use signet_config::{ConfigError, Document, LogFlags, LogFormat, LogLevel, log_format, read};

/// Looks up an environment variable, for `-expandEnv`.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The flags of `run` and `validate` that every program has; what is set wins over the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CommonFlags {
    /// Directory for the program's own files
    #[arg(long = "dataDir", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Replace $NAME and ${NAME} in the configuration file by environment variables
    #[arg(long = "expandEnv")]
    pub expand_env: bool,
    /// File to append the log to
    #[arg(long = "logFile", value_name = "FILE")]
    pub log_file: Option<String>,
    /// Form of log lines: text or json
    #[arg(long = "logFormat", value_name = "FORMAT", value_parser = parse_format)]
    pub log_format: Option<LogFormat>,
    /// Least severe level to log: error, warn, info, debug or trace
    #[arg(long = "logLevel", value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// Name the source file and line in each log line
    #[arg(long = "logSourceLocation")]
    pub log_source_location: bool,
    /// Unix socket to serve the API on
    #[arg(long = "socketPath", value_name = "PATH")]
    pub socket_path: Option<PathBuf>,
    /// Trust domain of the program
    #[arg(long = "trustDomain", value_name = "NAME")]
    pub trust_domain: Option<String>,
}

impl CommonFlags {
    /// The log flags.
    pub fn log(&self) -> LogFlags {
        LogFlags {
            file: self.log_file.clone(),
            format: self.log_format,
            level: self.log_level,
            source_location: self.log_source_location,
        }
    }

    /// Reads the configuration file `path`, replacing variables where asked to.
    ///
    /// # Errors
    /// [`ConfigError`], as [`read`].
    pub fn read(&self, path: &Path, env: &Environment<'_>) -> Result<Document, ConfigError> {
        read(path, self.expand_env.then_some(env))
    }
}

fn parse_format(text: &str) -> Result<LogFormat, String> {
    log_format(text).ok_or_else(|| "expected text or json".to_owned())
}
