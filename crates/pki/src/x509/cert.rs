//! Reading certificates.

use std::{fmt, net::IpAddr, ops::Range, sync::Arc};

use signet_identity::SpiffeId;
use signet_time::UnixTime;
use x509_parser::{
    asn1_rs::Tag,
    certificate::X509Certificate,
    prelude::FromDer,
    x509::{AlgorithmIdentifier, X509Version},
};

use super::{
    Name, Serial,
    error::{CertError, MAX_AUTHORITIES, MAX_CERT_LEN},
    extension::Extensions,
    limits::Limits,
};
use crate::{
    KeyError, PublicKey,
    der::{DerError, Reader, is_signed_structure, oid, tag},
    signer::{self, Hash},
};

/// A certificate, read once. Cheap to clone.
#[derive(Clone)]
pub struct Certificate(Arc<Inner>);

struct Inner {
    der: Arc<[u8]>,
    serial: Serial,
    subject: Name,
    raw_subject: Vec<u8>,
    raw_issuer: Vec<u8>,
    not_before: UnixTime,
    not_after: UnixTime,
    uris: Vec<String>,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
    public_key: Option<PublicKey>,
    key_error: Option<KeyError>,
    /// Where SubjectPublicKeyInfo is in `der`.
    spki: Range<usize>,
    is_ca: bool,
    key_usage: Option<u16>,
    limits: Limits,
    subject_key_id: Vec<u8>,
    authority_key_id: Vec<u8>,
    /// Where the signed part is in `der`, the hash, and the signature.
    signed: (Range<usize>, Option<Hash>, Vec<u8>),
}

impl Certificate {
    /// Reads one DER certificate; trailing bytes are refused.
    ///
    /// # Errors
    /// [`CertError`]. A key of a kind we do not use is no error here, but in
    /// [`Certificate::public_key`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertError> {
        if der.len() > MAX_CERT_LEN {
            return Err(CertError::TooLong);
        }
        read(der).map(|inner| Self(Arc::new(inner)))
    }

    /// The DER bytes.
    pub fn der(&self) -> &Arc<[u8]> {
        &self.0.der
    }
    /// The serial number.
    pub fn serial(&self) -> &Serial {
        &self.0.serial
    }
    /// The subject.
    pub fn subject(&self) -> &Name {
        &self.0.subject
    }
    /// DER of the subject, byte for byte.
    pub fn raw_subject(&self) -> &[u8] {
        &self.0.raw_subject
    }
    /// DER of the issuer, byte for byte.
    pub fn raw_issuer(&self) -> &[u8] {
        &self.0.raw_issuer
    }
    /// Start of validity, Unix seconds.
    pub fn not_before(&self) -> UnixTime {
        self.0.not_before
    }
    /// End of validity, Unix seconds.
    pub fn not_after(&self) -> UnixTime {
        self.0.not_after
    }
    /// The URI SANs.
    pub fn uris(&self) -> &[String] {
        &self.0.uris
    }
    /// The DNS SANs.
    pub fn dns_names(&self) -> &[String] {
        &self.0.dns_names
    }
    /// The IP address SANs.
    pub fn ip_addresses(&self) -> &[IpAddr] {
        &self.0.ip_addresses
    }
    /// The public key.
    ///
    /// # Errors
    /// [`KeyError`] when it is of a kind or size that is not accepted.
    pub fn public_key(&self) -> Result<&PublicKey, KeyError> {
        self.0
            .public_key
            .as_ref()
            .ok_or_else(|| self.0.key_error.clone().unwrap_or(KeyError::Unsupported))
    }
    /// Basic constraints say CA.
    pub fn is_ca(&self) -> bool {
        self.0.is_ca
    }
    /// Key usage bits, bit n = the n-th of RFC 5280 4.2.1.3; `None` without the extension.
    pub fn key_usage(&self) -> Option<u16> {
        self.0.key_usage
    }
    /// Subject key identifier, empty without the extension.
    pub fn subject_key_id(&self) -> &[u8] {
        &self.0.subject_key_id
    }
    /// Subject key identifier in lower-case hex: SPIRE's authority ID.
    pub fn subject_key_id_hex(&self) -> String {
        hex::encode(&self.0.subject_key_id)
    }
    /// Authority key identifier, empty without the extension.
    pub fn authority_key_id(&self) -> &[u8] {
        &self.0.authority_key_id
    }
    /// Authority key identifier in lower-case hex.
    pub fn authority_key_id_hex(&self) -> String {
        hex::encode(&self.0.authority_key_id)
    }
    /// Whether subject and issuer are the same and the key signed itself.
    pub fn is_self_signed(&self) -> bool {
        self.0.raw_subject == self.0.raw_issuer
            && self.public_key().is_ok_and(|key| self.is_signed_by(key))
    }
    /// Whether `issuer`'s key signed this certificate (names are not compared).
    pub fn is_signed_by(&self, issuer: &PublicKey) -> bool {
        let (range, hash, signature) = &self.0.signed;
        match (self.0.der.get(range.clone()), hash) {
            (Some(signed), Some(hash)) => signer::verify(issuer, *hash, signed, signature).is_ok(),
            _ => false,
        }
    }
    /// Whether the key of `issuer` signed this certificate (names are not compared): any kind of
    /// key and signature that path validation takes.
    pub(super) fn is_signed_by_key_of(&self, issuer: &Certificate) -> bool {
        let check = || {
            let mut certificate = Reader::new(&self.0.der).enter(tag::SEQUENCE)?;
            let signed = certificate.next()?.raw;
            let signature_algorithm = certificate.expect(tag::SEQUENCE)?;
            let signature = certificate.bits()?;
            let mut spki = Reader::new(issuer.spki()).enter(tag::SEQUENCE)?;
            let key_algorithm = spki.expect(tag::SEQUENCE)?;
            let key = spki.bits()?;
            let algorithm = webpki::ALL_VERIFICATION_ALGS
                .iter()
                .find(|algorithm| {
                    algorithm.signature_alg_id().as_ref() == signature_algorithm
                        && algorithm.public_key_alg_id().as_ref() == key_algorithm
                })
                .ok_or(DerError)?;
            algorithm.verify_signature(key, signed, signature).map_err(|_| DerError)
        };
        check().is_ok()
    }
    /// SubjectPublicKeyInfo, DER; of any kind.
    pub(crate) fn spki(&self) -> &[u8] {
        self.0.der.get(self.0.spki.clone()).unwrap_or_default()
    }
    /// What it says about paths.
    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }
    /// The one URI SAN as a SPIFFE ID.
    ///
    /// # Errors
    /// [`CertError`] when there is not exactly one, or it is not a SPIFFE ID.
    pub fn spiffe_id(&self) -> Result<SpiffeId, CertError> {
        match self.0.uris.as_slice() {
            [uri] => Ok(uri.parse()?),
            uris => Err(CertError::UriCount(uris.len())),
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({}, serial {})", self.0.subject, self.0.serial)
    }
}

