//! `localauthority`: the authorities of the server, one generation at a time.

use prost::{Message, Name};
use signet_api::pb::{
    signet::api::server::localauthority::v1::second_jwt_authority_client::SecondJwtAuthorityClient,
    spire::api::server::localauthority::v1::{
        self as pb, AuthorityState, local_authority_client::LocalAuthorityClient,
    },
};
use signet_daemon::cli::Output;
use tonic::{Response, Status};

use super::{
    env::{CliError, CommonFlags, Env},
    text,
};

/// The kinds of authority.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// JWT authorities
    #[command(subcommand)]
    Jwt(JwtOperation),
    /// WIT authorities
    #[command(subcommand)]
    Wit(Operation),
    /// X.509 authorities
    #[command(subcommand)]
    X509(Operation),
}

/// What to do with an authority.
#[derive(Debug, clap::Subcommand)]
pub enum Operation {
    /// Let the prepared authority sign from now on
    Activate(IdFlags),
    /// Make a new authority and put it into the bundle, ready to be activated
    Prepare(NoFlags),
    /// Take a tainted authority off the bundle: what it signed is trusted no longer
    Revoke(IdFlags),
    /// Show the active, prepared and old authority
    Show(NoFlags),
    /// Mark an authority that does not sign any more as compromised: what it signed is replaced at
    /// once
    Taint(IdFlags),
}

/// What to do with a JWT authority.
#[derive(Debug, clap::Subcommand)]
pub enum JwtOperation {
    /// Let the prepared authority sign from now on
    Activate(IdFlags),
    /// Make a new authority and put it into the bundle, ready to be activated
    Prepare(JwtFlags),
    /// Take a tainted authority off the bundle: what it signed is trusted no longer
    Revoke(IdFlags),
    /// Show the active, prepared and old authority
    Show(JwtFlags),
    /// Mark an authority that does not sign any more as compromised: what it signed is replaced at
    /// once
    Taint(IdFlags),
}

/// Names one of the two kinds of JWT authority.
#[derive(Debug, clap::Args)]
pub struct JwtFlags {
    /// The second JWT authority (second_jwt_key of the server's configuration) instead of the first
    #[arg(long)]
    second: bool,
    #[command(flatten)]
    common: CommonFlags,
}

/// Names an authority.
#[derive(Debug, clap::Args)]
pub struct IdFlags {
    /// ID of the authority, as `show` prints it
    #[arg(long = "authorityID", value_name = "ID", required = true)]
    authority_id: String,
    #[command(flatten)]
    common: CommonFlags,
}

/// Names nothing.
#[derive(Debug, clap::Args)]
pub struct NoFlags {
    #[command(flatten)]
    common: CommonFlags,
}

type Client = LocalAuthorityClient<tonic::transport::Channel>;

/// Runs a command.
///
/// # Errors
/// [`CliError`] when flags do not fit together, the server cannot be reached or refuses, or the
/// output cannot be written.
pub async fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    match command {
        Command::Jwt(operation) => jwt(operation, env).await,
        Command::Wit(operation) => wit(operation, env).await,
        Command::X509(operation) => x509(operation, env).await,
    }
}

const JWT: &str = "JWT";
const SECOND_JWT: &str = "second JWT";
const WIT: &str = "WIT";
const X509: &str = "X.509";

