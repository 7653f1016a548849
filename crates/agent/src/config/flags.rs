//! The flags of `run` and `validate`; what is set wins over the file.

use std::path::PathBuf;

use signet_daemon::flags::CommonFlags;

use super::JoinTokenText;

/// Flags of `signet-agent run` and `validate`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunFlags {
    /// The configuration file, HCL 1 or JSON
    #[arg(long = "config", value_name = "FILE", default_value = "conf/agent/agent.conf")]
    pub config: PathBuf,
    /// Let callers without an identity fetch the trust domain's bundles
    #[arg(long = "allowUnauthenticatedVerifiers")]
    pub allow_unauthenticated_verifiers: bool,
    /// The CSI driver
    #[command(flatten)]
    pub csi: CsiFlags,
    /// Do not offer Envoy's SDS
    #[arg(long = "disableSDSAPI")]
    pub disable_sds_api: bool,
    /// Do not offer the Workload API
    #[arg(long = "disableWorkloadAPI")]
    pub disable_workload_api: bool,
    /// Believe the first server that answers
    #[arg(long = "insecureBootstrap")]
    pub insecure_bootstrap: bool,
    /// Join token made by the server; other users of the machine can see it, so prefer a file
    #[arg(long = "joinToken", value_name = "TOKEN", value_parser = parse_token)]
    pub join_token: Option<JoinTokenText>,
    /// File that holds a join token
    #[arg(long = "joinTokenFile", value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
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
    /// File with the trust bundle to start from
    #[arg(long = "trustBundle", value_name = "FILE")]
    pub trust_bundle: Option<PathBuf>,
    /// Form of the trust bundle to start from: pem or spiffe
    #[arg(long = "trustBundleFormat", value_name = "FORMAT")]
    pub trust_bundle_format: Option<String>,
    /// URL of the trust bundle to start from
    #[arg(long = "trustBundleUrl", value_name = "URL")]
    pub trust_bundle_url: Option<String>,
    /// What every program has.
    #[command(flatten)]
    pub common: CommonFlags,
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

fn parse_token(text: &str) -> Result<JoinTokenText, std::convert::Infallible> {
    Ok(JoinTokenText::new(text.to_owned()))
}
