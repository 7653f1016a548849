//! `explain`: why a process does, or does not, get an identity.

use signet_api::pb::{
    signet::api::agent::explain::v1::{
        ExplainWorkloadRequest, ExplainWorkloadResponse, explain_client::ExplainClient,
        explain_workload_response::Match,
    },
    spire::api::types,
};
use signet_daemon::cli::Output;

use super::{
    CliError, Terminal,
    connect::{AdminSocket, ours},
    print::{rfc3339, spiffe_id},
};

/// Flags of `explain`.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    #[command(flatten)]
    socket: AdminSocket,
    /// A process on this node
    #[arg(long = "pid", value_name = "PID")]
    pid: Option<i32>,
    /// A selector that a workload would have, type:value; may be given several times
    #[arg(long = "selector", value_name = "SELECTOR")]
    selector: Vec<String>,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", default_value = "pretty")]
    output: Output,
}

/// Asks the agent about a process or about selectors.
pub(super) async fn explain(flags: &Flags, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    if flags.pid.is_some() != flags.selector.is_empty() {
        let message = match flags.pid {
            Some(_) => "only one of -pid and -selector can be specified",
            None => "one of -pid and -selector must be specified",
        };
        return Err(CliError::Usage(message.to_owned()));
    }
    if flags.pid.is_some_and(|pid| pid < 1) {
        return Err(CliError::Usage("-pid must be at least 1".to_owned()));
    }
    let selectors: Result<Vec<_>, _> = flags.selector.iter().map(|text| selector(text)).collect();
    let request = ExplainWorkloadRequest { pid: flags.pid.unwrap_or(0), selectors: selectors? };
    let channel = flags.socket.connect(terminal.program).await.map_err(|error| match error {
        CliError::Failed(message) => CliError::Failed(format!(
            "{message}\n(explain asks the admin socket, which the agent opens when \
             admin_socket_path is configured)"
        )),
        other => other,
    })?;
    let answer = ours(ExplainClient::new(channel).explain_workload(request)).await?;
    let answer = answer.ok_or_else(|| {
        let message = "this agent does not explain; it is another program than signet-agent";
        CliError::Failed(message.to_owned())
    })?;
    match flags.output {
        Output::Json => terminal.json(&answer),
        Output::Pretty => print(&answer, flags.pid, terminal),
    }
}

