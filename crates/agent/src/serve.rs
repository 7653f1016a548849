//! The ways of serving: what answers on the agent's sockets, side by side.

pub mod admin;
pub mod broker;
pub mod endpoint;
pub mod sds;
pub mod workload_api;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use signet_api::{pb::grpc::health::v1::health_server::HealthServer, reflection::with_reflection};
use signet_attest::procfs::ProcRoot;
use signet_base::{CancellationToken, Tasks, chain};
use signet_daemon::listen::{ListenError, UnixOptions, UnixSocket, bind_unix, check_unix_unused};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tonic::service::Routes;

use self::{
    admin::{AdminApi, AdminContext},
    broker::Broker,
    endpoint::Watch,
    sds::Sds,
    workload_api::{Handler, PublicApi},
};
use crate::{health::AgentHealth, status::Status};

/// The mode of the directories that are made for the public socket.
pub(crate) const SOCKET_DIR_MODE: u32 = 0o755;

/// How often is looked whether a socket is still there.
const SOCKET_LOOK: Duration = Duration::from_secs(2);
/// How often a socket in use is tried again.
const SOCKET_PAUSE: Duration = Duration::from_millis(50);

/// The public socket is for every process of the node, the admin socket for its operators.
pub(crate) const PUBLIC: UnixOptions =
    UnixOptions { dir_mode: Some(SOCKET_DIR_MODE), socket_mode: 0o777, take_over: false };
pub(crate) const ADMIN: UnixOptions =
    UnixOptions { dir_mode: Some(0o750), socket_mode: 0o770, take_over: false };

/// The sockets, opened when there is something to serve.
#[derive(Debug)]
pub struct Sockets {
    pub(crate) public: Option<PathBuf>,
    pub(crate) admin: Option<PathBuf>,
    /// Whether a socket that another agent listens on is taken over.
    pub(crate) take_over: bool,
    pub(crate) handler: Option<Arc<Handler>>,
    pub(crate) sds: Option<Arc<Sds>>,
    /// The Broker Endpoint: its service, its TCP listener if any, and whether TLS must be
    /// post-quantum.
    pub(crate) broker: Option<(Broker, Option<TcpListener>, bool)>,
    pub(crate) context: AdminContext,
    pub(crate) health: AgentHealth,
    pub(crate) watch: Watch,
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
            let options = UnixOptions { take_over: self.take_over, ..ADMIN };
            let socket = bind_unix(path, options).await?;
            tracing::info!(address = %path.display(), "Starting Admin APIs");
            let others = common_routes(&self.health, admin::SERVICES);
            let api = AdminApi::new(self.context, others);
            let (proc_root, spawner) = (self.proc_root.clone(), tasks.clone());
            let watch = self.watch.clone();
            let serve = move |socket, accept: &CancellationToken| {
                endpoint::serve(
                    "admin",
                    (socket, accept.clone()),
                    api.clone(),
                    proc_root.clone(),
                    Some(watch.clone()),
                    &spawner,
                );
            };
            tasks.spawn("admin_socket", stay(socket, ADMIN, stop.clone(), serve));
        }
        if let Some((broker, tcp, require_pq_kem)) = self.broker {
            const STARTING: &str = "Starting SPIFFE Broker Endpoint";
            let unix = match &broker.settings().socket_path {
                Some(path) => {
                    let options = UnixOptions { take_over: self.take_over, ..broker::MODES };
                    let socket = bind_unix(path, options).await?;
                    tracing::info!(network = "unix", address = %path.display(), "{STARTING}");
                    Some(socket)
                }
                None => None,
            };
            if let Some(address) = tcp.as_ref().and_then(|tcp| tcp.local_addr().ok()) {
                tracing::info!(network = "tcp", %address, "{STARTING}");
            }
            let sockets = (unix, tcp);
            if let Err(error) =
                broker::serve(sockets, broker, status.clone(), require_pq_kem, tasks)
            {
                tracing::error!(error = %chain(&error), "The Broker Endpoint cannot be served");
            }
        }
        let Some(path) = &self.public else { return Ok(()) };
        match stop.run_until_cancelled(status.wait_for(|status| status.serving)).await {
            Some(Ok(_)) => {}
            _ => return Ok(()),
        }
        let options = UnixOptions { take_over: self.take_over, ..PUBLIC };
        let socket = bind_unix(path, options).await?;
        let apis = match (&self.handler, &self.sds) {
            (Some(_), Some(_)) => "Workload API, SDS",
            (Some(_), None) => "Workload API",
            (None, Some(_)) => "SDS",
            (None, None) => "none",
        };
        tracing::info!(network = "unix", address = %path.display(), apis, "Starting agent APIs");
        let workload_api = self.handler.as_ref().map(|_| "SpiffeWorkloadAPI");
        let services: Vec<_> =
            workload_api.into_iter().chain(self.sds.as_ref().map(|_| sds::SERVICE)).collect();
        let others = common_routes(&self.health, &services);
        let api = PublicApi::new(self.handler, self.sds, others.prepare());
        let (proc_root, watch, spawner) = (self.proc_root, self.watch, tasks.clone());
        let serve = move |socket, accept: &CancellationToken| {
            endpoint::serve(
                "public",
                (socket, accept.clone()),
                api.clone(),
                proc_root.clone(),
                Some(watch.clone()),
                &spawner,
            );
        };
        tasks.spawn("public_socket", stay(socket, PUBLIC, stop.clone(), serve));
        Ok(())
    }
}

/// Serves a socket, and makes it anew when it was removed: connections that are open stay, and a
/// socket that another process has put there meanwhile is left to it for as long as it listens.
async fn stay(
    mut socket: UnixSocket,
    options: UnixOptions,
    stop: CancellationToken,
    serve: impl Fn(UnixSocket, &CancellationToken) + Send,
) {
    let path = socket.path().to_owned();
    loop {
        let (place, accept) = (socket.place(), stop.child_token());
        serve(socket, &accept);
        let mut told = false;
        socket = loop {
            if stop.run_until_cancelled(tokio::time::sleep(SOCKET_LOOK)).await.is_none() {
                return;
            }
            if !place.is_lost() {
                continue;
            }
            match bind_unix(&path, options).await {
                Ok(anew) => {
                    tracing::warn!(path = %path.display(), "The socket was gone; made it anew");
                    break anew;
                }
                Err(error) if told => {
                    tracing::debug!(error = %chain(&error), "The socket is still not ours");
                }
                Err(error) => {
                    told = true;
                    tracing::error!(
                        error = %chain(&error),
                        "The socket is gone; it is made anew as soon as that is possible"
                    );
                }
            }
        };
        accept.cancel();
    }
}

/// Waits for a process that is about to end to let go of the socket, and refuses to share it with
/// one that is not.
///
/// # Errors
/// [`ListenError::InUse`] when somebody still listens on it after `patience`.
pub(crate) async fn until_unused(path: &Path, patience: Duration) -> Result<(), ListenError> {
    let deadline = Instant::now() + patience;
    let mut told = false;
    loop {
        match check_unix_unused(path).await {
            Err(error @ ListenError::InUse(_)) if Instant::now() < deadline => {
                if !told {
                    tracing::info!(reason = %error, "Waiting for the socket");
                    told = true;
                }
                tokio::time::sleep(SOCKET_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Health and reflection.
fn common_routes(health: &AgentHealth, services: &[&str]) -> Routes {
    let routes = Routes::new(HealthServer::new(health.clone()));
    with_reflection(routes, services.iter().copied().chain(["grpc.health.v1.Health"]))
}
