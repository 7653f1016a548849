//! The admin socket: for whoever runs the node, and for the delegates they trust.

mod debug;
mod delegated;
mod explain;
mod logger;
mod secret_streams;
mod trace;

use std::sync::Arc;

use http::Request;
use signet_api::pb::{
    signet::api::agent::{
        explain::v1::explain_server::ExplainServer,
        secretstreams::v1::secret_streams_server::SecretStreamsServer,
        trace::v1::trace_server::TraceServer,
    },
    spire::{
        agent::debug::v1::debug_server::DebugServer,
        api::agent::{
            delegatedidentity::v1::delegated_identity_server::DelegatedIdentityServer,
            logger::v1::logger_server::LoggerServer,
        },
    },
};
use signet_attest::procfs::ProcRoot;
use signet_base::CancellationToken;
use signet_daemon::logging::LogHandle;
use signet_identity::SpiffeId;
use tokio::time::Instant;
use tonic::{body::Body, service::Routes};
use tower::Service as _;

use super::{
    endpoint::{Answer, MAX_REQUEST},
    sds::Peers,
};
use crate::{
    audit::Audit, jwt::JwtService, server_sets::Issuers, status::View, trace::Traces,
    workload::CallerAttestor,
};

/// What is served there beside health and reflection.
pub(crate) const SERVICES: &[&str] = &[
    "spire.agent.debug.v1.Debug",
    "spire.api.agent.delegatedidentity.v1.DelegatedIdentity",
    "spire.api.agent.logger.v1.Logger",
    "signet.api.agent.explain.v1.Explain",
    "signet.api.agent.secretstreams.v1.SecretStreams",
    "signet.api.agent.trace.v1.Trace",
];

/// What the admin services work with.
#[derive(Clone, Debug)]
pub struct AdminContext {
    /// What the manager serves from, and how it stands.
    pub view: View,
    /// Attests callers and named processes.
    pub attestor: Arc<CallerAttestor>,
    /// Gives out JWT-SVIDs.
    pub jwt: Arc<Issuers<JwtService>>,
    /// Changes the log level; none where logging is not ours.
    pub log: Option<LogHandle>,
    /// Who may use the Delegated Identity API.
    pub delegates: Vec<SpiffeId>,
    /// Writes audit records.
    pub audit: Audit,
    /// The open streams of SDS.
    pub peers: Peers,
    /// Where processes are read from.
    pub proc_root: ProcRoot,
    /// The last calls.
    pub traces: Arc<Traces>,
    /// When the program started.
    pub started: Instant,
    /// Ends the streams.
    pub stop: CancellationToken,
}

/// The services of the admin socket.
#[derive(Clone)]
pub struct AdminApi(Routes);

impl AdminApi {
    /// All services on `context`, and `others`.
    pub fn new(context: AdminContext, others: Routes) -> Self {
        let mut routes = others
            .add_service(DebugServer::new(debug::Debug::new(context.clone())))
            .add_service(DelegatedIdentityServer::new(delegated::Delegated::new(context.clone())))
            .add_service(ExplainServer::new(explain::Explain::new(context.clone())))
            .add_service(SecretStreamsServer::new(secret_streams::Streams::new(context.peers)))
            .add_service(TraceServer::new(trace::Trace::new(context.traces)));
        if let Some(log) = context.log {
            routes = routes.add_service(LoggerServer::new(logger::Logger::new(log)));
        }
        Self(routes.prepare())
    }
}

impl Answer for AdminApi {
    async fn answer(&self, request: Request<Body>) -> http::Response<Body> {
        match self.0.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    fn max_message(&self, _: &str) -> usize {
        MAX_REQUEST
    }
}
