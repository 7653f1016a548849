//! The validating webhook: resources are checked before the API server takes them.
//!
//! Its certificate comes from the registration server itself, and the bundle to check it with is
//! kept in the ValidatingWebhookConfiguration.

mod certificate;
mod review;

use std::{io, sync::Arc};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::post,
};
use signet_base::{SharedClock, Tasks};
use signet_daemon::{
    http::{Duplex, HttpServer, Secure},
    listen::{ListenError, bind_host},
};
use signet_identity::TrustDomain;
use signet_pki::tls::{SwappableIdentity, TlsError, web_server_config};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

pub use self::certificate::CertificateRotator;
pub use self::review::{Checked, review};
use crate::metrics::ControllerMetrics;

/// The longest review, bytes: an object and the one before it.
const MAX_REVIEW: usize = 8 * 1024 * 1024;

/// The webhook, bound but not served yet.
#[derive(Debug)]
pub struct Webhook {
    server: HttpServer,
    metrics: ControllerMetrics,
    trust_domain: TrustDomain,
}

/// Why the webhook cannot be offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// Its port cannot be bound.
    #[error("opening the webhook's port")]
    Listen(#[from] ListenError),
    /// TLS cannot be set up.
    #[error("setting up the webhook's TLS")]
    Tls(#[from] TlsError),
}

struct Tls(TlsAcceptor);

#[async_trait]
impl Secure for Tls {
    async fn secure(&self, stream: TcpStream) -> io::Result<Box<dyn Duplex>> {
        Ok(Box::new(self.0.accept(stream).await?))
    }
}

impl Webhook {
    /// Binds the port; `identity` is what is presented once it is there.
    ///
    /// # Errors
    /// [`WebhookError`] when the port cannot be bound, or TLS cannot be set up.
    pub async fn bind(
        host: &str,
        port: u16,
        identity: Arc<SwappableIdentity>,
        clock: SharedClock,
        metrics: ControllerMetrics,
        trust_domain: TrustDomain,
    ) -> Result<Self, WebhookError> {
        let tls = web_server_config(identity, clock)?;
        let host = if host.is_empty() { "::" } else { host };
        let listener = match bind_host(host, port).await {
            // A machine without IPv6.
            Err(_) if host == "::" => bind_host("0.0.0.0", port).await?,
            listener => listener?,
        };
        let server = HttpServer::new("webhook", listener)?;
        let server = server.secured(Arc::new(Tls(TlsAcceptor::from(tls))));
        Ok(Self { server, metrics, trust_domain })
    }

    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    /// Serves until the tasks end.
    pub fn spawn(self, tasks: &Tasks) {
        tracing::info!(address = %self.address(), "Serving the validating webhook");
        let (metrics, trust_domain) = (self.metrics, self.trust_domain);
        let answer = move |request: Request| {
            let (metrics, trust_domain) = (metrics.clone(), trust_domain.clone());
            async move { answer(request, &metrics, &trust_domain).await }
        };
        self.server.spawn(tasks, Router::new().fallback_service(post(answer)));
    }
}

async fn answer(
    request: Request,
    metrics: &ControllerMetrics,
    trust_domain: &TrustDomain,
) -> Response {
    let path = request.uri().path().to_owned();
    let Some(kind) = Checked::of_path(&path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Ok(body) = axum::body::to_bytes(request.into_body(), MAX_REVIEW).await else {
        let why = format!("a review of at most {MAX_REVIEW} bytes was expected\n");
        return (StatusCode::PAYLOAD_TOO_LARGE, why).into_response();
    };
    match review(kind, &body, trust_domain) {
        Ok((allowed, answer)) => {
            let result = if allowed { "allowed" } else { "refused" };
            metrics.webhook_requests.inc(&[kind.name(), result]);
            ([(CONTENT_TYPE, "application/json")], Body::from(answer.to_string())).into_response()
        }
        Err(why) => {
            metrics.webhook_requests.inc(&[kind.name(), "malformed"]);
            (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response()
        }
    }
}
