//! `console`: the web console.

use signet_api::pb::signet::api::server::console::v1::{
    LoginRequest, console_client::ConsoleClient,
};
use signet_daemon::cli::Output;

use super::env::{CliError, CommonFlags, Env};

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print a link that logs in to the web console, once, within a minute
    Login(Flags),
}

/// The flags of `console login`.
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
    let Command::Login(Flags { common }) = command;
    let mut client = ConsoleClient::new(env.connect(&common.socket).await?);
    let login = client.login(LoginRequest {}).await;
    let login = login.map_err(CliError::call("failed to log in"))?.into_inner();
    // Behind the #, which browsers send to nobody: the code is in no log.
    let link = format!("{}/login#{}", login.url, login.code);
    match common.output {
        Output::Pretty => {
            writeln!(env.out, "{link}")?;
            writeln!(env.out, "The link is good once, within {} seconds.", login.lifetime)?;
        }
        Output::Json => {
            let value = serde_json::json!({ "link": link, "lifetime": login.lifetime });
            writeln!(env.out, "{value}")?;
        }
    }
    Ok(())
}