async fn jwt(operation: JwtOperation, env: &mut Env) -> Result<(), CliError> {
    let operation = match operation {
        JwtOperation::Activate(flags) => Operation::Activate(flags),
        JwtOperation::Prepare(flags) if flags.second => return prepare_second(&flags, env).await,
        JwtOperation::Prepare(JwtFlags { common, .. }) => Operation::Prepare(NoFlags { common }),
        JwtOperation::Revoke(flags) => Operation::Revoke(flags),
        JwtOperation::Show(flags) if flags.second => return show_second(&flags, env).await,
        JwtOperation::Show(JwtFlags { common, .. }) => Operation::Show(NoFlags { common }),
        JwtOperation::Taint(flags) => Operation::Taint(flags),
    };
    let (mut client, common, authority_id) = operation.open(env).await?;
    match operation {
        Operation::Activate(_) => {
            let request = pb::ActivateJwtAuthorityRequest { authority_id };
            let answer = answer(client.activate_jwt_authority(request).await, "activate", JWT)?;
            let state = answer.activated_authority.clone();
            done(env, &common, &answer, "Activated", JWT, state)
        }
        Operation::Prepare(_) => {
            let request = pb::PrepareJwtAuthorityRequest {};
            let answer = answer(client.prepare_jwt_authority(request).await, "prepare", JWT)?;
            let state = answer.prepared_authority.clone();
            done(env, &common, &answer, "Prepared", JWT, state)
        }
        Operation::Revoke(_) => {
            let request = pb::RevokeJwtAuthorityRequest { authority_id };
            let answer = answer(client.revoke_jwt_authority(request).await, "revoke", JWT)?;
            let state = answer.revoked_authority.clone();
            done(env, &common, &answer, "Revoked", JWT, state)
        }
        Operation::Show(_) => {
            let request = pb::GetJwtAuthorityStateRequest {};
            let answer = answer(client.get_jwt_authority_state(request).await, "get", JWT)?;
            if common.output == Output::Json {
                return env.json(&answer);
            }
            show(env, JWT, [answer.active, answer.prepared, answer.old])
        }
        Operation::Taint(_) => {
            let request = pb::TaintJwtAuthorityRequest { authority_id };
            let answer = answer(client.taint_jwt_authority(request).await, "taint", JWT)?;
            let state = answer.tainted_authority.clone();
            done(env, &common, &answer, "Tainted", JWT, state)
        }
    }
}

async fn prepare_second(flags: &JwtFlags, env: &mut Env) -> Result<(), CliError> {
    let mut client = SecondJwtAuthorityClient::new(env.connect(&flags.common.socket).await?);
    let request = pb::PrepareJwtAuthorityRequest {};
    let answer = answer(client.prepare(request).await, "prepare", SECOND_JWT)?;
    let state = answer.prepared_authority.clone();
    done(env, &flags.common, &answer, "Prepared", SECOND_JWT, state)
}

async fn show_second(flags: &JwtFlags, env: &mut Env) -> Result<(), CliError> {
    let mut client = SecondJwtAuthorityClient::new(env.connect(&flags.common.socket).await?);
    let request = pb::GetJwtAuthorityStateRequest {};
    let answer = answer(client.get_state(request).await, "get", SECOND_JWT)?;
    if flags.common.output == Output::Json {
        return env.json(&answer);
    }
    show(env, SECOND_JWT, [answer.active, answer.prepared, answer.old])
}

async fn wit(operation: Operation, env: &mut Env) -> Result<(), CliError> {
    let (mut client, common, authority_id) = operation.open(env).await?;
    match operation {
        Operation::Activate(_) => {
            let request = pb::ActivateWitAuthorityRequest { authority_id };
            let answer = answer(client.activate_wit_authority(request).await, "activate", WIT)?;
            let state = answer.activated_authority.clone();
            done(env, &common, &answer, "Activated", WIT, state)
        }
        Operation::Prepare(_) => {
            let request = pb::PrepareWitAuthorityRequest {};
            let answer = answer(client.prepare_wit_authority(request).await, "prepare", WIT)?;
            let state = answer.prepared_authority.clone();
            done(env, &common, &answer, "Prepared", WIT, state)
        }
        Operation::Revoke(_) => {
            let request = pb::RevokeWitAuthorityRequest { authority_id };
            let answer = answer(client.revoke_wit_authority(request).await, "revoke", WIT)?;
            let state = answer.revoked_authority.clone();
            done(env, &common, &answer, "Revoked", WIT, state)
        }
        Operation::Show(_) => {
            let request = pb::GetWitAuthorityStateRequest {};
            let answer = answer(client.get_wit_authority_state(request).await, "get", WIT)?;
            if common.output == Output::Json {
                return env.json(&answer);
            }
            show(env, WIT, [answer.active, answer.prepared, answer.old])
        }
        Operation::Taint(_) => {
            let request = pb::TaintWitAuthorityRequest { authority_id };
            let answer = answer(client.taint_wit_authority(request).await, "taint", WIT)?;
            let state = answer.tainted_authority.clone();
            done(env, &common, &answer, "Tainted", WIT, state)
        }
    }
}