/// Reads a chain of DER certificates, leaf first.
///
/// # Errors
/// [`CertError`] of the first that is refused.
pub fn parse_chain<T: AsRef<[u8]>>(ders: &[T]) -> Result<Vec<Certificate>, CertError> {
    ders.iter().map(|der| Certificate::from_der(der.as_ref())).collect()
}

/// Splits concatenated DER certificates, a chain or a bundle, as the Workload API carries them.
///
/// # Errors
/// [`CertError::Malformed`] when the bytes do not end with the end of a certificate, or there are
/// more of them than a bundle may have.
pub fn split_der_chain(bytes: &[u8]) -> Result<Vec<&[u8]>, CertError> {
    let mut reader = Reader::new(bytes);
    let mut ders = Vec::new();
    while !reader.is_empty() {
        match reader.next() {
            Ok(value) if value.tag == tag::SEQUENCE && ders.len() < MAX_AUTHORITIES => {
                ders.push(value.raw);
            }
            _ => return Err(CertError::Malformed("certificate chain")),
        }
    }
    Ok(ders)
}

/// The hash of a signature algorithm we verify ourselves; others are left to path validation.
pub(super) fn signature_hash(algorithm: &AlgorithmIdentifier<'_>, is_ec: bool) -> Option<Hash> {
    let parameters = algorithm.parameters.as_ref();
    let is_ec_form = parameters.is_none();
    let is_rsa_form = parameters.is_some_and(|p| p.tag() == Tag::Null && p.data.is_empty());
    match (algorithm.algorithm.as_bytes(), is_ec) {
        (oid::ECDSA_SHA256, true) if is_ec_form => Some(Hash::Sha256),
        (oid::ECDSA_SHA384, true) if is_ec_form => Some(Hash::Sha384),
        (oid::ECDSA_SHA512, true) if is_ec_form => Some(Hash::Sha512),
        (oid::RSA_SHA256, false) if is_rsa_form => Some(Hash::Sha256),
        (oid::RSA_SHA384, false) if is_rsa_form => Some(Hash::Sha384),
        (oid::RSA_SHA512, false) if is_rsa_form => Some(Hash::Sha512),
        _ => None,
    }
}

fn read(der: &[u8]) -> Result<Inner, CertError> {
    const MALFORMED: CertError = CertError::Malformed("certificate");
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| MALFORMED)?;
    let tbs = &certificate.tbs_certificate;
    let is_der = rest.is_empty() && is_signed_structure(der);
    if !is_der || certificate.signature_algorithm != tbs.signature {
        return Err(MALFORMED);
    }
    let signed = range_of(der, tbs.as_ref()).ok_or(MALFORMED)?;
    let spki = range_of(der, tbs.subject_pki.raw).ok_or(MALFORMED)?;
    let malformed = |_| CertError::Malformed("certificate extensions");
    let mut extensions = Extensions::read(tbs.extensions()).map_err(malformed)?;
    let limits =
        Limits::take(tbs.version == X509Version::V3, &mut extensions).map_err(malformed)?;

    let key = PublicKey::from_spki(tbs.subject_pki.raw);
    // The signature is the issuer's: its kind of key shows in the algorithm.
    let algorithm = &certificate.signature_algorithm;
    let hash = signature_hash(algorithm, true).or_else(|| signature_hash(algorithm, false));
    Ok(Inner {
        der: der.into(),
        serial: Serial::from_bytes(tbs.raw_serial()),
        subject: Name::from_parsed(&tbs.subject)?,
        raw_subject: tbs.subject.as_raw().to_vec(),
        raw_issuer: tbs.issuer.as_raw().to_vec(),
        not_before: UnixTime::from_seconds(tbs.validity.not_before.timestamp()),
        not_after: UnixTime::from_seconds(tbs.validity.not_after.timestamp()),
        uris: extensions.uris,
        dns_names: extensions.dns_names,
        ip_addresses: extensions.ip_addresses,
        key_error: key.as_ref().err().cloned(),
        public_key: key.ok(),
        spki,
        is_ca: extensions.is_ca,
        key_usage: extensions.key_usage,
        limits,
        subject_key_id: extensions.subject_key_id,
        authority_key_id: extensions.authority_key_id,
        signed: (signed, hash, certificate.signature_value.data.to_vec()),
    })
}

/// Where `part`, a slice of `whole`, is in it.
fn range_of(whole: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let range = start..start.checked_add(part.len())?;
    (whole.get(range.clone())? == part).then_some(range)
}
