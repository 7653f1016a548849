//! The server side.

use std::sync::Arc;

use rustls::{ServerConfig, server::NoServerSessionStorage};
use signet_base::Clock;

use super::{
    BundleSource, SwappableIdentity, TlsError, TlsOptions,
    provider::{ALPN_H2, ClockTime, provider, versions},
    verifier::{ClientPolicy, SpiffeClientVerifier},
};

/// The server's TLS configuration: TLS 1.2 and 1.3, ALPN `h2`, an optional client certificate
/// that must verify against the bundle of its own trust domain, no session tickets, and the
/// identity that is set when a connection comes in.
///
/// # Errors
/// [`TlsError`] when certificate and key cannot be read or do not fit together.
pub fn server_config(
    identity: Arc<SwappableIdentity>,
    bundles: Arc<dyn BundleSource>,
    policy: ClientPolicy,
    clock: Arc<dyn Clock>,
    options: TlsOptions,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider(options);
    let algorithms = provider.signature_verification_algorithms;
    let verifier = SpiffeClientVerifier { bundles, policy, algorithms };
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(versions(options))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}
