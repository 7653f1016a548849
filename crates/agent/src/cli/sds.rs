//! `sds list`: which proxies are connected, and which secrets they run.

use std::collections::BTreeSet;

use signet_api::pb::signet::api::agent::secretstreams::v1::{
    ListSecretStreamsRequest, ListSecretStreamsResponse,
    list_secret_streams_response::{Secret, Stream},
    secret_streams_client::SecretStreamsClient,
};
use signet_daemon::cli::Output;

use super::{
    CliError, Terminal,
    connect::{AdminSocket, admin},
    print::rfc3339,
};

/// What `sds` can do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum SdsCommand {
    /// List the streams that proxies have open, and what they accepted
    List(ListFlags),
}

/// Flags of `sds list`.
#[derive(Debug, clap::Args)]
pub(super) struct ListFlags {
    #[command(flatten)]
    socket: AdminSocket,
    /// Only proxies that hold a certificate signed by this authority, or a bundle with it: a subject
    /// key ID, as `localauthority x509 show` prints it
    #[arg(long = "authorityID", value_name = "ID", default_value = "")]
    authority: String,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", default_value = "pretty")]
    output: Output,
}

/// Lists streams.
pub(super) async fn list(flags: &ListFlags, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let request = ListSecretStreamsRequest { authority_id: flags.authority.clone() };
    let channel = flags.socket.connect(terminal.program).await?;
    let mut client = SecretStreamsClient::new(channel);
    let answer = admin(client.list_secret_streams(request)).await?;
    match flags.output {
        Output::Json => terminal.json(&answer),
        Output::Pretty => print(&answer, terminal),
    }
}

fn print(answer: &ListSecretStreamsResponse, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let out = &mut terminal.out;
    let peers: BTreeSet<i32> = answer.streams.iter().map(|stream| stream.pid).collect();
    writeln!(out, "Streams: {}, of processes: {}", answer.streams.len(), peers.len())?;
    for Stream { pid, method, node_id, names, accepted, pending, rejected, accepted_at, .. } in
        &answer.streams
    {
        let names = if names.is_empty() { "everything".to_owned() } else { names.join(", ") };
        writeln!(out, "\nProcess {pid} ({node_id:?}), {method} of {names}")?;
        for secret in accepted {
            writeln!(out, "  accepted : {}", about(secret))?;
        }
        for secret in pending {
            writeln!(out, "  sent     : {}, not accepted", about(secret))?;
        }
        if !rejected.is_empty() {
            writeln!(out, "  rejected : {rejected}")?;
        }
        if *accepted_at != 0 {
            writeln!(out, "  last time: {}", rfc3339(*accepted_at))?;
        }
    }
    Ok(())
}

fn about(secret: &Secret) -> String {
    let authorities = secret.authority_ids.join(", ");
    match secret.expires_at {
        0 => format!("{}, bundle of {authorities}", secret.name),
        at => format!("{}, signed by {authorities}, expires {}", secret.name, rfc3339(at)),
    }
}
