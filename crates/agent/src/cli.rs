//! The command line of `signet-agent`.
//!
//! The commands, flags and texts are those of SPIRE's agent; `csi`, `explain` and `completion` are
//! our own. What went wrong is written to standard error; the exit code is 0 when the command did what
//! it was asked to, 1 when it failed, 64 when the command line or the configuration is wrong.

mod admin;
mod connect;
mod doctor;
mod explain;
mod jwt;
mod print;
mod sds;
mod trace;
mod wit;
mod x509;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};
use signet_daemon::{
    cli::{
        EXIT_DONE, EXIT_FAILED, EXIT_USAGE,
        completion::{self, Shell},
        manual, parse,
    },
    program::Program,
};

use crate::{
    config::{Config, RunFlags},
    csi,
};

/// The name under which the program is its command `csi`.
const CSI_DRIVER: &str = "spiffe-csi-driver";

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// It was asked wrongly.
    #[error("{0}")]
    Usage(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
    /// What it has to say cannot be written.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
}

/// Where a command writes to.
pub(crate) struct Terminal<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    program: Program,
}

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Workload identity agent, compatible with SPIRE",
    after_help = "Flags may be written with one dash or two: -socketPath PATH, --socketPath=PATH."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask the Workload API, as a workload does
    #[command(subcommand)]
    Api(ApiCommand),
    /// Print a script that completes this program's commands in a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Run the CSI driver that gives pods the Workload API's socket
    Csi(csi::run::CsiRunFlags),
    /// Look into a running agent
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Check what commonly goes wrong, with the next step for each finding
    Doctor(Box<doctor::DoctorFlags>),
    /// Say which selectors a process has, which entries match it, and what the others lack
    Explain(explain::Flags),
    /// Ask whether the agent can serve
    Healthcheck(admin::HealthFlags),
    /// Keep identities in files, in the place of spiffe-helper
    Helper(signet_helper::Flags),
    /// Read and set the log level of a running agent
    #[command(subcommand)]
    Logger(admin::LoggerCommand),
    /// Print the manual page, for packages
    #[command(hide = true)]
    Manual(manual::Form),
    /// Write what somebody else needs to help into a file, without secrets
    #[command(name = "support-bundle")]
    SupportBundle(Box<doctor::SupportFlags>),
    /// Run the agent
    Run(Box<RunFlags>),
    /// See which proxies get their secrets from a running agent
    #[command(subcommand)]
    Sds(sds::SdsCommand),
    /// Check a configuration file
    Validate(Box<RunFlags>),
}

#[derive(Debug, Subcommand)]
enum ApiCommand {
    /// Fetch X.509-SVIDs, with `jwt` JWT-SVIDs, or with `wit` WIT-SVIDs
    Fetch(FetchCommand),
    /// Print the header fields by which a request proves who sends it: a WIT-SVID and its proof
    Prove(Box<wit::ProveFlags>),
    /// Validate an SVID
    #[command(subcommand)]
    Validate(ValidateCommand),
    /// Print X.509-SVIDs as they are renewed, until interrupted
    Watch(x509::WatchFlags),
}

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
struct FetchCommand {
    #[command(subcommand)]
    kind: Option<FetchKind>,
    #[command(flatten)]
    x509: x509::FetchFlags,
}

#[derive(Debug, Subcommand)]
enum FetchKind {
    /// Fetch a JWT-SVID and the bundles to validate it with
    Jwt(jwt::FetchFlags),
    /// Fetch WIT-SVIDs and the bundles to validate them with
    Wit(wit::FetchFlags),
    /// Fetch X.509-SVIDs
    X509(x509::FetchFlags),
}

#[derive(Debug, Subcommand)]
enum ValidateCommand {
    /// Validate a JWT-SVID
    Jwt(jwt::ValidateFlags),
    /// Validate a WIT-SVID together with its proof
    Wit(Box<wit::ValidateFlags>),
}

#[derive(Debug, Subcommand)]
enum DebugCommand {
    /// Print what the agent holds and when it last heard from its server
    Getinfo(admin::AdminFlags),
    /// Print the last calls of a process, and what each step of them took
    Trace(trace::Flags),
}

