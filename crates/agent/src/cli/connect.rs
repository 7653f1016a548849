//! Reaching the agent's sockets.

use std::{path::PathBuf, time::Duration};

use signet_api::connect::{self, ConnectError};
use signet_config::parse_duration;
use signet_daemon::{cli::socket_path, program::Program};
use tonic::{Code, Response, Status, Streaming, transport::Channel};

use super::{CliError, environment};

/// How long an agent may take to answer on its admin socket.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
/// What to look at when a program answers that lacks the call.
const OTHER_SOCKET: &str = " (the program that listens there does not have this call: is -socketPath \
     the right one of the agent's sockets, and not the server's?)";

/// Where the public socket is.
#[derive(Debug, clap::Args)]
pub(super) struct PublicSocket {
    /// Unix socket of the Workload API
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<PathBuf>,
    /// Name that takes the place of %i in the variable SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE
    #[arg(long = "instance", value_name = "NAME")]
    instance: Option<String>,
}

impl PublicSocket {
    pub(super) async fn connect(&self, program: Program) -> Result<Channel, CliError> {
        let path = socket_path(
            self.socket_path.as_deref(),
            self.instance.as_deref(),
            "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE",
            "SPIRE_AGENT_PUBLIC_SOCKET",
            program.agent_socket(),
            environment,
        )
        .map_err(CliError::Usage)?;
        connect::unix(path).await.map_err(|error| failed(&error))
    }
}

/// Where the admin socket is.
#[derive(Debug, clap::Args)]
pub(super) struct AdminSocket {
    /// Unix socket of the admin API; the agent opens it where admin_socket_path says
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<PathBuf>,
}

impl AdminSocket {
    pub(super) async fn connect(&self, program: Program) -> Result<Channel, CliError> {
        let path = self.socket_path.clone();
        let path = path.unwrap_or_else(|| program.agent_admin_socket().into());
        connect::unix(path).await.map_err(|error| failed(&error))
    }
}

/// Waits for the answer to a call that other programs than ours lack; none when it is one of those.
pub(super) async fn ours<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<Option<T>, CliError> {
    let call = async {
        match call.await {
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            answer => answer.map(|answer| Some(answer.into_inner())),
        }
    };
    within(ADMIN_TIMEOUT, call).await
}

/// Waits for an answer on the admin socket.
pub(super) async fn admin<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CliError> {
    within(ADMIN_TIMEOUT, call).await.map(Response::into_inner)
}

/// Waits for an answer for as long as `timeout`, for ever when it is 0.
pub(super) async fn within<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, CliError> {
    let answer = if timeout.is_zero() {
        call.await
    } else {
        let late = || Status::deadline_exceeded("context deadline exceeded");
        tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| Err(late()))
    };
    answer.map_err(|status| CliError::Failed(describe(&status)))
}

/// The first message of a stream; waits as [`within`] does.
pub(super) async fn first<T>(
    timeout: Duration,
    call: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
) -> Result<T, CliError> {
    within(timeout, async {
        let mut stream = call.await?.into_inner();
        stream.message().await?.ok_or_else(|| Status::unavailable("the stream ended unanswered"))
    })
    .await
}

/// A status in the words that people who know gRPC's Go programs look for.
pub(super) fn describe(status: &Status) -> String {
    let code = match status.code() {
        Code::Cancelled => "Canceled".to_owned(),
        Code::Ok => "OK".to_owned(),
        code => format!("{code:?}"),
    };
    if status.code() == Code::Unimplemented {
        return format!(
            "rpc error: code = {code} desc = {}{OTHER_SOCKET}",
            if status.message().is_empty() { "unknown service" } else { status.message() }
        );
    }
    match connect::connection_failure(status) {
        Some(error) => format!("rpc error: code = {code} desc = connection error: {error}"),
        None => format!("rpc error: code = {code} desc = {}", status.message()),
    }
}

fn failed(error: &ConnectError) -> CliError {
    let cause = std::error::Error::source(error);
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    CliError::Failed(format!("rpc error: code = Unavailable desc = {error}{cause}"))
}

/// Reads a `-timeout`.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_never_answers_is_not_waited_for_for_ever() {
        let late = ours(std::future::pending::<Result<Response<()>, _>>()).await;
        let Err(CliError::Failed(message)) = late else { panic!("{late:?}") };
        assert!(message.contains("DeadlineExceeded"), "{message}");
        let lacking = ours::<()>(async { Err(Status::unimplemented("unknown service")) }).await;
        assert!(matches!(lacking, Ok(None)), "{lacking:?}");
    }
}
