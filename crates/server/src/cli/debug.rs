//! `debug`: figures about the running server.

use std::time::Duration;

use signet_api::pb::spire::api::server::debug::v1::{GetInfoRequest, debug_client::DebugClient};
use signet_config::format_duration;
use signet_daemon::cli::Output;

use super::{
    env::{CliError, CommonFlags, Env},
    text,
};

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show uptime, counts and the server's own certificates
    Getinfo(Flags),
}

/// Common flags.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    common: CommonFlags,
}

/// Runs a command.
///
/// # Errors
/// [`CliError`] when flags do not fit together, the server cannot be reached or refuses, or the
/// output cannot be written.
pub async fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    let Command::Getinfo(flags) = command;
    let mut client = DebugClient::new(env.connect(&flags.common.socket).await?);
    let info = client.get_info(GetInfoRequest {}).await;
    let info = info.map_err(CliError::call("failed to get debug info"))?.into_inner();
    if flags.common.output == Output::Json {
        return env.json(&info);
    }
    let uptime = Duration::from_secs(u64::try_from(info.uptime).unwrap_or_default());
    env.line("Server Debug Info:")?;
    env.line(format_args!("  Uptime:                  {}", format_duration(uptime)))?;
    env.line(format_args!("  Registered Agents:       {}", info.agents_count))?;
    env.line(format_args!("  Registration Entries:    {}", info.entries_count))?;
    env.line(format_args!("  Federated Bundles:       {}", info.federated_bundles_count))?;
    env.line("  SVID Chain:")?;
    for (at, one) in info.svid_chain.iter().enumerate() {
        env.line(format_args!("    [{at}] SPIFFE ID:  {}", text::id(one.id.as_ref())))?;
        env.line(format_args!("        Subject:    {}", one.subject))?;
        env.line(format_args!("        Expires At: {}", text::rfc3339(one.expires_at)))?;
    }
    Ok(())
}