/// Does what the command line of the process says; `run` runs the agent.
pub fn main(run: impl FnOnce(Program, &RunFlags) -> ExitCode) -> ExitCode {
    let program = Program::from_argv0(&std::env::args_os().next().unwrap_or_default());
    let cli = match parse::<Cli>(program.agent_name(), arguments(std::env::args_os())) {
        Ok(cli) => cli,
        Err(code) => return code.into(),
    };
    match cli.command {
        Command::Csi(flags) => return csi::run::run(&flags),
        Command::Helper(flags) => return signet_helper::run(&flags),
        Command::Run(flags) => return run(program, &flags),
        _ => {}
    }
    let (mut out, mut err) = (io::stdout().lock(), io::stderr());
    let mut terminal = Terminal { out: &mut out, err: &mut err, program };
    execute(cli.command, &mut terminal).into()
}

/// The command line as it is read: what is invoked as `spiffe-csi-driver` is the command `csi`.
fn arguments(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<_> = args.collect();
    let name = args.first().and_then(|argv0| Path::new(argv0).file_name());
    if name.is_some_and(|name| name == CSI_DRIVER) {
        args.insert(1, "csi".into());
    }
    args
}

/// Runs a command other than `run` and `csi` to its end and gives the exit code.
fn execute(command: Command, terminal: &mut Terminal<'_>) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(terminal.err, "starting: {error}");
            return EXIT_FAILED;
        }
    };
    let result = runtime.block_on(dispatch(command, terminal));
    let result = result.and_then(|()| Ok(terminal.out.flush()?));
    match result {
        Ok(()) => EXIT_DONE,
        // Nobody reads on: that is not a failure of ours.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_DONE,
        Err(error) => {
            let _ = writeln!(terminal.err, "{error}");
            match error {
                CliError::Usage(_) => EXIT_USAGE,
                CliError::Failed(_) | CliError::Output(_) => EXIT_FAILED,
            }
        }
    }
}

async fn dispatch(command: Command, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    match command {
        Command::Api(ApiCommand::Fetch(fetch)) => match fetch.kind {
            None => x509::fetch(&fetch.x509, terminal).await,
            Some(FetchKind::X509(flags)) => x509::fetch(&flags, terminal).await,
            Some(FetchKind::Jwt(flags)) => jwt::fetch(&flags, terminal).await,
            Some(FetchKind::Wit(flags)) => wit::fetch(&flags, terminal).await,
        },
        Command::Api(ApiCommand::Validate(ValidateCommand::Jwt(flags))) => {
            jwt::validate(&flags, terminal).await
        }
        Command::Api(ApiCommand::Validate(ValidateCommand::Wit(flags))) => {
            wit::validate(&flags, terminal).await
        }
        Command::Api(ApiCommand::Prove(flags)) => wit::prove(&flags, terminal).await,
        Command::Api(ApiCommand::Watch(flags)) => x509::watch(&flags, terminal).await,
        Command::Completion { shell } => completion(shell, terminal),
        Command::Csi(_) => Err(CliError::Usage("the CSI driver is already running".to_owned())),
        Command::Debug(DebugCommand::Getinfo(flags)) => admin::getinfo(&flags, terminal).await,
        Command::Debug(DebugCommand::Trace(flags)) => trace::trace(&flags, terminal).await,
        Command::Doctor(flags) => doctor::doctor(&flags, terminal).await,
        Command::SupportBundle(flags) => doctor::support_bundle(&flags, terminal).await,
        Command::Explain(flags) => explain::explain(&flags, terminal).await,
        Command::Healthcheck(flags) => admin::healthcheck(&flags, terminal).await,
        Command::Helper(_) => Err(CliError::Usage("the helper is already running".to_owned())),
        Command::Logger(command) => admin::logger(&command, terminal).await,
        Command::Manual(form) => {
            let page = manual::manual(&Cli::command(), terminal.program.agent_name(), &form);
            Ok(terminal.out.write_all(page.as_bytes())?)
        }
        Command::Run(_) => Err(CliError::Usage("the agent is already running".to_owned())),
        Command::Sds(sds::SdsCommand::List(flags)) => sds::list(&flags, terminal).await,
        Command::Validate(flags) => validate(&flags, terminal),
    }
}

