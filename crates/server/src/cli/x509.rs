//! `x509`: X.509-SVIDs without an entry.

use std::{path::Path, path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use signet_api::pb::spire::api::server::{
    bundle::v1::{GetBundleRequest, bundle_client::BundleClient},
    svid::v1::{MintX509svidRequest, svid_client::SvidClient},
};
use signet_base::Clock as _;
use signet_daemon::cli::Output;
use signet_identity::SpiffeId;
use signet_pki::{
    KeyType, PrivateKey,
    files::write_atomic,
    pem,
    x509::{CsrParams, Name, create_csr},
};
use signet_time::UnixTime;

use super::{
    env::{CliError, CommonFlags, Env},
    text,
};
use signet_base::chain;

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a key and have an X.509-SVID signed for it, without an entry
    Mint(MintFlags),
}

/// The flags of `x509 mint`.
#[derive(Debug, clap::Args)]
pub struct MintFlags {
    /// SPIFFE ID of the SVID
    #[arg(long = "spiffeID", value_name = "ID", required = true)]
    spiffe_id: String,
    /// DNS name of the SVID; may be repeated
    #[arg(long = "dns", value_name = "NAME")]
    dns: Vec<String>,
    /// How long the SVID is valid, for example 1h; the server's default unless given
    #[arg(long = "ttl", value_name = "DURATION", value_parser = text::duration)]
    ttl: Option<Duration>,
    /// Directory to write svid.pem, key.pem and bundle.pem to, instead of printing them
    #[arg(long = "write", value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(flatten)]
    common: CommonFlags,
}

/// Runs a command.
///
/// # Errors
/// [`CliError`] when flags do not fit together, the server cannot be reached or refuses, or the
/// output cannot be written.
pub async fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    let Command::Mint(flags) = command;
    let id: SpiffeId = flags
        .spiffe_id
        .parse()
        .map_err(|error| CliError::usage(format!("-spiffeID \"{}\": {error}", flags.spiffe_id)))?;
    let ttl = text::ttl_seconds(flags.ttl)?;
    let key = PrivateKey::generate(KeyType::EcP256)
        .map_err(|error| CliError::failed(format!("unable to generate key: {}", chain(&error))))?;
    let csr = csr(id, &flags.dns, &key)?;

    let channel = env.connect(&flags.common.socket).await?;
    let response = SvidClient::new(channel.clone())
        .mint_x509svid(MintX509svidRequest { csr: csr.into(), ttl })
        .await
        .map_err(CliError::call("unable to mint SVID"))?
        .into_inner();
    let svid = response.svid.filter(|svid| !svid.cert_chain.is_empty());
    let svid = svid.ok_or_else(|| CliError::failed("server response missing SVID chain"))?;
    let bundle = BundleClient::new(channel)
        .get_bundle(GetBundleRequest { output_mask: None })
        .await
        .map_err(CliError::call("unable to get bundle"))?
        .into_inner();
    if bundle.x509_authorities.is_empty() {
        return Err(CliError::failed("server response missing X509 Authorities"));
    }
    if UnixTime::from_seconds(svid.expires_at) - signet_base::SystemClock.unix() < i64::from(ttl) {
        env.complain(format_args!(
            "X509-SVID lifetime was capped shorter than specified ttl; expires \"{}\"",
            text::rfc3339(svid.expires_at)
        ))?;
    }

    let chain_pem = pem::encode_certificates(svid.cert_chain.iter().map(|der| &**der));
    let roots = bundle.x509_authorities.iter().map(|authority| &*authority.asn1);
    let roots_pem = pem::encode_certificates(roots);
    match (&flags.write, flags.common.output) {
        (Some(dir), _) => {
            write(env, &dir.join("svid.pem"), &chain_pem, 0o644, "X509-SVID", "SVID")?;
            write(env, &dir.join("key.pem"), &key.to_pem(), 0o600, "Private key", "key")?;
            write(env, &dir.join("bundle.pem"), &roots_pem, 0o644, "Root CAs", "bundle")
        }
        (None, Output::Json) => {
            let base64 = |der: &[u8]| STANDARD.encode(der);
            let roots = bundle.x509_authorities.iter().map(|authority| base64(&authority.asn1));
            env.json_value(&json!({
                "x509_svid": svid.cert_chain.iter().map(|der| base64(der)).collect::<Vec<_>>(),
                "private_key": base64(key.pkcs8_der()),
                "root_cas": roots.collect::<Vec<_>>(),
            }))
        }
        (None, Output::Pretty) => {
            env.line(format_args!("X509-SVID:\n{chain_pem}"))?;
            env.line(format_args!("Private key:\n{}", *key.to_pem()))?;
            env.line(format_args!("Root CAs:\n{roots_pem}"))
        }
    }
}

fn csr(id: SpiffeId, dns: &[String], key: &PrivateKey) -> Result<Vec<u8>, CliError> {
    let failed = |error: &dyn std::error::Error| {
        CliError::failed(format!("unable to generate CSR: {}", chain(error)))
    };
    let signer = key.signer().map_err(|error| failed(&error))?;
    let params = CsrParams {
        subject: Name::default(),
        uri: Some(id),
        dns_names: dns.to_vec(),
        extensions: Vec::new(),
    };
    create_csr(&params, &*signer).map_err(|error| failed(&error))
}

fn write(
    env: &mut Env,
    path: &Path,
    text: &str,
    mode: u32,
    title: &str,
    what: &str,
) -> Result<(), CliError> {
    write_atomic(path, text.as_bytes(), mode)
        .map_err(|error| CliError::failed(format!("unable to write {what}: {}", chain(&error))))?;
    env.line(format_args!("{title} written to {}", path.display()))
}
