//! The Prometheus endpoint.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use signet_base::Tasks;
use tokio::net::TcpListener;

use super::Metrics;
use crate::{
    http::{HttpServer, Secure},
    listen::{ListenError, bind_host},
};
use signet_config::PrometheusSettings;

/// The content type of the endpoint: Prometheus' text format, which allows counters without
/// `_total`.
pub const SERVED_AS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The Prometheus endpoint, bound but not served yet.
#[derive(Debug)]
pub struct MetricsServer {
    server: HttpServer,
    metrics: Metrics,
}

impl MetricsServer {
    /// Binds the endpoint.
    ///
    /// # Errors
    /// [`ListenError`] when the address cannot be resolved or bound.
    pub async fn bind(
        settings: &PrometheusSettings,
        metrics: Metrics,
    ) -> Result<Self, ListenError> {
        Self::on(bind_host(&settings.host, settings.port).await?, metrics)
    }

    /// Takes a listener that is bound already.
    ///
    /// # Errors
    /// [`ListenError`] when the listener does not know its address.
    pub fn on(listener: TcpListener, metrics: Metrics) -> Result<Self, ListenError> {
        Ok(Self { server: HttpServer::new("metrics", listener)?, metrics })
    }

    /// Puts TLS in front of the endpoint.
    #[must_use]
    pub fn secured(mut self, secure: Arc<dyn Secure>) -> Self {
        self.server = self.server.secured(secure);
        self
    }

    /// Where the endpoint listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Serves until the tasks end. Any path answers, as SPIRE's endpoint does.
    pub fn spawn(self, tasks: &Tasks) {
        tracing::info!(address = %self.address(), "Serving metrics");
        let metrics = self.metrics;
        let show = get(move || {
            let text = metrics.encode();
            async move { ([(CONTENT_TYPE, SERVED_AS)], text).into_response() }
        });
        self.server.spawn(tasks, Router::new().fallback_service(show));
    }
}
