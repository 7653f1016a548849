//! `policy`: who may do what to what, tried out.

use std::{path::PathBuf, sync::Arc};

use serde_json::json;
use signet_api::pb::spire::api::{
    server::entry::v1::{self as pb, entry_client::EntryClient},
    types,
};
use signet_daemon::{cli::Output, program::Program};
use signet_identity::{SpiffeId, Tenant};
use tonic::transport::Channel;

use super::{
    env::{CliError, CommonFlags, Env},
    tenant, text,
};
use crate::{
    config::{Config, RunFlags},
    policy::{Grant, Known, Named, Policy, PolicySettings, Rules, Scope, Tenants, VERBS},
    usecase::principal::LocalPeer,
};

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check a policy file, or the one that a server's configuration names
    Check(CheckFlags),
    /// Say whether someone may do something to an entry, and by which rule
    #[command(after_help = EXPLAIN_EXAMPLE)]
    Explain(ExplainFlags),
    /// List the verbs that rules are made of
    Verbs(VerbsFlags),
}

const EXPLAIN_EXAMPLE: &str = "\
Example: may this administrator change that entry?

  signet-server policy explain -file policy.conf -as spiffe://example.org/ops/blue \\
      -do entry.update -on 0198c5b2-...

The entry is looked up on the running server. Something that is not there yet is named by its
SPIFFE ID and -tenant.";

/// Which policy.
#[derive(Clone, Debug, clap::Args)]
pub struct FileFlags {
    /// The policy file
    #[arg(long = "file", value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// The server's configuration file, which names it
    #[arg(long = "config", value_name = "FILE", default_value = "conf/server/server.conf")]
    config: PathBuf,
}

/// The flags of `policy check`.
#[derive(Debug, clap::Args)]
pub struct CheckFlags {
    #[command(flatten)]
    which: FileFlags,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", value_enum, default_value = "pretty")]
    output: Output,
}

/// The flags of `policy explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainFlags {
    #[command(flatten)]
    which: FileFlags,
    /// Who asks: a SPIFFE ID, or uid:NUMBER[,gid:NUMBER] for a local user
    #[arg(long = "as", value_name = "ID", required = true)]
    who: String,
    /// What is to be done, for example entry.update
    #[arg(long = "do", value_name = "VERB", required = true)]
    verb: String,
    /// To what: an entry ID, or a SPIFFE ID with -tenant; leave it out for everything
    #[arg(long = "on", value_name = "ENTRY")]
    on: Option<String>,
    /// Whose it is, where -on is a SPIFFE ID
    #[arg(long = "tenant", value_name = "TENANT", requires = "on")]
    tenant: Option<Tenant>,
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `policy verbs`.
#[derive(Debug, clap::Args)]
pub struct VerbsFlags {}

/// Runs a command.
///
/// # Errors
/// [`CliError`] when a file cannot be read or says what is wrong, a check fails, or the output
/// cannot be written.
pub async fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    match command {
        Command::Check(flags) => check(&flags, env),
        Command::Explain(flags) => explain(flags, env).await,
        Command::Verbs(VerbsFlags {}) => {
            VERBS.iter().try_for_each(|(verb, what)| env.line(format_args!("{verb:<20} {what}")))
        }
    }
}

/// What a policy file, or a server's configuration, says.
struct Loaded {
    settings: PolicySettings,
    admin_ids: Vec<SpiffeId>,
}

impl FileFlags {
    fn load(&self, program: Program) -> Result<Loaded, CliError> {
        let wrong = |error: signet_config::ConfigError| CliError::usage(format!("{error:#}"));
        if let Some(file) = &self.file {
            let rules = Rules::read(file).map_err(wrong)?;
            let file = Some((file.clone(), rules));
            let settings = PolicySettings { file, ..PolicySettings::default() };
            return Ok(Loaded { settings, admin_ids: Vec::new() });
        }
        let flags = RunFlags { config: self.config.clone(), ..RunFlags::default() };
        let config = Config::load(program, &flags, &|name| std::env::var(name).ok());
        let config = config.map_err(wrong)?;
        Ok(Loaded { settings: config.policy, admin_ids: config.admin_ids })
    }
}

