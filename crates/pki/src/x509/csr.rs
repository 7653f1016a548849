//! Certificate signing requests: reading, checking, making.

use signet_identity::SpiffeId;

use super::{Extension, Name};
use crate::{KeyError, PublicKey, SignError, Signer};

/// The longest CSR that is read, bytes.
pub const MAX_CSR_LEN: usize = 16 * 1024;

/// Why a CSR was refused or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// The signature does not match the key in the CSR.
    #[error("CSR signature does not match its public key")]
    BadSignature,
    /// The public key is of a kind or size that is not accepted.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not DER of the expected structure.
    #[error("malformed CSR: {0}")]
    Malformed(&'static str),
    /// Signing a new CSR failed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// More bytes than a CSR may have.
    #[error("CSR is longer than {MAX_CSR_LEN} bytes")]
    TooLong,
    /// Signed with an algorithm that is not accepted or does not fit the key.
    #[error("CSR is signed with an unsupported algorithm")]
    UnsupportedSignature,
}

/// A CSR, read and bounded. Its signature is checked by [`Csr::verify`] or [`Csr::from_der`].
#[derive(Clone, Debug)]
pub struct Csr {
    public_key: PublicKey,
    subject: Name,
    uris: Vec<String>,
    dns_names: Vec<String>,
}

impl Csr {
    /// Reads a DER CSR and checks its signature.
    ///
    /// # Errors
    /// [`CsrError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        let _ = der;
        todo!()
    }

    /// Reads a DER CSR without checking its signature: for a stock SPIRE agent's attestation,
    /// where possession is proved by the TLS handshake that follows.
    ///
    /// # Errors
    /// [`CsrError`].
    pub fn from_der_unverified(der: &[u8]) -> Result<Self, CsrError> {
        let _ = der;
        todo!()
    }

    /// Reads only what issuing needs, the public key, and checks the signature: the hot path.
    ///
    /// # Errors
    /// [`CsrError`].
    pub fn verified_public_key(der: &[u8]) -> Result<PublicKey, CsrError> {
        let _ = der;
        todo!()
    }

    /// The public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
    /// The subject.
    pub fn subject(&self) -> &Name {
        &self.subject
    }
    /// The URI SANs.
    pub fn uris(&self) -> &[String] {
        &self.uris
    }
    /// The DNS SANs.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }
}

/// What a new CSR says.
#[derive(Clone, Debug)]
pub struct CsrParams {
    /// The subject.
    pub subject: Name,
    /// A URI SAN, if any.
    pub uri: Option<SpiffeId>,
    /// DNS SANs.
    pub dns_names: Vec<String>,
    /// Further extensions to ask for.
    pub extensions: Vec<Extension>,
}

impl CsrParams {
    /// As a SPIRE agent asks for its own SVID: subject C=US, O=SPIRE and nothing else.
    pub fn agent() -> Self {
        Self { subject: Name::spire_svid(), uri: None, dns_names: vec![], extensions: vec![] }
    }

    /// As a SPIRE agent asks for a workload's SVID: C=US, O=SPIRE and the ID as URI SAN.
    pub fn workload(id: SpiffeId) -> Self {
        Self { uri: Some(id), ..Self::agent() }
    }
}

/// Makes and signs a CSR, DER.
///
/// # Errors
/// [`CsrError::Sign`] when the signer fails.
pub fn create_csr(params: &CsrParams, signer: &dyn Signer) -> Result<Vec<u8>, CsrError> {
    let _ = (params, signer);
    todo!()
}
