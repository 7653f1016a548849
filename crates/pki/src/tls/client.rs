//! The client side.

use std::sync::Arc;

use rustls::ClientConfig;
use signet_base::Clock;
use signet_identity::{SpiffeId, TrustDomain};

use super::{BundleSource, SwappableIdentity, TlsError, TlsOptions};

/// How the server's certificate is checked.
#[derive(Clone, Debug)]
pub enum ServerCheck {
    /// A valid SVID of exactly this ID, by the bundle of its trust domain.
    Id {
        /// The ID it must have, `spiffe://<td>/spire/server`.
        id: SpiffeId,
        /// Where its bundle is found.
        bundles: Arc<dyn BundleSource>,
    },
    /// A valid SVID of any member of this trust domain.
    Member {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Where its bundle is found.
        bundles: Arc<dyn BundleSource>,
    },
    /// `insecure_bootstrap`: no chain check, only that the one URI SAN is this ID and that the
    /// peer holds the key.
    InsecureId {
        /// The ID it must claim.
        id: SpiffeId,
    },
}

/// A client's TLS configuration: TLS 1.2 and 1.3, ALPN `h2`, no host names and no SNI, and our
/// certificate when there is one and the server asks.
///
/// # Errors
/// [`TlsError`].
pub fn client_config(
    check: ServerCheck,
    identity: Option<Arc<SwappableIdentity>>,
    clock: Arc<dyn Clock>,
    options: TlsOptions,
) -> Result<Arc<ClientConfig>, TlsError> {
    let _ = (check, identity, clock, options);
    todo!()
}
