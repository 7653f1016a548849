//! `api fetch jwt` and `api validate jwt`.

use std::time::Duration;

use serde_json::Value;
use signet_api::{
    json,
    pb::workload::{
        JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    workload,
};
use signet_daemon::cli::Output;
use tonic::Code;

use super::{
    CliError, Terminal,
    connect::{PublicSocket, describe, first, timeout, within},
};

/// What a JWT-SVID is as a client assertion.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// Flags of `api fetch jwt`.
#[derive(Debug, clap::Args)]
pub(super) struct FetchFlags {
    #[command(flatten)]
    socket: PublicSocket,
    /// How long to wait for each answer; 0 waits for ever
    #[arg(long = "timeout", value_name = "DURATION", default_value = "5s", value_parser = timeout)]
    timeout: Duration,
    /// Whom the token is for, separated by commas
    #[arg(long = "audience", value_name = "LIST")]
    audience: Option<String>,
    /// Which of the caller's identities to fetch a token of; all of them unless set
    #[arg(long = "spiffeID", value_name = "ID", default_value = "", hide_default_value = true)]
    spiffe_id: String,
    /// Print the parameters by which an OAuth client authenticates with the token, as a form's body;
    /// the audience is the authorization server's issuer and nothing else
    #[arg(long = "clientAssertion")]
    client_assertion: bool,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", default_value = "pretty")]
    output: Output,
    /// The old name of -output
    #[arg(long = "format", value_name = "FORM", hide = true)]
    format: Option<Output>,
}

/// Flags of `api validate jwt`.
#[derive(Debug, clap::Args)]
pub(super) struct ValidateFlags {
    #[command(flatten)]
    socket: PublicSocket,
    /// How long to wait for an answer; 0 waits for ever
    #[arg(long = "timeout", value_name = "DURATION", default_value = "5s", value_parser = timeout)]
    timeout: Duration,
    /// Whom the token must be for
    #[arg(long = "audience", value_name = "TEXT")]
    audience: Option<String>,
    /// The token
    #[arg(long = "svid", value_name = "TOKEN")]
    svid: Option<String>,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", default_value = "pretty")]
    output: Output,
}

/// Fetches a JWT-SVID of each identity, and the bundles to validate them with.
pub(super) async fn fetch(flags: &FetchFlags, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let audience = given(&flags.audience, "audience")?;
    if flags.client_assertion {
        return client_assertion(flags, audience, terminal).await;
    }
    let channel = flags.socket.connect(terminal.program).await?;
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let request = workload::request(JwtBundlesRequest {});
    let bundles = first(flags.timeout, client.fetch_jwt_bundles(request)).await?;
    let request = JwtsvidRequest {
        audience: audience.split(',').map(ToOwned::to_owned).collect(),
        spiffe_id: flags.spiffe_id.clone(),
    };
    let svids =
        within(flags.timeout, client.fetch_jwtsvid(workload::request(request))).await?.into_inner();
    if flags.format.unwrap_or(flags.output) == Output::Json {
        let both = vec![json::to_value(&svids), json::to_value(&bundles)];
        return terminal.json_value(&Value::Array(both));
    }
    let out = &mut terminal.out;
    for svid in &svids.svids {
        writeln!(out, "token({}):\n\t{}", svid.spiffe_id, svid.svid)?;
        if !svid.hint.is_empty() {
            writeln!(out, "hint({}):\n\t{}", svid.spiffe_id, svid.hint)?;
        }
    }
    for (id, bundle) in &bundles.bundles {
        writeln!(out, "bundle({id}):\n\t{}", String::from_utf8_lossy(bundle))?;
    }
    Ok(())
}

/// Fetches the JWT-SVID that authenticates an OAuth client, and prints what a token request sends
/// (draft-ietf-oauth-spiffe-client-auth, `spiffe_jwt`): the issuer of the authorization server must
/// be the only audience.
async fn client_assertion(
    flags: &FetchFlags,
    audience: &str,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    if audience.contains(',') {
        let why = "audience: with -clientAssertion it is the issuer of one authorization server";
        return Err(CliError::Usage(why.to_owned()));
    }
    let channel = flags.socket.connect(terminal.program).await?;
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let request =
        JwtsvidRequest { audience: vec![audience.to_owned()], spiffe_id: flags.spiffe_id.clone() };
    let fetching = client.fetch_jwtsvid(workload::request(request));
    let svids = within(flags.timeout, fetching).await?.into_inner().svids;
    let [svid] = svids.as_slice() else {
        let ids: Vec<&str> = svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
        let ids = ids.join(", ");
        return Err(CliError::Failed(format!("which identity? name one with -spiffeID: {ids}")));
    };
    if flags.format.unwrap_or(flags.output) == Output::Json {
        let parameters = serde_json::json!({
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": svid.svid,
        });
        return terminal.json_value(&parameters);
    }
    let kind = ASSERTION_TYPE.replace(':', "%3A");
    let parameters = format!("client_assertion_type={kind}&client_assertion={}", svid.svid);
    Ok(writeln!(terminal.out, "{parameters}")?)
}

/// Asks the agent whether a token is valid.
pub(super) async fn validate(
    flags: &ValidateFlags,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let audience = given(&flags.audience, "audience")?.to_owned();
    let svid = given(&flags.svid, "svid")?.to_owned();
    let channel = flags.socket.connect(terminal.program).await?;
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let request = workload::request(ValidateJwtsvidRequest { audience, svid });
    let answer = within(flags.timeout, async {
        // Kept apart: a token that is not valid is an answer.
        Ok(client.validate_jwtsvid(request).await)
    })
    .await?;
    let response = match answer {
        Ok(response) => response.into_inner(),
        Err(status) if status.code() == Code::InvalidArgument => {
            return Err(CliError::Failed(format!("SVID is not valid: {}", status.message())));
        }
        Err(status) => {
            let status = describe(&status);
            return Err(CliError::Failed(format!("unable to validate JWT SVID: {status}")));
        }
    };
    if flags.output == Output::Json {
        return terminal.json(&response);
    }
    let claims = json::to_value(&response).get("claims").map(json::to_line).unwrap_or_default();
    writeln!(terminal.out, "SVID is valid.")?;
    writeln!(terminal.out, "SPIFFE ID : {}", response.spiffe_id)?;
    Ok(writeln!(terminal.out, "Claims    : {claims}")?)
}

fn given<'a>(flag: &'a Option<String>, name: &str) -> Result<&'a str, CliError> {
    flag.as_deref()
        .filter(|text| !text.is_empty())
        .ok_or_else(|| CliError::Usage(format!("{name} must be specified")))
}
