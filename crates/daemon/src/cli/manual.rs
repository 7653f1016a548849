//! Manual pages, made from the description of the commands that parses them.

use clap::{Arg, Command};
use roff::{Inline, Roff, bold, italic, roman};

/// The manual page of section 8 (roff) of the program `name`: its commands, their flags and what
/// they are for.
pub fn page(command: &Command, name: &str) -> String {
    let version = command.get_version().unwrap_or_default();
    let mut roff = Roff::new();
    // In the place of the date: pages that are made from the same sources are the same.
    roff.control("TH", [name, "8", &format!("Signet {version}"), "Signet"]);
    roff.control("SH", ["NAME"]);
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    roff.text([roman(format!("{name} - {about}"))]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold(name), roman(" "), italic("COMMAND"), roman(" [flags]")]);
    roff.control("SH", ["COMMANDS"]);
    describe(command, name, &mut roff);
    if let Some(after) = command.get_after_help() {
        roff.control("SH", ["NOTES"]);
        roff.control("nf", []);
        for line in after.to_string().lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in
        [("0", "Done."), ("1", "Failed."), ("64", "Wrong usage or configuration.")]
    {
        roff.control("TP", []);
        roff.text([bold(code)]);
        roff.text([roman(meaning)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("/usr/share/doc/"), roman(name)]);
    roff.to_roff()
}

/// Each command that does something, with its flags; those that only hold others are walked.
fn describe(command: &Command, path: &str, roff: &mut Roff) {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        let path = format!("{path} {}", below.get_name());
        let flags: Vec<&Arg> = below
            .get_arguments()
            .filter(|arg| !arg.is_hide_set() && arg.get_long() != Some("help"))
            .collect();
        if !below.has_subcommands() || !flags.is_empty() {
            roff.control("SS", [path.as_str()]);
            let about = below.get_long_about().or(below.get_about());
            for paragraph in about.map(ToString::to_string).unwrap_or_default().lines() {
                roff.text([roman(paragraph)]);
            }
            for flag in flags {
                roff.control("TP", []);
                roff.text(heading(flag));
                roff.text([roman(help(flag))]);
            }
        }
        describe(below, &path, roff);
    }
}

/// `-socketPath PATH`, as people type it: one dash.
fn heading(arg: &Arg) -> Vec<Inline> {
    let mut heading = Vec::new();
    if let Some(long) = arg.get_long() {
        heading.push(bold(format!("-{long}")));
        if arg.get_action().takes_values() {
            heading.push(roman(" "));
        }
    }
    if arg.get_action().takes_values() {
        let names = arg.get_value_names().unwrap_or_default();
        let name = names.first().map_or_else(|| arg.get_id().as_str(), |name| name.as_str());
        heading.push(italic(name));
    }
    heading
}

fn help(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let values: Vec<_> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set() && arg.get_action().takes_values())
        .map(|value| value.get_name().to_owned())
        .collect();
    if !values.is_empty() {
        text = format!("{text} (one of: {})", values.join(", "));
    }
    let defaults: Vec<_> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !defaults.is_empty() && !arg.is_hide_default_value_set() {
        text = format!("{text} (default: {})", defaults.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_every_command_with_its_flags_as_they_are_typed() {
        let create = Command::new("create")
            .about("Make an entry\n.so /etc/passwd")
            .arg(Arg::new("id").long("spiffeID").value_name("ID").help("its SPIFFE ID"))
            .arg(
                Arg::new("quiet")
                    .long("quiet")
                    .action(clap::ArgAction::SetTrue)
                    .help("say nothing"),
            );
        let hidden = Command::new("secret").hide(true);
        let entry = Command::new("entry").about("Entries").subcommand(create).subcommand(hidden);
        let command = Command::new("x").about("A program").version("1.2").subcommand(entry);
        let page = page(&command, "my-prog");
        assert!(page.contains(".TH my-prog 8 \"Signet 1.2\""), "{page}");
        assert!(page.contains(".SS \"my-prog entry create\""), "{page}");
        assert!(page.contains("\\fB\\-spiffeID\\fR \\fIID\\fR"), "{page}");
        assert!(page.contains("\\fB\\-quiet\\fR\n"), "{page}");
        assert!(!page.contains("secret"), "{page}");
        // Text is text: no line of it becomes a request of roff.
        assert!(!page.lines().any(|line| line.starts_with(".so")), "{page}");
    }
}
