//! `bundle`: the server's own bundle and those of foreign trust domains.

use signet_api::{
    convert::{bundle_from_pb, bundle_to_pb, trust_domain_from_pb},
    pb::spire::api::{
        server::bundle::v1::{
            self as pb, batch_delete_federated_bundle_request::Mode, bundle_client::BundleClient,
        },
        types,
    },
    status,
};
use signet_daemon::cli::Output;
use signet_identity::Bundle;
use signet_pki::jwks;

use super::{
    env::{CliError, CommonFlags, Env, MAX_ANSWER},
    text,
};
use signet_base::chain;

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Count bundles, the server's own included
    Count(CountFlags),
    /// Delete the bundle of a foreign trust domain
    Delete(DeleteFlags),
    /// List the bundles of foreign trust domains
    List(ListFlags),
    /// Create or replace the bundle of a foreign trust domain
    Set(SetFlags),
    /// Print the server's own bundle
    Show(ShowFlags),
}

/// The text form of a bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// X.509 certificates only
    #[default]
    Pem,
    /// The SPIFFE bundle document: X.509 and JWT keys
    Spiffe,
}

/// What becomes of entries that federate with a deleted bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DeleteMode {
    /// They prevent the deletion
    #[default]
    Restrict,
    /// They stay, and federate with it no longer
    Dissociate,
    /// They are deleted too
    Delete,
}

/// The flags of `bundle count`.
#[derive(Debug, clap::Args)]
pub struct CountFlags {
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `bundle delete`.
#[derive(Debug, clap::Args)]
pub struct DeleteFlags {
    /// Trust domain, with or without spiffe://
    #[arg(long = "id", value_name = "ID", required = true)]
    id: String,
    /// What becomes of entries that federate with it
    #[arg(long = "mode", value_name = "MODE", value_enum, default_value = "restrict")]
    mode: DeleteMode,
    #[command(flatten)]
    common: CommonFlags,
}

/// Whether keys are printed that not everybody takes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct WitFlag {
    /// In the form spiffe, print the keys that sign WIT-SVIDs too: SPIRE before 1.15.3 refuses a
    /// document with such a key
    #[arg(long = "witKeys")]
    wit_keys: bool,
}

