//! The flags of `run` and `validate`; what is set wins over the file.

use std::path::PathBuf;

use signet_daemon::flags::CommonFlags;

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
    /// Make a new CA if the key of the one in use was lost, instead of refusing to start
    #[arg(long = "replaceLostKeys")]
    pub replace_lost_keys: bool,
    /// What every program has.
    #[command(flatten)]
    pub common: CommonFlags,
}
