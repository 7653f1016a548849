//! The provider as a program: built from its configuration, then running.

use std::{net::SocketAddr, sync::Arc};

use signet_base::{SharedClock, Tasks};
use signet_daemon::{
    health::{Health, HealthServer},
    listen::ListenError,
};

use crate::{
    config::Config,
    health,
    keys::Keys,
    listener::{BindError, Bound},
    provider::Provider,
    source::Source,
};

/// Why a provider cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Its listener cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The health checks' address cannot be bound.
    #[error("opening the health checks' port")]
    Health(#[from] ListenError),
}

/// A provider that is bound and not yet running.
#[derive(Debug)]
pub struct App {
    listener: Bound,
    provider: Provider,
    source: Source,
    keys: Keys,
    health: Option<HealthServer>,
}

impl App {
    /// Opens everything that `config` names.
    ///
    /// # Errors
    /// [`BuildError`] when an address cannot be bound, or a certificate file cannot be used.
    pub async fn build(config: Config, clock: SharedClock) -> Result<Self, BuildError> {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let listener = config.listener.bind(Arc::clone(&clock)).await?;
        let keys = Keys::new(config.publishing, Arc::clone(&clock));
        let checks = Health::new();
        if let Some(status) = listener.acme() {
            checks.add("certificate", Arc::new(health::Certificates::new(status, clock)));
        }
        let check = health::Source::new(keys.clone(), config.source.poll_interval());
        checks.add("source", Arc::new(check));
        let health = match &config.health_checks {
            Some(settings) => Some(HealthServer::bind(settings, checks).await?),
            None => None,
        };
        let provider = Provider::new(config.settings, keys.clone());
        Ok(Self { listener, provider, source: config.source, keys, health })
    }

    /// Where it listens, unless on a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.address()
    }

    /// What it publishes.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Starts everything.
    pub fn spawn(self, tasks: &Tasks) {
        self.source.spawn(tasks, self.keys);
        self.listener.spawn(tasks, self.provider);
        if let Some(health) = self.health {
            health.spawn(tasks);
        }
    }
}
