//! `token`: join tokens.

use signet_api::pb::spire::api::server::agent::v1::{
    CreateJoinTokenRequest, agent_client::AgentClient,
};
use signet_daemon::cli::Output;

use super::{
    env::{CliError, CommonFlags, Env},
    text,
};

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token that lets one agent attest, once
    Generate(GenerateFlags),
}

/// The flags of `token generate`.
#[derive(Debug, clap::Args)]
pub struct GenerateFlags {
    /// Further SPIFFE ID for the agent that uses the token: a stable -parentID for entries
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// How long the token may be used, seconds or like 10m
    #[arg(long = "ttl", value_name = "SECONDS", default_value_t = 600,
        allow_hyphen_values = true, value_parser = text::seconds)]
    ttl: i32,
    #[command(flatten)]
    common: CommonFlags,
}

/// Runs a command.
///
/// # Errors
/// [`CliError`].
pub async fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    let Command::Generate(flags) = command;
    let id = flags.spiffe_id.filter(|id| !id.is_empty());
    let agent_id = id.as_deref().map(|id| text::parse_id("spiffeID", id)).transpose()?;
    let mut client = AgentClient::new(env.connect(&flags.common.socket).await?);
    let request = CreateJoinTokenRequest { ttl: flags.ttl, token: String::new(), agent_id };
    let token = client.create_join_token(request).await?.into_inner();
    if flags.common.output == Output::Json {
        return env.json(&token);
    }
    env.line(format_args!("Token: {}", token.value))?;
    if id.is_none() { env.line("Warning: Missing SPIFFE ID.") } else { Ok(()) }
}
