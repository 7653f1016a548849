//! Reading certificates.

use std::{fmt, net::IpAddr, sync::Arc};

use signet_identity::{SpiffeId, SpiffeIdError};

use super::{Name, Oid, Serial};
use crate::{
    KeyError, PublicKey,
    der::{DerError, Reader, oid, tag},
    signer::{self, Hash},
};

/// The longest certificate that is read, bytes.
pub const MAX_CERT_LEN: usize = 64 * 1024;

/// The most certificates that a chain may hold.
pub const MAX_CHAIN: usize = 16;

const MAX_EXTENSIONS: usize = 64;

/// Why bytes are not a certificate we use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// Not DER of the expected structure.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// More bytes than a certificate may have.
    #[error("certificate is longer than {MAX_CERT_LEN} bytes")]
    TooLong,
    /// The public key is of a kind or size that is not accepted.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No URI SAN, or more than one.
    #[error("certificate has {0} URI SANs, expected exactly one")]
    UriCount(usize),
    /// The URI SAN is not a SPIFFE ID.
    #[error("certificate URI SAN is not a SPIFFE ID")]
    SpiffeId(#[from] SpiffeIdError),
}

/// A certificate, read once. Cheap to clone.
#[derive(Clone)]
pub struct Certificate(Arc<Inner>);

struct Inner {
    der: Arc<[u8]>,
    serial: Serial,
    subject: Name,
    raw_subject: Vec<u8>,
    raw_issuer: Vec<u8>,
    not_before: i64,
    not_after: i64,
    uris: Vec<String>,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
    public_key: Option<PublicKey>,
    key_error: Option<KeyError>,
    is_ca: bool,
    key_usage: Option<u16>,
    subject_key_id: Vec<u8>,
    authority_key_id: Vec<u8>,
    /// Where the signed part is in `der`, the hash, and the signature.
    signed: (std::ops::Range<usize>, Option<Hash>, Vec<u8>),
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
    pub fn not_before(&self) -> i64 {
        self.0.not_before
    }
    /// End of validity, Unix seconds.
    pub fn not_after(&self) -> i64 {
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

/// Splits concatenated DER certificates, as the Workload API carries them.
///
/// # Errors
/// [`CertError::Malformed`] when the bytes do not end with the end of a certificate.
pub fn split_der_chain(bytes: &[u8]) -> Result<Vec<&[u8]>, CertError> {
    let mut reader = Reader::new(bytes);
    let mut ders = Vec::new();
    while !reader.is_empty() {
        match reader.next() {
            Ok(value) if value.tag == tag::SEQUENCE && ders.len() < MAX_CHAIN => {
                ders.push(value.raw);
            }
            _ => return Err(CertError::Malformed("certificate chain")),
        }
    }
    Ok(ders)
}

/// Extensions of a certificate or a CSR that we look at.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) uris: Vec<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) ip_addresses: Vec<IpAddr>,
    pub(super) is_ca: bool,
    pub(super) key_usage: Option<u16>,
    pub(super) subject_key_id: Vec<u8>,
    pub(super) authority_key_id: Vec<u8>,
    /// All others.
    pub(super) others: Vec<super::Extension>,
}

impl Extensions {
    /// Reads the content of a SEQUENCE OF Extension; one that comes twice is refused.
    pub(super) fn read(mut list: Reader<'_>) -> Result<Self, DerError> {
        let mut out = Self::default();
        let mut seen: Vec<&[u8]> = Vec::new();
        while !list.is_empty() {
            let mut extension = list.enter(tag::SEQUENCE)?;
            let id = extension.expect(tag::OID)?;
            let critical = extension.optional(tag::BOOLEAN)?.is_some_and(|b| b == [0xff]);
            let value = extension.expect(tag::OCTET_STRING)?;
            extension.finish()?;
            if seen.contains(&id) || seen.len() == MAX_EXTENSIONS {
                return Err(DerError);
            }
            seen.push(id);
            out.take(id, critical, value)?;
        }
        Ok(out)
    }

