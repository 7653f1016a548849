//! The server side.

use std::sync::Arc;

use rustls::ServerConfig;
use signet_base::Clock;
use signet_identity::{SpiffeId, TrustDomain};

use super::{BundleSource, SwappableIdentity, TlsError, TlsOptions};

/// Who may connect with a certificate. Connecting without one is always possible (attestation).
#[derive(Clone, Debug)]
pub struct ClientPolicy {
    /// Every member of it.
    pub trust_domain: TrustDomain,
    /// And these, of any trust domain.
    pub admin_ids: Arc<[SpiffeId]>,
}

/// The server's TLS configuration: TLS 1.2 and 1.3, ALPN `h2`, an optional client certificate
/// that must verify against the bundle of its own trust domain, no session tickets, and the
/// identity that is set when a connection comes in.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(
    identity: Arc<SwappableIdentity>,
    bundles: Arc<dyn BundleSource>,
    policy: ClientPolicy,
    clock: Arc<dyn Clock>,
    options: TlsOptions,
) -> Result<Arc<ServerConfig>, TlsError> {
    let _ = (identity, bundles, policy, clock, options);
    todo!()
}
