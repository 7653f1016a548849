//! `healthcheck`, `debug getinfo` and `logger`.

use std::time::Duration;

use signet_api::pb::{
    grpc::health::v1::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    },
    spire::{
        agent::debug::v1::{GetInfoRequest, GetInfoResponse, debug_client::DebugClient},
        api::{
            agent::logger::v1::{
                GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
                logger_client::LoggerClient,
            },
            server::debug::v1::{
                GetInfoRequest as ServerInfoRequest, debug_client::DebugClient as ServerDebugClient,
            },
            types::{self, LogLevel},
        },
    },
};
use signet_config as config;
use signet_daemon::cli::Output;

use super::{
    CliError, Terminal,
    connect::{AdminSocket, PublicSocket, admin},
    print::{duration, rfc3339, spiffe_id},
};

/// Flags of the commands of the admin socket.
#[derive(Debug, clap::Args)]
pub(super) struct AdminFlags {
    #[command(flatten)]
    socket: AdminSocket,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", default_value = "pretty")]
    output: Output,
}

/// Flags of `healthcheck`.
#[derive(Debug, clap::Args)]
pub(super) struct HealthFlags {
    #[command(flatten)]
    socket: PublicSocket,
    /// Ask less of the agent; as in SPIRE, it makes no difference yet
    #[arg(long = "shallow")]
    shallow: bool,
    /// Say what is done and what went wrong
    #[arg(long = "verbose")]
    verbose: bool,
}

/// What `logger` can do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum LoggerCommand {
    /// Print the current log level and the one at start
    Get(AdminFlags),
    /// Go back to the log level at start
    Reset(AdminFlags),
    /// Set the log level
    Set {
        /// The new level: panic, fatal, error, warn, info, debug or trace
        #[arg(long = "level", value_name = "LEVEL")]
        level: Option<String>,
        #[command(flatten)]
        flags: AdminFlags,
    },
}

/// Asks whether the agent can serve.
pub(super) async fn healthcheck(
    flags: &HealthFlags,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    if flags.verbose {
        writeln!(terminal.out, "Checking agent health...")?;
    }
    let answer = match flags.socket.connect(terminal.program).await {
        Ok(channel) => {
            let request = HealthCheckRequest { service: String::new() };
            let answer = admin(HealthClient::new(channel.clone()).check(request)).await;
            // A server answers the same question on its own socket.
            let mut server = ServerDebugClient::new(channel);
            if answer.is_ok() && admin(server.get_info(ServerInfoRequest {})).await.is_ok() {
                let message = "this is the socket of a server, not of an agent";
                return Err(CliError::Failed(message.to_owned()));
            }
            answer
        }
        Err(error @ CliError::Usage(_)) => return Err(error),
        Err(error) => Err(error),
    };
    let status = match answer {
        Ok(response) => response.status(),
        Err(error) => {
            if flags.verbose {
                writeln!(terminal.err, "Failed to check health: {error}")?;
            }
            let message = "Agent is unhealthy: unable to determine health";
            return Err(CliError::Failed(message.to_owned()));
        }
    };
    if status != ServingStatus::Serving {
        let status = status.as_str_name();
        let message = format!("Agent is unhealthy: agent returned status {status:?}");
        return Err(CliError::Failed(message));
    }
    Ok(writeln!(terminal.out, "Agent is healthy.")?)
}

/// Prints what the agent holds.
pub(super) async fn getinfo(
    flags: &AdminFlags,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let info = with_prefix(async {
        let channel = flags.socket.connect(terminal.program).await?;
        admin(DebugClient::new(channel).get_info(GetInfoRequest {})).await
    })
    .await?;
    match flags.output {
        Output::Json => terminal.json(&info),
        Output::Pretty => print_info(&info, terminal),
    }
}

