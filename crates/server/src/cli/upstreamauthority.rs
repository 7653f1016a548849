//! `upstreamauthority`: the authorities above the server's own.

use signet_api::pb::spire::api::server::localauthority::v1::{
    RevokeX509UpstreamAuthorityRequest, TaintX509UpstreamAuthorityRequest,
    local_authority_client::LocalAuthorityClient,
};
use signet_daemon::cli::Output;

use super::env::{CliError, CommonFlags, Env};

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Take a tainted upstream authority off the bundle: what it signed is trusted no longer
    Revoke(Flags),
    /// Mark an upstream authority as compromised: what it signed is replaced at once
    Taint(Flags),
}

/// Names an upstream authority.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Subject key ID of an upstream authority that nothing in use is signed by, hex
    #[arg(long = "subjectKeyID", value_name = "ID", required = true)]
    subject_key_id: String,
    #[command(flatten)]
    common: CommonFlags,
}

/// Runs a command.
///
/// # Errors
/// [`CliError`] when flags do not fit together, the server cannot be reached or refuses, or the
/// output cannot be written.
pub async fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    let (Command::Revoke(flags) | Command::Taint(flags)) = &command;
    if flags.subject_key_id.is_empty() {
        return Err(CliError::usage(
            "the Subject Key ID of the X.509 upstream authority is required (-subjectKeyID)",
        ));
    }
    let subject_key_id = flags.subject_key_id.clone();
    let mut client = LocalAuthorityClient::new(env.connect(&flags.common.socket).await?);
    let (title, id) = match &command {
        Command::Revoke(_) => {
            let request = RevokeX509UpstreamAuthorityRequest { subject_key_id };
            let response = client.revoke_x509_upstream_authority(request).await;
            let what = "could not revoke X.509 upstream authority";
            let response = response.map_err(CliError::call(what))?.into_inner();
            if flags.common.output == Output::Json {
                return env.json(&response);
            }
            ("Revoked", response.upstream_authority_subject_key_id)
        }
        Command::Taint(_) => {
            let request = TaintX509UpstreamAuthorityRequest { subject_key_id };
            let response = client.taint_x509_upstream_authority(request).await;
            let what = "could not taint X.509 upstream authority";
            let response = response.map_err(CliError::call(what))?.into_inner();
            if flags.common.output == Output::Json {
                return env.json(&response);
            }
            ("Tainted", response.upstream_authority_subject_key_id)
        }
    };
    env.line(format_args!("{title} X.509 upstream authority:\n  Subject Key ID: {id}"))
}
