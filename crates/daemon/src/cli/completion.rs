//! Completion scripts for shells.
//!
//! Our flags have one dash and long names, as Go's; generators for two-dashed flags complete what
//! nobody types. What is written here comes from the same description of the commands that parses
//! them.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// A shell that completion scripts are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// fish
    Fish,
    /// zsh
    Zsh,
}

/// The script that completes the commands, flags and fixed values of `command`, which is called
/// `name`.
pub fn script(shell: Shell, command: &Command, name: &str) -> String {
    let mut levels = Vec::new();
    collect(command, "", &mut levels);
    match shell {
        Shell::Bash => bash(&levels, name),
        Shell::Fish => fish(&levels, name),
        // zsh runs completions of bash.
        Shell::Zsh => format!(
            "#compdef {name}\nautoload -U +X bashcompinit && bashcompinit\n{}",
            bash(&levels, name)
        ),
    }
}

/// A command and where it is: `""`, `" entry"`, `" entry create"`.
struct Level<'c> {
    path: String,
    command: &'c Command,
}

fn collect<'c>(command: &'c Command, path: &str, levels: &mut Vec<Level<'c>>) {
    levels.push(Level { path: path.to_owned(), command });
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        collect(below, &format!("{path} {}", below.get_name()), levels);
    }
}

impl<'c> Level<'c> {
    fn subcommands(&self) -> impl Iterator<Item = &'c Command> {
        self.command.get_subcommands().filter(|below| !below.is_hide_set())
    }

    /// The flags by name, and what else there is to know of them.
    fn flags(&self) -> impl Iterator<Item = (&'c str, &'c Arg)> {
        let flags = self.command.get_arguments().filter(|arg| !arg.is_hide_set());
        flags.filter_map(|arg| arg.get_long().map(|name| (name, arg)))
    }

    /// The values of an argument that has no flag, such as the name of a shell.
    fn positional_values(&self) -> Vec<String> {
        self.command.get_positionals().flat_map(values).collect()
    }
}

/// The values that an argument may have, if there are only some.
fn values(arg: &Arg) -> Vec<String> {
    let possible = arg.get_possible_values().into_iter();
    possible.filter(|value| !value.is_hide_set()).map(|value| value.get_name().to_owned()).collect()
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// The name of a shell function for a program.
fn function(name: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("_{}", name.chars().map(word).collect::<String>())
}

fn bash(levels: &[Level<'_>], name: &str) -> String {
    let function = function(name);
    let mut paths = String::new();
    let mut words = String::new();
    let mut fixed = String::new();
    for level in levels {
        let path = &level.path;
        let mut all: Vec<String> =
            level.subcommands().map(|below| below.get_name().to_owned()).collect();
        all.extend(level.positional_values());
        all.extend(level.flags().map(|(flag, _)| format!("-{flag}")));
        let _ = writeln!(words, "        '{path}') words='{}' ;;", all.join(" "));
        if !path.is_empty() {
            let _ = write!(paths, "{}'{path}'", if paths.is_empty() { "" } else { "|" });
        }
        for (flag, arg) in level.flags().filter(|(_, arg)| takes_value(arg)) {
            let words = values(arg).join(" ");
            let _ = writeln!(fixed, "        '{path} -{flag}') value=1 words='{words}' ;;");
        }
    }
    if paths.is_empty() {
        paths.push_str("''");
    }
    format!(
        "{function}() {{
    local path='' word words='' value='' i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=\" ${{COMP_WORDS[i]}}\"
        case \"$path$word\" in
        {paths}) path=\"$path$word\" ;;
        esac
    done
    word=\"${{COMP_WORDS[COMP_CWORD-1]}}\"
    word=\"${{word#-}}\"
    case \"$path -${{word#-}}\" in
{fixed}    esac
    if [ -z \"$value\" ]; then
        case \"$path\" in
{words}        esac
    fi
    COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))
}}
complete -o default -F {function} {name}
"
    )
}

