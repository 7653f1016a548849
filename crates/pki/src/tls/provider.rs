//! The crypto provider and the options that all our TLS shares.

/// Options of either side.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsOptions {
    /// Only TLS 1.3 with X25519MLKEM768, SecP256r1MLKEM768 or SecP384r1MLKEM1024, as far as the
    /// crypto library has them.
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
    /// The certificate is not for the key.
    #[error("the TLS certificate does not match its key")]
    KeyMismatch,
    /// rustls refused the configuration.
    #[error("TLS configuration")]
    Rustls(#[from] rustls::Error),
}
