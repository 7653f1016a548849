//! The command line of `signet-server`.
//!
//! Commands, flags and output are SPIRE's (`spire-server`); what differs is in
//! `docs/compatibility.md`. Exit codes: 0 done, 1 failed (also when one item of a batch did),
//! 64 wrong usage or configuration.

pub mod agent;
pub mod audit;
pub mod bundle;
pub mod console;
pub mod debug;
pub mod doctor;
pub mod entry;
pub mod env;
pub mod federation;
pub mod healthcheck;
pub mod jwt;
pub mod localauthority;
pub mod logger;
pub mod policy;
pub mod tenant;
pub mod text;
pub mod token;
pub mod upstreamauthority;
pub mod wit;
pub mod x509;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use signet_daemon::{
    cli::{
        self, EXIT_DONE, EXIT_FAILED,
        completion::{self, Shell},
        manual,
    },
    program::Program,
};

use self::env::{CliError, Env};
use crate::{
    backup::{self, BackupFlags, RestoreFlags},
    config::RunFlags,
    migrate::{self, MigrateFlags},
    run, servers,
};

/// How long a command may take in all.
const PATIENCE: Duration = Duration::from_secs(600);

const AFTER_HELP: &str = "\
Flags take one dash or two, and a value after a space or `=`. `signet-server help COMMAND` says
more about a command.

A first identity:
  signet-server run -config server.conf
  signet-server token generate -spiffeID spiffe://example.org/my-node
  signet-server entry create -parentID spiffe://example.org/my-node \\
      -spiffeID spiffe://example.org/my-service -selector unix:uid:1000";

/// The command line.
#[derive(Debug, clap::Parser)]
#[command(
    version,
    about = "Workload identity server, compatible with SPIRE",
    after_help = AFTER_HELP,
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli<C: clap::Subcommand = Command> {
    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long = "version", action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// What to do.
    #[command(subcommand)]
    pub command: C,
}

/// The commands, with those of features that are switched on for this process only.
#[derive(Debug, clap::Subcommand)]
pub enum AllCommands {
    /// One that is always there.
    #[command(flatten)]
    Usual(Command),
    /// Make WIT-SVIDs by hand
    #[command(subcommand)]
    Wit(wit::Command),
}

impl From<Command> for AllCommands {
    fn from(command: Command) -> Self {
        Self::Usual(command)
    }
}

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Look after attested agents
    #[command(subcommand)]
    Agent(agent::Command),
    /// Check and search the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    // Its own help text says what it does.
    #[allow(missing_docs, reason = "the flags carry the text")]
    Backup(Box<BackupFlags>),
    /// Look after trust bundles
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Open the web console
    #[command(subcommand)]
    Console(console::Command),
    /// Show figures about the running server
    #[command(subcommand)]
    Debug(debug::Command),
    /// Check what commonly goes wrong, with the next step for each finding
    Doctor(Box<doctor::DoctorFlags>),
    /// Say which workloads get which identities
    #[command(subcommand)]
    Entry(entry::Command),
    /// Look after relationships with foreign trust domains
    #[command(subcommand)]
    Federation(federation::Command),
    /// Check that the server is well
    Healthcheck(healthcheck::Flags),
    /// Make JWT-SVIDs by hand
    #[command(subcommand)]
    Jwt(jwt::Command),
    /// Replace the server's own authorities
    #[command(subcommand)]
    Localauthority(localauthority::Command),
    /// Change the log level of the running server
    #[command(subcommand)]
    Logger(logger::Command),
    /// Print the manual page, for packages
    #[command(hide = true)]
    Manual(manual::Form),
    // Its own help text says what it does.
    #[allow(missing_docs, reason = "the flags carry the text")]
    Migrate(Box<MigrateFlags>),
    // Its own help text says what it does.
    #[allow(missing_docs, reason = "the flags carry the text")]
    Restore(Box<RestoreFlags>),
    /// Check the policy, and explain what it allows
    #[command(subcommand)]
    Policy(policy::Command),
    /// Run the server
    Run(Box<RunFlags>),
    /// Look after the servers that share the registration database
    #[command(subcommand)]
    Server(servers::Command),
    /// Write what somebody else needs to help into a file, without secrets
    #[command(name = "support-bundle")]
    SupportBundle(Box<doctor::SupportFlags>),
    /// Look after tenants
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Make join tokens for agents
    #[command(subcommand)]
    Token(token::Command),
    /// Give up compromised upstream authorities
    #[command(subcommand)]
    Upstreamauthority(upstreamauthority::Command),
    /// Check a configuration file
    Validate(Box<RunFlags>),
    /// Make X.509-SVIDs by hand
    #[command(subcommand)]
    X509(x509::Command),
}