fn completion(shell: Shell, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let name = terminal.program.agent_name();
    let script = completion::script(shell, &Cli::command(), name);
    Ok(terminal.out.write_all(script.as_bytes())?)
}

/// Checks the configuration as `run` does, and opens, binds and creates nothing.
fn validate(flags: &RunFlags, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let family = match terminal.program {
        Program::Signet => "Signet",
        Program::Spire => "SPIRE",
    };
    match Config::load(terminal.program, flags, &environment) {
        Ok(config) => {
            for warning in &config.warnings {
                writeln!(terminal.err, "warning: {warning}")?;
            }
            Ok(writeln!(terminal.out, "{family} agent configuration file is valid.")?)
        }
        Err(error) => {
            Err(CliError::Usage(format!("{family} agent configuration file is invalid:\n{error}")))
        }
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use signet_daemon::cli::try_parse;

    use super::*;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        try_parse("signet-agent", line.split(' ').map(OsString::from))
    }

    fn run(line: &str) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut terminal = Terminal { out: &mut out, err: &mut err, program: Program::Spire };
        let code = execute(read(line).unwrap().command, &mut terminal);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn every_command_and_flag_of_spire_is_read() {
        for line in [
            "a run -config f -allowUnauthenticatedVerifiers -dataDir d -disableSDSAPI \
             -disableWorkloadAPI=false -expandEnv -insecureBootstrap -joinToken t -joinTokenFile f \
             -logFile f -logFormat json -logLevel DEBUG -logSourceLocation -rebootstrapDelay 5m \
             -rebootstrapMode auto -serverAddress h -serverPort 1 -socketPath s -trustBundle b \
             -trustBundleFormat pem -trustBundleUrl u -trustDomain t",
            "a validate -config=f",
            "a api fetch",
            "a api fetch -socketPath s -silent -timeout 1s -write d -output json",
            "a api fetch x509 -silent -instance i",
            "a api fetch jwt -audience a,b -spiffeID spiffe://td/x -timeout 1s -format json",
            "a api validate jwt -audience a -svid s -output pretty",
            "a api watch -socketPath s",
            "a healthcheck -shallow -verbose -socketPath s",
            "a debug getinfo -output json -socketPath s",
            "a doctor -config f -output json",
            "a support-bundle -config f -write b.json",
            "a debug trace -pid 1 -output json -socketPath s",
            "a logger get",
            "a logger set -level debug",
            "a logger reset -output json",
            "a explain -pid 1",
            "a explain -selector unix:uid:0 -selector unix:gid:0",
            "a completion bash",
            "a helper -config f -daemon-mode=false",
            "a sds list -authorityID 01ab -output json -socketPath s",
            "a csi -workload-api-socket-dir /w -csi-socket-path=/c -node-id n -plugin-name p",
            "a csi -csi-socket-path /c -probe",
        ] {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(read(&line).is_ok(), "{line}: {}", read(&line).unwrap_err());
        }
        let Command::Run(flags) = read("a run -disableSDSAPI -expandEnv=0").unwrap().command else {
            panic!()
        };
        assert!(flags.disable_sds_api && !flags.common.expand_env);
        for line in ["a", "a nosuch", "a api fetch -nosuch", "a run -serverPort x", "a api"] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    /// Every flag of every command that takes a value, with the words that lead to it.
    fn flags_with_values(
        command: &clap::Command,
        words: &[String],
        found: &mut Vec<(Vec<String>, String)>,
    ) {
        // What needs an equals sign is a boolean of Go: it takes no other argument.
        let flags = command
            .get_arguments()
            .filter(|arg| arg.get_action().takes_values() && !arg.is_require_equals_set());
        found.extend(flags.filter_map(|arg| Some((words.to_vec(), arg.get_long()?.to_owned()))));
        for below in command.get_subcommands() {
            let words = [words, &[below.get_name().to_owned()]].concat();
            flags_with_values(below, &words, found);
        }
    }

    #[test]
    fn the_value_of_every_flag_is_taken_as_it_is() {
        let command = signet_daemon::cli::command::<Cli>("signet-agent");
        let mut flags = Vec::new();
        flags_with_values(&command, &["a".to_owned()], &mut flags);
        assert!(flags.len() > 60, "{}", flags.len());
        for (words, name) in flags {
            for value in ["-foo", "--data=x", "-silent", "-h", "--", "-", "", "=", "-5"] {
                let given = [format!("-{name}"), value.to_owned(), "-nosuch".to_owned()];
                let args = words.iter().chain(&given).map(OsString::from);
                let rewritten = [format!("--{name}={value}"), "--nosuch".to_owned()];
                let expected: Vec<OsString> =
                    words.iter().chain(&rewritten).map(OsString::from).collect();
                assert_eq!(signet_daemon::cli::go_flags(&command, args), expected);
            }
        }
    }

    #[test]
    fn the_name_of_spiffe_csi_driver_is_its_command() {
        let words = |line: &str| arguments(line.split(' ').map(OsString::from)).join(" ".as_ref());
        assert_eq!(
            words("/bin/spiffe-csi-driver -node-id n"),
            "/bin/spiffe-csi-driver csi -node-id n"
        );
        assert_eq!(words("spiffe-csi-driver"), "spiffe-csi-driver csi");
        assert_eq!(words("signet-agent run"), "signet-agent run");
    }

    #[test]
    fn a_token_on_the_command_line_is_not_shown() {
        let shown = format!("{:?}", read("a run -joinToken secret").unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn what_is_missing_is_wrong_usage() {
        for (line, wanted) in [
            ("a api fetch jwt", "audience must be specified\n"),
            ("a api validate jwt -audience a", "svid must be specified\n"),
            ("a api validate jwt -svid a", "audience must be specified\n"),
            ("a logger set", "Error: a value (-level) must be set\n"),
            ("a logger set -level zz", "Error: the value \"zz\" is not a valid setting\n"),
            ("a explain", "one of -pid and -selector must be specified\n"),
            ("a explain -selector x", "not a selector: \"x\"; expected type:value\n"),
        ] {
            assert_eq!(run(line), (EXIT_USAGE, String::new(), wanted.to_owned()), "{line}");
        }
    }

    #[test]
    fn an_agent_that_is_not_there_is_named() {
        let (code, out, err) = run("a api fetch -socketPath /nonexistent/x.sock");
        assert_eq!((code, out.as_str()), (EXIT_FAILED, ""));
        assert!(err.contains("/nonexistent/x.sock"), "{err}");
        let (code, out, err) = run("a healthcheck -socketPath /nonexistent/x.sock -verbose");
        assert_eq!((code, out.as_str()), (EXIT_FAILED, "Checking agent health...\n"));
        assert!(err.starts_with("Failed to check health: "), "{err}");
        assert!(err.ends_with("Agent is unhealthy: unable to determine health\n"), "{err}");
        let (code, _, err) = run("a debug getinfo -socketPath /nonexistent/x.sock");
        assert!(code == EXIT_FAILED && err.starts_with("Error: "), "{err}");
    }

    #[test]
    fn validate_says_whether_the_file_is_valid() {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/samples/agent.conf");
        let (code, out, err) = run(&format!("a validate -config {sample}"));
        assert_eq!(
            (code, out.as_str(), err.as_str()),
            (EXIT_DONE, "SPIRE agent configuration file is valid.\n", "")
        );
        let (code, _, err) = run("a validate -config /nonexistent.conf");
        assert_eq!(code, EXIT_USAGE);
        assert!(
            err.starts_with("SPIRE agent configuration file is invalid:\n/nonexistent"),
            "{err}"
        );
    }

    #[test]
    fn completions_are_printed() {
        let (code, out, _) = run("a completion bash");
        assert!(code == EXIT_DONE && out.contains("healthcheck"));
    }
}
