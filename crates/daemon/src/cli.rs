//! What our command lines share: Go's flag syntax on top of clap, output, exit codes, sockets.
//!
//! SPIRE's programs take flags with one dash (`-socketPath x`, `-socketPath=x`, `-admin`), and so
//! do ours; two dashes work as well. Define flags with clap as long flags of the same name, and
//! parse with [`parse`].

use std::{
    collections::HashSet,
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{ArgAction, Command, error::ErrorKind};

/// The command did what it was asked to.
pub const EXIT_DONE: u8 = 0;
/// The command failed, or an item of a batch did.
pub const EXIT_FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub const EXIT_USAGE: u8 = 64;

/// The form of what a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Text for people
    #[default]
    Pretty,
    /// One line of JSON for programs
    Json,
}

/// Parses a command line whose first item is the program's name; `name` is what help calls it.
/// Help, version and complaints are printed.
///
/// # Errors
/// The exit code when there is nothing to run: [`EXIT_DONE`] after help and version, else
/// [`EXIT_USAGE`].
pub fn parse<C: clap::Parser>(
    name: &'static str,
    args: impl IntoIterator<Item = OsString>,
) -> Result<C, u8> {
    try_parse(name, args).map_err(|error| {
        // Nobody is left to tell when even this cannot be printed.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => EXIT_DONE,
            _ => EXIT_USAGE,
        }
    })
}

/// As [`parse`], printing nothing.
///
/// # Errors
/// Help, version or a complaint.
pub fn try_parse<C: clap::Parser>(
    name: &'static str,
    args: impl IntoIterator<Item = OsString>,
) -> Result<C, clap::Error> {
    let command = command::<C>(name);
    let mut switches = HashSet::new();
    collect_switches(&command, &mut switches);
    let args = go_flags(args).into_iter().filter_map(|arg| switch(arg, &switches));
    let matches = command.try_get_matches_from(args)?;
    C::from_arg_matches(&matches)
}

/// The command as [`parse`] uses it, for completions and documentation.
pub fn command<C: clap::CommandFactory>(name: &'static str) -> Command {
    prepared(C::command().name(name).bin_name(name))
}

/// Gives long flags that were written with one dash their second one.
///
/// Left alone: the program's name, `-`, one-letter flags such as `-h`, numbers such as `-5`, and
/// everything after `--`.
pub fn go_flags(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut out: Vec<OsString> = args.next().into_iter().collect();
    let mut literal = false;
    out.extend(args.map(|arg| {
        literal |= arg == "--";
        match arg.to_str() {
            Some(text) if !literal && is_long_flag(text) => format!("-{text}").into(),
            _ => arg,
        }
    }));
    out
}

/// The flags without a value, of the command and all below it.
fn collect_switches(command: &Command, switches: &mut HashSet<String>) {
    let flags =
        command.get_arguments().filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue));
    switches.extend(flags.filter_map(|arg| arg.get_long().map(ToOwned::to_owned)));
    command.get_subcommands().for_each(|command| collect_switches(command, switches));
}

/// `--admin=true` is `--admin`, and `--admin=false` is nothing.
fn switch(arg: OsString, switches: &HashSet<String>) -> Option<OsString> {
    let value = arg.to_str().and_then(|text| {
        let (name, value) = text.strip_prefix("--")?.split_once('=')?;
        switches.contains(name).then(|| Some((name, parse_bool(value).ok()?))).flatten()
    });
    match value {
        Some((_, false)) => None,
        Some((name, true)) => Some(format!("--{name}").into()),
        None => Some(arg),
    }
}

fn is_long_flag(text: &str) -> bool {
    let Some(name) = text.strip_prefix('-') else { return false };
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic())
        && chars.next().is_some_and(|second| second.is_ascii_alphanumeric())
}

/// A flag given twice has its last value, as in Go, and negative numbers are values.
fn prepared(command: Command) -> Command {
    command
        .args_override_self(true)
        .mut_args(|arg| {
            let takes_values = arg.get_action().takes_values();
            if takes_values { arg.allow_negative_numbers(true) } else { arg }
        })
        .mut_subcommands(prepared)
}

