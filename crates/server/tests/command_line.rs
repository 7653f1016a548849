//! Every command and flag of SPIRE's `spire-server` is understood, and mistakes are told apart.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::ffi::OsString;

use signet_daemon::cli::{EXIT_DONE, EXIT_USAGE, command, go_flags, parse, try_parse};
use signet_server::cli::{AllCommands, Cli};

fn read(line: &str) -> Result<Cli, clap::Error> {
    let args = std::iter::once("signet-server").chain(line.split_whitespace());
    try_parse("signet-server", args.map(OsString::from))
}

const COMMON: &str = "-socketPath /s -instance i -output json";

#[test]
fn every_command_and_flag_of_spire_is_understood() {
    let entry = "-spiffeID spiffe://td/w -parentID spiffe://td/n -selector a:b -selector c:d \
                 -dns x -dns y -federatesWith z -admin -downstream -storeSVID -hint h -entryID e \
                 -entryExpiry 7 -x509SVIDTTL 1 -jwtSVIDTTL 2 -jwtSVIDIncludeJTI \
                 -disableX509SVIDPrefetch -data -";
    let entry_filter = "-spiffeID i -parentID p -selector a:b -matchSelectorsOn exact \
                        -federatesWith td -matchFederatesWithOn any -downstream -hint h";
    let agent_filter = "-selector a:b -matchSelectorsOn subset -attestationType t -banned true \
                        -canReattest false -expiresBefore x";
    let federation = "-trustDomain td -bundleEndpointURL u -bundleEndpointProfile https_spiffe \
                      -endpointSpiffeID i -trustDomainBundlePath p -trustDomainBundleFormat spiffe";
    let client = [
        "token generate -spiffeID i -ttl 60".to_owned(),
        format!("entry create -node {entry}"),
        format!("entry update {entry}"),
        format!("entry show {entry_filter}"),
        "entry show -entryID e".to_owned(),
        format!("entry count {entry_filter}"),
        "entry delete -entryID e".to_owned(),
        "entry delete -file -".to_owned(),
        "entry explain -agent i -selectors a:b,c:d".to_owned(),
        format!("agent list {agent_filter}"),
        format!("agent count {agent_filter}"),
        "agent show -spiffeID i".to_owned(),
        "agent ban -spiffeID i".to_owned(),
        "agent evict -spiffeID i".to_owned(),
        "agent purge -expiredFor 1h30m -dryRun".to_owned(),
        "bundle show -format spiffe".to_owned(),
        "bundle list -id td -format pem".to_owned(),
        "bundle set -id td -path f -format spiffe".to_owned(),
        "bundle delete -id td -mode dissociate".to_owned(),
        "bundle count".to_owned(),
        format!("federation create {federation}"),
        format!("federation update {federation}"),
        "federation create -data -".to_owned(),
        "federation list".to_owned(),
        "federation show -trustDomain td".to_owned(),
        "federation delete -id td -withBundle restrict".to_owned(),
        "federation refresh -id td -acceptOlder".to_owned(),
        "federation status -id td".to_owned(),
        "x509 mint -spiffeID i -dns a -dns b -ttl 1h -write d".to_owned(),
        "jwt mint -spiffeID i -audience a -audience b -ttl 5m -write f".to_owned(),
        "localauthority x509 show".to_owned(),
        "localauthority x509 prepare".to_owned(),
        "localauthority x509 activate -authorityID i".to_owned(),
        "localauthority x509 taint -authorityID i".to_owned(),
        "localauthority x509 revoke -authorityID i".to_owned(),
        "localauthority jwt show".to_owned(),
        "localauthority jwt prepare".to_owned(),
        "localauthority jwt show -second".to_owned(),
        "localauthority jwt prepare -second".to_owned(),
        "localauthority jwt activate -authorityID i".to_owned(),
        "localauthority jwt taint -authorityID i".to_owned(),
        "localauthority jwt revoke -authorityID i".to_owned(),
        "upstreamauthority taint -subjectKeyID i".to_owned(),
        "upstreamauthority revoke -subjectKeyID i".to_owned(),
        "logger get".to_owned(),
        "logger set -level WARNING".to_owned(),
        "logger reset".to_owned(),
        "debug getinfo".to_owned(),
    ];
    for line in client {
        let line = format!("{line} {COMMON}");
        assert!(read(&line).is_ok(), "{line}: {}", read(&line).unwrap_err());
    }
    let run = "-config f -bindAddress a -serverPort 1 -dataDir d -expandEnv -logFile l \
               -logFormat json -logLevel DEBUG -logSourceLocation -socketPath s -trustDomain t";
    for line in [
        format!("run {run}"),
        format!("validate {run}"),
        "healthcheck -socketPath /s -instance i -shallow -verbose".to_owned(),
        "completion bash".to_owned(),
    ] {
        assert!(read(&line).is_ok(), "{line}: {}", read(&line).unwrap_err());
    }
}

