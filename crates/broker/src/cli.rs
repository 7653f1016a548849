//! The command line of `signet-broker`.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};
use serde_json::{Map, Value};
use signet_daemon::cli::{
    EXIT_DONE, EXIT_FAILED, EXIT_USAGE,
    completion::{self, Shell},
    manual, parse, print,
};
use signet_identity::SpiffeId;

use crate::{
    bootstrap::{self, BootstrapFlags},
    config::RunFlags,
    policy::{Policy, Subject},
    report::{self, ReportFlags},
    run,
};

const NAME: &str = "signet-broker";
const HELP: &str = "\
The broker gives workloads short-lived credentials of OpenBao (or Vault) by their SPIFFE identity, \
and takes them back when the identity ends.

Exit codes: 0 done, 1 failed or denied, 64 wrong command line or configuration.
Flags may be written with one dash or two: -config FILE, --config=FILE.";

#[derive(Debug, Parser)]
#[command(version, about = "Gives workloads short-lived credentials by their identity", after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set up OpenBao for the broker, or show how
    Bootstrap(Box<BootstrapFlags>),
    /// Print a script that completes this program's commands in a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, for packages
    #[command(hide = true)]
    Manual(manual::Form),
    /// Check a policy, or ask it
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Say who still uses an old secret and who its new credential, from audit logs
    Report(Box<ReportFlags>),
    /// Run the broker
    Run(Box<RunFlags>),
    /// Check configuration and policy, and do nothing else
    Validate(Box<RunFlags>),
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Check a policy file
    Check {
        /// The policy file
        #[arg(long = "policy", value_name = "FILE")]
        policy: PathBuf,
    },
    /// Say whether an identity would get a credential, and why or why not
    Explain(Box<ExplainFlags>),
}

#[derive(Debug, clap::Args)]
struct ExplainFlags {
    /// The policy file
    #[arg(long = "policy", value_name = "FILE")]
    policy: PathBuf,
    /// The identity
    #[arg(long = "as", value_name = "SPIFFE_ID")]
    id: SpiffeId,
    /// The credential
    #[arg(long = "credential", value_name = "NAME")]
    credential: String,
    /// The tenant that its token names
    #[arg(long = "tenant", value_name = "NAME")]
    tenant: Option<String>,
    /// A claim of its token
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,
}

/// Does what the command line of the process says.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match parse::<Cli>(NAME, args) {
        Ok(cli) => cli,
        Err(code) => return code.into(),
    };
    match cli.command {
        Command::Bootstrap(flags) => bootstrap::main(NAME, &flags).into(),
        Command::Completion { shell } => print(&completion::script(shell, &Cli::command(), NAME)),
        Command::Manual(form) => print(&manual::manual(&Cli::command(), NAME, &form)),
        Command::Policy(PolicyCommand::Check { policy }) => match Policy::load(&policy) {
            Ok((policy, warnings)) => {
                warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
                println!(
                    "The policy is valid: {} tenants, {} credentials, {} rules.",
                    policy.tenants().count(),
                    policy.credentials().count(),
                    policy.rules().len()
                );
                EXIT_DONE.into()
            }
            Err(error) => {
                eprintln!("The policy is invalid:\n{error}");
                EXIT_USAGE.into()
            }
        },
        Command::Policy(PolicyCommand::Explain(flags)) => explain(&flags).into(),
        Command::Report(flags) => report::main(&flags).into(),
        Command::Run(flags) => run::run(NAME, &flags),
        Command::Validate(flags) => match run::validate(&flags) {
            Ok(warnings) => {
                warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
                println!("The broker's configuration is valid.");
                EXIT_DONE.into()
            }
            Err(error) => {
                eprintln!("The broker's configuration is invalid:\n{error}");
                EXIT_USAGE.into()
            }
        },
    }
}

fn explain(flags: &ExplainFlags) -> u8 {
    let policy = match Policy::load(&flags.policy) {
        Ok((policy, _)) => policy,
        Err(error) => {
            eprintln!("The policy is invalid:\n{error}");
            return EXIT_USAGE;
        }
    };
    let mut claims = Map::new();
    for claim in &flags.claims {
        let Some((name, value)) = claim.split_once('=') else {
            eprintln!("-claim {claim}: expected NAME=VALUE");
            return EXIT_USAGE;
        };
        claims.insert(name.to_owned(), Value::String(value.to_owned()));
    }
    let subject = Subject {
        id: &flags.id,
        tenant: flags.tenant.as_deref(),
        claims: (!claims.is_empty()).then_some(&claims),
    };
    for line in policy.explain(&subject, &flags.credential) {
        println!("{line}");
    }
    match policy.decide(&subject, &flags.credential) {
        Ok(_) => EXIT_DONE,
        Err(_) => EXIT_FAILED,
    }
}

#[cfg(test)]
mod tests {
    use signet_daemon::cli::try_parse;

    use super::*;

    #[test]
    fn flags_are_read_in_either_form() {
        let read = |line: &str| try_parse::<Cli>(NAME, line.split(' ').map(OsString::from));
        for line in [
            "b run -config f",
            "b run --config=f -expandEnv -logLevel debug",
            "b validate -config f",
            "b policy check -policy f",
            "b policy explain -policy f -as spiffe://a/b -credential c -tenant t -claim x=y",
            "b completion bash",
            "b report -openbaoAudit f -openbaoAudit g -brokerLog h -oldPath p -same a=spiffe://a/b -quiet 1h",
        ] {
            assert!(read(line).is_ok(), "{line}: {}", read(line).unwrap_err());
        }
        for line in [
            "b report",
            "b",
            "b policy",
            "b policy explain -policy f -as x -credential c",
            "b nosuch",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
