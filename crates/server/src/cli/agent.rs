//! `agent`: attested agents.

use std::time::Duration;

use serde_json::json;
use signet_api::pb::{
    signet::api::server::tenancy::v1::assignment::Kind,
    spire::api::{
        server::agent::v1::{self as pb, agent_client::AgentClient},
        types,
    },
};
use signet_base::Clock as _;
use signet_daemon::cli::{Output, parse_bool};
use signet_time::UnixTime;

use super::{
    env::{CliError, CommonFlags, Env, MAX_ANSWER},
    tenant::{self, AssignFlags},
    text::{self, MatchOn},
};

/// How many agents are asked for at a time.
const PAGE_SIZE: i32 = 1000;

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Shut an agent out until it is evicted; it cannot attest again meanwhile
    Ban(OneFlags),
    /// Count attested agents
    Count(FilterFlags),
    /// Forget an agent; it may attest again
    Evict(OneFlags),
    /// List attested agents
    List(FilterFlags),
    /// Forget agents whose SVID expired long ago and that can attest again
    Purge(PurgeFlags),
    /// Show one agent and its selectors
    Show(OneFlags),
    /// Say, or show, for which tenants an agent may serve
    Tenants(TenantsFlags),
}

/// Names one agent.
#[derive(Debug, clap::Args)]
pub struct OneFlags {
    /// SPIFFE ID of the agent
    #[arg(long = "spiffeID", value_name = "ID", required = true)]
    spiffe_id: String,
    #[command(flatten)]
    common: CommonFlags,
}

/// For which tenants an agent may serve.
#[derive(Debug, clap::Args)]
pub struct TenantsFlags {
    /// SPIFFE ID of the agent, attested or not yet
    #[arg(long = "spiffeID", value_name = "ID", required = true)]
    spiffe_id: String,
    #[command(flatten)]
    assign: AssignFlags,
}

/// Which agents.
#[derive(Debug, clap::Args)]
pub struct FilterFlags {
    /// Only agents with this selector, type:value; may be repeated
    #[arg(long = "selector", value_name = "SELECTOR")]
    selector: Vec<String>,
    /// How to compare selectors
    #[arg(long = "matchSelectorsOn", value_name = "MODE", value_enum, default_value = "superset")]
    match_selectors_on: MatchOn,
    /// Only agents of this attestation type, for example join_token
    #[arg(long = "attestationType", value_name = "TYPE")]
    attestation_type: Option<String>,
    /// Only agents that are banned, or are not
    #[arg(long = "banned", value_name = "BOOL", value_parser = parse_bool)]
    banned: Option<bool>,
    /// Only agents that can attest again, or cannot
    #[arg(long = "canReattest", value_name = "BOOL", value_parser = parse_bool)]
    can_reattest: Option<bool>,
    /// Only agents whose SVID expires before this date, "2006-01-02 15:04:05 -0700 -07"
    #[arg(long = "expiresBefore", value_name = "DATE")]
    expires_before: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

/// What to purge.
#[derive(Debug, clap::Args)]
pub struct PurgeFlags {
    /// How long the SVID must have been expired
    #[arg(long = "expiredFor", value_name = "DURATION", default_value = "720h",
          value_parser = text::duration)]
    expired_for: Duration,
    /// Say what would be purged, and purge nothing
    #[arg(long = "dryRun")]
    dry_run: bool,
    #[command(flatten)]
    common: CommonFlags,
}

/// Runs a command.
///
/// # Errors
/// [`CliError`] when flags do not fit together, the server cannot be reached or refuses, or the
/// output cannot be written.
pub async fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    match command {
        Command::Ban(flags) => ban(flags, env).await,
        Command::Count(flags) => count(flags, env).await,
        Command::Evict(flags) => evict(flags, env).await,
        Command::List(flags) => list(flags, env).await,
        Command::Purge(flags) => purge(flags, env).await,
        Command::Show(flags) => show(flags, env).await,
        Command::Tenants(flags) => {
            text::parse_id("spiffeID", &flags.spiffe_id)?;
            tenant::assign(flags.assign, Kind::Agent, flags.spiffe_id, env).await
        }
    }
}

