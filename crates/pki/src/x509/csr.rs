//! Certificate signing requests: reading, checking, making.

use signet_identity::SpiffeId;
use x509_parser::{
    certification_request::X509CertificationRequest, cri_attributes::ParsedCriAttribute,
    prelude::FromDer, x509::X509Version,
};

use super::{
    Name,
    cert::signature_hash,
    extension::{Extension, Extensions},
    write::{write_signature_algorithm, write_subject_alt_name},
};
use crate::{
    KeyAlgorithm, KeyError, ManagedKey, PublicKey, SignError, Signer,
    der::{Writer, is_signed_structure, oid, tag},
    signer,
};

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

/// A CSR, read and bounded; [`Csr::from_der`] also checks its signature.
#[derive(Clone, Debug)]
pub struct Csr {
    public_key: PublicKey,
    subject: Name,
    raw_subject: Vec<u8>,
    uris: Vec<String>,
    dns_names: Vec<String>,
    extensions: Vec<Extension>,
}

impl Csr {
    /// Reads a DER CSR and checks its signature.
    ///
    /// # Errors
    /// [`CsrError`] when it is malformed or too long, its key or signature algorithm is not
    /// supported, or its signature (where it is checked) is wrong.
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        let parts = Parts::read(der)?;
        let key = parts.verified_key()?;
        parts.into_csr(key)
    }

    /// Reads a DER CSR without checking its signature: for a stock SPIRE agent's attestation,
    /// where possession is proved by the TLS handshake that follows.
    ///
    /// # Errors
    /// [`CsrError`] when it is malformed or too long, its key or signature algorithm is not
    /// supported, or its signature (where it is checked) is wrong.
    pub fn from_der_unverified(der: &[u8]) -> Result<Self, CsrError> {
        let parts = Parts::read(der)?;
        let key = PublicKey::from_spki(parts.spki())?;
        parts.into_csr(key)
    }

    /// Reads only what issuing needs, the public key, and checks the signature: the hot path.
    ///
    /// # Errors
    /// [`CsrError`] when it is malformed or too long, its key or signature algorithm is not
    /// supported, or its signature (where it is checked) is wrong.
    pub fn verified_public_key(der: &[u8]) -> Result<PublicKey, CsrError> {
        Parts::read(der)?.verified_key()
    }

    /// The public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
    /// The subject.
    pub fn subject(&self) -> &Name {
        &self.subject
    }
    /// DER of the subject, byte for byte.
    pub fn raw_subject(&self) -> &[u8] {
        &self.raw_subject
    }
    /// The URI SANs.
    pub fn uris(&self) -> &[String] {
        &self.uris
    }
    /// The DNS SANs.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }
    /// The extensions it asks for, but those every certificate of ours has anyway (names, key
    /// usage, basic constraints, key identifiers).
    pub fn extensions(&self) -> &[Extension] {
        &self.extensions
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

/// Makes a CSR and signs it with a key in this process, DER.
///
/// # Errors
/// [`CsrError::Sign`] when the signer fails.
pub fn create_csr(params: &CsrParams, signer: &dyn Signer) -> Result<Vec<u8>, CsrError> {
    let info = request_info(params, signer.public_key());
    let signature = signer.sign_issued(&info)?;
    Ok(signed_csr(&info, signer.public_key(), &signature))
}

/// Makes a CSR and signs it with a key that may be elsewhere, DER.
///
/// # Errors
/// [`CsrError::Sign`] when the key's holder fails or does not answer in time.
pub async fn create_csr_with(params: &CsrParams, key: &ManagedKey) -> Result<Vec<u8>, CsrError> {
    let info = request_info(params, key.public_key());
    let signature = key.sign_issued(&info).await?;
    Ok(signed_csr(&info, key.public_key(), &signature))
}

/// The CertificationRequestInfo (RFC 2986 4.1), DER.
fn request_info(params: &CsrParams, key: &PublicKey) -> Vec<u8> {
    let has_names = params.uri.is_some() || !params.dns_names.is_empty();
    let mut info = Writer::with_capacity(512);
    info.sequence(|w| {
        w.unsigned(&[]);
        w.raw(&params.subject.to_der());
        w.raw(key.spki_der());
        w.constructed(tag::context_constructed(0), |w| {
            if !has_names && params.extensions.is_empty() {
                return;
            }
            w.sequence(|w| {
                w.oid(oid::EXTENSION_REQUEST);
                w.constructed(tag::SET, |w| {
                    w.sequence(|w| {
                        if has_names {
                            let uri = params.uri.as_ref().map(ToString::to_string);
                            write_subject_alt_name(w, false, &params.dns_names, uri.as_deref());
                        }
                        for extension in &params.extensions {
                            extension.write(w);
                        }
                    });
                });
            });
        });
    });
    info.into_bytes()
}

fn signed_csr(info: &[u8], key: &PublicKey, signature: &[u8]) -> Vec<u8> {
    let mut csr = Writer::with_capacity(info.len() + signature.len() + 32);
    csr.sequence(|w| {
        w.raw(info);
        write_signature_algorithm(w, key.algorithm());
        w.bit_string(0, signature);
    });
    csr.into_bytes()
}

/// A CSR taken apart, nothing copied.
struct Parts<'a>(X509CertificationRequest<'a>);

impl<'a> Parts<'a> {
    fn read(der: &'a [u8]) -> Result<Self, CsrError> {
        const MALFORMED: CsrError = CsrError::Malformed("not a PKCS#10 request in DER");
        if der.len() > MAX_CSR_LEN {
            return Err(CsrError::TooLong);
        }
        let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| MALFORMED)?;
        let is_der = rest.is_empty() && is_signed_structure(der);
        if !is_der || csr.certification_request_info.version != X509Version::V1 {
            return Err(MALFORMED);
        }
        Ok(Self(csr))
    }

    fn spki(&self) -> &'a [u8] {
        self.0.certification_request_info.subject_pki.raw
    }

    fn verified_key(&self) -> Result<PublicKey, CsrError> {
        let key = PublicKey::from_spki_unchecked(self.spki())?;
        let is_ec = !matches!(key.algorithm(), KeyAlgorithm::Rsa { .. });
        let hash = signature_hash(&self.0.signature_algorithm, is_ec)
            .ok_or(CsrError::UnsupportedSignature)?;
        let (signed, signature) =
            (self.0.certification_request_info.raw, &self.0.signature_value.data);
        signer::verify(&key, hash, signed, signature).map_err(|_| CsrError::BadSignature)?;
        Ok(key)
    }

    fn into_csr(self, public_key: PublicKey) -> Result<Csr, CsrError> {
        let info = &self.0.certification_request_info;
        let subject =
            Name::from_parsed(&info.subject).map_err(|_| CsrError::Malformed("bad subject"))?;
        // The first extension request counts; other attributes are skipped.
        let requested = info.iter_attributes().find_map(|a| match a.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(request) => Some(request.extensions.as_slice()),
            _ => None,
        });
        let extensions = Extensions::read(requested.unwrap_or_default())
            .map_err(|_| CsrError::Malformed("bad extension request"))?;
        Ok(Csr {
            public_key,
            subject,
            raw_subject: info.subject.as_raw().to_vec(),
            uris: extensions.uris,
            dns_names: extensions.dns_names,
            extensions: extensions.others,
        })
    }
}
