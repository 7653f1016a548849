//! `signet.api.agent.secretstreams.v1.SecretStreams`: who has which secret.

use signet_api::pb::signet::api::agent::secretstreams::v1::{
    ListSecretStreamsRequest, ListSecretStreamsResponse,
    list_secret_streams_response::{Secret, Stream},
    secret_streams_server,
};
use tonic::{Request, Response, Status};

use crate::serve::sds::{PeerStream, Peers, SecretInfo};

pub(super) struct Streams {
    peers: Peers,
}

impl Streams {
    pub(super) fn new(peers: Peers) -> Self {
        Self { peers }
    }
}

#[tonic::async_trait]
impl secret_streams_server::SecretStreams for Streams {
    async fn list_secret_streams(
        &self,
        request: Request<ListSecretStreamsRequest>,
    ) -> Result<Response<ListSecretStreamsResponse>, Status> {
        let authority = request.into_inner().authority_id.to_ascii_lowercase();
        let holds = |stream: &PeerStream| {
            authority.is_empty()
                || stream
                    .accepted
                    .iter()
                    .any(|info| info.authorities.iter().any(|id| **id == *authority))
        };
        let streams = self.peers.all().into_iter().filter(holds).map(|stream| Stream {
            pid: stream.pid,
            method: stream.method.to_owned(),
            node_id: stream.node_id.to_string(),
            names: stream.names.iter().map(ToString::to_string).collect(),
            accepted: stream.accepted.iter().map(|info| secret(info)).collect(),
            pending: stream.sent.iter().flat_map(|sent| &sent.secrets).map(|a| secret(a)).collect(),
            rejected: stream.rejected.to_string(),
            accepted_at: stream.accepted_at.seconds(),
            opened_at: stream.opened_at.seconds(),
        });
        Ok(Response::new(ListSecretStreamsResponse { streams: streams.collect() }))
    }
}

fn secret(info: &SecretInfo) -> Secret {
    Secret {
        name: info.name.to_string(),
        version: info.version.to_string(),
        authority_ids: info.authorities.iter().map(ToString::to_string).collect(),
        expires_at: info.expires_at.seconds(),
    }
}
