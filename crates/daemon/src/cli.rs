//! What our command lines share: Go's flag syntax on top of clap, output, exit codes, sockets.
//!
//! SPIRE's programs take flags with one dash (`-socketPath x`, `-socketPath=x`, `-admin`), and so
//! do ours; two dashes work as well. Define flags with clap as long flags of the same name, and
//! parse with [`parse`].

pub mod completion;
pub mod manual;

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Arg, Command, error::ErrorKind};

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

/// Prints the answer of a command, and says how it exits. A reader who has seen enough is no failure.
pub fn print(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => EXIT_DONE,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_DONE,
        Err(_) => EXIT_FAILED,
    }
    .into()
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
    let args = go_flags(&command, args);
    let matches = command.try_get_matches_from(args)?;
    C::from_arg_matches(&matches)
}

/// The command as [`parse`] uses it, for completions and documentation.
pub fn command<C: clap::CommandFactory>(name: &'static str) -> Command {
    prepared(C::command().name(name).bin_name(name))
}

/// Rewrites arguments as Go's `flag` package reads them into what clap reads the same way.
///
/// A flag begins with one dash or two and has the names that `command` (or the subcommand named so
/// far) gives it. One that takes a value has it behind `=`, or as the next argument *whatever that
/// looks like*: here it is always put behind `=`, so that nothing mistakes it for a flag. One that
/// takes none may have a boolean behind `=`; of several, the last counts. Whatever follows `--` is
/// no flag.
///
/// The program's name, one-letter flags such as `-h`, and what is no flag are left alone; flags
/// that `command` does not have get two dashes and are left for clap to refuse.
pub fn go_flags(command: &Command, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut out: Vec<OsString> = args.next().into_iter().collect();
    let mut command = command;
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.push(arg);
            out.extend(args);
            break;
        }
        let Some((name, value)) = flag(&arg) else {
            let below = arg.to_str().and_then(|name| command.find_subcommand(name));
            command = below.unwrap_or(command);
            out.push(arg);
            continue;
        };
        let long = format!("--{name}");
        let Some(known) = command.get_arguments().find(|known| has_name(known, name)) else {
            let is_letter = name.len() == 1 && !arg.as_bytes().starts_with(b"--");
            out.push(if is_letter { arg } else { with_value(&long, value) });
            continue;
        };
        if !known.get_action().takes_values() {
            match value.map(|value| value.to_str().map(parse_bool)) {
                None | Some(Some(Ok(true))) => out.push(long.into()),
                Some(Some(Ok(false))) => out.retain(|given| *given != *long),
                // No boolean: clap says so.
                Some(_) => out.push(with_value(&long, value)),
            }
        } else if known.is_require_equals_set() || value.is_some() {
            out.push(with_value(&long, value));
        } else {
            out.push(with_value(&long, args.next().as_deref()));
        }
    }
    out
}

/// Name and value of `-name`, `--name`, `-name=value` or `--name=value`.
fn flag(arg: &OsStr) -> Option<(&str, Option<&OsStr>)> {
    let bytes = arg.as_bytes();
    let text = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-"))?;
    let mut parts = text.splitn(2, |byte| *byte == b'=');
    let name = std::str::from_utf8(parts.next()?).ok().filter(|name| !name.is_empty())?;
    Some((name, parts.next().map(OsStr::from_bytes)))
}

fn has_name(arg: &Arg, name: &str) -> bool {
    arg.get_long() == Some(name)
        || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
}

fn with_value(flag: &str, value: Option<&OsStr>) -> OsString {
    let mut text = OsString::from(flag);
    if let Some(value) = value {
        text.push("=");
        text.push(value);
    }
    text
}

/// A flag given twice has its last value, as in Go.
fn prepared(command: Command) -> Command {
    command.args_override_self(true).mut_subcommands(prepared)
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
        assert!(!read(&["-admin", "-admin=false"]).unwrap().admin);
        assert!(read(&["-admin=false", "-admin"]).unwrap().admin);
    }

    #[test]
    fn a_value_is_the_next_argument_whatever_it_looks_like() {
        for value in ["-foo", "--data=x", "-socketPath", "-h", "--", "-", "", "=", "a=b", "-5"] {
            for given in [&["-data", value][..], &["--data", value]] {
                let example = read(&[given, &["-admin", "-ttl", "7"]].concat()).unwrap();
                assert_eq!(example.data.as_deref(), Some(value));
                assert_eq!((example.admin, example.ttl), (true, Some(7)), "{value}");
            }
            let joined = format!("-data={value}");
            assert_eq!(read(&[&joined]).unwrap().data.as_deref(), Some(value));
        }
        assert_eq!(read(&["-data"]).unwrap_err().kind(), ErrorKind::InvalidValue);
        // A boolean takes no value from the next argument.
        assert_eq!(read(&["-admin", "false"]).unwrap_err().kind(), ErrorKind::UnknownArgument);
    }

    #[test]
    fn after_two_dashes_nothing_is_a_flag() {
        let command = command::<Example>("x");
        let args = ["x", "-ttl", "1", "--", "-data", "-admin"].map(OsString::from);
        let expected = ["x", "--ttl=1", "--", "-data", "-admin"].map(OsString::from);
        assert_eq!(go_flags(&command, args), expected);
    }

    #[test]
    fn values_that_are_not_utf_8_pass_as_they_are() {
        let command = command::<Example>("x");
        let value = OsStr::from_bytes(b"-\xff").to_owned();
        let given = ["x".into(), "-data".into(), value.clone()];
        let mut expected = OsString::from("--data=");
        expected.push(value);
        assert_eq!(go_flags(&command, given), ["x".into(), expected]);
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
