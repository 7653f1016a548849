//! Manual pages and the reference of commands, made from the description that parses them.

use std::fmt::Write as _;

use clap::{Arg, Command};
use roff::{Inline, Roff, bold, italic, roman};

/// In which form a program prints its manual.
#[derive(Clone, Debug, clap::Args)]
pub struct Form {
    /// As Markdown, for the documentation, and not as a manual page
    #[arg(long)]
    markdown: bool,
}

/// The manual of the program `name`: its commands, their flags and what they are for. As a page of
/// section 8 (roff), or in Markdown.
pub fn manual(command: &Command, name: &str, form: &Form) -> String {
    match form.markdown {
        true => reference(command, name),
        false => page(command, name),
    }
}

fn reference(command: &Command, name: &str) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut text = format!(
        "# {name}\n\n{about}.\n\nFlags have one dash or two, and take their value after a space or \
         `=`. Exit codes: 0 done, 1 failed, 64 wrong usage or configuration.\n"
    );
    for Documented { path, about, flags } in documented(command, name) {
        // Writing to a text does not fail.
        let _ = writeln!(text, "\n## {path}\n\n{about}");
        if !flags.is_empty() {
            let _ = writeln!(text, "\n| flag | |\n|---|---|");
        }
        for flag in flags {
            let value = value_name(flag).map(|name| format!(" {name}")).unwrap_or_default();
            let dash = flag.get_long().map(|long| format!("-{long}")).unwrap_or_default();
            let help = help(flag).replace('|', "\\|").replace('\n', " ");
            let _ = writeln!(text, "| `{}` | {help} |", format!("{dash}{value}").trim());
        }
    }
    text
}

/// A command that does something.
struct Documented<'c> {
    path: String,
    about: String,
    flags: Vec<&'c Arg>,
}

/// Each command below one that does something; those that only hold others are walked.
fn documented<'c>(command: &'c Command, path: &str) -> Vec<Documented<'c>> {
    let mut all = Vec::new();
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        let path = format!("{path} {}", below.get_name());
        let shown = |arg: &&Arg| !arg.is_hide_set() && arg.get_long() != Some("help");
        let flags: Vec<&Arg> = below.get_arguments().filter(shown).collect();
        let deeper = documented(below, &path);
        if !below.has_subcommands() || !flags.is_empty() {
            let about = below.get_long_about().or(below.get_about());
            let about = about.map(ToString::to_string).unwrap_or_default();
            all.push(Documented { path, about, flags });
        }
        all.extend(deeper);
    }
    all
}

fn value_name(arg: &Arg) -> Option<&str> {
    let names = arg.get_value_names().unwrap_or_default();
    let name = names.first().map_or_else(|| arg.get_id().as_str(), |name| name.as_str());
    arg.get_action().takes_values().then_some(name)
}

/// The manual page of section 8 (roff) of the program `name`.
fn page(command: &Command, name: &str) -> String {
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
    for Documented { path, about, flags } in documented(command, name) {
        roff.control("SS", [path.as_str()]);
        for paragraph in about.lines() {
            roff.text([roman(paragraph)]);
        }
        for flag in flags {
            roff.control("TP", []);
            roff.text(heading(flag));
            roff.text([roman(help(flag))]);
        }
    }
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

/// `-socketPath PATH`, as people type it: one dash.
fn heading(arg: &Arg) -> Vec<Inline> {
    let mut heading = Vec::new();
    if let Some(long) = arg.get_long() {
        heading.push(bold(format!("-{long}")));
        if arg.get_action().takes_values() {
            heading.push(roman(" "));
        }
    }
    heading.extend(value_name(arg).map(italic));
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
        let text = reference(&command, "my-prog");
        assert!(text.contains("\n## my-prog entry create\n"), "{text}");
        assert!(text.contains("| `-spiffeID ID` | its SPIFFE ID |\n| `-quiet` | say"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        // Text is text: no line of it becomes a request of roff.
        assert!(!page.lines().any(|line| line.starts_with(".so")), "{page}");
    }
}
