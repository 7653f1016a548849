//! Setting up OpenBao: what the broker and workloads need there, as a plan that is shown, applied,
//! or printed for OpenBao to do by itself when it is initialised.
//!
//! Always `bound_issuer` and `bound_audiences`, always small leeways: without them OpenBao takes
//! tokens without `iss` or `exp`. Nothing here is a secret.

mod apply;
mod plan;
mod print;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use signet_daemon::cli::{EXIT_DONE, EXIT_FAILED, EXIT_USAGE};
use signet_identity::SpiffeId;
use signet_pki::jwks;

pub use self::plan::{Kubernetes, Plan, Setup, Step, Verifier, cert_roles, database_statements};
use crate::{bao, config::Config, config::RunFlags, policy::Policy};

/// The form of what `-dry-run` prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// One step a line, for people
    #[default]
    Plan,
    /// JSON Lines, one step each
    Json,
    /// OpenBao's self-initialisation (2.4 and later): no root token is needed
    Selfinit,
}

/// Flags of `bootstrap`.
#[derive(Clone, Debug, clap::Args)]
pub struct BootstrapFlags {
    /// Which configuration to go by.
    #[command(flatten)]
    pub run: RunFlags,
    /// The broker's SPIFFE ID
    #[arg(long = "brokerID", value_name = "SPIFFE_ID")]
    pub broker: SpiffeId,
    /// The iss of JWT-SVIDs
    #[arg(long = "issuer", value_name = "URL")]
    pub issuer: String,
    /// Find the keys by OIDC discovery at the issuer; the default
    #[arg(long = "discovery", conflicts_with_all = ["jwks_url", "keys_file"])]
    pub discovery: bool,
    /// Find the keys at this URL
    #[arg(long = "jwksURL", value_name = "URL", conflicts_with = "keys_file")]
    pub jwks_url: Option<String>,
    /// Take the keys from this file, PEM public keys or a bundle in SPIFFE's format (`signet-server
    /// bundle show -format spiffe`); they have to be written again at each rotation
    #[arg(long = "keysFile", value_name = "FILE")]
    pub keys_file: Option<PathBuf>,
    /// The roots that the issuer's server chains to, PEM; OpenBao's own when there is none
    #[arg(long = "issuerCA", value_name = "FILE")]
    pub issuer_ca: Option<PathBuf>,
    /// Also let workloads log in to OpenBao themselves by JWT-SVID, one role for each rule
    #[arg(long = "jwtRoles")]
    pub jwt_roles: bool,
    /// Also let workloads log in by X.509-SVID: the trust bundle, PEM
    #[arg(long = "certBundle", value_name = "FILE")]
    pub cert_bundle: Option<PathBuf>,
    /// Also let pods log in by service account: the API server's URL
    #[arg(long = "kubernetesHost", value_name = "URL")]
    pub kubernetes_host: Option<String>,
    /// The roots of the API server, PEM; those of OpenBao's own pod when there is none
    #[arg(long = "kubernetesCA", value_name = "FILE")]
    pub kubernetes_ca: Option<PathBuf>,
    /// A file with a bound service account token of a reviewer, for OpenBao outside of the cluster;
    /// in the cluster it uses its own
    #[arg(long = "kubernetesReviewer", value_name = "FILE")]
    pub kubernetes_reviewer: Option<PathBuf>,
    /// Print what would be done, and do nothing
    #[arg(long = "dry-run")]
    pub dry_run: bool,
    /// The form of what -dry-run prints
    #[arg(long = "format", value_name = "FORM", default_value = "plan")]
    pub format: Form,
}

/// Plans, and prints or applies. The token is taken from `BAO_TOKEN` or `VAULT_TOKEN`.
pub fn main(name: &str, flags: &BootstrapFlags) -> u8 {
    let setup = match setup(flags) {
        Ok(setup) => setup,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            return EXIT_USAGE;
        }
    };
    let (config, policy, setup) = setup;
    let plan = Plan::new(&policy, &setup);
    for warning in &plan.warnings {
        eprintln!("warning: {warning}");
    }
    if flags.dry_run {
        print!("{}", print::plan(&plan, flags.format));
        return EXIT_DONE;
    }
    match apply::apply(&config, &plan) {
        Ok(()) => EXIT_DONE,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            EXIT_FAILED
        }
    }
}

fn setup(flags: &BootstrapFlags) -> anyhow::Result<(Config, Policy, Setup)> {
    let config = Config::load(&flags.run)?;
    let (policy, warnings) = Policy::load(&config.policy_file)?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    if !flags.broker.is_member_of(&config.trust_domain) {
        bail!("-brokerID {}: not a member of {}", flags.broker, config.trust_domain);
    }
    if !signet_http::is_confidential(&flags.issuer) {
        bail!("-issuer {}: expected https://…, as iss has it", flags.issuer);
    }
    let read = |path: &PathBuf| {
        signet_base::files::read_regular_text(path, 1 << 20)
            .with_context(|| format!("reading {}", path.display()))
    };
    let issuer_ca = flags.issuer_ca.as_ref().map(read).transpose()?;
    let verifier = match (&flags.jwks_url, &flags.keys_file) {
        (Some(url), _) => Verifier::Jwks(url.clone(), issuer_ca),
        (None, Some(path)) => Verifier::Keys(keys(&read(path)?)?),
        (None, None) => Verifier::Discovery(flags.issuer.clone(), issuer_ca),
    };
    let kubernetes = match &flags.kubernetes_host {
        Some(host) => Some(Kubernetes {
            host: host.clone(),
            ca: flags.kubernetes_ca.as_ref().map(read).transpose()?,
            has_reviewer: flags.kubernetes_reviewer.is_some(),
        }),
        None => None,
    };
    let reviewer = flags.kubernetes_reviewer.as_ref().map(read).transpose()?;
    let setup = Setup {
        trust_domain: config.trust_domain.clone(),
        broker: flags.broker.clone(),
        audience: config.openbao.audience.clone(),
        issuer: flags.issuer.clone(),
        verifier,
        jwt_roles: flags.jwt_roles,
        cert_bundle: flags.cert_bundle.as_ref().map(read).transpose()?,
        kubernetes,
        reviewer: reviewer.map(|text| zeroize::Zeroizing::new(text.trim().to_owned())),
    };
    Ok((config, policy, setup))
}

/// PEM public keys out of PEM, or out of a bundle.
fn keys(text: &str) -> anyhow::Result<Vec<String>> {
    if text.trim_start().starts_with('{') {
        let authorities = jwks::decode_jwt_jwks(text.as_bytes()).context("-keysFile")?;
        let keys = authorities.iter().map(|key| public_key_pem(&key.public_key));
        return nonempty(keys.collect());
    }
    let end = "-----END PUBLIC KEY-----";
    let keys = text.split_inclusive(end).map(|key| key.trim().to_owned());
    nonempty(keys.filter(|key| key.ends_with(end)).collect())
}

fn nonempty(keys: Vec<String>) -> anyhow::Result<Vec<String>> {
    if keys.is_empty() {
        bail!("-keysFile: there is no public key in it");
    }
    Ok(keys)
}

fn public_key_pem(spki: &[u8]) -> String {
    let text = STANDARD.encode(spki);
    let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END PUBLIC KEY-----\n");
    pem
}

/// The client that `run` uses.
fn client(config: &Config) -> anyhow::Result<crate::bao::Bao> {
    bao::open(&config.openbao)
}