async fn ban(flags: OneFlags, env: &mut Env) -> Result<(), CliError> {
    let id = Some(text::parse_id("spiffeID", &flags.spiffe_id)?);
    let mut client = AgentClient::new(env.connect(&flags.common.socket).await?);
    client.ban_agent(pb::BanAgentRequest { id }).await?;
    match flags.common.output {
        Output::Pretty => env.line("Agent banned successfully"),
        Output::Json => env.json_value(&json!({})),
    }
}

async fn evict(flags: OneFlags, env: &mut Env) -> Result<(), CliError> {
    let id = Some(text::parse_id("spiffeID", &flags.spiffe_id)?);
    let mut client = AgentClient::new(env.connect(&flags.common.socket).await?);
    client.delete_agent(pb::DeleteAgentRequest { id }).await?;
    match flags.common.output {
        Output::Pretty => env.line("Agent evicted successfully"),
        Output::Json => env.json_value(&json!({})),
    }
}

async fn show(flags: OneFlags, env: &mut Env) -> Result<(), CliError> {
    let id = Some(text::parse_id("spiffeID", &flags.spiffe_id)?);
    let mut client = AgentClient::new(env.connect(&flags.common.socket).await?);
    let request = pb::GetAgentRequest { id, output_mask: None };
    let agent = client.get_agent(request).await?.into_inner();
    if flags.common.output == Output::Json {
        return env.json(&agent);
    }
    env.line("Found an attested agent given its SPIFFE ID\n")?;
    print(env, &agent)?;
    for selector in &agent.selectors {
        env.line(format_args!("Selectors         : {}:{}", selector.r#type, selector.value))?;
    }
    if agent.selectors.is_empty() { Ok(()) } else { env.line("") }
}

async fn count(flags: FilterFlags, env: &mut Env) -> Result<(), CliError> {
    let filter = flags.filter()?;
    let filter = pb::count_agents_request::Filter {
        by_attestation_type: filter.by_attestation_type,
        by_selector_match: filter.by_selector_match,
        by_banned: filter.by_banned,
        by_can_reattest: filter.by_can_reattest,
        by_expires_before: filter.by_expires_before,
    };
    let mut client = AgentClient::new(env.connect(&flags.common.socket).await?);
    let request = pb::CountAgentsRequest { filter: Some(filter) };
    let response = client.count_agents(request).await?.into_inner();
    if flags.common.output == Output::Json {
        return env.json(&response);
    }
    let n = usize::try_from(response.count).unwrap_or_default();
    env.line(text::counted(n, "attested agent", "attested agents"))
}

async fn list(flags: FilterFlags, env: &mut Env) -> Result<(), CliError> {
    let filter = flags.filter()?;
    let mut client = AgentClient::new(env.connect(&flags.common.socket).await?)
        .max_decoding_message_size(MAX_ANSWER);
    let agents = all(&mut client, filter, None).await?;
    if flags.common.output == Output::Json {
        return env.json(&pb::ListAgentsResponse { agents, next_page_token: String::new() });
    }
    if agents.is_empty() {
        return env.line("No attested agents found");
    }
    env.line(format_args!(
        "Found {}:\n",
        text::counted(agents.len(), "attested agent", "attested agents")
    ))?;
    agents.iter().try_for_each(|agent| print(env, agent))
}

async fn purge(flags: PurgeFlags, env: &mut Env) -> Result<(), CliError> {
    let mut client = AgentClient::new(env.connect(&flags.common.socket).await?)
        .max_decoding_message_size(MAX_ANSWER);
    let filter =
        pb::list_agents_request::Filter { by_can_reattest: Some(true), ..Default::default() };
    let mask = types::AgentMask { x509svid_expires_at: true, ..Default::default() };
    let agents = all(&mut client, filter, Some(mask))
        .await
        .map_err(|error| CliError::failed(format!("failed to list agents: {error}")))?;

    let now = signet_base::SystemClock.unix();
    let mut results = Vec::new();
    for agent in agents {
        if UnixTime::from_seconds(agent.x509svid_expires_at) + flags.expired_for >= now {
            continue;
        }
        let outcome = if flags.dry_run {
            None
        } else {
            let request = pb::DeleteAgentRequest { id: agent.id.clone() };
            Some(client.delete_agent(request).await.map(drop))
        };
        results.push((text::id(agent.id.as_ref()), outcome));
    }
    let failed = results.iter().any(|(_, outcome)| matches!(outcome, Some(Err(_))));
    match flags.common.output {
        Output::Json => {
            let list = results.iter().map(|(id, outcome)| {
                let mut item = json!({
                    "agent_id": id,
                    "deleted": matches!(outcome, Some(Ok(()))),
                });
                if let (Some(Err(status)), Some(item)) = (outcome, item.as_object_mut()) {
                    item.insert("error".to_owned(), status.message().into());
                }
                item
            });
            env.json_value(&json!({ "expired_agents": list.collect::<Vec<_>>() }))?;
        }
        Output::Pretty => print_purged(env, &results)?,
    }
    if failed { Err(CliError::failed("failed to purge one or more agents")) } else { Ok(()) }
}

type Purged = (String, Option<Result<(), tonic::Status>>);

fn print_purged(env: &mut Env, results: &[Purged]) -> Result<(), CliError> {
    if results.is_empty() {
        return env.line("No agents to purge.");
    }
    let found = text::counted(results.len(), "expired agent", "expired agents");
    env.line(format_args!("Found {found}\n"))?;
    type Is = fn(&Option<Result<(), tonic::Status>>) -> bool;
    let groups: [(&str, Is); 3] = [
        ("Agents that can be purged:", Option::is_none),
        ("Agents purged:", |outcome| matches!(outcome, Some(Ok(())))),
        ("Agents not purged:", |outcome| matches!(outcome, Some(Err(_)))),
    ];
    for (title, is) in groups {
        let mut group = results.iter().filter(|(_, outcome)| is(outcome)).peekable();
        if group.peek().is_some() {
            env.line(title)?;
        }
        for (id, outcome) in group {
            env.line(format_args!("SPIFFE ID         : {id}"))?;
            if let Some(Err(status)) = outcome {
                env.line(format_args!("Error             : {}", status.message()))?;
            }
        }
    }
    Ok(())
}

impl FilterFlags {
    fn filter(&self) -> Result<pb::list_agents_request::Filter, CliError> {
        let mut filter = pb::list_agents_request::Filter {
            by_attestation_type: self.attestation_type.clone().unwrap_or_default(),
            by_banned: self.banned,
            by_can_reattest: self.can_reattest,
            ..Default::default()
        };
        if !self.selector.is_empty() {
            filter.by_selector_match = Some(types::SelectorMatch {
                selectors: text::parse_selectors(&self.selector)?,
                r#match: self.match_selectors_on.number(),
            });
        }
        if let Some(date) = &self.expires_before {
            text::check_date(date)?;
            filter.by_expires_before.clone_from(date);
        }
        Ok(filter)
    }
}

async fn all(
    client: &mut AgentClient<tonic::transport::Channel>,
    filter: pb::list_agents_request::Filter,
    output_mask: Option<types::AgentMask>,
) -> Result<Vec<types::Agent>, CliError> {
    let mut agents = Vec::new();
    let mut request = pb::ListAgentsRequest {
        filter: Some(filter),
        output_mask,
        page_size: PAGE_SIZE,
        page_token: String::new(),
    };
    loop {
        let page = client.list_agents(request.clone()).await?.into_inner();
        agents.extend(page.agents);
        if page.next_page_token.is_empty() {
            return Ok(agents);
        }
        request.page_token = page.next_page_token;
    }
}

fn print(env: &mut Env, agent: &types::Agent) -> Result<(), CliError> {
    env.line(format_args!("SPIFFE ID         : {}", text::id(agent.id.as_ref())))?;
    env.line(format_args!("Attestation type  : {}", agent.attestation_type))?;
    env.line(format_args!("Expiration time   : {}", text::utc(agent.x509svid_expires_at)))?;
    if agent.banned {
        env.line("Banned            : true")?;
    } else {
        env.line(format_args!("Serial number     : {}", agent.x509svid_serial_number))?;
    }
    env.line(format_args!("Can re-attest     : {}", agent.can_reattest))?;
    if !agent.agent_version.is_empty() {
        env.line(format_args!("Agent version     : {}", agent.agent_version))?;
    }
    env.line("")
}