fn check(flags: &CheckFlags, env: &mut Env) -> Result<(), CliError> {
    let Loaded { settings, .. } = flags.which.load(env.program)?;
    let rules = settings.file.as_ref().map(|(_, rules)| rules.clone()).unwrap_or_default();
    let counts = (rules.admins.len(), rules.local.len(), rules.agents.len());
    if flags.output == Output::Json {
        return env.json_value(&json!({
            "admins": counts.0, "local": counts.1, "agent_tenants": counts.2,
            "file": settings.file.map(|(file, _)| file.display().to_string()),
        }));
    }
    let Some((file, _)) = &settings.file else {
        return env.line("No policy file: the built-in policy is in force, which is SPIRE's");
    };
    env.line(format_args!(
        "{} is valid: {}, {}, {}",
        file.display(),
        text::counted(counts.0, "administrator", "administrators"),
        text::counted(counts.1, "local rule", "local rules"),
        text::counted(counts.2, "rule for agents", "rules for agents"),
    ))
}

/// To what something is to be done.
struct Object {
    name: String,
    id: SpiffeId,
    tenant: Option<Tenant>,
}

async fn explain(flags: ExplainFlags, env: &mut Env) -> Result<(), CliError> {
    if !VERBS.iter().any(|(verb, _)| *verb == flags.verb) {
        let why = format!("-do {:?}: no such verb; `policy verbs` lists them", flags.verb);
        return Err(CliError::usage(why));
    }
    let who = named(&flags.who)?;
    let Loaded { settings, admin_ids } = flags.which.load(env.program)?;
    let policy = Policy::new(&settings, nix::unistd::geteuid().as_raw());
    let is_admin = matches!(&who, Named::Spiffe(id) if admin_ids.contains(id));
    let object = match &flags.on {
        None => None,
        Some(on) => Some(object(on, flags.tenant.clone(), &flags.common, env).await?),
    };
    let known = match policy.known_scope(&who, is_admin) {
        Known::Unnamed => by_entries(&who, settings.required, &flags.common, env).await?,
        known => known,
    };
    let (allowed, why) = match known {
        Known::Nothing(why) => (false, why.to_owned()),
        Known::Unnamed => (false, "nothing makes it an administrator".to_owned()),
        Known::Granted(None) => (true, "its rights are not narrowed".to_owned()),
        Known::Granted(Some(scope)) => judged(&scope, &flags.verb, object.as_ref()),
    };
    let on = object.as_ref().map(|object| object.name.clone());
    match flags.common.output {
        Output::Json => env.json_value(&json!({
            "allowed": allowed, "as": flags.who, "do": flags.verb, "on": on, "reason": why,
        }))?,
        Output::Pretty => env.line(format_args!(
            "{}: {} {} {}: {why}",
            if allowed { "Allowed" } else { "Denied" },
            flags.who,
            flags.verb,
            on.as_deref().unwrap_or("on everything"),
        ))?,
    }
    match allowed {
        true => Ok(()),
        false => Err(CliError::failed("the policy does not allow it")),
    }
}

fn judged(scope: &Arc<Scope>, verb: &str, object: Option<&Object>) -> (bool, String) {
    let Some(object) = object else {
        return match scope.allows_whole(verb) {
            true => (true, "a rule allows it on everything".to_owned()),
            false => (false, "no rule allows it on everything".to_owned()),
        };
    };
    if scope.allows(verb, object.tenant.as_ref(), &object.id) {
        return (true, "a rule allows it".to_owned());
    }
    if !scope.allows_verb(verb) {
        return (false, "no rule has this verb".to_owned());
    }
    let why = match &object.tenant {
        None => "it has no tenant, and no rule is for \"*\"".to_owned(),
        Some(tenant) if !scope.allows_tenant(verb, tenant) => {
            format!("no rule with this verb is for tenant \"{tenant}\"")
        }
        Some(_) => format!("no rule with this verb is for the path {}", object.id.path()),
    };
    (false, why)
}

