//! How the agent fares, for `grpc.health.v1` on its sockets and for HTTP.

use std::{path::PathBuf, pin::Pin, time::Duration};

use signet_api::pb::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus, health_server,
};
use signet_base::SharedClock;
use signet_daemon::health::{HealthCheck, State};
use tokio::{net::UnixStream, sync::watch};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::status::Status as AgentStatus;

/// How long opening the agent's own socket may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Looks at the agent from inside.
#[derive(Clone, Debug)]
pub struct AgentHealth {
    status: watch::Receiver<AgentStatus>,
    socket: Option<PathBuf>,
    clock: SharedClock,
}

impl AgentHealth {
    /// A view on `status`; `socket` is the public socket, if there is one.
    pub fn new(
        status: watch::Receiver<AgentStatus>,
        socket: Option<PathBuf>,
        clock: SharedClock,
    ) -> Self {
        Self { status, socket, clock }
    }

    /// Why the agent has no valid SVID of its own, if it has none: what it serves ends soon.
    fn missing_svid(&self) -> Option<String> {
        let status = self.status.borrow();
        let missing = match &status.identity {
            Some(identity) if !identity.expired(self.clock.unix()) => return None,
            Some(identity) => {
                format!("the agent's SVID expired at {}", identity.not_after())
            }
            None => "the agent has no valid SVID".to_owned(),
        };
        Some(match &status.trouble {
            Some(trouble) => format!("{missing}; {trouble}"),
            None => missing,
        })
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
        let with_svid = match self.missing_svid() {
            None => State::good(),
            Some(missing) => State {
                ready_details: serde_json::json!({ "agent_svid_err": missing }),
                ..State::starting()
            },
        };
        let Some(socket) = &self.socket else { return with_svid };
        match tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await {
            Ok(Ok(_)) => with_svid,
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use signet_base::SystemClock;
    use signet_pki::{KeyType, PrivateKey};

    use super::*;
    use crate::agent_identity::{AgentIdentity, AgentKey};

    #[tokio::test]
    async fn an_agent_whose_svid_has_expired_is_not_ready_and_says_why() {
        let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
        // Without a certificate it expired in 1970.
        let identity = AgentIdentity {
            id: "spiffe://td/spire/agent/x".parse().unwrap(),
            chain: Vec::new(),
            key: AgentKey { slot: "agent-svid-A", signer },
            reattestable: true,
        };
        let status = AgentStatus { serving: true, ..AgentStatus::default() };
        let (sender, receiver) = watch::channel(status);
        let health = AgentHealth::new(receiver, None, SystemClock::shared());
        let state = HealthCheck::check(&health).await;
        assert!(state.live && !state.ready);
        assert_eq!(state.ready_details["agent_svid_err"], "the agent has no valid SVID");

        sender.send_modify(|status| {
            status.identity = Some(Arc::new(identity));
            status.trouble = Some("it cannot attest: no route".into());
        });
        let state = HealthCheck::check(&health).await;
        assert!(state.live && !state.ready);
        assert_eq!(
            state.ready_details["agent_svid_err"],
            "the agent's SVID expired at 1970-01-01T00:00:00Z; it cannot attest: no route"
        );
    }
}
