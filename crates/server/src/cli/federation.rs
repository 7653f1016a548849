//! `federation`: relationships with foreign trust domains.

mod data;
mod status;

use signet_api::{
    pb::{
        signet::api::server::{
            federation::v1::{self as own, federation_client::FederationClient},
            tenancy::v1::assignment::Kind,
        },
        spire::api::{
            server::{
                bundle::v1::{self as bundle_pb, bundle_client::BundleClient},
                trustdomain::v1::{self as pb, trust_domain_client::TrustDomainClient},
            },
            types::{self, federation_relationship::BundleEndpointProfile},
        },
    },
    status as api_status,
};
use signet_daemon::cli::Output;
use signet_identity::TrustDomain;
use tonic::Code;

use super::{
    bundle::Format,
    env::{CliError, CommonFlags, Env, MAX_ANSWER, code_name},
    tenant::{self, AssignFlags},
    text,
};

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create a relationship, or many from a file
    Create(Box<WriteFlags>),
    /// Delete a relationship
    Delete(DeleteFlags),
    /// List relationships
    List(ListFlags),
    /// Fetch a foreign bundle now
    Refresh(RefreshFlags),
    /// Show one relationship
    Show(ShowFlags),
    /// Show how fetching goes, for all relationships
    Status(status::Flags),
    /// Say, or show, which tenants may federate with a trust domain
    Tenants(TenantsFlags),
    /// Replace a relationship, or many from a file
    Update(Box<WriteFlags>),
}

/// Which tenants may federate with a trust domain.
#[derive(Debug, clap::Args)]
pub struct TenantsFlags {
    /// The foreign trust domain
    #[arg(long = "trustDomain", value_name = "NAME", required = true)]
    trust_domain: String,
    #[command(flatten)]
    assign: AssignFlags,
}

/// How a bundle endpoint proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// By a certificate of the public web
    #[value(name = "https_web")]
    HttpsWeb,
    /// By the X.509-SVID of -endpointSpiffeID
    #[value(name = "https_spiffe")]
    HttpsSpiffe,
}

/// The flags of `federation create` and `update`.
#[derive(Debug, clap::Args)]
pub struct WriteFlags {
    /// The foreign trust domain
    #[arg(long = "trustDomain", value_name = "NAME")]
    trust_domain: Option<String>,
    /// Where its bundle is fetched: an https URL
    #[arg(long = "bundleEndpointURL", value_name = "URL")]
    bundle_endpoint_url: Option<String>,
    /// How the endpoint proves itself
    #[arg(long = "bundleEndpointProfile", value_name = "PROFILE", value_enum)]
    bundle_endpoint_profile: Option<Profile>,
    /// SPIFFE ID that the endpoint must have, with profile https_spiffe
    #[arg(long = "endpointSpiffeID", value_name = "ID")]
    endpoint_spiffe_id: Option<String>,
    /// File with the bundle to begin with
    #[arg(long = "trustDomainBundlePath", value_name = "FILE")]
    trust_domain_bundle_path: Option<String>,
    /// Form of that file
    #[arg(
        long = "trustDomainBundleFormat",
        value_name = "FORMAT",
        value_enum,
        default_value = "pem"
    )]
    trust_domain_bundle_format: Format,
    /// File with {"federationRelationships": [...]}, or - for standard input
    #[arg(
        long = "data",
        value_name = "FILE",
        conflicts_with_all = [
            "trust_domain", "bundle_endpoint_url", "bundle_endpoint_profile",
            "endpoint_spiffe_id", "trust_domain_bundle_path",
        ]
    )]
    data: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `federation delete`.
#[derive(Debug, clap::Args)]
pub struct DeleteFlags {
    /// The foreign trust domain, with or without spiffe://
    #[arg(long = "id", value_name = "ID", required = true)]
    id: String,
    /// What becomes of its bundle, which workloads go on trusting otherwise: keep it, delete it
    /// unless entries federate with it (restrict), take it off their lists (dissociate), or delete
    /// those entries too (delete)
    #[arg(long = "withBundle", value_name = "MODE", value_enum, default_value = "keep")]
    with_bundle: WithBundle,
    #[command(flatten)]
    common: CommonFlags,
}

