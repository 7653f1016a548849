//! The client side.

use std::sync::Arc;

use rustls::{ClientConfig, client::Resumption};
use rustls_pki_types::ServerName;
use signet_base::Clock;

use super::{
    SwappableIdentity, TlsError, TlsOptions,
    provider::{ALPN_H2, ALPN_HTTP1, ClockTime, provider, versions},
    verifier::{ServerCheck, SpiffeServerVerifier},
};

/// A client's TLS configuration: TLS 1.2 and 1.3, ALPN `h2`, no host names and no SNI, and our
/// certificate when there is one and the server asks.
///
/// # Errors
/// [`TlsError`] when certificate and key cannot be read or do not fit together.
pub fn client_config(
    check: ServerCheck,
    identity: Option<Arc<SwappableIdentity>>,
    clock: Arc<dyn Clock>,
    options: TlsOptions,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = spiffe_config(check, identity, clock, options)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// A client's TLS configuration for HTTP/1.1 with a server that proves itself by its X.509-SVID
/// (profile `https_spiffe` of SPIFFE Federation, section 5.2.2). The host name is sent, for what
/// routes by it, and never checked.
///
/// # Errors
/// [`TlsError`] when certificate and key cannot be read or do not fit together.
pub fn spiffe_web_client_config(
    check: ServerCheck,
    clock: Arc<dyn Clock>,
    options: TlsOptions,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = spiffe_config(check, None, clock, options)?;
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    Ok(Arc::new(config))
}

fn spiffe_config(
    check: ServerCheck,
    identity: Option<Arc<SwappableIdentity>>,
    clock: Arc<dyn Clock>,
    options: TlsOptions,
) -> Result<ClientConfig, TlsError> {
    let provider = provider(options);
    let algorithms = provider.signature_verification_algorithms;
    let verifier = SpiffeServerVerifier { check, algorithms };
    let builder = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(versions(options))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// What rustls wants as a name: never looked at, never sent.
pub fn no_server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED).into())
}
