//! `debug trace`: what the last calls of a process did, and how long each step took.

use signet_api::pb::signet::api::agent::trace::v1::{
    Call, ListCallsRequest, ListCallsResponse, trace_client::TraceClient,
};
use signet_daemon::cli::Output;

use super::{
    CliError, Terminal,
    connect::{AdminSocket, ours},
    print::rfc3339,
};

/// Flags of `debug trace`.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    #[command(flatten)]
    socket: AdminSocket,
    /// A process that called the agent; it may be gone. All processes without this flag
    #[arg(long = "pid", value_name = "PID")]
    pid: Option<i32>,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", default_value = "pretty")]
    output: Output,
}

/// Asks the agent for the last calls.
pub(super) async fn trace(flags: &Flags, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    if flags.pid.is_some_and(|pid| pid < 1) {
        return Err(CliError::Usage("-pid must be at least 1".to_owned()));
    }
    let channel = flags.socket.connect(terminal.program).await?;
    let request = ListCallsRequest { pid: flags.pid.unwrap_or(0) };
    let answer = ours(TraceClient::new(channel).list_calls(request)).await?.ok_or_else(|| {
        let message = "this agent keeps no traces; it is another program than signet-agent";
        CliError::Failed(message.to_owned())
    })?;
    match flags.output {
        Output::Json => terminal.json(&answer),
        Output::Pretty => print(&answer, flags.pid, terminal),
    }
}

fn print(
    answer: &ListCallsResponse,
    pid: Option<i32>,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let out = &mut terminal.out;
    if answer.calls.is_empty() {
        let who = pid.map_or_else(String::new, |pid| format!(" of process {pid}"));
        return Ok(writeln!(out, "The agent remembers no call{who}.")?);
    }
    for call in &answer.calls {
        print_call(call, *out)?;
    }
    Ok(())
}

fn print_call(call: &Call, out: &mut dyn std::io::Write) -> Result<(), CliError> {
    let uid = call.uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
    writeln!(out, "{}/{}", call.service, call.method)?;
    writeln!(out, "  Request ID : {}", call.request_id)?;
    writeln!(out, "  Process    : {}, user {uid}", call.pid)?;
    writeln!(out, "  Began      : {}", rfc3339(call.started_at_millis / 1000))?;
    let answer = match (call.status.as_str(), call.message.as_str()) {
        ("", _) => "none yet".to_owned(),
        (status, "") => format!("{status} after {}", millis(call.duration_micros)),
        (status, message) => {
            format!("{status} after {}: {}", millis(call.duration_micros), message.escape_debug())
        }
    };
    writeln!(out, "  Answer     : {answer}")?;
    for step in &call.steps {
        let at = format!("+{}", millis(step.offset_micros));
        let took = millis(step.duration_micros);
        let detail = step.detail.escape_debug();
        writeln!(out, "    {at:>12} {took:>11}  {} {detail}", step.name)?;
    }
    Ok(writeln!(out)?)
}

fn millis(micros: i64) -> String {
    format!("{:.3} ms", micros as f64 / 1000.0)
}
