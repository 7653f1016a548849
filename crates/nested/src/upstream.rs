//! The plugin.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use signet_base::{SharedClock, chain};
use signet_http::Proxies;
use signet_identity::{JwtAuthority, SpiffeId, TrustDomain};
use signet_pki::{
    UpstreamAuthority,
    ports::{MintedCa, PortError, UpstreamBundle},
    tls::{ServerCheck, TlsOptions, client_config},
};

use crate::{
    client::{CallError, Client},
    source::Source,
};

/// The plugin's name.
const NAME: &str = "spire";
/// How often the upstream server is asked for its bundle, as SPIRE asks.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Where the upstream server is, and how this one proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `server_address`: a host name or an address, without brackets.
    pub server_address: String,
    /// `server_port`.
    pub server_port: u16,
    /// `workload_api_socket`: the path of the socket of an agent of the upstream server.
    pub workload_api_socket: PathBuf,
    /// `experimental.require_pq_kem`.
    pub require_pq_kem: bool,
}

/// The upstream authority `spire`.
#[derive(Debug)]
pub struct SpireUpstream {
    source: Source,
    client: Client,
}

impl SpireUpstream {
    /// Nothing is asked before the first call.
    ///
    /// # Errors
    /// [`PortError`] when a proxy of the environment or TLS cannot be used.
    pub fn new(
        settings: Settings,
        trust_domain: TrustDomain,
        clock: SharedClock,
    ) -> Result<Self, PortError> {
        let proxies = Proxies::from_env().map_err(|error| failed(chain(&error)))?;
        let id = SpiffeId::server(trust_domain.clone());
        let source = Source::new(settings.workload_api_socket, trust_domain);
        let check = ServerCheck::Id { id, bundles: source.bundles() };
        let options = TlsOptions { require_pq_kem: settings.require_pq_kem };
        let tls = client_config(check, Some(source.identity()), clock, options)
            .map_err(|error| failed(chain(&error)))?;
        let client = Client::new(settings.server_address, settings.server_port, proxies, tls);
        Ok(Self { source, client })
    }

    /// Takes up a renewed identity; a connection with an earlier one is given up.
    async fn identify(&self) -> Result<(), PortError> {
        if self.source.refresh().await.map_err(failed)? {
            self.client.release();
        }
        Ok(())
    }
}

#[async_trait]
impl UpstreamAuthority for SpireUpstream {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn mint_x509_ca(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, PortError> {
        self.identify().await?;
        let chain = self.client.new_downstream_ca(csr, ttl).await.map_err(of_call)?;
        // That answer does not say which roots are tainted.
        let bundle = self.client.bundle().await.map_err(of_call)?;
        Ok(MintedCa { chain, upstream_roots: bundle.x509_authorities })
    }

    async fn upstream_bundle(&self) -> Result<Option<UpstreamBundle>, PortError> {
        self.identify().await?;
        let bundle = self.client.bundle().await.map_err(of_call)?;
        Ok(Some(UpstreamBundle {
            roots: bundle.x509_authorities,
            jwt_keys: Some(bundle.jwt_authorities),
            // A server that has WIT-SVIDs has a key of its own among them.
            wit_keys: Some(bundle.wit_authorities).filter(|keys| !keys.is_empty()),
            tells_revocation: true,
        }))
    }

    fn poll_interval(&self) -> Duration {
        POLL_INTERVAL
    }

    async fn publish_jwt_key(&self, key: &JwtAuthority) -> Result<Vec<JwtAuthority>, PortError> {
        self.identify().await?;
        published(self.client.publish_jwt(key).await, "publishing JWT keys")
    }

    /// A server that knows no WIT-SVIDs, or has them switched off, does not take the key: it is
    /// never in a bundle that is read by somebody whom it would disturb.
    async fn publish_wit_key(&self, key: &JwtAuthority) -> Result<Vec<JwtAuthority>, PortError> {
        self.identify().await?;
        published(self.client.publish_wit(key).await, "publishing WIT keys")
    }
}

fn published(
    outcome: Result<Vec<JwtAuthority>, CallError>,
    what: &'static str,
) -> Result<Vec<JwtAuthority>, PortError> {
    outcome.map_err(|error| match error {
        error if error.is_unimplemented() => PortError::Unsupported { name: NAME, what },
        error => of_call(error),
    })
}

fn of_call(error: CallError) -> PortError {
    failed(chain(&error))
}

fn failed(message: String) -> PortError {
    PortError::Failed { name: NAME, message }
}
