//! The flags of `run` and `validate`; what is set wins over the file.

use std::path::PathBuf;

use signet_daemon::{
    cli::parse_bool,
    config::{LogFlags, LogFormat, LogLevel, log_format},
};

use super::JoinTokenText;

/// Flags of `signet-agent run` and `validate`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunFlags {
    /// The configuration file, HCL 1 or JSON
    #[arg(long = "config", value_name = "FILE", default_value = "conf/agent/agent.conf")]
    pub config: PathBuf,
    /// Let callers without an identity fetch the trust domain's bundles
    #[arg(
        long = "allowUnauthenticatedVerifiers",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        value_parser = parse_bool,
        hide_default_value = true,
        value_name = "BOOL"
    )]
    pub allow_unauthenticated_verifiers: bool,
    /// The CSI driver
    #[command(flatten)]
    pub csi: CsiFlags,
    /// Directory for the agent's own files
    #[arg(long = "dataDir", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Do not offer Envoy's SDS
    #[arg(
        long = "disableSDSAPI",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        value_parser = parse_bool,
        hide_default_value = true,
        value_name = "BOOL"
    )]
    pub disable_sds_api: bool,
    /// Do not offer the Workload API
    #[arg(
        long = "disableWorkloadAPI",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        value_parser = parse_bool,
        hide_default_value = true,
        value_name = "BOOL"
    )]
    pub disable_workload_api: bool,
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
    /// Believe the first server that answers
    #[arg(
        long = "insecureBootstrap",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        value_parser = parse_bool,
        hide_default_value = true,
        value_name = "BOOL"
    )]
    pub insecure_bootstrap: bool,
    /// Join token made by the server; other users of the machine can see it, so prefer a file
    #[arg(long = "joinToken", value_name = "TOKEN", value_parser = parse_token)]
    pub join_token: Option<JoinTokenText>,
    /// File that holds a join token
    #[arg(long = "joinTokenFile", value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
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
    /// How long an unknown server authority is put up with before bootstrapping again
    #[arg(long = "rebootstrapDelay", value_name = "DURATION")]
    pub rebootstrap_delay: Option<String>,
    /// When to bootstrap again: never, auto or always
    #[arg(long = "rebootstrapMode", value_name = "MODE")]
    pub rebootstrap_mode: Option<String>,
    /// Host name or IP address of the server
    #[arg(long = "serverAddress", value_name = "ADDRESS")]
    pub server_address: Option<String>,
    /// TCP port of the server
    #[arg(long = "serverPort", value_name = "PORT")]
    pub server_port: Option<u16>,
    /// Unix socket of the Workload API
    #[arg(long = "socketPath", value_name = "PATH")]
    pub socket_path: Option<PathBuf>,
    /// File with the trust bundle to start from
    #[arg(long = "trustBundle", value_name = "FILE")]
    pub trust_bundle: Option<PathBuf>,
    /// Form of the trust bundle to start from: pem or spiffe
    #[arg(long = "trustBundleFormat", value_name = "FORMAT")]
    pub trust_bundle_format: Option<String>,
    /// URL of the trust bundle to start from
    #[arg(long = "trustBundleUrl", value_name = "URL")]
    pub trust_bundle_url: Option<String>,
    /// Trust domain of this agent
    #[arg(long = "trustDomain", value_name = "NAME")]
    pub trust_domain: Option<String>,
}

/// Flags of the CSI driver inside the agent; one of them is enough to switch it on.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CsiFlags {
    /// Directory of the kubelet, which every CSI volume lies below
    #[arg(long = "csiKubeletDir", value_name = "DIR")]
    pub csi_kubelet_dir: Option<PathBuf>,
    /// Name of this node as Kubernetes knows it
    #[arg(long = "csiNodeID", value_name = "NAME")]
    pub csi_node_id: Option<String>,
    /// Name of the CSI driver
    #[arg(long = "csiPluginName", value_name = "NAME")]
    pub csi_plugin_name: Option<String>,
    /// Serve the CSI driver csi.spiffe.io on this Unix socket
    #[arg(long = "csiSocketPath", value_name = "PATH")]
    pub csi_socket_path: Option<PathBuf>,
    /// Directory that the CSI driver gives to pods
    #[arg(long = "csiWorkloadAPISocketDir", value_name = "DIR")]
    pub csi_workload_api_socket_dir: Option<PathBuf>,
}

impl CsiFlags {
    /// Whether one of them is given.
    pub(super) fn any(&self) -> bool {
        self.csi_kubelet_dir.is_some()
            || self.csi_node_id.is_some()
            || self.csi_plugin_name.is_some()
            || self.csi_socket_path.is_some()
            || self.csi_workload_api_socket_dir.is_some()
    }
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

fn parse_token(text: &str) -> Result<JoinTokenText, std::convert::Infallible> {
    Ok(JoinTokenText::new(text.to_owned()))
}