/// The program: reads the process's command line and does what it says.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let program = Program::from_argv0(args.first().map(OsString::as_os_str).unwrap_or_default());
    let mut env = Env::process(program);
    let name = program.server_name();
    let command = if wit::is_on(env.variable) {
        cli::parse::<Cli<AllCommands>>(name, args).map(|cli| cli.command)
    } else {
        cli::parse::<Cli>(name, args).map(|cli| cli.command.into())
    };
    match command {
        Ok(AllCommands::Usual(Command::Backup(flags))) => backup::run_backup(program, &flags),
        Ok(AllCommands::Usual(Command::Restore(flags))) => backup::run_restore(program, &flags),
        Ok(AllCommands::Usual(Command::Migrate(flags))) => migrate::run(program, &flags),
        Ok(AllCommands::Usual(Command::Server(command))) => servers::run(program, &command),
        Ok(AllCommands::Usual(Command::Run(flags))) => run::run(program, &flags),
        Ok(AllCommands::Usual(Command::Validate(flags))) => run::validate(program, &flags),
        Ok(command) => ExitCode::from(client(command, &mut env)),
        Err(code) => ExitCode::from(code),
    }
}

/// Runs a command that talks to a server; complaints go to `env.err`. Returns the exit code.
pub fn client(command: impl Into<AllCommands>, env: &mut Env) -> u8 {
    let command = command.into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(async {
            tokio::time::timeout(PATIENCE, dispatch(command, env))
                .await
                .unwrap_or_else(|_| Err(CliError::failed("the server did not answer in time")))
        }),
        Err(error) => Err(CliError::failed(format!("starting: {error}"))),
    };
    let done = done.and_then(|()| Ok(env.out.flush()?));
    match done {
        Ok(()) => EXIT_DONE,
        // Whoever read the output has seen enough.
        Err(CliError::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            EXIT_FAILED
        }
        Err(error) => {
            // Nobody is left to tell when even this cannot be printed.
            let _ = env.complain(format_args!("Error: {error}"));
            error.exit_code()
        }
    }
}

async fn dispatch(command: AllCommands, env: &mut Env) -> Result<(), CliError> {
    let command = match command {
        AllCommands::Usual(command) => command,
        AllCommands::Wit(command) => return wit::run(command, env).await,
    };
    match command {
        Command::Agent(command) => agent::run(command, env).await,
        Command::Audit(command) => audit::run(command, env),
        Command::Bundle(command) => bundle::run(command, env).await,
        Command::Completion { shell } => {
            let name = env.program.server_name();
            let script = completion::script(shell, &commands(env, name), name);
            Ok(env.out.write_all(script.as_bytes())?)
        }
        Command::Console(command) => console::run(command, env).await,
        Command::Debug(command) => debug::run(command, env).await,
        Command::Doctor(flags) => doctor::doctor(*flags, env).await,
        Command::SupportBundle(flags) => doctor::support_bundle(*flags, env).await,
        Command::Entry(command) => entry::run(command, env).await,
        Command::Federation(command) => federation::run(command, env).await,
        Command::Healthcheck(flags) => healthcheck::run(flags, env).await,
        Command::Jwt(command) => jwt::run(command, env).await,
        Command::Localauthority(command) => localauthority::run(command, env).await,
        Command::Logger(command) => logger::run(command, env).await,
        Command::Manual(form) => {
            let name = env.program.server_name();
            let page = manual::manual(&commands(env, name), name, &form);
            Ok(env.out.write_all(page.as_bytes())?)
        }
        Command::Policy(command) => policy::run(command, env).await,
        Command::Tenant(command) => tenant::run(command, env).await,
        Command::Token(command) => token::run(command, env).await,
        Command::Upstreamauthority(command) => upstreamauthority::run(command, env).await,
        Command::X509(command) => x509::run(command, env).await,
        Command::Backup(_)
        | Command::Migrate(_)
        | Command::Restore(_)
        | Command::Run(_)
        | Command::Server(_)
        | Command::Validate(_) => Err(CliError::failed("this command does not talk to a server")),
    }
}

/// The commands that there are in this process.
fn commands(env: &Env, name: &'static str) -> clap::Command {
    match wit::is_on(env.variable) {
        true => cli::command::<Cli<AllCommands>>(name),
        false => cli::command::<Cli>(name),
    }
}
