//! The crypto provider and the options that all our TLS shares.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use rustls::{
    NamedGroup, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    time_provider::TimeProvider,
    version::{TLS12, TLS13},
};
use rustls_pki_types::UnixTime;
use signet_base::Clock;

/// Options of either side.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsOptions {
    /// Only TLS 1.3 with a hybrid post-quantum key exchange (X25519MLKEM768 or
    /// SecP256r1MLKEM768).
    pub require_pq_kem: bool,
}

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The certificate chain cannot be used.
    #[error(transparent)]
    Cert(#[from] crate::x509::CertError),
    /// The identity has no certificate.
    #[error("the TLS identity has no certificate")]
    Empty,
    /// The key cannot be used.
    #[error("TLS certificate")]
    Key(#[from] crate::KeyError),
    /// The certificate is not for the key.
    #[error("the TLS certificate does not match its key")]
    KeyMismatch,
    /// rustls refused the configuration.
    #[error("TLS configuration")]
    Rustls(#[from] rustls::Error),
}

/// The application protocol of gRPC.
pub const ALPN_H2: &[u8] = b"h2";
/// That of our HTTP endpoints.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// aws-lc-rs, restricted as the options say. Never installed as the process's default. The hybrid
/// post-quantum key exchange comes first, as with Go, so that it is used wherever both sides speak
/// TLS 1.3 and know it: what is recorded today stays secret when X25519 falls.
pub(super) fn provider(options: TlsOptions) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.sort_by_key(|group| group.name() != NamedGroup::X25519MLKEM768);
    if options.require_pq_kem {
        provider.kx_groups = aws_lc_rs::ALL_KX_GROUPS
            .iter()
            .copied()
            .filter(|group| {
                let name = group.name();
                name == NamedGroup::X25519MLKEM768 || name == NamedGroup::secp256r1MLKEM768
            })
            .collect();
    }
    Arc::new(provider)
}

pub(super) fn versions(options: TlsOptions) -> &'static [&'static SupportedProtocolVersion] {
    static TLS13_ONLY: &[&SupportedProtocolVersion] = &[&TLS13];
    static BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    if options.require_pq_kem { TLS13_ONLY } else { BOTH }
}

/// Our clock, for certificate validity.
#[derive(Debug)]
pub(super) struct ClockTime(pub(super) Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let now = self.0.now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Some(UnixTime::since_unix_epoch(now))
    }
}