/// What becomes of the bundle of a relationship that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum WithBundle {
    /// It stays, as with SPIRE.
    Keep,
    /// It goes, unless entries federate with it.
    Restrict,
    /// It goes, and off the lists of entries.
    Dissociate,
    /// It goes, and those entries too.
    Delete,
}

/// The flags of `federation refresh`.
#[derive(Debug, clap::Args)]
pub struct RefreshFlags {
    /// The foreign trust domain, with or without spiffe://
    #[arg(long = "id", value_name = "ID", required = true)]
    id: String,
    /// Take a bundle whose sequence number is smaller than that of the one that is held: the other
    /// side was set up anew
    #[arg(long = "acceptOlder")]
    accept_older: bool,
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `federation list`.
#[derive(Debug, clap::Args)]
pub struct ListFlags {
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `federation show`.
#[derive(Debug, clap::Args)]
pub struct ShowFlags {
    /// The foreign trust domain
    #[arg(long = "trustDomain", value_name = "NAME", required = true)]
    trust_domain: String,
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
        Command::Create(flags) => create(*flags, env).await,
        Command::Delete(flags) => delete(flags, env).await,
        Command::List(flags) => list(flags, env).await,
        Command::Refresh(flags) => refresh(flags, env).await,
        Command::Show(flags) => show(flags, env).await,
        Command::Status(flags) => status::run(flags, env).await,
        Command::Tenants(flags) => {
            let name = TrustDomain::from_name_or_id(&flags.trust_domain).map_err(|error| {
                CliError::usage(format!("-trustDomain {:?}: {error}", flags.trust_domain))
            })?;
            tenant::assign(flags.assign, Kind::TrustDomain, name.to_string(), env).await
        }
        Command::Update(flags) => update(*flags, env).await,
    }
}

async fn create(flags: WriteFlags, env: &mut Env) -> Result<(), CliError> {
    let asked = flags.relationships(env)?;
    let mut client = TrustDomainClient::new(env.connect(&flags.common.socket).await?);
    let request = pb::BatchCreateFederationRelationshipRequest {
        federation_relationships: asked.clone(),
        output_mask: None,
    };
    let response = client.batch_create_federation_relationship(request).await;
    let response = response.map_err(CliError::call("request failed"))?.into_inner();
    if flags.common.output == Output::Json {
        env.json(&response)?;
    }
    let results = response.results.into_iter();
    let results = results.map(|one| (one.status, one.federation_relationship));
    finish(env, "create", flags.common.output, asked, results.collect())
}

async fn update(flags: WriteFlags, env: &mut Env) -> Result<(), CliError> {
    let asked = flags.relationships(env)?;
    let mut client = TrustDomainClient::new(env.connect(&flags.common.socket).await?);
    let request = pb::BatchUpdateFederationRelationshipRequest {
        federation_relationships: asked.clone(),
        input_mask: None,
        output_mask: None,
    };
    let response = client.batch_update_federation_relationship(request).await;
    let response = response.map_err(CliError::call("request failed"))?.into_inner();
    if flags.common.output == Output::Json {
        env.json(&response)?;
    }
    let results = response.results.into_iter();
    let results = results.map(|one| (one.status, one.federation_relationship));
    finish(env, "update", flags.common.output, asked, results.collect())
}

async fn delete(flags: DeleteFlags, env: &mut Env) -> Result<(), CliError> {
    // Refused before anything is deleted.
    if flags.with_bundle == WithBundle::Restrict {
        delete_bundle(&flags, env).await?;
    }
    let mut client = TrustDomainClient::new(env.connect(&flags.common.socket).await?);
    let request =
        pb::BatchDeleteFederationRelationshipRequest { trust_domains: vec![flags.id.clone()] };
    let response = client.batch_delete_federation_relationship(request).await;
    let response =
        response.map_err(CliError::call("failed to delete federation relationship"))?.into_inner();
    if flags.common.output == Output::Json {
        env.json(&response)?;
    }
    let status = response.results.first().and_then(|result| result.status.as_ref());
    if let Some(status) = status.filter(|status| !api_status::is_ok(Some(status))) {
        return Err(CliError::failed(format!(
            "failed to delete federation relationship \"{}\": {}",
            flags.id, status.message
        )));
    }
    // After the relationship: else it might be fetched again in between.
    if matches!(flags.with_bundle, WithBundle::Dissociate | WithBundle::Delete) {
        delete_bundle(&flags, env).await?;
    }
    if flags.common.output == Output::Pretty {
        env.line("federation relationship deleted.")?;
    }
    Ok(())
}

/// Deletes the bundle too; that there is none is no failure.
async fn delete_bundle(flags: &DeleteFlags, env: &mut Env) -> Result<(), CliError> {
    use bundle_pb::batch_delete_federated_bundle_request::Mode;

    let mode = match flags.with_bundle {
        WithBundle::Keep => return Ok(()),
        WithBundle::Restrict => Mode::Restrict,
        WithBundle::Dissociate => Mode::Dissociate,
        WithBundle::Delete => Mode::Delete,
    };
    let mut client = BundleClient::new(env.connect(&flags.common.socket).await?);
    let request = bundle_pb::BatchDeleteFederatedBundleRequest {
        trust_domains: vec![flags.id.clone()],
        mode: mode.into(),
    };
    let response = client.batch_delete_federated_bundle(request).await;
    let response = response.map_err(CliError::call("failed to delete the bundle"))?.into_inner();
    let status = response.results.first().and_then(|result| result.status.as_ref());
    match status {
        Some(status)
            if !api_status::is_ok(Some(status)) && Code::from(status.code) != Code::NotFound =>
        {
            let why = format!("failed to delete the bundle \"{}\": {}", flags.id, status.message);
            Err(CliError::failed(why))
        }
        _ => Ok(()),
    }
}

async fn list(flags: ListFlags, env: &mut Env) -> Result<(), CliError> {
    let channel = env.connect(&flags.common.socket).await?;
    let mut client = TrustDomainClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    let request = pb::ListFederationRelationshipsRequest::default();
    let response = client.list_federation_relationships(request).await;
    let response =
        response.map_err(CliError::call("error listing federation relationship"))?.into_inner();
    if flags.common.output == Output::Json {
        return env.json(&response);
    }
    // The API lists no relationships of the configuration file.
    let fixed = status::fixed(channel).await?;
    let is_fixed = |one: &types::FederationRelationship| {
        fixed.iter().any(|fixed| fixed.trust_domain == one.trust_domain)
    };
    let all = response.federation_relationships.iter().filter(|one| !is_fixed(one));
    let mut all: Vec<_> = all.map(described).collect();
    all.extend(
        fixed.iter().map(|one| {
            format!("{}\nOrigin                    : configuration file", described(one))
        }),
    );
    let found = text::counted(all.len(), "federation relationship", "federation relationships");
    env.line(format_args!("Found {found}"))?;
    for one in all {
        env.line(format_args!("\n{one}"))?;
    }
    Ok(())
}

async fn refresh(flags: RefreshFlags, env: &mut Env) -> Result<(), CliError> {
    let channel = env.connect(&flags.common.socket).await?;
    let refreshed = if flags.accept_older {
        let request =
            own::RefreshBundleRequest { trust_domain: flags.id.clone(), accept_older: true };
        FederationClient::new(channel).refresh_bundle(request).await.map(drop)
    } else {
        let request = pb::RefreshBundleRequest { trust_domain: flags.id.clone() };
        TrustDomainClient::new(channel).refresh_bundle(request).await.map(drop)
    };
    match refreshed {
        Ok(()) => match flags.common.output {
            Output::Json => env.json(&api_status::item_ok()),
            Output::Pretty => env.line("Bundle refreshed"),
        },
        Err(status) if status.code() == Code::NotFound => Err(CliError::failed(format!(
            "there is no federation relationship with trust domain \"{}\"",
            flags.id
        ))),
        Err(status) => Err(CliError::call("failed to refresh bundle")(status)),
    }
}

async fn show(flags: ShowFlags, env: &mut Env) -> Result<(), CliError> {
    let mut client = TrustDomainClient::new(env.connect(&flags.common.socket).await?)
        .max_decoding_message_size(MAX_ANSWER);
    let request = pb::GetFederationRelationshipRequest {
        trust_domain: flags.trust_domain.clone(),
        output_mask: None,
    };
    let found = client.get_federation_relationship(request).await;
    let found =
        found.map_err(CliError::call("error showing federation relationship"))?.into_inner();
    if flags.common.output == Output::Json {
        return env.json(&found);
    }
    env.line(format_args!(
        "Found a federation relationship with trust domain {}:\n\n{}",
        found.trust_domain,
        described(&found)
    ))
}

impl WriteFlags {
    fn relationships(&self, env: &mut Env) -> Result<Vec<types::FederationRelationship>, CliError> {
        if let Some(file) = &self.data {
            return data::relationships(&env.read(file)?, file, env);
        }
        let bundle = match &self.trust_domain_bundle_path {
            Some(path) => Some((env.read(path)?, self.trust_domain_bundle_format)),
            None => None,
        };
        let one = data::relationship(
            self.trust_domain.as_deref().unwrap_or_default(),
            self.bundle_endpoint_url.as_deref().unwrap_or_default(),
            self.bundle_endpoint_profile,
            self.endpoint_spiffe_id.as_deref().unwrap_or_default(),
            bundle.as_ref().map(|(bundle, format)| (bundle.as_slice(), *format)),
        )?;
        Ok(vec![one])
    }
}

type Answer = (Option<types::Status>, Option<types::FederationRelationship>);

fn finish(
    env: &mut Env,
    verb: &str,
    output: Output,
    asked: Vec<types::FederationRelationship>,
    results: Vec<Answer>,
) -> Result<(), CliError> {
    let mut failed = false;
    for (asked, (status, after)) in asked.into_iter().zip(results) {
        let status = status.unwrap_or_else(api_status::item_ok);
        let is_good = api_status::is_ok(Some(&status));
        failed |= !is_good;
        if output == Output::Json {
            continue;
        }
        if is_good {
            env.line(format_args!("\n{}", described(&after.unwrap_or(asked))))?;
        } else {
            env.complain(format_args!(
                "Failed to {verb} the following federation relationship (code: {}, msg: {:?}):",
                code_name(Code::from(status.code)),
                status.message
            ))?;
            env.complain(described(&asked))?;
        }
    }
    if failed {
        let why = format!("failed to {verb} one or more federation relationships");
        return Err(CliError::failed(why));
    }
    Ok(())
}

fn described(relationship: &types::FederationRelationship) -> String {
    let mut lines = vec![
        format!("Trust domain              : {}", relationship.trust_domain),
        format!("Bundle endpoint URL       : {}", relationship.bundle_endpoint_url),
    ];
    match &relationship.bundle_endpoint_profile {
        Some(BundleEndpointProfile::HttpsWeb(_)) => {
            lines.push("Bundle endpoint profile   : https_web".to_owned());
        }
        Some(BundleEndpointProfile::HttpsSpiffe(spiffe)) => {
            lines.push("Bundle endpoint profile   : https_spiffe".to_owned());
            lines.push(format!("Endpoint SPIFFE ID        : {}", spiffe.endpoint_spiffe_id));
        }
        None => {}
    }
    lines.join("\n")
}
