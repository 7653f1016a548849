//! The command line of `signet-controller`.
//!
//! Without a command it runs, as spire-controller-manager does. The exit code is 0 when it did
//! what it was asked to, 1 when it failed, 64 when the command line or the configuration is wrong.

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};
use signet_daemon::{
    cli::{
        EXIT_DONE, EXIT_USAGE,
        completion::{self, Shell},
        manual, parse, print,
    },
    program::Program,
};

use crate::{
    config::{Config, RunFlags},
    explain::ExplainFlags,
    lint::{self, LintFlags},
    operator::program::{self, OperatorFlags},
};

const HELP: &str = "\
The controller watches pods and the custom resources ClusterSPIFFEID, ClusterStaticEntry and \
ClusterFederatedTrustDomain (spire.spiffe.io/v1alpha1), and keeps the registration entries and \
federation relationships of a Signet or SPIRE server in step with them, over the server's local \
socket. It reads spire-controller-manager's configuration file.

Exit codes: 0 done, 1 failed, 64 wrong command line or configuration.
Flags may be written with one dash or two: -config FILE, --config=FILE.";

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Keeps registration entries in step with a Kubernetes cluster",
    after_help = HELP,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: RunFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a script that completes this program's commands in a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Say which ClusterSPIFFEID gives a pod an identity, and why the others do not
    Explain(Box<ExplainFlags>),
    /// Print the manual page, for packages
    #[command(hide = true)]
    Manual(manual::Form),
    /// Say what in manifests, or in a cluster, breaks the baseline: secrets, shared or default
    /// service accounts, stores of whole clusters
    Lint(Box<LintFlags>),
    /// Run the operator instead: keep a server, agents, a CSI driver and an OIDC provider as the
    /// custom resources of operator.openshift.io/v1alpha1 say
    Operator(Box<OperatorFlags>),
    /// Run the controller; the same as no command
    Run(Box<RunFlags>),
    /// Check a configuration file, and do nothing else
    Validate(Box<RunFlags>),
}

/// Does what the command line of the process says; `run` runs the controller.
pub fn main(run: impl FnOnce(&'static str, &RunFlags) -> ExitCode) -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let name = match Program::from_argv0(args.first().map(OsString::as_os_str).unwrap_or_default())
    {
        Program::Signet => "signet-controller",
        Program::Spire => "spire-controller-manager",
    };
    let cli = match parse::<Cli>(name, args) {
        Ok(cli) => cli,
        Err(code) => return code.into(),
    };
    match cli.command {
        None => run(name, &cli.flags),
        Some(Command::Explain(flags)) => crate::run::explain(name, &flags),
        Some(Command::Lint(flags)) => lint::main(name, &flags, &mut io::stdout().lock()).into(),
        Some(Command::Operator(flags)) => program::main(name, &flags),
        Some(Command::Run(flags)) => run(name, &flags),
        Some(Command::Validate(flags)) => {
            validate(&flags, &mut io::stdout().lock(), &mut io::stderr()).into()
        }
        Some(Command::Completion { shell }) => {
            print(&completion::script(shell, &Cli::command(), name))
        }
        Some(Command::Manual(form)) => print(&manual::manual(&Cli::command(), name, &form)),
    }
}

fn validate(flags: &RunFlags, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    // Nobody is left to tell when even this cannot be printed.
    match Config::load(flags, &|name| std::env::var(name).ok()) {
        Ok(config) => {
            for warning in &config.warnings {
                let _ = writeln!(err, "warning: {warning}");
            }
            let _ = writeln!(out, "The controller's configuration is valid.");
            EXIT_DONE
        }
        Err(error) => {
            let _ = writeln!(err, "The controller's configuration is invalid:\n{error}");
            EXIT_USAGE
        }
    }
}

#[cfg(test)]
mod tests {
    use signet_daemon::cli::try_parse;

    use super::*;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        try_parse("signet-controller", line.split(' ').map(OsString::from))
    }

    #[test]
    fn every_flag_of_spire_controller_manager_is_read() {
        for line in [
            "c",
            "c -config f",
            "c --config=f --expand-env",
            "c -config f -expandEnv -kubeconfig k -spire-api-socket s",
            "c -config f -zap-log-level debug -zap-encoder json -zap-devel -zap-devel=false \
             -zap-stacktrace-level error -zap-time-encoding epoch",
            "c run -config f",
            "c validate -config f -expandEnv",
            "c completion bash",
            "c explain -pod a/b -config f -kubeconfig k",
            "c operator",
            "c operator -namespace n -kubeconfig k -log-level debug -health-address :1",
            "c operator -render f -render g -openshift",
        ] {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(read(&line).is_ok(), "{line}: {}", read(&line).unwrap_err());
        }
        let cli = read("c -config f -expand-env").unwrap();
        assert!(cli.flags.expand_env && cli.flags.config.is_some() && cli.command.is_none());
        for line in ["c explain -pod b", "c explain", "c nosuch", "c -nosuch", "c -config"] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn validate_names_what_is_wrong() {
        let check = |path: &str| {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let flags = RunFlags { config: Some(path.into()), ..RunFlags::default() };
            let code = validate(&flags, &mut out, &mut err);
            (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
        };
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/samples/controller.yaml");
        assert_eq!(
            check(sample),
            (EXIT_DONE, "The controller's configuration is valid.\n".into(), String::new())
        );
        let (code, out, err) = check("/nonexistent.yaml");
        assert!(code == EXIT_USAGE && out.is_empty() && err.contains("/nonexistent.yaml"), "{err}");
    }
}
