//! What can go wrong with a certificate.

use signet_base::chain;
use signet_http::HttpError;
use signet_pki::{
    KeyError, SignError,
    pem::PemError,
    tls::TlsError,
    x509::{CertError, CsrError, IssueError},
};

use crate::StoreError;

/// The longest text of an error that is logged or shown, characters: parts of it are the
/// authority's.
const MAX_TEXT: usize = 600;

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcmeError {
    /// The authority cannot be asked, or answers with an error.
    #[error("the certificate authority")]
    Authority(#[from] instant_acme::Error),
    /// What it sent is no certificate.
    #[error("the certificate that came")]
    Certificate(#[from] CertError),
    /// The answer to a challenge cannot be made.
    #[error("the answer to the challenge")]
    Challenge(#[from] IssueError),
    /// The CSR cannot be made.
    #[error("the certificate signing request")]
    Csr(#[from] CsrError),
    /// HTTP cannot be set up.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The key of the answer to a challenge cannot be made.
    #[error("the key of the answer to the challenge")]
    Key(#[from] KeyError),
    /// It offers no challenge of the kind that a listener can answer.
    #[error(
        "the certificate authority offers no tls-alpn-01 challenge, the only kind that is answered"
    )]
    NoChallenge,
    /// What it sent is no PEM.
    #[error("the certificate that came")]
    Pem(#[from] PemError),
    /// It did not confirm the domain.
    #[error("the certificate authority does not confirm the domain: {0}")]
    Refused(String),
    /// A key did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Keys and certificates cannot be kept or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// All of it took too long.
    #[error("the order was not done within {0} s")]
    TimedOut(u64),
    /// TLS does not take the certificate.
    #[error("the certificate that came")]
    Tls(#[from] TlsError),
    /// What it sent is not what was asked for.
    #[error("the certificate that came is {0}")]
    Unfit(&'static str),
}

/// An error and its causes on one line, without control characters and not too long.
pub(crate) fn shown(error: &AcmeError) -> String {
    readable(&chain(error))
}

/// Text of the authority's as it can be shown.
pub(crate) fn readable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect()
}
