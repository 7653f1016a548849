//! `entry explain`: why a workload behind an agent gets the identities it gets.

use signet_api::pb::signet::api::server::explain::v1::{
    ExplainEntriesRequest, ExplainEntriesResponse,
    explain_client::ExplainClient,
    explain_entries_response::{AgentState, Match},
};
use signet_daemon::cli::Output;
use tonic::Code;

use crate::cli::{
    env::{CliError, CommonFlags, Env},
    text,
};

pub(super) const EXAMPLE: &str = "\
Example: what does user 1000 get on this agent, and why not more?

  signet-server entry explain -agent spiffe://example.org/spire/agent/join_token/... \\
      -selectors unix:uid:1000,unix:gid:1000

On the node itself, `signet-agent explain -pid N` finds the selectors of a process.";

/// Whose view is explained.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// SPIFFE ID of the agent
    #[arg(long = "agent", value_name = "ID", required = true)]
    agent: String,
    /// What the workload has: selectors, type:value, repeated or separated by commas
    #[arg(long = "selectors", alias = "selector", value_name = "SELECTORS", required = true)]
    selectors: Vec<String>,
    #[command(flatten)]
    common: CommonFlags,
}

pub(super) async fn run(flags: Flags, env: &mut Env) -> Result<(), CliError> {
    let agent_id = Some(text::parse_id("agent", &flags.agent)?);
    let texts = split(&flags.selectors);
    let selectors = text::parse_selectors(&texts)?;
    let mut client = ExplainClient::new(env.connect(&flags.common.socket).await?);
    let request = ExplainEntriesRequest { agent_id, selectors };
    let response = client.explain_entries(request).await.map_err(|status| {
        if status.code() == Code::Unimplemented {
            return CliError::failed("this server cannot explain: it is not a Signet server");
        }
        CliError::from(status)
    })?;
    let response = response.into_inner();
    match flags.common.output {
        Output::Json => env.json(&response),
        Output::Pretty => print(env, &flags.agent, &texts, &response),
    }
}

/// Splits at commas that begin a new selector: a value may hold commas of its own.
fn split(texts: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for text in texts {
        let mut first = true;
        for part in text.split(',') {
            let is_new = part.trim_start().split_once(':').is_some_and(|(kind, _)| {
                !kind.is_empty() && kind.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            });
            match out.last_mut() {
                Some(last) if !first && !is_new => {
                    last.push(',');
                    last.push_str(part);
                }
                _ => out.push(part.trim_start().to_owned()),
            }
            first = false;
        }
    }
    out
}

fn print(
    env: &mut Env,
    agent: &str,
    selectors: &[String],
    response: &ExplainEntriesResponse,
) -> Result<(), CliError> {
    let state = match response.agent_state() {
        AgentState::Unspecified => "in an unknown state",
        AgentState::Active => "attested and active",
        AgentState::Unknown => "unknown to this server: it never attested, or was evicted",
        AgentState::Banned => "banned: it gets nothing until it is evicted and attests again",
        AgentState::Expired => "attested, but its SVID has expired",
    };
    env.line(format_args!("Agent {agent} is {state}."))?;
    env.line(format_args!("  Node selectors     : {}", text::selectors(&response.node_selectors)))?;
    for alias in &response.aliases {
        let id = text::id(alias.spiffe_id.as_ref());
        if alias.missing.is_empty() {
            env.line(format_args!("  Is a node of       : {id} (entry {})", alias.entry_id))?;
        } else {
            env.line(format_args!(
                "  Is not a node of   : {id} (entry {}): lacks {}",
                alias.entry_id,
                text::selectors(&alias.missing)
            ))?;
        }
    }
    env.line(format_args!("  Authorized entries : {}", response.authorized_entries))?;
    env.line(format_args!("\nA workload with {}", selectors.join(", ")))?;
    let (issued, withheld): (Vec<&Match>, Vec<&Match>) =
        response.matches.iter().partition(|one| one.authorized);
    if issued.is_empty() {
        env.line("  gets no identity from this agent.")?;
    }
    section(env, "gets:", &issued, true)?;
    section(env, "matches, but does not get:", &withheld, false)?;
    let near: Vec<&Match> = response.near_misses.iter().collect();
    section(env, "nearly matches:", &near, false)
}

fn section(
    env: &mut Env,
    title: &str,
    matches: &[&Match],
    with_path: bool,
) -> Result<(), CliError> {
    if matches.is_empty() {
        return Ok(());
    }
    env.line(format_args!("  {title}"))?;
    for one in matches {
        let id = text::id(one.spiffe_id.as_ref());
        env.line(format_args!("    {id} (entry {})", one.entry_id))?;
        env.line(format_args!("      Wants  : {}", text::selectors(&one.selectors)))?;
        if !one.missing.is_empty() {
            env.line(format_args!("      Lacks  : {}", text::selectors(&one.missing)))?;
        }
        if with_path && !one.path.is_empty() {
            let path: Vec<String> = one.path.iter().map(|id| text::id(Some(id))).collect();
            env.line(format_args!("      Through: {}", path.join(" > ")))?;
        }
        if !one.note.is_empty() {
            env.line(format_args!("      Note   : {}", one.note))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn commas_separate_selectors_but_not_their_values() {
        let split = |texts: &[&str]| {
            super::split(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(split(&["unix:uid:0,unix:gid:0"]), ["unix:uid:0", "unix:gid:0"]);
        assert_eq!(split(&["a:b", "c:d, e:f"]), ["a:b", "c:d", "e:f"]);
        assert_eq!(split(&["docker:env:X=1,2,3"]), ["docker:env:X=1,2,3"]);
    }
}
