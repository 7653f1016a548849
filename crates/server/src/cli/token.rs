//! `token`: join tokens.

use signet_api::pb::{
    signet::api::server::tenancy::v1 as tenancy,
    spire::api::server::agent::v1::{CreateJoinTokenRequest, agent_client::AgentClient},
};
use signet_daemon::cli::Output;

use super::{
    env::{CliError, CommonFlags, Env},
    tenant, text,
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
    /// Tenant that the agent may serve; may be repeated
    #[arg(long = "tenant", value_name = "TENANT")]
    tenant: Vec<String>,
    #[command(flatten)]
    common: CommonFlags,
}

/// Runs a command.
///
/// # Errors
/// [`CliError`] when flags do not fit together, the server cannot be reached or refuses, or the
/// output cannot be written.
pub async fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    let Command::Generate(flags) = command;
    let id = flags.spiffe_id.filter(|id| !id.is_empty());
    let agent_id = id.as_deref().map(|id| text::parse_id("spiffeID", id)).transpose()?;
    let channel = env.connect(&flags.common.socket).await?;
    let token = match flags.tenant.is_empty() {
        true => {
            let request = CreateJoinTokenRequest { ttl: flags.ttl, token: String::new(), agent_id };
            AgentClient::new(channel).create_join_token(request).await?.into_inner()
        }
        false => {
            let (ttl, tenants) = (flags.ttl, flags.tenant);
            let request = tenancy::CreateJoinTokenRequest { ttl, agent_id, tenants };
            let made = tenant::client(channel).create_join_token(request).await;
            made.map_err(tenant::understood)?.into_inner()
        }
    };
    if flags.common.output == Output::Json {
        return env.json(&token);
    }
    env.line(format_args!("Token: {}", token.value))?;
    if id.is_none() { env.line("Warning: Missing SPIFFE ID.") } else { Ok(()) }
}
