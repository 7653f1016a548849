//! The local socket of a Signet or SPIRE server.

use std::{path::Path, time::Duration};

use signet_api::{
    connect,
    convert::bundle_from_pb,
    pb::{
        signet::api::push::v1::{SubscribeRequest, push_client::PushClient},
        spire::api::{
            server::bundle::v1::{GetBundleRequest, bundle_client::BundleClient},
            types::BundleMask,
        },
    },
};
use tonic::{Code, Request, Streaming, transport::Channel};

use super::{Complaint, DEADLINE, MAX_ANSWER};
use crate::keys::Keys;

/// How long a stream of notices may be silent: the server ends it earlier.
const SILENCE: Duration = Duration::from_secs(20 * 60);

type Notices = Streaming<signet_api::pb::signet::api::push::v1::Notice>;

pub(super) async fn run(socket: &Path, poll_interval: Duration, keys: &Keys) {
    let channel = connect::unix_lazy(socket);
    let mut complaint = Complaint::default();
    let mut can_push = true;
    let mut notices: Option<Notices> = None;
    loop {
        // First the stream, so that no change is missed between both.
        if can_push && notices.is_none() {
            match subscribe(&channel).await {
                Ok(stream) => notices = Some(stream),
                // A SPIRE server.
                Err(status) if status.code() == Code::Unimplemented => can_push = false,
                Err(status) => tracing::debug!(%status, "Cannot subscribe to changes"),
            }
        }
        match fetch(&channel, keys).await {
            Ok(()) => complaint.over(),
            Err(why) => complaint.say("server_api", why),
        }
        let newer = async {
            match &mut notices {
                Some(stream) => {
                    let next = tokio::time::timeout(SILENCE, stream.message()).await;
                    matches!(next, Ok(Ok(Some(_))))
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            is_open = newer => if !is_open {
                notices = None;
                // A server that is gone is not asked in a hurry.
                tokio::time::sleep(Duration::from_secs(1).min(poll_interval)).await;
            },
            () = tokio::time::sleep(poll_interval) => {}
        }
    }
}

async fn subscribe(channel: &Channel) -> Result<Notices, tonic::Status> {
    let asked = PushClient::new(channel.clone());
    let mut asked = asked;
    let call = asked.subscribe(SubscribeRequest::default());
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(tonic::Status::deadline_exceeded("no answer")),
    }
}

async fn fetch(channel: &Channel, keys: &Keys) -> Result<(), String> {
    let mut client = BundleClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    let mask = BundleMask { jwt_authorities: true, ..BundleMask::default() };
    let mut request = Request::new(GetBundleRequest { output_mask: Some(mask) });
    request.set_timeout(DEADLINE);
    let answer = tokio::time::timeout(DEADLINE, client.get_bundle(request)).await;
    let answer = answer.map_err(|_| "the server does not answer".to_owned())?;
    let bundle = answer.map_err(|status| format!("{}: {}", status.code(), status.message()))?;
    let bundle = bundle_from_pb(&bundle.into_inner()).map_err(|error| error.to_string())?;
    keys.set(&bundle.jwt_authorities);
    Ok(())
}
