//! `federation status`: how fetching goes, with the relationships of the configuration file.

use signet_api::pb::{
    signet::api::server::federation::v1::{
        self as pb, federation_client::FederationClient, relationship::Origin,
    },
    spire::api::types,
};
use signet_daemon::cli::Output;
use tonic::{Code, transport::Channel};

use super::described;
use crate::cli::{
    env::{CliError, CommonFlags, Env, MAX_ANSWER},
    text,
};

/// The flags of `federation status`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Only this foreign trust domain
    #[arg(long = "id", value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

pub(super) async fn run(flags: Flags, env: &mut Env) -> Result<(), CliError> {
    let channel = env.connect(&flags.common.socket).await?;
    let mut client = FederationClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    let trust_domain = flags.id.unwrap_or_default();
    let response = client.list_relationships(pb::ListRelationshipsRequest { trust_domain }).await;
    let response =
        response.map_err(CliError::call("error listing federation relationships"))?.into_inner();
    if flags.common.output == Output::Json {
        return env.json(&response);
    }
    let all = &response.relationships;
    let found = text::counted(all.len(), "federation relationship", "federation relationships");
    env.line(format_args!("Found {found}"))?;
    for one in all {
        env.line(format_args!("\n{}", with_status(one)))?;
    }
    Ok(())
}

/// The relationships of the configuration file; none from a server that does not tell.
pub(super) async fn fixed(
    channel: Channel,
) -> Result<Vec<types::FederationRelationship>, CliError> {
    let mut client = FederationClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    match client.list_relationships(pb::ListRelationshipsRequest::default()).await {
        Ok(response) => {
            let all = response.into_inner().relationships.into_iter();
            let fixed = all.filter(|one| one.origin() == Origin::Static);
            Ok(fixed.filter_map(|one| one.relationship).collect())
        }
        Err(status) if status.code() == Code::Unimplemented => Ok(Vec::new()),
        Err(status) => Err(CliError::call("error listing federation relationships")(status)),
    }
}

fn with_status(one: &pb::Relationship) -> String {
    let mut lines = vec![described(&one.relationship.clone().unwrap_or_default())];
    let mut line = |name: &str, value: String| lines.push(format!("{name:<26}: {value}"));
    line(
        "Origin",
        match one.origin() {
            Origin::Static => "configuration file".to_owned(),
            _ => "API".to_owned(),
        },
    );
    line(
        "Bundle",
        match &one.bundle {
            None => "none yet".to_owned(),
            Some(held) => format!(
                "{} X.509 and {} JWT authorities, sequence number {}, refresh hint {} s",
                held.x509_authorities,
                held.jwt_authorities,
                held.sequence_number,
                held.refresh_hint
            ),
        },
    );
    let time = |at: i64| if at == 0 { "never".to_owned() } else { text::utc(at) };
    line("Last poll", time(one.last_poll));
    line("Last success", time(one.last_success));
    line("Last change", time(one.last_change));
    let next = match one.next_poll {
        _ if one.polled_elsewhere => "by another server".to_owned(),
        0 => "now".to_owned(),
        at => text::utc(at),
    };
    line("Next poll", next);
    if !one.last_error.is_empty() {
        line("Last error", format!("{} ({} in a row)", one.last_error, one.failures));
    }
    lines.join("\n")
}