fn print_info(info: &GetInfoResponse, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let out = &mut terminal.out;
    let uptime = Duration::from_secs(u64::try_from(info.uptime).unwrap_or(0));
    let last_sync = match info.last_sync_success {
        0 => "(never)".to_owned(),
        unix => rfc3339(unix),
    };
    writeln!(out, "Agent Debug Info:")?;
    for (name, value) in [
        ("Uptime:", duration(uptime)),
        ("Last Sync Success:", last_sync),
        ("Cached X.509 SVIDs:", info.cached_x509_svids_count.to_string()),
        ("Cached JWT SVIDs:", info.cached_jwt_svids_count.to_string()),
        ("Cached SVID Store X.509 SVIDs:", info.cached_svidstore_x509_svids_count.to_string()),
    ] {
        writeln!(out, "  {name:<33}{value}")?;
    }
    for (at, cert) in info.svid_chain.iter().enumerate() {
        if at == 0 {
            writeln!(out, "  SVID Chain:")?;
        }
        writeln!(out, "    [{at}] SPIFFE ID:  {}", spiffe_id(cert.id.as_ref()))?;
        writeln!(out, "        Subject:    {}", cert.subject)?;
        writeln!(out, "        Expires At: {}", rfc3339(cert.expires_at))?;
    }
    Ok(())
}

/// Reads or sets the log level.
pub(super) async fn logger(
    command: &LoggerCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let (LoggerCommand::Get(flags)
    | LoggerCommand::Reset(flags)
    | LoggerCommand::Set { flags, .. }) = command;
    let level = match command {
        LoggerCommand::Set { level, .. } => Some(new_level(level.as_deref())?),
        _ => None,
    };
    let program = terminal.program;
    let logger = with_prefix(async {
        let mut client = LoggerClient::new(flags.socket.connect(program).await?);
        match command {
            LoggerCommand::Get(_) => admin(client.get_logger(GetLoggerRequest {})).await,
            LoggerCommand::Reset(_) => admin(client.reset_log_level(ResetLogLevelRequest {})).await,
            LoggerCommand::Set { .. } => {
                let new_level = level.unwrap_or(LogLevel::Unspecified).into();
                admin(client.set_log_level(SetLogLevelRequest { new_level })).await
            }
        }
    })
    .await?;
    match flags.output {
        Output::Json => terminal.json(&logger),
        Output::Pretty => print_logger(&logger, terminal),
    }
}

fn new_level(text: Option<&str>) -> Result<LogLevel, CliError> {
    let text = text
        .filter(|text| !text.is_empty())
        .ok_or_else(|| CliError::Usage("Error: a value (-level) must be set".to_owned()))?;
    let level = text.parse::<config::LogLevel>().map_err(|_| {
        CliError::Usage(format!("Error: the value {text:?} is not a valid setting"))
    })?;
    Ok(match level {
        config::LogLevel::Panic => LogLevel::Panic,
        config::LogLevel::Fatal => LogLevel::Fatal,
        config::LogLevel::Error => LogLevel::Error,
        config::LogLevel::Warn => LogLevel::Warn,
        config::LogLevel::Info => LogLevel::Info,
        config::LogLevel::Debug => LogLevel::Debug,
        config::LogLevel::Trace => LogLevel::Trace,
    })
}

fn print_logger(logger: &types::Logger, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let name = |level: LogLevel| match level {
        LogLevel::Unspecified => "unspecified",
        LogLevel::Panic => "panic",
        LogLevel::Fatal => "fatal",
        LogLevel::Error => "error",
        LogLevel::Warn => "warning",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    writeln!(terminal.out, "Logger Level : {}", name(logger.current_level()))?;
    Ok(writeln!(terminal.out, "Launch Level : {}\n", name(logger.launch_level()))?)
}

/// These commands mark a failure as such.
async fn with_prefix<T>(call: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    call.await.map_err(|error| match error {
        CliError::Failed(message) => CliError::Failed(format!("Error: {message}")),
        other => other,
    })
}