fn fish(levels: &[Level<'_>], name: &str) -> String {
    let function = format!("_{}", function(name));
    let mut out = String::new();
    let paths: Vec<String> = levels.iter().map(|level| format!("'{}'", level.path)).collect();
    let _ = write!(
        out,
        "function {function}
    set -l path ''
    for word in (commandline -opc)[2..]
        if contains -- \"$path $word\" {}
            set path \"$path $word\"
        end
    end
    test \"$path\" = \"$argv[1]\"
end
",
        paths.join(" ")
    );
    for level in levels {
        let at = format!("complete -c {name} -n \"{function} '{}'\"", level.path);
        for below in level.subcommands() {
            let about = below.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(out, "{at} -f -a {} -d {}", below.get_name(), quoted(&about));
        }
        for value in level.positional_values() {
            let _ = writeln!(out, "{at} -f -a {value}");
        }
        for (flag, arg) in level.flags() {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let value = match (takes_value(arg), values(arg)) {
                (false, _) => String::new(),
                (true, values) if values.is_empty() => " -r".to_owned(),
                (true, values) => format!(" -x -a {}", quoted(&values.join(" "))),
            };
            let _ = writeln!(out, "{at} -o {flag}{value} -d {}", quoted(&help));
        }
    }
    out
}

/// A text in single quotes, as fish reads them.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;

    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Output;

    #[derive(clap::Parser)]
    struct Program {
        #[command(subcommand)]
        _command: Top,
    }

    #[derive(clap::Subcommand)]
    enum Top {
        /// Entries
        #[command(subcommand)]
        Entry(Entry),
        /// Write a script
        Completion { shell: Shell },
    }

    #[derive(clap::Subcommand)]
    enum Entry {
        /// Make one
        Create(Flags),
        /// Count 'em
        Count,
    }

    #[derive(clap::Args)]
    struct Flags {
        /// Its ID
        #[arg(long = "spiffeID")]
        _id: Option<String>,
        /// Whether it's an admin's
        #[arg(long = "admin")]
        _admin: bool,
        /// How to print
        #[arg(long = "output")]
        _output: Option<Output>,
    }

    /// What bash offers for the last of `words`.
    fn offered(words: &[&str]) -> Vec<String> {
        let script = script(Shell::Bash, &Program::command(), "my-prog");
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let text = format!(
            "{script}\nCOMP_WORDS=({}); COMP_CWORD={}; _my_prog; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            quoted.join(" "),
            words.len() - 1
        );
        let done = Process::new("bash").args(["--norc", "-c", &text]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let out = String::from_utf8(done.stdout).unwrap();
        out.split_whitespace().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn bash_completes_every_word_of_a_command_line() {
        assert_eq!(offered(&["my-prog", "e"]), ["entry"]);
        assert_eq!(offered(&["my-prog", "entry", ""]), ["create", "count"]);
        let flags = ["-spiffeID", "-admin", "-output"];
        assert_eq!(offered(&["my-prog", "entry", "create", "-"]), flags);
        assert_eq!(offered(&["my-prog", "entry", "create", "-admin", "-sp"]), ["-spiffeID"]);
        assert_eq!(offered(&["my-prog", "entry", "create", "-output", ""]), ["pretty", "json"]);
        assert_eq!(offered(&["my-prog", "entry", "create", "--output", "j"]), ["json"]);
        assert_eq!(offered(&["my-prog", "entry", "create", "-spiffeID", ""]), [] as [&str; 0]);
        assert_eq!(offered(&["my-prog", "completion", "f"]), ["fish"]);
    }

    #[test]
    fn fish_knows_flags_with_one_dash() {
        let script = script(Shell::Fish, &Program::command(), "my-prog");
        for line in [
            "complete -c my-prog -n \"__my_prog ''\" -f -a entry -d 'Entries'",
            "complete -c my-prog -n \"__my_prog ' entry'\" -f -a count -d 'Count \\'em'",
            "complete -c my-prog -n \"__my_prog ' entry create'\" -o spiffeID -r -d 'Its ID'",
            "complete -c my-prog -n \"__my_prog ' entry create'\" -o output -x -a 'pretty json' \
             -d 'How to print'",
        ] {
            assert!(script.lines().any(|found| found == line), "{line}\n{script}");
        }
    }
}