/// Reads a boolean as Go's flags do: `-flag=0`, `=f`, `=false`, `=1`, `=t`, `=true`.
///
/// # Errors
/// What was expected.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// Finds a socket as SPIRE's command lines do: the flag, else `template` with `%i` replaced by
/// the instance, else the variable `variable`, else `default`.
///
/// `environment` reads environment variables.
///
/// # Errors
/// What is missing, when an instance is named without a usable template.
pub fn socket_path(
    flag: Option<&Path>,
    instance: Option<&str>,
    template_variable: &str,
    variable: &str,
    default: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<PathBuf, String> {
    let template = environment(template_variable).unwrap_or_default();
    let instance = instance.filter(|instance| !instance.is_empty());
    if instance.is_some() {
        if template.is_empty() {
            return Err(format!("you must define {template_variable} to use the instance flag"));
        }
        if !template.contains("%i") {
            return Err(format!("failed to find %i in {template_variable}"));
        }
    }
    if let Some(path) = flag {
        return Ok(path.to_owned());
    }
    if let Some(instance) = instance {
        return Ok(template.replace("%i", instance).into());
    }
    let named = environment(variable).filter(|path| !path.is_empty());
    Ok(named.map_or_else(|| default.into(), PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser, Debug)]
    #[command(version)]
    struct Example {
        #[arg(long = "socketPath")]
        socket_path: Option<String>,
        #[arg(long)]
        admin: bool,
        #[arg(long)]
        ttl: Option<i32>,
        #[arg(long)]
        selector: Vec<String>,
        #[arg(long)]
        data: Option<String>,
    }

    fn read(args: &[&str]) -> Result<Example, clap::Error> {
        let args = std::iter::once("x").chain(args.iter().copied());
        try_parse("x", args.map(OsString::from))
    }

    #[test]
    fn flags_take_one_dash_or_two_and_values_after_space_or_equals() {
        for args in [
            &["-socketPath", "/s", "-ttl", "-5", "-admin"][..],
            &["--socketPath=/s", "-ttl=-5", "-admin=true"],
            &["-socketPath=/s", "--ttl", "-5", "--admin=1"],
        ] {
            let example = read(args).unwrap();
            assert_eq!(example.socket_path.as_deref(), Some("/s"));
            assert_eq!((example.ttl, example.admin), (Some(-5), true));
        }
        assert!(!read(&["-admin=f"]).unwrap().admin);
        assert!(read(&["-admin=perhaps"]).is_err());
        let lists = read(&["-selector", "a:b", "-selector=c:d", "-data", "-"]).unwrap();
        assert_eq!(lists.selector, ["a:b", "c:d"]);
        assert_eq!(lists.data.as_deref(), Some("-"));
    }

    #[test]
    fn the_last_of_a_repeated_flag_counts() {
        assert_eq!(read(&["-ttl", "1", "-ttl", "2"]).unwrap().ttl, Some(2));
    }

    #[test]
    fn help_and_version_are_no_failure_and_the_rest_is_wrong_usage() {
        for (arg, kind) in [
            ("-h", ErrorKind::DisplayHelp),
            ("-help", ErrorKind::DisplayHelp),
            ("-version", ErrorKind::DisplayVersion),
            ("-nosuch", ErrorKind::UnknownArgument),
        ] {
            assert_eq!(read(&[arg]).unwrap_err().kind(), kind, "{arg}");
        }
    }

    #[test]
    fn the_socket_is_found_in_the_order_of_spire() {
        let find = |flag: Option<&str>, instance: Option<&str>, set: &[(&str, &str)]| {
            let get = |name: &str| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            };
            let path = socket_path(flag.map(Path::new), instance, "T", "S", "/default", get);
            path.map(|path| path.display().to_string())
        };
        let both = [("T", "/run/%i/api"), ("S", "/s")];
        assert_eq!(find(None, None, &[]).unwrap(), "/default");
        assert_eq!(find(None, None, &both).unwrap(), "/s");
        assert_eq!(find(None, Some("a"), &both).unwrap(), "/run/a/api");
        assert_eq!(find(Some("/f"), Some("a"), &both).unwrap(), "/f");
        assert!(find(None, Some("a"), &[]).unwrap_err().contains("you must define T"));
        assert!(find(None, Some("a"), &[("T", "/x")]).unwrap_err().contains("%i"));
    }
}