/// The flags of `bundle list`.
#[derive(Debug, clap::Args)]
pub struct ListFlags {
    /// Only the bundle of this trust domain
    #[arg(long = "id", value_name = "ID")]
    id: Option<String>,
    /// Form of pretty output
    #[arg(long = "format", value_name = "FORMAT", value_enum, default_value = "pem")]
    format: Format,
    #[command(flatten)]
    wit: WitFlag,
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `bundle set`.
#[derive(Debug, clap::Args)]
pub struct SetFlags {
    /// Trust domain, with or without spiffe://
    #[arg(long = "id", value_name = "ID", required = true)]
    id: String,
    /// File with the bundle; standard input unless given
    #[arg(long = "path", value_name = "FILE")]
    path: Option<String>,
    /// Form of the file
    #[arg(long = "format", value_name = "FORMAT", value_enum, default_value = "pem")]
    format: Format,
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `bundle show`.
#[derive(Debug, clap::Args)]
pub struct ShowFlags {
    /// Form of pretty output
    #[arg(long = "format", value_name = "FORMAT", value_enum, default_value = "pem")]
    format: Format,
    #[command(flatten)]
    wit: WitFlag,
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
        Command::Count(flags) => count(flags, env).await,
        Command::Delete(flags) => delete(flags, env).await,
        Command::List(flags) => list(flags, env).await,
        Command::Set(flags) => set(flags, env).await,
        Command::Show(flags) => show(flags, env).await,
    }
}

async fn count(flags: CountFlags, env: &mut Env) -> Result<(), CliError> {
    let mut client = BundleClient::new(env.connect(&flags.common.socket).await?);
    let response = client.count_bundles(pb::CountBundlesRequest {}).await?.into_inner();
    if flags.common.output == Output::Json {
        return env.json(&response);
    }
    let n = usize::try_from(response.count).unwrap_or_default();
    env.line(text::counted(n, "bundle", "bundles"))
}

async fn show(flags: ShowFlags, env: &mut Env) -> Result<(), CliError> {
    let mut client = BundleClient::new(env.connect(&flags.common.socket).await?)
        .max_decoding_message_size(MAX_ANSWER);
    let request = pb::GetBundleRequest { output_mask: None };
    let bundle = client.get_bundle(request).await?.into_inner();
    if flags.common.output == Output::Json {
        return env.json(&bundle);
    }
    print(env, &bundle, flags.format, flags.wit, false)
}

async fn list(flags: ListFlags, env: &mut Env) -> Result<(), CliError> {
    let mut client = BundleClient::new(env.connect(&flags.common.socket).await?)
        .max_decoding_message_size(MAX_ANSWER);
    if let Some(trust_domain) = flags.id.filter(|id| !id.is_empty()) {
        let request = pb::GetFederatedBundleRequest { trust_domain, output_mask: None };
        let bundle = client.get_federated_bundle(request).await?.into_inner();
        if flags.common.output == Output::Json {
            return env.json(&bundle);
        }
        return print(env, &bundle, flags.format, flags.wit, false);
    }
    let request = pb::ListFederatedBundlesRequest::default();
    let response = client.list_federated_bundles(request).await?.into_inner();
    if flags.common.output == Output::Json {
        return env.json(&response);
    }
    for (at, bundle) in response.bundles.iter().enumerate() {
        if at > 0 {
            env.line("")?;
        }
        print(env, bundle, flags.format, flags.wit, true)?;
    }
    Ok(())
}

async fn set(flags: SetFlags, env: &mut Env) -> Result<(), CliError> {
    let data = env
        .read(flags.path.as_deref().unwrap_or("-"))
        .map_err(|error| CliError::failed(format!("unable to load bundle data: {error}")))?;
    let bundle = parse(&data, flags.format, &flags.id)?;
    let mut client = BundleClient::new(env.connect(&flags.common.socket).await?);
    let request = pb::BatchSetFederatedBundleRequest { bundle: vec![bundle], output_mask: None };
    let response = client.batch_set_federated_bundle(request).await;
    let response = response.map_err(CliError::call("failed to set federated bundle"))?.into_inner();
    if flags.common.output == Output::Json {
        env.json(&response)?;
    }
    let status = response.results.first().and_then(|result| result.status.as_ref());
    if let Some(status) = status.filter(|status| !status::is_ok(Some(status))) {
        let why = format!("failed to set federated bundle: {}", status.message);
        return Err(CliError::failed(why));
    }
    if flags.common.output == Output::Pretty {
        env.line("bundle set.")?;
    }
    Ok(())
}

async fn delete(flags: DeleteFlags, env: &mut Env) -> Result<(), CliError> {
    let mode = match flags.mode {
        DeleteMode::Restrict => Mode::Restrict,
        DeleteMode::Delete => Mode::Delete,
        DeleteMode::Dissociate => Mode::Dissociate,
    };
    let mut client = BundleClient::new(env.connect(&flags.common.socket).await?);
    let request = pb::BatchDeleteFederatedBundleRequest {
        trust_domains: vec![flags.id.clone()],
        mode: mode.into(),
    };
    let response = client.batch_delete_federated_bundle(request).await;
    let response =
        response.map_err(CliError::call("failed to delete federated bundle"))?.into_inner();
    if flags.common.output == Output::Json {
        env.json(&response)?;
    }
    let status = response.results.first().and_then(|result| result.status.as_ref());
    if let Some(status) = status.filter(|status| !status::is_ok(Some(status))) {
        return Err(CliError::failed(format!(
            "failed to delete federated bundle \"{}\": {}",
            flags.id, status.message
        )));
    }
    if flags.common.output == Output::Pretty {
        env.line("bundle deleted.")?;
    }
    Ok(())
}

/// Reads a bundle of `trust_domain` from a file's content.
///
/// # Errors
/// [`CliError::Failed`] with what is wrong.
pub(super) fn parse(
    data: &[u8],
    format: Format,
    trust_domain: &str,
) -> Result<types::Bundle, CliError> {
    let trust_domain = trust_domain_from_pb(trust_domain)
        .map_err(|error| CliError::usage(format!("\"{trust_domain}\": {error}")))?;
    let bundle = match format {
        Format::Pem => jwks::decode_pem(trust_domain, data)
            .map_err(|error| format!("unable to parse bundle data: {}", chain(&error))),
        Format::Spiffe => jwks::decode_spiffe(trust_domain, data)
            .map_err(|error| format!("unable to parse to spiffe bundle: {}", chain(&error))),
    };
    bundle.map(|bundle| bundle_to_pb(&bundle, None)).map_err(CliError::Failed)
}

fn print(
    env: &mut Env,
    bundle: &types::Bundle,
    format: Format,
    wit: WitFlag,
    with_title: bool,
) -> Result<(), CliError> {
    let mut read: Bundle =
        bundle_from_pb(bundle).map_err(|error| CliError::failed(error.to_string()))?;
    if with_title {
        let stars = "*".repeat(40);
        env.line(format_args!("{stars}\n* {}\n{stars}", read.trust_domain))?;
    }
    if !wit.wit_keys {
        read.wit_authorities.clear();
    }
    let text = match format {
        Format::Pem => jwks::encode_pem(&read),
        Format::Spiffe => {
            jwks::encode_spiffe(&read).map_err(|error| CliError::failed(chain(&error)))?
        }
    };
    env.line(text.trim_end())
}