async fn x509(operation: Operation, env: &mut Env) -> Result<(), CliError> {
    let (mut client, common, authority_id) = operation.open(env).await?;
    match operation {
        Operation::Activate(_) => {
            let request = pb::ActivateX509AuthorityRequest { authority_id };
            let answer = answer(client.activate_x509_authority(request).await, "activate", X509)?;
            let state = answer.activated_authority.clone();
            done(env, &common, &answer, "Activated", X509, state)
        }
        Operation::Prepare(_) => {
            let request = pb::PrepareX509AuthorityRequest {};
            let answer = answer(client.prepare_x509_authority(request).await, "prepare", X509)?;
            let state = answer.prepared_authority.clone();
            done(env, &common, &answer, "Prepared", X509, state)
        }
        Operation::Revoke(_) => {
            let request = pb::RevokeX509AuthorityRequest { authority_id };
            let answer = answer(client.revoke_x509_authority(request).await, "revoke", X509)?;
            let state = answer.revoked_authority.clone();
            done(env, &common, &answer, "Revoked", X509, state)
        }
        Operation::Show(_) => {
            let request = pb::GetX509AuthorityStateRequest {};
            let answer = answer(client.get_x509_authority_state(request).await, "get", X509)?;
            if common.output == Output::Json {
                return env.json(&answer);
            }
            show(env, X509, [answer.active, answer.prepared, answer.old])
        }
        Operation::Taint(_) => {
            let request = pb::TaintX509AuthorityRequest { authority_id };
            let answer = answer(client.taint_x509_authority(request).await, "taint", X509)?;
            let state = answer.tainted_authority.clone();
            done(env, &common, &answer, "Tainted", X509, state)
        }
    }
}

impl Operation {
    /// Connects; with the flags, and the authority that is named.
    async fn open(&self, env: &Env) -> Result<(Client, CommonFlags, String), CliError> {
        let (common, id) = match self {
            Self::Activate(flags) | Self::Revoke(flags) | Self::Taint(flags) => {
                if flags.authority_id.is_empty() {
                    return Err(CliError::usage("an authority ID is required (-authorityID)"));
                }
                (&flags.common, flags.authority_id.as_str())
            }
            Self::Prepare(flags) | Self::Show(flags) => (&flags.common, ""),
        };
        let client = LocalAuthorityClient::new(env.connect(&common.socket).await?);
        Ok((client, common.clone(), id.to_owned()))
    }
}

fn answer<T>(response: Result<Response<T>, Status>, verb: &str, kind: &str) -> Result<T, CliError> {
    let what = format!("could not {verb} {kind} authority");
    Ok(response.map_err(CliError::call(what))?.into_inner())
}

fn done<M: Message + Name>(
    env: &mut Env,
    common: &CommonFlags,
    answer: &M,
    title: &str,
    kind: &str,
    state: Option<AuthorityState>,
) -> Result<(), CliError> {
    if common.output == Output::Json {
        return env.json(answer);
    }
    let state =
        state.ok_or_else(|| CliError::failed("internal error: expected authority state"))?;
    env.line(format_args!("{title} {kind} authority:"))?;
    print(env, kind, &state)
}

fn show(
    env: &mut Env,
    kind: &str,
    [active, prepared, old]: [Option<AuthorityState>; 3],
) -> Result<(), CliError> {
    let parts = [("Active", active), ("Prepared", prepared), ("Old", old)];
    for (at, (title, state)) in parts.into_iter().enumerate() {
        let gap = if at == 0 { "" } else { "\n" };
        env.line(format_args!("{gap}{title} {kind} authority:"))?;
        match state {
            Some(state) => print(env, kind, &state)?,
            None => {
                let title = title.to_lowercase();
                env.line(format_args!("  No {title} {kind} authority found"))?;
            }
        }
    }
    Ok(())
}

fn print(env: &mut Env, kind: &str, state: &AuthorityState) -> Result<(), CliError> {
    env.line(format_args!("  Authority ID: {}", state.authority_id))?;
    env.line(format_args!("  Expires at: {}", text::utc(state.expires_at)))?;
    match state.upstream_authority_subject_key_id.as_str() {
        // No upstream signs keys.
        "" if kind != X509 => Ok(()),
        "" => env.line("  Upstream authority ID: No upstream authority"),
        id => env.line(format_args!("  Upstream authority Subject Key ID: {id}")),
    }
}
