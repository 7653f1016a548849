//! `logger`: the log level of the running server.

use signet_api::pb::spire::api::{
    server::logger::v1::{
        GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest, logger_client::LoggerClient,
    },
    types::{self, LogLevel},
};
use signet_daemon::cli::Output;

use super::env::{CliError, CommonFlags, Env};

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the log level
    Get(Flags),
    /// Go back to the level that the server started with
    Reset(Flags),
    /// Change the log level until the server restarts
    Set(SetFlags),
}

/// Common flags.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `logger set`.
#[derive(Debug, clap::Args)]
pub struct SetFlags {
    /// The new level
    #[arg(long = "level", value_name = "LEVEL", value_enum, required = true, ignore_case = true)]
    level: Level,
    #[command(flatten)]
    common: CommonFlags,
}

/// Log levels, from quiet to loud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// What ends the program by a defect
    Panic,
    /// What ends the program
    Fatal,
    /// Failed operations
    Error,
    /// What deserves attention
    #[value(alias = "warning")]
    Warn,
    /// What happens in normal operation
    Info,
    /// Detail for finding faults
    Debug,
    /// Everything
    Trace,
}

/// Runs a command.
///
/// # Errors
/// [`CliError`] when flags do not fit together, the server cannot be reached or refuses, or the
/// output cannot be written.
pub async fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    let (Command::Get(Flags { common })
    | Command::Reset(Flags { common })
    | Command::Set(SetFlags { common, .. })) = &command;
    let mut client = LoggerClient::new(env.connect(&common.socket).await?);
    let logger = match &command {
        Command::Get(_) => client
            .get_logger(GetLoggerRequest {})
            .await
            .map_err(CliError::call("error fetching logger"))?,
        Command::Reset(_) => client
            .reset_log_level(ResetLogLevelRequest {})
            .await
            .map_err(CliError::call("failed to reset log level"))?,
        Command::Set(flags) => {
            let new_level = level(flags.level).into();
            client
                .set_log_level(SetLogLevelRequest { new_level })
                .await
                .map_err(CliError::call("failed to set log level"))?
        }
    };
    let logger: types::Logger = logger.into_inner();
    if common.output == Output::Json {
        return env.json(&logger);
    }
    env.line(format_args!("Logger Level : {}", name(logger.current_level())))?;
    env.line(format_args!("Launch Level : {}\n", name(logger.launch_level())))
}

fn level(level: Level) -> LogLevel {
    match level {
        Level::Panic => LogLevel::Panic,
        Level::Fatal => LogLevel::Fatal,
        Level::Error => LogLevel::Error,
        Level::Warn => LogLevel::Warn,
        Level::Info => LogLevel::Info,
        Level::Debug => LogLevel::Debug,
        Level::Trace => LogLevel::Trace,
    }
}

/// As SPIRE's text output calls it.
fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Unspecified => "unspecified",
        LogLevel::Panic => "panic",
        LogLevel::Fatal => "fatal",
        LogLevel::Error => "error",
        LogLevel::Warn => "warning",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}
