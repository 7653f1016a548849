//! The server's HTTP listeners: what is served to others than agents and administrators.
//!
//! Each of them has its own socket. They know HTTP and values; what they serve they read from
//! memory, so that a flood of requests costs no query. Connections, requests and their times are
//! bounded by `signet_daemon::http`.

pub mod bundle_endpoint;
pub mod oidc;

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use signet_base::{Tasks, chain};
use signet_daemon::http::{Duplex, Secure};
use signet_pki::tls::CertFiles;
use tokio::{net::TcpStream, time::MissedTickBehavior};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// TLS in front of a listener.
pub(crate) struct Tls(TlsAcceptor);

impl Tls {
    /// As the configuration says.
    pub(crate) fn new(config: Arc<ServerConfig>) -> Arc<Self> {
        Arc::new(Self(TlsAcceptor::from(config)))
    }
}

#[async_trait]
impl Secure for Tls {
    async fn secure(&self, stream: TcpStream) -> io::Result<Box<dyn Duplex>> {
        let stream = self.0.accept(stream).await?;
        signet_acme::refuse_challenge(stream.get_ref().1)?;
        Ok(Box::new(stream))
    }
}

/// Looks at certificate files every `interval` until the tasks end.
pub(crate) fn watch_files(
    tasks: &Tasks,
    name: &'static str,
    mut files: CertFiles,
    interval: Duration,
) {
    let token = tasks.token().clone();
    tasks.spawn(name, async move {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while token.run_until_cancelled(ticks.tick()).await.is_some() {
            // Two short reads; whoever writes the files is trusted with the key anyway.
            match files.refresh() {
                Ok(false) => {}
                Ok(true) => tracing::info!(listener = name, "Serving certificate read again"),
                Err(error) => tracing::error!(
                    listener = name,
                    error = chain(&error),
                    "Failed to read the serving certificate; the one before stays in force"
                ),
            }
        }
    });
}
