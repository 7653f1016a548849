//! `spire.agent.debug.v1.Debug`.

use signet_api::{
    convert,
    pb::spire::agent::debug::v1::{
        GetInfoRequest, GetInfoResponse, debug_server, get_info_response,
    },
};
use signet_pki::x509::{
    CertError, Certificate, TrustBundle, parse_chain,
    path::{Purpose, verify_path},
};
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
        let view = &self.context.view;
        let Some(identity) = view.status.borrow().identity.clone() else {
            return Ok(Vec::new());
        };
        let failed =
            |error: String| Status::internal(format!("failed to verify agent SVID: {error}"));
        let unreadable = |error: CertError| failed(error.to_string());
        let chain = parse_chain(&identity.chain_der()).map_err(unreadable)?;
        let Some((leaf, intermediates)) = chain.split_first() else { return Ok(Vec::new()) };
        let roots = TrustBundle::from_bundle(&view.cache.own_bundle()).map_err(unreadable)?;
        let now = view.clock.unix();
        verify_path(leaf, intermediates, roots.authorities(), Purpose::Any, now)
            .map_err(|error| failed(error.to_string()))
    }
}

#[tonic::async_trait]
impl debug_server::Debug for Debug {
    #[allow(deprecated, reason = "SPIRE still fills svids_count, and its CLI shows it")]
    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        let view = &self.context.view;
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let svid_chain = self
            .chain()?
            .iter()
            .map(|certificate| get_info_response::Cert {
                id: certificate.spiffe_id().ok().map(|id| convert::id_to_pb(&id)),
                expires_at: certificate.not_after().seconds(),
                subject: certificate.subject().to_string(),
            })
            .collect();
        let x509 = count(view.cache.svid_count());
        Ok(Response::new(GetInfoResponse {
            svid_chain,
            uptime: i32::try_from(self.context.started.elapsed().as_secs()).unwrap_or(i32::MAX),
            svids_count: x509,
            last_sync_success: view.status.borrow().last_sync.seconds(),
            cached_x509_svids_count: x509,
            cached_jwt_svids_count: count(self.context.jwt.cached()),
            cached_svidstore_x509_svids_count: 0,
        }))
    }
}
