//! `grpc.health.v1.Health` on the local socket.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::stream;
use signet_api::pb::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus, health_server,
};
use signet_identity::TrustDomain;
use signet_store::{Store, StoreError};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::shared::serve;
use crate::{
    cache::Cache,
    context::Context,
    usecase::{authorization::Action, error::Error},
};

/// How often a watched status is looked at again.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// The health service.
#[derive(Clone, Debug)]
pub struct HealthService {
    trust_domain: TrustDomain,
    store: Store,
    cache: Arc<Cache>,
    max_staleness: Duration,
}

impl HealthService {
    /// The service of a server.
    pub fn new(context: &Context) -> Self {
        Self {
            trust_domain: context.parts.trust_domain.clone(),
            store: context.parts.store.clone(),
            cache: Arc::clone(&context.parts.cache),
            max_staleness: context.config.max_store_staleness,
        }
    }

    /// As a service for the router.
    pub fn into_server(self) -> health_server::HealthServer<Self> {
        health_server::HealthServer::new(self)
    }

    /// Serving means: there is a bundle to verify with, and the store answers, or agents are served
    /// from memory while the database is away, as HTTP's health checks have it.
    async fn status(&self) -> ServingStatus {
        let unhealthy = match self.store.bundle(&self.trust_domain).await {
            Ok(Some(_)) => return ServingStatus::Serving,
            Ok(None) => "bundle is missing",
            Err(StoreError::Unavailable { .. })
                if self.cache.staleness() <= self.max_staleness
                    && self.cache.own_bundle().is_some() =>
            {
                return ServingStatus::Serving;
            }
            Err(_) => "unable to fetch bundle",
        };
        tracing::warn!(reason = unhealthy, "Health check failed");
        ServingStatus::NotServing
    }
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        serve(request, |call, request| async move {
            call.may(Action::ReadHealth)?;
            only_whole(&request)?;
            Ok(HealthCheckResponse { status: self.status().await.into() })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        serve(request, |call, _| async move {
            call.may(Action::ReadHealth)?;
            let status = HealthCheckResponse { status: self.status().await.into() };
            Ok(HealthListResponse { statuses: [(String::new(), status)].into() })
        })
        .await
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let opened = serve(request, |call, request| async move {
            call.may(Action::ReadHealth)?;
            only_whole(&request)
        });
        opened.await?;
        let states = stream::unfold((self.clone(), None), |(health, last)| async move {
            loop {
                if last.is_some() {
                    tokio::time::sleep(WATCH_INTERVAL).await;
                }
                let now = health.status().await;
                if last != Some(now) {
                    let response = HealthCheckResponse { status: now.into() };
                    return Some((Ok(response), (health, Some(now))));
                }
            }
        });
        Ok(Response::new(Box::pin(states)))
    }
}

fn only_whole(request: &HealthCheckRequest) -> Result<(), Error> {
    if request.service.is_empty() {
        return Ok(());
    }
    Err(Error::invalid("per-service health is not supported"))
}
