//! A CA certificate with its key: what upstream authorities sign with that are given one.

use std::{sync::Arc, time::Duration};

use signet_identity::{TrustDomain, X509Authority};
use signet_time::UnixTime;

use crate::{
    PrivateKey, SignError, Signer,
    ports::MintedCa,
    x509::{
        CaIssuer, CaParams, Certificate, Csr, CsrError, IssueError, Name, VerifyError, verify_ca,
    },
};

/// The life of a minted CA when the caller has no wish: as SPIRE.
const DEFAULT_TTL: Duration = Duration::from_secs(60 * 60);

/// A CA certificate with its key, its chain, and the roots that it is under.
#[derive(Debug)]
pub struct UpstreamCa {
    issuer: CaIssuer,
    roots: Vec<X509Authority>,
}

/// Why a CA cannot be used, or did not sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamCaError {
    /// There is no certificate.
    #[error("no certificate")]
    Empty,
    /// What is asked for is no CA of the trust domain.
    #[error("the CSR must have exactly one URI SAN, {0}")]
    Foreign(String),
    /// The key and the certificate are not of each other, or the CA has expired.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The key cannot be used.
    #[error(transparent)]
    Key(SignError),
    /// Several certificates, and nothing says what they are under.
    #[error("several certificates, but no roots")]
    NoRoots,
    /// The CSR is not understood.
    #[error(transparent)]
    Request(#[from] CsrError),
    /// The certificate is not under its roots.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

impl UpstreamCa {
    /// A CA of the first certificate of `chain`, under `roots`; without them it must be the only
    /// one, and is its own root.
    ///
    /// # Errors
    /// [`UpstreamCaError`].
    pub fn new(
        key: &PrivateKey,
        chain: &[Certificate],
        roots: Option<&[Certificate]>,
        now: UnixTime,
    ) -> Result<Self, UpstreamCaError> {
        let signer: Arc<dyn Signer> = key.signer().map_err(UpstreamCaError::Key)?;
        let (ca, above) = chain.split_first().ok_or(UpstreamCaError::Empty)?;
        let (roots, upstream_chain) = match roots {
            Some(roots) => (roots, chain),
            None if above.is_empty() => (chain, above),
            None => return Err(UpstreamCaError::NoRoots),
        };
        let ders = |certificates: &[Certificate]| -> Vec<Arc<[u8]>> {
            certificates.iter().map(|certificate| certificate.der().clone()).collect()
        };
        verify_ca(&ders(chain), &ders(roots), now)?;
        let issuer = CaIssuer::new(ca.clone(), ders(upstream_chain), signer)?;
        let roots = ders(roots).into_iter().map(|der| X509Authority { der, tainted: false });
        Ok(Self { issuer, roots: roots.collect() })
    }

    /// The roots.
    pub fn roots(&self) -> &[X509Authority] {
        &self.roots
    }

    /// Signs the CA of a server of the trust domain, by its DER CSR.
    ///
    /// # Errors
    /// [`UpstreamCaError`].
    pub fn mint(
        &self,
        csr: &[u8],
        ttl: Duration,
        trust_domain: &TrustDomain,
        now: UnixTime,
    ) -> Result<MintedCa, UpstreamCaError> {
        let csr = Csr::from_der(csr)?;
        let wanted = trust_domain.id_string();
        if csr.uris() != [wanted.as_str()] {
            return Err(UpstreamCaError::Foreign(wanted));
        }
        let ttl = if ttl.is_zero() { DEFAULT_TTL } else { ttl };
        let params = CaParams {
            trust_domain: trust_domain.clone(),
            subject: Name::default(),
            extensions: Vec::new(),
            now,
            not_after: now + ttl,
        };
        let issued = self.issuer.issue_ca_from_csr(&csr, &params)?;
        let mut chain: Vec<Arc<[u8]>> = vec![issued.der.into()];
        chain.extend(self.issuer.upstream_chain().iter().cloned());
        Ok(MintedCa { chain, upstream_roots: self.roots.clone() })
    }
}
