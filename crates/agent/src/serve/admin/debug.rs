//! `spire.agent.debug.v1.Debug`.

use signet_api::{
    convert,
    pb::spire::agent::debug::v1::{
        GetInfoRequest, GetInfoResponse, debug_server, get_info_response,
    },
};
use signet_pki::x509::{Certificate, path::verify_path};
use tonic::{Request, Response, Status};

use super::AdminContext;

pub(super) struct Debug {
    context: AdminContext,
}

impl Debug {
    pub(super) fn new(context: AdminContext) -> Self {
        Self { context }
    }

    /// The agent's certificates up to and with the authority that vouches for them.
    fn chain(&self) -> Result<Vec<Certificate>, Status> {
        let shared = &self.context.shared;
        let Some(identity) = shared.status.borrow().identity.clone() else {
            return Ok(Vec::new());
        };
        let ders = identity.chain_der();
        let Some((leaf, rest)) = ders.split_first() else { return Ok(Vec::new()) };
        let intermediates: Vec<&[u8]> = rest.iter().map(Vec::as_slice).collect();
        let roots: Vec<Vec<u8>> = shared
            .cache
            .own_bundle()
            .x509_authorities
            .iter()
            .map(|authority| authority.der.to_vec())
            .collect();
        let failed =
            |error: String| Status::internal(format!("failed to verify agent SVID: {error}"));
        let path = verify_path(leaf, &intermediates, &roots, shared.clock.unix())
            .map_err(|error| failed(error.to_string()))?;
        path.iter()
            .map(|der| Certificate::from_der(der).map_err(|error| failed(error.to_string())))
            .collect()
    }
}

#[tonic::async_trait]
impl debug_server::Debug for Debug {
    #[allow(deprecated, reason = "SPIRE still fills svids_count, and its CLI shows it")]
    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        let shared = &self.context.shared;
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let svid_chain = self
            .chain()?
            .iter()
            .map(|certificate| get_info_response::Cert {
                id: certificate.spiffe_id().ok().map(|id| convert::id_to_pb(&id)),
                expires_at: certificate.not_after(),
                subject: certificate.subject().to_string(),
            })
            .collect();
        let x509 = count(shared.cache.svid_count());
        Ok(Response::new(GetInfoResponse {
            svid_chain,
            uptime: i32::try_from(self.context.started.elapsed().as_secs()).unwrap_or(i32::MAX),
            svids_count: x509,
            last_sync_success: shared.status.borrow().last_sync,
            cached_x509_svids_count: x509,
            cached_jwt_svids_count: count(shared.jwt_cache.len()),
            cached_svidstore_x509_svids_count: 0,
        }))
    }
}
