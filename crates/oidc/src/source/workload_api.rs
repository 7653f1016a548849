//! The Workload API of an agent (SPIFFE Workload API, section 6.2.2): a stream of JWT bundles.

use std::{path::Path, time::Duration};

use signet_api::{
    connect,
    pb::workload::{
        JwtBundlesRequest, JwtBundlesResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    workload,
};
use signet_base::{Backoff, chain};
use signet_identity::TrustDomain;
use signet_pki::jwks::decode_jwt_jwks;
use tonic::{Streaming, transport::Channel};

use super::{Complaint, DEADLINE, MAX_ANSWER};
use crate::keys::Keys;

/// The first pause after a stream broke.
const MIN_PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn run(
    socket: &Path,
    trust_domain: &TrustDomain,
    poll_interval: Duration,
    keys: &Keys,
) {
    let channel = connect::unix_lazy(socket);
    let mut complaint = Complaint::default();
    let mut backoff = Backoff::new(MIN_PAUSE.min(poll_interval), poll_interval);
    loop {
        match follow(&channel, trust_domain, poll_interval, keys, &mut complaint).await {
            Ok(()) => backoff.reset(),
            Err(why) => complaint.say("workload_api", why),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Follows one stream; ends without an error when it gave something before it ended.
async fn follow(
    channel: &Channel,
    trust_domain: &TrustDomain,
    poll_interval: Duration,
    keys: &Keys,
    complaint: &mut Complaint,
) -> Result<(), String> {
    let mut stream = open(channel).await?;
    let mut newest: Option<JwtBundlesResponse> = None;
    loop {
        tokio::select! {
            message = stream.message() => match message {
                Ok(Some(message)) => {
                    publish(&message, trust_domain, keys)?;
                    complaint.over();
                    newest = Some(message);
                }
                Ok(None) if newest.is_some() => return Ok(()),
                Ok(None) => return Err("the agent gives no bundles".to_owned()),
                Err(status) => return Err(format!("{}: {}", status.code(), status.message())),
            },
            // An open stream says that what it gave still holds; keys expire meanwhile.
            () = tokio::time::sleep(poll_interval) => if let Some(newest) = &newest {
                publish(newest, trust_domain, keys)?;
            },
        }
    }
}

async fn open(channel: &Channel) -> Result<Streaming<JwtBundlesResponse>, String> {
    let client = SpiffeWorkloadApiClient::new(channel.clone());
    let mut client = client.max_decoding_message_size(MAX_ANSWER);
    let request = workload::request(JwtBundlesRequest {});
    let opened = tokio::time::timeout(DEADLINE, client.fetch_jwt_bundles(request)).await;
    let opened = opened.map_err(|_| "the agent does not answer".to_owned())?;
    let opened = opened.map_err(|status| format!("{}: {}", status.code(), status.message()))?;
    Ok(opened.into_inner())
}

fn publish(
    message: &JwtBundlesResponse,
    trust_domain: &TrustDomain,
    keys: &Keys,
) -> Result<(), String> {
    let bundle = message
        .bundles
        .iter()
        .find(|(id, _)| TrustDomain::from_name_or_id(id).is_ok_and(|name| name == *trust_domain));
    let (_, jwks) = bundle.ok_or_else(|| format!("the agent gives no bundle of {trust_domain}"))?;
    let found = decode_jwt_jwks(jwks).map_err(|error| chain(&error).to_string())?;
    keys.set(&found);
    Ok(())
}
