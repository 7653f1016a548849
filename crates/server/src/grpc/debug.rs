//! `spire.api.server.debug.v1.Debug`: figures about the running server.

use std::sync::Arc;

use signet_api::{
    convert::id_to_pb,
    pb::spire::api::server::debug::v1::{self as pb, debug_server, get_info_response::Cert},
};
use signet_pki::x509::Certificate;
use tokio::{sync::watch, time::Instant};
use tonic::{Request, Response, Status};

use super::shared::serve;
use crate::{
    cache::Cache,
    context::Context,
    usecase::{authorization::Action, error::Error},
};

/// The debug service.
#[derive(Clone, Debug)]
pub struct DebugService {
    cache: Arc<Cache>,
    server_svid: watch::Receiver<Arc<[Arc<[u8]>]>>,
    started: Instant,
}

impl DebugService {
    /// The service of a server.
    pub fn new(context: &Context) -> Self {
        Self {
            cache: Arc::clone(&context.parts.cache),
            server_svid: context.server_svid.clone(),
            started: context.started,
        }
    }

    /// As a service for the router.
    pub fn into_server(self) -> debug_server::DebugServer<Self> {
        debug_server::DebugServer::new(self)
    }

    /// The server's own SVID up to the authority that it is verified with.
    fn svid_chain(&self) -> Result<Vec<Cert>, Error> {
        let unreadable = |_| Error::internal("failed to parse the server's certificates");
        let chain = self.server_svid.borrow().clone();
        let mut chain = signet_pki::x509::parse_chain(&chain).map_err(unreadable)?;
        if let Some(root) = chain.last().and_then(|last| self.authority_of(last)) {
            chain.push(root);
        }
        Ok(chain.iter().map(described).collect())
    }

    fn authority_of(&self, certificate: &Certificate) -> Option<Certificate> {
        if certificate.is_self_signed() {
            return None;
        }
        let bundle = self.cache.own_bundle()?;
        let authorities = bundle.bundle.x509_authorities.iter();
        authorities.filter_map(|authority| Certificate::from_der(&authority.der).ok()).find(
            |authority| {
                authority.raw_subject() == certificate.raw_issuer()
                    && authority.public_key().is_ok_and(|key| certificate.is_signed_by(key))
            },
        )
    }
}

#[tonic::async_trait]
impl debug_server::Debug for DebugService {
    async fn get_info(
        &self,
        request: Request<pb::GetInfoRequest>,
    ) -> Result<Response<pb::GetInfoResponse>, Status> {
        serve(request, |call, _| async move {
            call.may(Action::ReadServerInfo)?;
            self.cache.current().await?;
            let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
            Ok(pb::GetInfoResponse {
                svid_chain: self.svid_chain()?,
                uptime: i32::try_from(self.started.elapsed().as_secs()).unwrap_or(i32::MAX),
                agents_count: count(self.cache.node_count()),
                federated_bundles_count: count(self.cache.bundle_count()),
                entries_count: count(self.cache.entry_count()),
            })
        })
        .await
    }
}

fn described(certificate: &Certificate) -> Cert {
    Cert {
        id: certificate.spiffe_id().ok().as_ref().map(id_to_pb),
        expires_at: certificate.not_after().seconds(),
        subject: certificate.subject().to_string(),
    }
}
