//! The ways of serving: what answers on the agent's sockets, side by side.

pub mod admin;
pub mod endpoint;
pub mod workload_api;

use std::{path::PathBuf, sync::Arc};

use signet_api::pb::{FILE_DESCRIPTOR_SET, grpc::health::v1::health_server::HealthServer};
use signet_attest::procfs::ProcRoot;
use signet_base::{CancellationToken, Tasks};
use signet_daemon::listen::{ListenError, UnixOptions, bind_unix};
use tokio::sync::watch;
use tonic::service::Routes;

use self::{
    admin::{AdminApi, AdminContext},
    workload_api::{Handler, PublicApi},
};
use crate::{health::AgentHealth, metrics::AgentMetrics, sync::Status};

/// The mode of the directories that are made for the public socket.
pub(crate) const SOCKET_DIR_MODE: u32 = 0o755;

/// The public socket is for every process of the node, the admin socket for its operators.
pub(crate) const PUBLIC: UnixOptions =
    UnixOptions { dir_mode: Some(SOCKET_DIR_MODE), socket_mode: 0o777, take_over: true };
pub(crate) const ADMIN: UnixOptions =
    UnixOptions { dir_mode: Some(0o750), socket_mode: 0o770, take_over: true };

/// The sockets, opened when there is something to serve.
#[derive(Debug)]
pub struct Sockets {
    pub(crate) public: Option<PathBuf>,
    pub(crate) admin: Option<PathBuf>,
    pub(crate) handler: Option<Arc<Handler>>,
    pub(crate) context: AdminContext,
    pub(crate) health: AgentHealth,
    pub(crate) metrics: AgentMetrics,
    pub(crate) proc_root: ProcRoot,
}

impl Sockets {
    /// Serves the admin socket at once, the public one when there is something to serve.
    ///
    /// # Errors
    /// [`ListenError`] when a socket cannot be bound.
    pub(crate) async fn open(
        self,
        mut status: watch::Receiver<Status>,
        tasks: &Tasks,
    ) -> Result<(), ListenError> {
        let stop: &CancellationToken = tasks.token();
        // The admin socket is there from the start: it helps to find out what is wrong.
        if let Some(path) = &self.admin {
            let socket = bind_unix(path, ADMIN).await?;
            tracing::info!(address = %path.display(), "Starting admin APIs");
            let others = common_routes(
                &self.health,
                &[
                    "spire.agent.debug.v1.Debug",
                    "spire.api.agent.delegatedidentity.v1.DelegatedIdentity",
                    "spire.api.agent.logger.v1.Logger",
                    "signet.api.agent.explain.v1.Explain",
                ],
            );
            let api = AdminApi::new(self.context, others);
            endpoint::serve("admin", socket, api, self.proc_root.clone(), None, tasks);
        }
        let Some(path) = &self.public else { return Ok(()) };
        match stop.run_until_cancelled(status.wait_for(|status| status.serving)).await {
            Some(Ok(_)) => {}
            _ => return Ok(()),
        }
        let socket = bind_unix(path, PUBLIC).await?;
        tracing::info!(address = %path.display(), "Starting Workload API");
        let others = common_routes(&self.health, &["SpiffeWorkloadAPI"]);
        let api = PublicApi::new(self.handler, others.prepare());
        endpoint::serve("public", socket, api, self.proc_root, Some(self.metrics), tasks);
        Ok(())
    }
}

/// Health and reflection.
fn common_routes(health: &AgentHealth, services: &[&str]) -> Routes {
    let mut routes = Routes::new(HealthServer::new(health.clone()));
    let names = || services.iter().copied().chain(["grpc.health.v1.Health"]);
    let builder = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET);
        names().fold(builder, |builder, name| builder.with_service_name(name))
    };
    match builder().build_v1() {
        Ok(service) => routes = routes.add_service(service),
        Err(error) => tracing::warn!(error = %error, "No reflection"),
    }
    match builder().build_v1alpha() {
        Ok(service) => routes = routes.add_service(service),
        Err(error) => tracing::warn!(error = %error, "No reflection"),
    }
    routes
}