fn selector(text: &str) -> Result<types::Selector, CliError> {
    match text.split_once(':') {
        Some((kind, value)) if !kind.is_empty() && !value.is_empty() => {
            Ok(types::Selector { r#type: kind.to_owned(), value: value.to_owned() })
        }
        _ => {
            let message = format!("not a selector: {text:?}; expected type:value");
            Err(CliError::Usage(message))
        }
    }
}

fn print(
    answer: &ExplainWorkloadResponse,
    pid: Option<i32>,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let server_name = terminal.program.server_name();
    let out = &mut terminal.out;
    let agent = spiffe_id(answer.agent_id.as_ref());
    let server = if answer.server_reachable { "reachable" } else { "not reachable" };
    let last_sync = match answer.last_sync_success {
        0 => "never".to_owned(),
        unix => rfc3339(unix),
    };
    writeln!(out, "Agent      : {agent}")?;
    writeln!(out, "Last sync  : {last_sync}, server {server}")?;
    writeln!(out, "Entries    : {} sent to this agent\n", answer.entries_known)?;

    match pid {
        Some(pid) if answer.refused_at != 0 => writeln!(
            out,
            "Process {pid} is gone. Selectors it had when it was refused at {}:",
            rfc3339(answer.refused_at)
        )?,
        Some(pid) => writeln!(out, "Selectors of process {pid}:")?,
        None => writeln!(out, "Selectors asked about:")?,
    }
    for attestor in &answer.attestors {
        if attestor.error.is_empty() {
            let count = attestor.selectors.len();
            let millis = attestor.duration_micros as f64 / 1000.0;
            writeln!(out, "  {} found {count} in {millis:.1} ms", attestor.name)?;
        } else {
            writeln!(out, "  {} failed: {}", attestor.name, attestor.error)?;
        }
        for selector in &attestor.selectors {
            writeln!(out, "    {}:{}", selector.r#type, selector.value)?;
        }
    }
    if answer.attestors.is_empty() {
        for selector in &answer.selectors {
            writeln!(out, "    {}:{}", selector.r#type, selector.value)?;
        }
    }

    writeln!(out, "\nMatching entries: {}", answer.matches.len())?;
    for entry in &answer.matches {
        print_entry(entry, out)?;
    }
    if !answer.near_misses.is_empty() {
        writeln!(out, "\nEntries that nearly match: {}", answer.near_misses.len())?;
        for entry in &answer.near_misses {
            print_entry(entry, out)?;
        }
    }
    if answer.matches.is_empty() {
        let selectors: Vec<String> = answer
            .selectors
            .iter()
            .map(|selector| format!("{}:{}", selector.r#type, selector.value))
            .collect();
        writeln!(
            out,
            "\nNone of the entries that the server sends to this agent matches. Whether it has \
             others, and why they are not sent here, the server says:\n  {server_name} entry \
             explain -agent {agent} -selectors {}",
            quote(&selectors.join(","))
        )?;
    }
    Ok(())
}

fn print_entry(entry: &Match, out: &mut dyn std::io::Write) -> Result<(), CliError> {
    writeln!(out, "  {} (entry {})", spiffe_id(entry.spiffe_id.as_ref()), entry.entry_id)?;
    if !entry.hint.is_empty() {
        writeln!(out, "    hint {}", entry.hint)?;
    }
    for selector in &entry.selectors {
        let mark = if entry.missing.contains(selector) { "lacks" } else { "has  " };
        writeln!(out, "    {mark} {}:{}", selector.r#type, selector.value)?;
    }
    if entry.x509_svid_expires_at != 0 {
        writeln!(out, "    X.509-SVID valid until {}", rfc3339(entry.x509_svid_expires_at))?;
    }
    if !entry.note.is_empty() {
        writeln!(out, "    {}", entry.note)?;
    }
    Ok(())
}

/// A word for a shell, quoted if it must be.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || ":,./_-=@%+".contains(c);
    if word.chars().all(plain) && !word.is_empty() {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use signet_daemon::program::Program;

    use super::*;

    fn selectors(texts: &[&str]) -> Vec<types::Selector> {
        texts.iter().map(|text| selector(text).unwrap()).collect()
    }

    #[test]
    fn a_refusal_names_what_is_lacking_and_the_next_question() {
        let id =
            |path: &str| Some(types::Spiffeid { trust_domain: "td".into(), path: path.into() });
        let answer = ExplainWorkloadResponse {
            agent_id: id("/spire/agent/x"),
            selectors: selectors(&["unix:uid:0", "unix:path:/a b"]),
            near_misses: vec![Match {
                entry_id: "e".into(),
                spiffe_id: id("/w"),
                selectors: selectors(&["unix:uid:0", "unix:gid:5"]),
                missing: selectors(&["unix:gid:5"]),
                ..Match::default()
            }],
            entries_known: 1,
            ..ExplainWorkloadResponse::default()
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let program = Program::Signet;
        let mut terminal = Terminal { out: &mut out, err: &mut err, program };
        print(&answer, None, &mut terminal).unwrap();
        let text = String::from_utf8(out).unwrap();
        for wanted in [
            "Matching entries: 0\n",
            "  spiffe://td/w (entry e)\n    has   unix:uid:0\n    lacks unix:gid:5\n",
            "signet-server entry explain -agent spiffe://td/spire/agent/x -selectors \
             'unix:uid:0,unix:path:/a b'\n",
        ] {
            assert!(text.contains(wanted), "{text}");
        }
    }

    #[test]
    fn words_for_a_shell_are_quoted() {
        assert_eq!(quote("unix:uid:0,a:b"), "unix:uid:0,a:b");
        assert_eq!(quote("it's"), "'it'\\''s'");
        assert_eq!(quote(""), "''");
    }
}