fn named(text: &str) -> Result<Named, CliError> {
    if let Ok(id) = text.parse() {
        return Ok(Named::Spiffe(id));
    }
    let mut peer = LocalPeer { pid: None, uid: u32::MAX, gid: u32::MAX };
    for part in text.split(',') {
        let slot = match part.split_once(':') {
            Some(("uid", number)) => number.parse().map(|n| peer.uid = n).is_ok(),
            Some(("gid", number)) => number.parse().map(|n| peer.gid = n).is_ok(),
            _ => false,
        };
        if !slot {
            let expected = "expected a SPIFFE ID, or uid:NUMBER[,gid:NUMBER]";
            return Err(CliError::usage(format!("-as {text:?}: {expected}")));
        }
    }
    Ok(Named::Local(peer))
}

async fn object(
    on: &str,
    tenant: Option<Tenant>,
    common: &CommonFlags,
    env: &Env,
) -> Result<Object, CliError> {
    if let Ok(id) = on.parse::<SpiffeId>() {
        return Ok(Object { name: on.to_owned(), id, tenant });
    }
    if tenant.is_some() {
        return Err(CliError::usage("-tenant belongs to a SPIFFE ID: an entry has its own"));
    }
    let channel = env.connect(&common.socket).await?;
    let request = pb::GetEntryRequest { id: on.to_owned(), output_mask: None };
    let entry = EntryClient::new(channel.clone()).get_entry(request).await;
    let entry = entry.map_err(CliError::call(format!("error fetching entry ID {on}")))?;
    let id = text::id(entry.into_inner().spiffe_id.as_ref());
    let id = id.parse().map_err(|error| CliError::failed(format!("entry {on}: {error}")))?;
    Ok(Object { name: on.to_owned(), id, tenant: tenant_of(channel, on).await? })
}

async fn tenant_of(channel: Channel, entry: &str) -> Result<Option<Tenant>, CliError> {
    let ids = [entry.to_owned()];
    let found = tenant::of_entries(channel, &ids).await?;
    Ok(found.get(entry).and_then(|owner| owner.tenant.parse().ok()))
}

/// What entries make of a SPIFFE ID.
async fn by_entries(
    who: &Named,
    required: bool,
    common: &CommonFlags,
    env: &Env,
) -> Result<Known, CliError> {
    let Named::Spiffe(id) = who else { return Ok(Known::Unnamed) };
    let channel = env.connect(&common.socket).await?;
    let filter = pb::list_entries_request::Filter {
        by_spiffe_id: Some(signet_api::convert::id_to_pb(id)),
        ..Default::default()
    };
    let request = pb::ListEntriesRequest { filter: Some(filter), ..Default::default() };
    let listed = EntryClient::new(channel.clone()).list_entries(request).await;
    let listed = listed.map_err(CliError::call("error fetching entries"))?.into_inner();
    let admins: Vec<types::Entry> = listed.entries.into_iter().filter(|it| it.admin).collect();
    if admins.is_empty() {
        return Ok(Known::Unnamed);
    }
    if !required {
        return Ok(Known::Granted(None));
    }
    let ids: Vec<String> = admins.into_iter().map(|entry| entry.id).collect();
    let owners = tenant::of_entries(channel, &ids).await?;
    let tenants = owners.values().filter_map(|owner| owner.tenant.parse().ok()).collect();
    let tenants = Tenants::Only(tenants);
    if tenants.is_empty() {
        return Ok(Known::Nothing("it is an administrator without a tenant"));
    }
    let grant = Grant { tenants, paths: Vec::new(), verbs: Vec::new() };
    Ok(Known::Granted(Scope::of(vec![grant])))
}