    fn take(&mut self, id: &[u8], critical: bool, value: &[u8]) -> Result<(), DerError> {
        let mut reader = Reader::new(value);
        match id {
            oid::SUBJECT_ALT_NAME => {
                let mut names = reader.enter(tag::SEQUENCE)?;
                while !names.is_empty() {
                    let name = names.next()?;
                    let list = match name.tag {
                        0x82 => &mut self.dns_names,
                        0x86 => &mut self.uris,
                        0x87 => {
                            self.ip_addresses.push(ip_address(name.content)?);
                            continue;
                        }
                        _ => continue,
                    };
                    list.push(ascii(name.content)?);
                }
            }
            oid::BASIC_CONSTRAINTS => {
                let mut constraints = reader.enter(tag::SEQUENCE)?;
                self.is_ca = constraints.optional(tag::BOOLEAN)?.is_some_and(|b| b != [0]);
            }
            oid::KEY_USAGE => self.key_usage = Some(key_usage(reader.expect(tag::BIT_STRING)?)?),
            oid::SUBJECT_KEY_ID => {
                self.subject_key_id = reader.expect(tag::OCTET_STRING)?.to_vec();
            }
            oid::AUTHORITY_KEY_ID => {
                let mut ids = reader.enter(tag::SEQUENCE)?;
                let id = ids.optional(tag::context(0))?;
                self.authority_key_id = id.unwrap_or_default().to_vec();
            }
            _ => {
                let (oid, value) = (Oid::from_content(id), value.to_vec());
                self.others.push(super::Extension { oid, critical, value });
                return Ok(());
            }
        }
        reader.finish()
    }
}

/// The hash of a signature algorithm we verify ourselves; others are left to path validation.
pub(super) fn signature_hash(algorithm: &[u8], is_ec: bool) -> Option<Hash> {
    let mut reader = Reader::new(algorithm);
    let id = reader.expect(tag::OID).ok()?;
    let is_rsa_form = reader.rest() == [tag::NULL, 0];
    match (id, is_ec) {
        (oid::ECDSA_SHA256, true) if reader.is_empty() => Some(Hash::Sha256),
        (oid::ECDSA_SHA384, true) if reader.is_empty() => Some(Hash::Sha384),
        (oid::ECDSA_SHA512, true) if reader.is_empty() => Some(Hash::Sha512),
        (oid::RSA_SHA256, false) if is_rsa_form => Some(Hash::Sha256),
        (oid::RSA_SHA384, false) if is_rsa_form => Some(Hash::Sha384),
        (oid::RSA_SHA512, false) if is_rsa_form => Some(Hash::Sha512),
        _ => None,
    }
}

fn read(der: &[u8]) -> Result<Inner, CertError> {
    const MALFORMED: CertError = CertError::Malformed("certificate");
    let bad = |_: DerError| MALFORMED;
    let mut outer = Reader::new(der);
    let mut certificate = outer.enter(tag::SEQUENCE).map_err(bad)?;
    outer.finish().map_err(bad)?;
    let before = der.len() - certificate.rest().len();
    let signed = certificate.next().map_err(bad)?;
    let range = before..before + signed.raw.len();
    let algorithm = certificate.expect(tag::SEQUENCE).map_err(bad)?;
    let signature = certificate.bits().map_err(bad)?;
    certificate.finish().map_err(bad)?;
    if signed.tag != tag::SEQUENCE {
        return Err(MALFORMED);
    }

    let mut tbs = Reader::new(signed.content);
    tbs.optional(tag::context_constructed(0)).map_err(bad)?;
    let serial = Serial::from_bytes(tbs.expect(tag::INTEGER).map_err(bad)?);
    let inner_algorithm = tbs.expect(tag::SEQUENCE).map_err(bad)?;
    let issuer = tbs.next().map_err(bad)?;
    let mut validity = tbs.enter(tag::SEQUENCE).map_err(bad)?;
    let (not_before, not_after) = (validity.time().map_err(bad)?, validity.time().map_err(bad)?);
    validity.finish().map_err(bad)?;
    let subject = tbs.next().map_err(bad)?;
    let spki = tbs.next().map_err(bad)?;
    for unique_id in [1, 2] {
        tbs.optional(tag::context(unique_id)).map_err(bad)?;
    }
    let extensions = match tbs.optional(tag::context_constructed(3)).map_err(bad)? {
        Some(explicit) => {
            let mut explicit = Reader::new(explicit);
            let list = explicit.enter(tag::SEQUENCE).map_err(bad)?;
            explicit.finish().map_err(bad)?;
            Extensions::read(list).map_err(|_| CertError::Malformed("certificate extensions"))?
        }
        None => Extensions::default(),
    };
    tbs.finish().map_err(bad)?;
    if algorithm != inner_algorithm {
        return Err(MALFORMED);
    }

    let key = PublicKey::from_spki(spki.raw);
    // The signature is the issuer's: its kind of key shows in the algorithm.
    let hash = signature_hash(algorithm, true).or_else(|| signature_hash(algorithm, false));
    Ok(Inner {
        der: der.into(),
        serial,
        subject: Name::from_der(subject.raw)?,
        raw_subject: subject.raw.to_vec(),
        raw_issuer: issuer.raw.to_vec(),
        not_before,
        not_after,
        uris: extensions.uris,
        dns_names: extensions.dns_names,
        ip_addresses: extensions.ip_addresses,
        key_error: key.as_ref().err().cloned(),
        public_key: key.ok(),
        is_ca: extensions.is_ca,
        key_usage: extensions.key_usage,
        subject_key_id: extensions.subject_key_id,
        authority_key_id: extensions.authority_key_id,
        signed: (range, hash, signature.to_vec()),
    })
}

/// Named bits, the first of RFC 5280 as bit 0.
fn key_usage(content: &[u8]) -> Result<u16, DerError> {
    let (_unused, bytes) = content.split_first().ok_or(DerError)?;
    let octet = |at: usize| bytes.get(at).copied().unwrap_or_default().reverse_bits();
    Ok(u16::from(octet(0)) | u16::from(octet(1)) << 8)
}

fn ip_address(bytes: &[u8]) -> Result<IpAddr, DerError> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_err(|_| DerError)
}

fn ascii(bytes: &[u8]) -> Result<String, DerError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Ok(text.to_owned()),
        _ => Err(DerError),
    }
}
