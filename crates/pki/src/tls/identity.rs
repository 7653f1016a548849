//! The certificate we present, exchanged while connections are open.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::{self, CertifiedKey, SigningKey},
};
use rustls_pki_types::CertificateDer;

use super::TlsError;
use crate::{KeyAlgorithm, SignatureAlgorithm, Signer, x509::Certificate};

/// A certificate chain with its signer.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    leaf: Certificate,
    key: Arc<CertifiedKey>,
}

impl TlsIdentity {
    /// `chain` is DER, leaf first.
    ///
    /// # Errors
    /// [`TlsError`] when the leaf is not for the signer's key.
    pub fn new(chain: &[Arc<[u8]>], signer: Arc<dyn Signer>) -> Result<Self, TlsError> {
        let leaf = Certificate::from_der(chain.first().ok_or(TlsError::Empty)?)?;
        if leaf.public_key()? != signer.public_key() {
            return Err(TlsError::KeyMismatch);
        }
        let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let key = Arc::new(CertifiedKey::new(chain, Arc::new(TlsKey(signer))));
        Ok(Self { leaf, key })
    }

    /// The leaf.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// For rustls.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

/// An identity that new connections present from the moment it is set; open connections keep the
/// one they started with.
#[derive(Debug, Default)]
pub struct SwappableIdentity(ArcSwapOption<TlsIdentity>);

impl SwappableIdentity {
    /// Without an identity yet: a server refuses handshakes, a client presents none.
    pub fn empty() -> Self {
        Self::default()
    }

    /// With an identity.
    pub fn new(identity: TlsIdentity) -> Self {
        Self(ArcSwapOption::from_pointee(identity))
    }

    /// Replaces the identity.
    pub fn set(&self, identity: TlsIdentity) {
        self.0.store(Some(Arc::new(identity)));
    }

    /// Presents nothing from now on.
    pub fn clear(&self) {
        self.0.store(None);
    }

    /// The identity now.
    pub fn get(&self) -> Option<Arc<TlsIdentity>> {
        self.0.load_full()
    }
}

impl ResolvesServerCert for SwappableIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|identity| identity.key.clone())
    }
}

impl ResolvesClientCert for SwappableIdentity {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|identity| identity.key.clone())
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

/// A signer as rustls wants it.
#[derive(Debug)]
struct TlsKey(Arc<dyn Signer>);

#[derive(Debug)]
struct TlsSigner {
    signer: Arc<dyn Signer>,
    scheme: SignatureScheme,
    algorithm: SignatureAlgorithm,
}

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn sign::Signer>> {
        use SignatureAlgorithm as A;
        use SignatureScheme as S;
        let able: &[_] = match self.0.public_key().algorithm() {
            KeyAlgorithm::EcP256 => &[(S::ECDSA_NISTP256_SHA256, A::EcdsaP256Sha256)],
            KeyAlgorithm::EcP384 => &[(S::ECDSA_NISTP384_SHA384, A::EcdsaP384Sha384)],
            KeyAlgorithm::EcP521 => &[(S::ECDSA_NISTP521_SHA512, A::EcdsaP521Sha512)],
            KeyAlgorithm::Rsa { .. } => &[
                (S::RSA_PSS_SHA256, A::RsaPssSha256),
                (S::RSA_PSS_SHA384, A::RsaPssSha384),
                (S::RSA_PSS_SHA512, A::RsaPssSha512),
                (S::RSA_PKCS1_SHA256, A::RsaPkcs1Sha256),
                (S::RSA_PKCS1_SHA384, A::RsaPkcs1Sha384),
                (S::RSA_PKCS1_SHA512, A::RsaPkcs1Sha512),
            ],
        };
        let &(scheme, algorithm) = able.iter().find(|(scheme, _)| offered.contains(scheme))?;
        Some(Box::new(TlsSigner { signer: self.0.clone(), scheme, algorithm }))
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        match self.0.public_key().algorithm() {
            KeyAlgorithm::Rsa { .. } => rustls::SignatureAlgorithm::RSA,
            _ => rustls::SignatureAlgorithm::ECDSA,
        }
    }
}

impl sign::Signer for TlsSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.signer
            .sign(self.algorithm, message)
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