#[test]
fn a_wrong_command_line_exits_64_and_help_exits_0() {
    let code = |line: &str| {
        let args = std::iter::once("signet-server").chain(line.split_whitespace());
        parse::<Cli>("signet-server", args.map(OsString::from)).map(drop)
    };
    for line in [
        "",
        "nosuch",
        "entry",
        "entry nosuch",
        "entry show -nosuch",
        "agent show",
        "agent list -matchSelectorsOn zz",
        "logger set -level loud",
        "healthcheck -output json",
        "bundle delete -id x -mode zz",
    ] {
        assert_eq!(code(line), Err(EXIT_USAGE), "{line}");
    }
    for line in ["-h", "--help", "-version", "-v", "entry -h", "entry create -help", "help entry"] {
        assert_eq!(code(line), Err(EXIT_DONE), "{line}");
    }
}

#[test]
fn help_names_every_flag_and_shows_an_example() {
    let help = read("entry create -h").unwrap_err().to_string();
    for flag in ["--spiffeID", "--parentID", "--selector", "--node", "--data", "--socketPath"] {
        assert!(help.contains(flag), "{flag}\n{help}");
    }
    assert!(help.contains("Example"), "{help}");
}

#[test]
fn commands_of_a_feature_are_there_only_when_it_is_switched_on() {
    let line = "wit mint -spiffeID spiffe://td/w -keyType ec-p384 -signingAlgorithm ES384 -ttl 5m \
                -write d -socketPath /s -instance i -output json";
    let args = || std::iter::once("signet-server").chain(line.split_whitespace());
    let args = || args().map(OsString::from);
    try_parse::<Cli<AllCommands>>("signet-server", args()).unwrap();
    let refused = try_parse::<Cli>("signet-server", args()).unwrap_err();
    assert_eq!(refused.kind(), clap::error::ErrorKind::InvalidSubcommand);
    assert!(!read("-h").unwrap_err().to_string().contains("WIT"));
    let usual = command::<Cli>("signet-server");
    assert!(usual.get_subcommands().all(|command| command.get_name() != "wit"));
}

/// Every flag of every command that takes a value, with the words that lead to it.
fn flags_with_values(
    command: &clap::Command,
    words: &[String],
    found: &mut Vec<(Vec<String>, String)>,
) {
    for arg in command.get_arguments() {
        if let Some(long) = arg.get_long()
            && arg.get_action().takes_values()
        {
            found.push((words.to_vec(), long.to_owned()));
        }
    }
    for below in command.get_subcommands() {
        let words = [words, &[below.get_name().to_owned()]].concat();
        flags_with_values(below, &words, found);
    }
}

#[test]
fn the_value_of_every_flag_is_taken_as_it_is() {
    let command = command::<Cli<AllCommands>>("signet-server");
    let mut flags = Vec::new();
    flags_with_values(&command, &["signet-server".to_owned()], &mut flags);
    assert!(flags.len() > 200, "{}", flags.len());
    for (words, name) in flags {
        for value in ["-foo", "--data=x", "-spiffeID", "-h", "--", "-", "", "=", "-5"] {
            let given = [format!("-{name}"), value.to_owned(), "-nosuch".to_owned()];
            let args = words.iter().chain(&given).map(OsString::from);
            let rewritten = [format!("--{name}={value}"), "--nosuch".to_owned()];
            let expected: Vec<OsString> =
                words.iter().chain(&rewritten).map(OsString::from).collect();
            assert_eq!(go_flags(&command, args), expected);
        }
    }
}
