//! `api fetch wit`, `api prove` and `api validate wit`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use signet_api::{
    json,
    pb::workload::{
        WitBundlesRequest, WitBundlesResponse, Witsvid, WitsvidRequest, WitsvidResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    workload,
};
use signet_base::{Clock as _, SystemClock, chain};
use signet_daemon::cli::Output;
use signet_pki::{
    PrivateKey,
    files::write_atomic,
    jwks,
    wit::{self, Expected, MAX_PROOF_LIFE, ProofParams, Tokens},
};
use signet_time::UnixTime;
use tonic::transport::Channel;

use super::{
    CliError, Terminal,
    connect::{PublicSocket, first, timeout},
};

type Client = SpiffeWorkloadApiClient<Channel>;

/// What all of these commands need.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    socket: PublicSocket,
    /// How long to wait for each answer; 0 waits for ever
    #[arg(long = "timeout", value_name = "DURATION", default_value = "5s", value_parser = timeout)]
    timeout: Duration,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", default_value = "pretty")]
    output: Output,
}

/// Flags of `api fetch wit`.
#[derive(Debug, clap::Args)]
pub(super) struct FetchFlags {
    /// Which of the caller's identities to fetch a token of; all of them unless set
    #[arg(long = "spiffeID", value_name = "ID", default_value = "", hide_default_value = true)]
    spiffe_id: String,
    /// Directory to write wit.N.jwt, wit.N.key (a JSON Web Key) and bundle.N.jwks to
    #[arg(long = "write", value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// The other tokens of a request, which its proof binds.
#[derive(Debug, clap::Args)]
struct TokenFlags {
    /// OAuth access token of the same request
    #[arg(long = "accessToken", value_name = "TOKEN")]
    access_token: Option<String>,
    /// Transaction token of the same request
    #[arg(long = "transactionToken", value_name = "TOKEN")]
    transaction_token: Option<String>,
    /// Another header field of the same request that has a say in what it may do, as NAME=VALUE; may
    /// be given more than once
    #[arg(long = "otherToken", value_name = "NAME=VALUE", value_parser = other)]
    others: Vec<(String, String)>,
}

/// Flags of `api prove`.
#[derive(Debug, clap::Args)]
pub(super) struct ProveFlags {
    /// The URI that the request goes to; its query is left out
    #[arg(long = "audience", value_name = "URI", required = true)]
    audience: String,
    /// Which of the caller's identities to prove; the first one unless set
    #[arg(long = "spiffeID", value_name = "ID", default_value = "", hide_default_value = true)]
    spiffe_id: String,
    /// How long the proof is valid, at most 5m
    #[arg(long = "ttl", value_name = "DURATION", default_value = "1m", value_parser = timeout)]
    ttl: Duration,
    #[command(flatten)]
    tokens: TokenFlags,
    #[command(flatten)]
    common: Common,
}

/// Flags of `api validate wit`.
#[derive(Debug, clap::Args)]
pub(super) struct ValidateFlags {
    /// The WIT-SVID: the field Workload-Identity-Token of the request
    #[arg(long = "svid", value_name = "TOKEN", required = true)]
    svid: String,
    /// The proof: the field Workload-Proof-Token of the request
    #[arg(long = "proof", value_name = "TOKEN", required = true)]
    proof: String,
    /// The URI that the request was for; may be given more than once, for aliases
    #[arg(long = "audience", value_name = "URI", required = true)]
    audience: Vec<String>,
    #[command(flatten)]
    tokens: TokenFlags,
    #[command(flatten)]
    common: Common,
}

/// Fetches the WIT-SVIDs of the caller, and the bundles to validate them with.
pub(super) async fn fetch(flags: &FetchFlags, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let mut client = flags.common.client(terminal).await?;
    let svids = svids(&mut client, &flags.common, &flags.spiffe_id).await?;
    let bundles = bundles(&mut client, &flags.common).await?;
    if let Some(dir) = &flags.write {
        return write(dir, &svids, &bundles, terminal);
    }
    if flags.common.output == Output::Json {
        let both = vec![json::to_value(&svids), json::to_value(&bundles)];
        return terminal.json_value(&Value::Array(both));
    }
    let out = &mut terminal.out;
    for svid in &svids.svids {
        writeln!(out, "token({}):\n\t{}", svid.spiffe_id, svid.wit_svid)?;
        if !svid.hint.is_empty() {
            writeln!(out, "hint({}):\n\t{}", svid.spiffe_id, svid.hint)?;
        }
    }
    for (id, bundle) in &bundles.bundles {
        writeln!(out, "bundle({id}):\n\t{bundle}")?;
    }
    Ok(())
}

fn write(
    dir: &Path,
    svids: &WitsvidResponse,
    bundles: &WitBundlesResponse,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let mut file = |name: String, content: &str, mode: u32| -> Result<(), CliError> {
        let path = dir.join(name);
        write_atomic(&path, content.as_bytes(), mode).map_err(|error| {
            CliError::Failed(format!("writing {}: {}", path.display(), chain(&error)))
        })?;
        Ok(writeln!(terminal.out, "{}", path.display())?)
    };
    for (n, svid) in svids.svids.iter().enumerate() {
        file(format!("wit.{n}.jwt"), &svid.wit_svid, 0o644)?;
        file(format!("wit.{n}.key"), &svid.wit_svid_key, 0o600)?;
    }
    for (n, bundle) in bundles.bundles.values().enumerate() {
        file(format!("bundle.{n}.jwks"), bundle, 0o644)?;
    }
    Ok(())
}

/// Prints the header fields with which a request proves who sends it.
pub(super) async fn prove(flags: &ProveFlags, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let ttl = i64::try_from(flags.ttl.as_secs()).unwrap_or(i64::MAX);
    if !(1..=MAX_PROOF_LIFE).contains(&ttl) {
        return Err(CliError::Usage(format!("ttl: expected 1s to {MAX_PROOF_LIFE}s")));
    }
    let mut client = flags.common.client(terminal).await?;
    let svids = svids(&mut client, &flags.common, &flags.spiffe_id).await?;
    let svid = svids.svids.first().ok_or_else(|| CliError::Failed("no WIT-SVID".to_owned()))?;
    let proof = proof_of(svid, flags, SystemClock.unix() + ttl).map_err(CliError::Failed)?;
    if flags.common.output == Output::Json {
        let both = json!({"spiffe_id": svid.spiffe_id, "wit_svid": svid.wit_svid, "proof": proof});
        return terminal.json_value(&both);
    }
    writeln!(terminal.out, "Workload-Identity-Token: {}", svid.wit_svid)?;
    Ok(writeln!(terminal.out, "Workload-Proof-Token: {proof}")?)
}

fn proof_of(svid: &Witsvid, flags: &ProveFlags, expires_at: UnixTime) -> Result<String, String> {
    let unusable = |error: &dyn std::error::Error| format!("the WIT-SVID's key: {}", chain(error));
    let key = PrivateKey::from_jwk(&svid.wit_svid_key).map_err(|error| unusable(&error))?;
    let others = flags.tokens.others();
    let params = ProofParams {
        wit: &svid.wit_svid,
        algorithm: wit::named_algorithm(&svid.wit_svid).map_err(|error| unusable(&error))?,
        audience: &flags.audience,
        expires_at,
        tokens: flags.tokens.tokens(&others),
    };
    wit::prove(&key, &params).map_err(|error| chain(&error))
}

/// Checks a WIT-SVID and its proof against the bundles that the caller gets.
pub(super) async fn validate(
    flags: &ValidateFlags,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let mut client = flags.common.client(terminal).await?;
    let bundles = bundles(&mut client, &flags.common).await?.bundles;
    let now = SystemClock.unix();
    let invalid = |error: &dyn std::error::Error| {
        CliError::Failed(format!("SVID is not valid: {}", chain(error)))
    };
    let wit = wit::verify(&flags.svid, now, |trust_domain| {
        let bundle = bundles.get(&trust_domain.id_string())?;
        jwks::decode_wit_jwks(bundle.as_bytes()).ok()
    });
    let wit = wit.map_err(|error| invalid(&error))?;
    let audiences: Vec<&str> = flags.audience.iter().map(String::as_str).collect();
    let others = flags.tokens.others();
    let tokens = flags.tokens.tokens(&others);
    let expected = Expected { audiences: &audiences, tokens, now };
    // One proof, one process: what was used before is for whoever answers requests to know.
    let id = wit.authenticate(&flags.proof, &expected, None).map_err(|error| invalid(&error))?;
    if flags.common.output == Output::Json {
        return terminal.json_value(&json!({"spiffe_id": id.to_string(), "claims": wit.claims()}));
    }
    let claims = Value::Object(wit.claims().clone());
    writeln!(terminal.out, "SVID and proof are valid.")?;
    writeln!(terminal.out, "SPIFFE ID : {id}")?;
    Ok(writeln!(terminal.out, "Claims    : {claims}")?)
}

impl Common {
    async fn client(&self, terminal: &Terminal<'_>) -> Result<Client, CliError> {
        Ok(SpiffeWorkloadApiClient::new(self.socket.connect(terminal.program).await?))
    }
}

impl TokenFlags {
    fn others(&self) -> Vec<(&str, &str)> {
        self.others.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn tokens<'a>(&'a self, others: &'a [(&'a str, &'a str)]) -> Tokens<'a> {
        Tokens {
            access_token: self.access_token.as_deref(),
            transaction_token: self.transaction_token.as_deref(),
            others,
        }
    }
}

async fn svids(
    client: &mut Client,
    common: &Common,
    spiffe_id: &str,
) -> Result<WitsvidResponse, CliError> {
    let request = WitsvidRequest { spiffe_id: spiffe_id.to_owned() };
    first(common.timeout, client.fetch_witsvid(workload::request(request))).await
}

async fn bundles(client: &mut Client, common: &Common) -> Result<WitBundlesResponse, CliError> {
    let request = workload::request(WitBundlesRequest {});
    first(common.timeout, client.fetch_wit_bundles(request)).await
}

/// `NAME=VALUE`, the name in lower case.
fn other(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_ascii_lowercase(), value.to_owned()))
        }
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
