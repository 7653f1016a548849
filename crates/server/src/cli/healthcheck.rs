//! `healthcheck`: is the server well?

use std::time::Duration;

use signet_api::pb::{
    grpc::health::v1::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    },
    workload::{JwtsvidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use tonic::Code;

use super::env::{CliError, Env, SocketFlags};

/// How long whoever answered is asked what it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// The flags of `healthcheck`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    socket: SocketFlags,
    /// Accepted, as SPIRE does; the check is the same
    #[arg(long = "shallow")]
    shallow: bool,
    /// Say more
    #[arg(long = "verbose")]
    verbose: bool,
}

/// Runs the command.
///
/// # Errors
/// [`CliError`] when the server is not well, or cannot be asked.
pub async fn run(flags: Flags, env: &mut Env) -> Result<(), CliError> {
    if flags.verbose {
        env.line("Checking server health...")?;
    }
    let status = match check(&flags, env).await {
        Ok(Some(status)) => status,
        Ok(None) => {
            return Err(CliError::failed("this is the socket of an agent, not of a server"));
        }
        Err(error @ CliError::Usage(_)) => return Err(error),
        Err(error) => {
            if flags.verbose {
                env.complain(format_args!("Failed to check health: {error}"))?;
            }
            return Err(CliError::failed(
                "server is unhealthy: unable to determine health (-verbose says why)",
            ));
        }
    };
    if status != ServingStatus::Serving {
        let why =
            format!("server is unhealthy: server returned status \"{}\"", status.as_str_name());
        return Err(CliError::failed(why));
    }
    env.line("Server is healthy.")
}

/// What the server says of itself; none when it is an agent that answers.
async fn check(flags: &Flags, env: &Env) -> Result<Option<ServingStatus>, CliError> {
    let channel = env.connect(&flags.socket).await?;
    let mut client = HealthClient::new(channel.clone());
    let response = client.check(HealthCheckRequest { service: String::new() }).await?;
    // An agent answers the same question on its sockets, but a workload's with a demand.
    let mut workload = SpiffeWorkloadApiClient::new(channel);
    let answer = workload.fetch_jwtsvid(JwtsvidRequest::default());
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    if matches!(answer, Ok(Err(status)) if status.code() == Code::InvalidArgument) {
        return Ok(None);
    }
    Ok(Some(response.into_inner().status()))
}
