//! `jwt`: JWT-SVIDs without an entry.

use std::{path::PathBuf, time::Duration};

use signet_api::pb::spire::api::server::svid::v1::{MintJwtsvidRequest, svid_client::SvidClient};
use signet_base::Clock as _;
use signet_daemon::cli::Output;
use signet_pki::files::write_atomic;
use signet_time::UnixTime;

use super::{
    env::{CliError, CommonFlags, Env},
    text,
};
use signet_base::chain;

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Have a JWT-SVID signed, without an entry
    Mint(MintFlags),
}

/// The flags of `jwt mint`.
#[derive(Debug, clap::Args)]
pub struct MintFlags {
    /// SPIFFE ID of the SVID
    #[arg(long = "spiffeID", value_name = "ID", required = true)]
    spiffe_id: String,
    /// Audience of the SVID; may be repeated
    #[arg(long = "audience", value_name = "AUDIENCE", required = true)]
    audience: Vec<String>,
    /// How long the SVID is valid, for example 5m; the server's default unless given
    #[arg(long = "ttl", value_name = "DURATION", value_parser = text::duration)]
    ttl: Option<Duration>,
    /// File to write the token to, instead of printing it
    #[arg(long = "write", value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    common: CommonFlags,
}

/// Runs a command.
///
/// # Errors
/// [`CliError`] when flags do not fit together, the server cannot be reached or refuses, or the
/// output cannot be written.
pub async fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    let Command::Mint(flags) = command;
    let id = Some(text::parse_id("spiffeID", &flags.spiffe_id)?);
    let ttl = text::ttl_seconds(flags.ttl)?;
    let mut client = SvidClient::new(env.connect(&flags.common.socket).await?);
    let request = MintJwtsvidRequest { id, audience: flags.audience.clone(), ttl };
    let response = client.mint_jwtsvid(request).await;
    let response = response.map_err(CliError::call("unable to mint SVID"))?.into_inner();
    let svid = response.svid.as_ref();
    let svid = svid.ok_or_else(|| CliError::failed("server response missing SVID"))?;
    if UnixTime::from_seconds(svid.expires_at) - signet_base::SystemClock.unix() < i64::from(ttl) {
        env.complain(format_args!(
            "JWT-SVID lifetime was capped shorter than specified ttl; expires \"{}\"",
            text::rfc3339(svid.expires_at)
        ))?;
    }
    match (&flags.write, flags.common.output) {
        (Some(path), _) => {
            write_atomic(path, svid.token.as_bytes(), 0o600).map_err(|error| {
                CliError::failed(format!("unable to write token: {}", chain(&error)))
            })?;
            env.line(format_args!("JWT-SVID written to {}", path.display()))
        }
        (None, Output::Json) => env.json(&response),
        (None, Output::Pretty) => env.line(&svid.token),
    }
}
