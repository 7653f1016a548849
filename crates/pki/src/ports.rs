//! Ports that back ends fill, here or in the crates of back ends.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Map, Value};
use signet_identity::{Bundle, JwtAuthority, SpiffeId, X509Authority};

use crate::{
    PublicKey,
    x509::{Extension, Name},
};

/// Why a back end failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The back end answered with a failure, or could not be reached.
    #[error("{name}: {message}")]
    Failed {
        /// The plugin's name.
        name: &'static str,
        /// What happened, with its causes, without secrets.
        message: String,
    },
    /// It cannot do that at all.
    #[error("{name} does not support {what}")]
    Unsupported {
        /// The plugin's name.
        name: &'static str,
        /// What was asked for.
        what: &'static str,
    },
}

/// A CA certificate that an upstream authority minted.
#[derive(Clone, Debug)]
pub struct MintedCa {
    /// The new CA certificate first, then intermediates up to but without the root; DER.
    pub chain: Vec<Arc<[u8]>>,
    /// The upstream's roots, which belong into the bundle.
    pub upstream_roots: Vec<X509Authority>,
}

/// What is trusted upstream.
#[derive(Clone, Debug, Default)]
pub struct UpstreamBundle {
    /// The roots.
    pub roots: Vec<X509Authority>,
    /// The JWT keys of all servers, where upstream knows them.
    pub jwt_keys: Option<Vec<JwtAuthority>>,
    /// The WIT keys of all servers, where upstream has any.
    pub wit_keys: Option<Vec<JwtAuthority>>,
    /// Whether what was tainted and is no longer there was revoked there, and is to be revoked
    /// here; else an operator has to say so.
    pub tells_revocation: bool,
}

impl UpstreamBundle {
    /// Roots, and nothing known beside.
    pub fn of_roots(roots: Vec<X509Authority>) -> Self {
        Self { roots, ..Self::default() }
    }
}

/// Signs the server's X.509 CA, so that trust is rooted elsewhere.
#[async_trait]
pub trait UpstreamAuthority: Send + Sync + fmt::Debug {
    /// The plugin's name, `disk`.
    fn name(&self) -> &'static str;

    /// Mints an X.509 CA from a DER CSR; `ttl` is a wish.
    ///
    /// # Errors
    /// [`PortError`] when the authority cannot be reached or refuses.
    async fn mint_x509_ca(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, PortError>;

    /// What is trusted upstream as it is now: asked for periodically, so that a change upstream
    /// reaches the bundle without a new CA. `None` when it cannot tell.
    ///
    /// # Errors
    /// [`PortError`] when the authority cannot be reached or refuses.
    async fn upstream_bundle(&self) -> Result<Option<UpstreamBundle>, PortError>;

    /// How often it is asked for that.
    fn poll_interval(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Publishes a JWT key upstream and returns all JWT keys known there.
    ///
    /// # Errors
    /// [`PortError::Unsupported`] unless it can.
    async fn publish_jwt_key(&self, key: &JwtAuthority) -> Result<Vec<JwtAuthority>, PortError> {
        let _ = key;
        Err(PortError::Unsupported { name: self.name(), what: "publishing JWT keys" })
    }

    /// Publishes a WIT key upstream and returns all WIT keys known there.
    ///
    /// # Errors
    /// [`PortError::Unsupported`] unless it can.
    async fn publish_wit_key(&self, key: &JwtAuthority) -> Result<Vec<JwtAuthority>, PortError> {
        let _ = key;
        Err(PortError::Unsupported { name: self.name(), what: "publishing WIT keys" })
    }
}

/// Is told of each new bundle of the own trust domain before it is used.
#[async_trait]
pub trait Notifier: Send + Sync + fmt::Debug {
    /// The plugin's name.
    fn name(&self) -> &'static str;
    /// At start: the bundle is loaded; an error stops the server.
    ///
    /// # Errors
    /// [`PortError`] when the bundle did not get where it belongs.
    async fn bundle_loaded(&self, bundle: &Bundle) -> Result<(), PortError>;
    /// Later: the bundle changed; an error is logged and the notification repeated.
    ///
    /// # Errors
    /// [`PortError`] when the bundle did not get where it belongs.
    async fn bundle_updated(&self, bundle: &Bundle) -> Result<(), PortError>;

    /// What it does beside that for as long as it is in use: for a notifier whose bundle also goes
    /// to what appears later. Never ends; is dropped at any point.
    async fn run(&self) {
        std::future::pending().await
    }
}

/// Publishes the bundle somewhere that consumers read.
#[async_trait]
pub trait BundlePublisher: Send + Sync + fmt::Debug {
    /// The plugin's name.
    fn name(&self) -> &'static str;
    /// Publishes; called again with the same bundle it may do nothing.
    ///
    /// # Errors
    /// [`PortError`] when the bundle did not get where it belongs.
    async fn publish(&self, bundle: &Bundle) -> Result<(), PortError>;
}

/// What a composer may change of an X.509-SVID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct X509SvidAttributes {
    /// The subject.
    pub subject: Name,
    /// DNS SANs.
    pub dns_names: Vec<String>,
    /// Further extensions.
    pub extensions: Vec<Extension>,
}

/// What a composer may change of a CA certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct X509CaAttributes {
    /// The subject.
    pub subject: Name,
    /// Further extensions.
    pub extensions: Vec<Extension>,
}

/// Adjusts credentials before they are signed. Each method defaults to no change.
#[async_trait]
pub trait CredentialComposer: Send + Sync + fmt::Debug {
    /// The plugin's name.
    fn name(&self) -> &'static str;

    /// For the server's CA certificate.
    ///
    /// # Errors
    /// [`PortError`]: nothing is signed then.
    async fn server_x509_ca(&self, attrs: X509CaAttributes) -> Result<X509CaAttributes, PortError> {
        Ok(attrs)
    }

    /// For the server's own SVID.
    ///
    /// # Errors
    /// As above.
    async fn server_x509_svid(
        &self,
        attrs: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PortError> {
        Ok(attrs)
    }

    /// For an agent's SVID.
    ///
    /// # Errors
    /// As above.
    async fn agent_x509_svid(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
        attrs: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PortError> {
        let _ = (id, key);
        Ok(attrs)
    }

    /// For a workload's X.509-SVID.
    ///
    /// # Errors
    /// As above.
    async fn workload_x509_svid(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
        attrs: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PortError> {
        let _ = (id, key);
        Ok(attrs)
    }

    /// For a workload's JWT-SVID.
    ///
    /// # Errors
    /// As above.
    async fn workload_jwt_svid(
        &self,
        id: &SpiffeId,
        claims: Map<String, Value>,
    ) -> Result<Map<String, Value>, PortError> {
        let _ = id;
        Ok(claims)
    }
}
