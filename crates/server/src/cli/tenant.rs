//! `tenant`: tenants, and what belongs to them.

use std::collections::BTreeMap;

use serde_json::json;
use signet_api::pb::signet::api::server::tenancy::v1::{
    self as pb, assignment::Kind, tenancy_client::TenancyClient, tenant::State,
};
use signet_daemon::cli::Output;
use tonic::{Code, Status, transport::Channel};

use super::{
    env::{CliError, CommonFlags, Env, MAX_ANSWER},
    text,
};

/// How many entries are asked about in one call.
const AT_ONCE: usize = 1_000;

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create a tenant: what belongs to a tenant that nobody created is refused
    Create(NameFlags),
    /// Delete a tenant to which nothing belongs any more
    Delete(NameFlags),
    /// List tenants, and which agents and trust domains are for them
    List(ListFlags),
    /// Issue for a suspended tenant again
    Resume(NameFlags),
    /// Issue nothing for a tenant until it is resumed; what it has is taken back
    Suspend(NameFlags),
}

/// Names one tenant.
#[derive(Debug, clap::Args)]
pub struct NameFlags {
    /// Name of the tenant: a-z, 0-9, '.', '_' and '-'
    #[arg(long = "name", value_name = "TENANT", required = true)]
    name: String,
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `tenant list`.
#[derive(Debug, clap::Args)]
pub struct ListFlags {
    #[command(flatten)]
    common: CommonFlags,
}

/// Which tenants something is for.
#[derive(Clone, Debug, clap::Args)]
pub struct AssignFlags {
    /// Tenant that it is for; may be repeated. Without any, the assignment is shown
    #[arg(long = "tenant", value_name = "TENANT")]
    tenant: Vec<String>,
    /// Take the assignment away
    #[arg(long = "none", conflicts_with = "tenant")]
    none: bool,
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
        Command::Create(flags) => set(flags, State::Unspecified, "created", env).await,
        Command::Delete(flags) => delete(flags, env).await,
        Command::List(flags) => list(flags, env).await,
        Command::Resume(flags) => set(flags, State::Active, "resumed", env).await,
        Command::Suspend(flags) => set(flags, State::Suspended, "suspended", env).await,
    }
}

async fn set(flags: NameFlags, state: State, done: &str, env: &mut Env) -> Result<(), CliError> {
    let mut client = client(env.connect(&flags.common.socket).await?);
    let request = pb::SetTenantRequest { name: flags.name.clone(), state: state.into() };
    let tenant = client.set_tenant(request).await.map_err(understood)?.into_inner();
    match flags.common.output {
        Output::Json => env.json(&tenant),
        Output::Pretty => env.line(format_args!("Tenant {} {done}", tenant.name)),
    }
}

async fn delete(flags: NameFlags, env: &mut Env) -> Result<(), CliError> {
    let mut client = client(env.connect(&flags.common.socket).await?);
    let request = pb::DeleteTenantRequest { name: flags.name.clone() };
    client.delete_tenant(request).await.map_err(understood)?;
    match flags.common.output {
        Output::Json => env.json_value(&json!({})),
        Output::Pretty => env.line(format_args!("Tenant {} deleted", flags.name)),
    }
}

async fn list(flags: ListFlags, env: &mut Env) -> Result<(), CliError> {
    let mut client = client(env.connect(&flags.common.socket).await?);
    let all = client.list_tenants(pb::ListTenantsRequest {}).await;
    let all = all.map_err(understood)?.into_inner();
    if flags.common.output == Output::Json {
        return env.json(&all);
    }
    env.line(match (all.required, all.path_template.as_str()) {
        (false, _) => "Tenants are not required (tenancy = \"required\" in server {})".to_owned(),
        (true, "") => "Tenants are required".to_owned(),
        (true, path) => format!("Tenants are required, their identities lie under {path}"),
    })?;
    env.line(format_args!("Found {}\n", text::counted(all.tenants.len(), "tenant", "tenants")))?;
    for tenant in &all.tenants {
        let state = match tenant.state() {
            State::Suspended => "suspended",
            State::Active | State::Unspecified => "active",
        };
        env.line(format_args!("{:<24}: {state}", tenant.name))?;
    }
    for (kind, what) in [(Kind::Agent, "Agent"), (Kind::TrustDomain, "Trust domain")] {
        for said in assignments(&mut client, kind).await? {
            env.line(format_args!("{what:<24}: {} is for {}", said.key, said.tenants.join(", ")))?;
        }
    }
    Ok(())
}

/// Assigns an agent or a trust domain to tenants, or shows for which it is.
///
/// # Errors
/// [`CliError`] when flags do not fit together, the server cannot be reached or refuses, or the
/// output cannot be written.
pub(super) async fn assign(
    flags: AssignFlags,
    kind: Kind,
    key: String,
    env: &mut Env,
) -> Result<(), CliError> {
    let mut client = client(env.connect(&flags.common.socket).await?);
    let said = if flags.tenant.is_empty() && !flags.none {
        let all = assignments(&mut client, kind).await?;
        all.into_iter().find(|said| said.key == key).unwrap_or_else(|| pb::Assignment {
            kind: kind.into(),
            key,
            tenants: Vec::new(),
        })
    } else {
        let said = pb::Assignment { kind: kind.into(), key, tenants: flags.tenant };
        client.set_assignment(said).await.map_err(understood)?.into_inner()
    };
    if flags.common.output == Output::Json {
        return env.json(&said);
    }
    match said.tenants.is_empty() {
        true => env.line(format_args!("{} is assigned to no tenant", said.key)),
        false => env.line(format_args!("{} is for {}", said.key, said.tenants.join(", "))),
    }
}

async fn assignments(
    client: &mut TenancyClient<Channel>,
    kind: Kind,
) -> Result<Vec<pb::Assignment>, CliError> {
    let request = pb::ListAssignmentsRequest { kind: kind.into() };
    let answer = client.list_assignments(request).await.map_err(understood)?;
    Ok(answer.into_inner().assignments)
}

/// Whose entries are these? A SPIRE server does not know.
///
/// # Errors
/// [`CliError`] when a server that should know does not answer.
pub(super) async fn of_entries(
    channel: Channel,
    ids: &[String],
) -> Result<BTreeMap<String, pb::EntryTenant>, CliError> {
    let mut client = client(channel);
    let mut all = BTreeMap::new();
    for ids in ids.chunks(AT_ONCE) {
        let request = pb::GetEntryTenantsRequest { ids: ids.to_vec() };
        match client.get_entry_tenants(request).await {
            Ok(answer) => all.extend(answer.into_inner().tenants),
            Err(status) if status.code() == Code::Unimplemented => break,
            Err(status) => return Err(CliError::call("error fetching tenants")(status)),
        }
    }
    Ok(all)
}

pub(super) fn client(channel: Channel) -> TenancyClient<Channel> {
    TenancyClient::new(channel).max_decoding_message_size(MAX_ANSWER)
}

/// A failure, where it may be that the server is SPIRE's.
pub(super) fn understood(status: Status) -> CliError {
    if status.code() == Code::Unimplemented {
        return CliError::failed("this server knows no tenants: it is not a Signet server");
    }
    CliError::from(status)
}
