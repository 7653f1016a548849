//! The flags of `run` and `validate`; what is set wins over the file.

use std::path::PathBuf;

use signet_daemon::{
    cli::parse_bool,
    config::{LogFlags, LogFormat, LogLevel, log_format},
};

/// Flags of `signet-server run` and `validate`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunFlags {
    /// The configuration file, HCL 1 or JSON
    #[arg(long = "config", value_name = "FILE", default_value = "conf/server/server.conf")]
    pub config: PathBuf,
    /// IP address or host name to listen on
    #[arg(long = "bindAddress", value_name = "ADDRESS")]
    pub bind_address: Option<String>,
    /// TCP port to listen on
    #[arg(long = "serverPort", value_name = "PORT")]
    pub server_port: Option<u16>,
    /// Directory for the server's own files
    #[arg(long = "dataDir", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Replace $NAME and ${NAME} in the configuration file by environment variables
    #[arg(
        long = "expandEnv",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        value_parser = parse_bool,
        hide_default_value = true,
        value_name = "BOOL"
    )]
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
    #[arg(
        long = "logSourceLocation",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        value_parser = parse_bool,
        hide_default_value = true,
        value_name = "BOOL"
    )]
    pub log_source_location: bool,
    /// Unix socket of the local API
    #[arg(long = "socketPath", value_name = "PATH")]
    pub socket_path: Option<PathBuf>,
    /// Trust domain of this server
    #[arg(long = "trustDomain", value_name = "NAME")]
    pub trust_domain: Option<String>,
}

impl RunFlags {
    /// The log flags.
    pub(super) fn log(&self) -> LogFlags {
        LogFlags {
            file: self.log_file.clone(),
            format: self.log_format,
            level: self.log_level,
            source_location: self.log_source_location,
        }
    }
}

fn parse_format(text: &str) -> Result<LogFormat, String> {
    log_format(text).ok_or_else(|| "expected text or json".to_owned())
}
