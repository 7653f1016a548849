//! How the agent fares, for `grpc.health.v1` on its sockets and for HTTP.

use std::{path::PathBuf, pin::Pin, time::Duration};

use signet_api::pb::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus, health_server,
};
use signet_daemon::health::{HealthCheck, State};
use tokio::{net::UnixStream, sync::watch};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::sync::Status as AgentStatus;

/// How long opening the agent's own socket may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Looks at the agent from inside.
#[derive(Clone, Debug)]
pub struct AgentHealth {
    status: watch::Receiver<AgentStatus>,
    socket: Option<PathBuf>,
}

impl AgentHealth {
    /// A view on `status`; `socket` is the public socket, if there is one.
    pub fn new(status: watch::Receiver<AgentStatus>, socket: Option<PathBuf>) -> Self {
        Self { status, socket }
    }

    fn serving(&self) -> bool {
        self.status.borrow().serving
    }
}

#[tonic::async_trait]
impl HealthCheck for AgentHealth {
    async fn check(&self) -> State {
        if !self.serving() {
            return State::starting();
        }
        let Some(socket) = &self.socket else { return State::good() };
        match tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await {
            Ok(Ok(_)) => State::good(),
            Ok(Err(_)) | Err(_) => {
                let details =
                    serde_json::json!({ "make_new_x509_err": "workload api is unavailable" });
                State {
                    live: false,
                    ready: false,
                    live_details: details.clone(),
                    ready_details: details,
                }
            }
        }
    }
}

#[tonic::async_trait]
impl health_server::Health for AgentHealth {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::invalid_argument("per-service health is not supported"));
        }
        let status =
            if self.serving() { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("method List not implemented"))
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("method Watch not implemented"))
    }
}
