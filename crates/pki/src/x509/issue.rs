//! Issuing: SVIDs and CA certificates.

use std::{borrow::Cow, sync::Arc};

use signet_identity::{SpiffeId, TrustDomain};
use signet_time::UnixTime;

use super::{
    Certificate, Csr, Extension, Name, Serial,
    error::{CertError, MAX_CERT_LEN},
    write::{write_signature_algorithm, write_subject_alt_name},
};
use crate::{
    KeyAlgorithm, KeyError, ManagedKey, PublicKey, SignError, Signer,
    der::{Writer, oid, tag},
    random::RandomError,
};

/// How far before now a certificate starts to be valid, seconds, against clock skew.
pub const NOT_BEFORE_CUSHION: i64 = 10;

/// The longest signature (RSA of 8192 bits) with its algorithm and headers.
const MAX_SIGNATURE_LEN: usize = 1100;

/// Why a certificate could not be issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The CA certificate is not usable.
    #[error("CA certificate")]
    Ca(#[source] CertError),
    /// The CA certificate's key is not usable.
    #[error("CA certificate")]
    CaKey(#[source] KeyError),
    /// The CA certificate is not for the signer's key.
    #[error("the CA certificate does not match its key")]
    KeyMismatch,
    /// The CA chain is empty.
    #[error("the CA has no certificate")]
    NoCertificate,
    /// The CA has expired: everything it could sign would be expired too.
    #[error("the CA expired")]
    CaExpired,
    /// Names and extensions are more than a certificate may hold.
    #[error("the certificate would be longer than {MAX_CERT_LEN} bytes")]
    TooLong,
    /// No randomness for the serial number.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The signer failed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// A certificate just issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// DER of the certificate alone.
    pub der: Vec<u8>,
    /// Its serial number.
    pub serial: Serial,
    /// Start of validity, Unix seconds.
    pub not_before: UnixTime,
    /// End of validity, Unix seconds.
    pub not_after: UnixTime,
}

/// What an X.509-SVID says.
#[derive(Clone, Copy, Debug)]
pub struct SvidParams<'a> {
    /// Whom it names: the one URI SAN.
    pub spiffe_id: &'a SpiffeId,
    /// The key it certifies.
    pub public_key: &'a PublicKey,
    /// DNS SANs; the caller sets the subject's common name (SPIRE: the first of these).
    pub dns_names: &'a [String],
    /// The subject; `None` for C=US, O=SPIRE with the first DNS name as common name.
    pub subject: Option<&'a Name>,
    /// Further extensions.
    pub extensions: &'a [Extension],
    /// Now, Unix seconds; validity starts 10 s before.
    pub now: UnixTime,
    /// Wanted end of validity, Unix seconds; capped by the CA's.
    pub not_after: UnixTime,
}

/// What a CA certificate says.
#[derive(Clone, Debug)]
pub struct CaParams {
    /// Whose CA: the URI SAN `spiffe://<td>`.
    pub trust_domain: TrustDomain,
    /// The subject; without a serial number, the certificate's is put there (decimal).
    pub subject: Name,
    /// Further extensions.
    pub extensions: Vec<Extension>,
    /// Now, Unix seconds; validity starts 10 s before.
    pub now: UnixTime,
    /// Wanted end of validity, Unix seconds.
    pub not_after: UnixTime,
}

/// A CA without its key: what its certificates say. Everything that does not change from
/// certificate to certificate is encoded once.
#[derive(Debug)]
pub struct Ca {
    certificate: Certificate,
    upstream_chain: Vec<Arc<[u8]>>,
    template: Template,
}

impl Ca {
    /// `upstream_chain` is what is sent after each leaf: nothing for a self-signed CA, else the
    /// CA's own certificate and the intermediates up to but without the root. `key` is what it
    /// will sign with.
    ///
    /// # Errors
    /// [`IssueError::KeyMismatch`] when the certificate is for another key,
    /// [`IssueError::CaKey`] when its key is of no use.
    pub fn new(
        certificate: Certificate,
        upstream_chain: Vec<Arc<[u8]>>,
        key: &PublicKey,
    ) -> Result<Self, IssueError> {
        if certificate.public_key().map_err(IssueError::CaKey)? != key {
            return Err(IssueError::KeyMismatch);
        }
        let template = Template::new(&certificate, key.algorithm());
        Ok(Self { certificate, upstream_chain, template })
    }

    /// The CA certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What is sent after each leaf: empty for a self-signed CA.
    pub fn upstream_chain(&self) -> &[Arc<[u8]>] {
        &self.upstream_chain
    }

    /// An X.509-SVID, to be signed with this CA's key.
    ///
    /// # Errors
    /// [`IssueError::CaExpired`], or no randomness.
    pub fn svid(&self, params: &SvidParams<'_>) -> Result<UnsignedCertificate<'_>, IssueError> {
        self.numbered_svid(params, Serial::random()?)
    }

    /// As [`Ca::svid`], with a serial number that somebody else made.
    ///
    /// # Errors
    /// [`IssueError::CaExpired`].
    pub fn numbered_svid(
        &self,
        params: &SvidParams<'_>,
        serial: Serial,
    ) -> Result<UnsignedCertificate<'_>, IssueError> {
        let subject = match (params.subject, params.dns_names.first()) {
            (Some(subject), _) => Cow::Owned(subject.to_der()),
            (None, Some(dns_name)) => {
                let name = Name { common_name: dns_name.clone(), ..Name::spire_svid() };
                Cow::Owned(name.to_der())
            }
            (None, None) => Cow::Borrowed(&*self.template.svid_subject),
        };
        let uri = params.spiffe_id.to_string();
        let tbs = Tbs {
            subject: &subject,
            key: params.public_key,
            not_before: params.now - NOT_BEFORE_CUSHION,
            not_after: self.cap(params.now, params.not_after)?,
            usage: &self.template.svid_usage,
            authority_key_id: &self.template.authority_key_id,
            dns_names: params.dns_names,
            uri: Some(&uri),
            extensions: params.extensions,
        };
        let algorithm = Cow::Borrowed(&*self.template.algorithm);
        tbs.encode(serial, self.certificate.raw_subject(), algorithm)
    }

    /// A CA certificate for another key (a downstream server's), with the subject of `params` as
    /// it is, to be signed with this CA's key.
    ///
    /// # Errors
    /// As [`Ca::svid`].
    pub fn downstream_ca(
        &self,
        key: &PublicKey,
        params: &CaParams,
    ) -> Result<UnsignedCertificate<'_>, IssueError> {
        self.named_ca(key, &params.subject.to_der(), &params.extensions, params)
    }

    fn named_ca(
        &self,
        key: &PublicKey,
        subject: &[u8],
        extensions: &[Extension],
        params: &CaParams,
    ) -> Result<UnsignedCertificate<'_>, IssueError> {
        let tbs = Tbs {
            subject,
            key,
            not_before: params.now - NOT_BEFORE_CUSHION,
            not_after: self.cap(params.now, params.not_after)?,
            usage: &ca_usage(),
            authority_key_id: &self.template.authority_key_id,
            dns_names: &[],
            uri: Some(&params.trust_domain.id_string()),
            extensions,
        };
        let algorithm = Cow::Borrowed(&*self.template.algorithm);
        tbs.encode(Serial::random()?, self.certificate.raw_subject(), algorithm)
    }

    fn cap(&self, now: UnixTime, not_after: UnixTime) -> Result<UnixTime, IssueError> {
        match self.certificate.not_after() {
            end if end <= now => Err(IssueError::CaExpired),
            end => Ok(not_after.min(end)),
        }
    }
}

/// A CA whose key is in this process.
#[derive(Debug)]
pub struct CaIssuer {
    ca: Ca,
    signer: Arc<dyn Signer>,
}

impl CaIssuer {
    /// As [`Ca::new`].
    ///
    /// # Errors
    /// As [`Ca::new`].
    pub fn new(
        certificate: Certificate,
        upstream_chain: Vec<Arc<[u8]>>,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, IssueError> {
        Ok(Self { ca: Ca::new(certificate, upstream_chain, signer.public_key())?, signer })
    }

    /// The CA certificate.
    pub fn certificate(&self) -> &Certificate {
        self.ca.certificate()
    }

    /// What is sent after each leaf: empty for a self-signed CA.
    pub fn upstream_chain(&self) -> &[Arc<[u8]>] {
        self.ca.upstream_chain()
    }

    /// The signer.
    pub fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }

    /// Issues an X.509-SVID.
    ///
    /// # Errors
    /// [`IssueError`] when the CA has expired or its key does not sign.
    pub fn issue_svid(&self, params: &SvidParams<'_>) -> Result<Issued, IssueError> {
        self.ca.svid(params)?.sign(&*self.signer)
    }

    /// Issues a CA certificate for another key (a downstream server's), with the subject of
    /// `params` as it is.
    ///
    /// # Errors
    /// As [`CaIssuer::issue_svid`].
    pub fn issue_ca(&self, key: &PublicKey, params: &CaParams) -> Result<Issued, IssueError> {
        self.ca.downstream_ca(key, params)?.sign(&*self.signer)
    }

    /// Issues the CA certificate a CSR asks for, as an upstream authority does: its subject byte
    /// for byte, the trust domain of `params` as URI SAN, and its further extensions.
    ///
    /// # Errors
    /// As [`CaIssuer::issue_svid`].
    pub fn issue_ca_from_csr(&self, csr: &Csr, params: &CaParams) -> Result<Issued, IssueError> {
        let ca = self.ca.named_ca(csr.public_key(), csr.raw_subject(), csr.extensions(), params)?;
        ca.sign(&*self.signer)
    }
}

/// A certificate that is complete but for its signature.
#[derive(Debug)]
pub struct UnsignedCertificate<'a> {
    /// The TBSCertificate, DER.
    tbs: Vec<u8>,
    /// The AlgorithmIdentifier, DER.
    algorithm: Cow<'a, [u8]>,
    serial: Serial,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl UnsignedCertificate<'_> {
    /// Signs with a key in this process.
    ///
    /// # Errors
    /// [`IssueError::Sign`].
    pub fn sign(self, signer: &dyn Signer) -> Result<Issued, IssueError> {
        let signature = signer.sign_issued(&self.tbs)?;
        Ok(self.finish(&signature))
    }

    /// Signs with a key that may be elsewhere.
    ///
    /// # Errors
    /// [`IssueError::Sign`], within the deadline of the key's holder.
    pub async fn sign_with(self, key: &ManagedKey) -> Result<Issued, IssueError> {
        let signature = key.sign_issued(&self.tbs).await?;
        Ok(self.finish(&signature))
    }

    fn finish(self, signature: &[u8]) -> Issued {
        let mut certificate = Writer::with_capacity(self.tbs.len() + signature.len() + 32);
        certificate.sequence(|w| {
            w.raw(&self.tbs);
            w.raw(&self.algorithm);
            w.bit_string(0, signature);
        });
        Issued {
            der: certificate.into_bytes(),
            serial: self.serial,
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }
}

/// Issues a self-signed CA certificate with a key in this process.
///
/// # Errors
/// [`IssueError`] when there is no randomness or the key does not sign.
pub fn self_sign_ca(signer: &dyn Signer, params: &CaParams) -> Result<Issued, IssueError> {
    self_signed_ca(signer.public_key(), params)?.sign(signer)
}

/// A CA certificate that is to be signed with its own key.
///
/// # Errors
/// [`IssueError::Random`].
pub fn self_signed_ca(
    key: &PublicKey,
    params: &CaParams,
) -> Result<UnsignedCertificate<'static>, IssueError> {
    let serial = Serial::random()?;
    let mut subject = params.subject.clone();
    if subject.serial_number.is_empty() {
        subject.serial_number = serial.to_string();
    }
    let subject = subject.to_der();
    let tbs = Tbs {
        subject: &subject,
        key,
        not_before: params.now - NOT_BEFORE_CUSHION,
        not_after: params.not_after,
        usage: &ca_usage(),
        authority_key_id: &[],
        dns_names: &[],
        uri: Some(&params.trust_domain.id_string()),
        extensions: &params.extensions,
    };
    tbs.encode(serial, &subject, Cow::Owned(signature_algorithm(key.algorithm())))
}

/// What every certificate of one CA shares, as DER.
#[derive(Debug)]
struct Template {
    algorithm: Vec<u8>,
    svid_subject: Vec<u8>,
    svid_usage: Vec<u8>,
    authority_key_id: Vec<u8>,
}

impl Template {
    fn new(ca: &Certificate, algorithm: KeyAlgorithm) -> Self {
        let mut authority_key_id = Writer::default();
        if !ca.subject_key_id().is_empty() {
            authority_key_id.extension(oid::AUTHORITY_KEY_ID, false, |w| {
                w.sequence(|w| w.primitive(tag::context(0), ca.subject_key_id()));
            });
        }
        Self {
            algorithm: signature_algorithm(algorithm),
            svid_subject: Name::spire_svid().to_der(),
            svid_usage: svid_usage(),
            authority_key_id: authority_key_id.into_bytes(),
        }
    }
}

/// A certificate to be signed.
pub(super) struct Tbs<'a> {
    pub(super) subject: &'a [u8],
    pub(super) key: &'a PublicKey,
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
    /// Key usage, extended key usage and basic constraints, DER.
    pub(super) usage: &'a [u8],
    /// The extension, DER; empty for none.
    pub(super) authority_key_id: &'a [u8],
    pub(super) dns_names: &'a [String],
    pub(super) uri: Option<&'a str>,
    pub(super) extensions: &'a [Extension],
}

impl Tbs<'_> {
    pub(super) fn encode<'a>(
        &self,
        serial: Serial,
        issuer: &[u8],
        algorithm: Cow<'a, [u8]>,
    ) -> Result<UnsignedCertificate<'a>, IssueError> {
        let mut tbs = Writer::with_capacity(1024);
        tbs.sequence(|w| {
            w.constructed(tag::context_constructed(0), |w| w.unsigned(&[2]));
            w.unsigned(serial.as_bytes());
            w.raw(&algorithm);
            w.raw(issuer);
            w.sequence(|w| {
                w.time(self.not_before);
                w.time(self.not_after);
            });
            w.raw(self.subject);
            w.raw(self.key.spki_der());
            w.constructed(tag::context_constructed(3), |w| {
                w.sequence(|w| self.write_extensions(w));
            });
        });
        let tbs = tbs.into_bytes();
        if tbs.len() > MAX_CERT_LEN - MAX_SIGNATURE_LEN {
            return Err(IssueError::TooLong);
        }
        Ok(UnsignedCertificate {
            tbs,
            algorithm,
            serial,
            not_before: self.not_before,
            not_after: self.not_after,
        })
    }

    fn write_extensions(&self, w: &mut Writer) {
        w.raw(self.usage);
        w.extension(oid::SUBJECT_KEY_ID, false, |w| {
            w.primitive(tag::OCTET_STRING, &self.key.subject_key_id());
        });
        w.raw(self.authority_key_id);
        // RFC 5280 4.2.1.6: critical when the subject says nothing.
        write_subject_alt_name(w, self.subject == [tag::SEQUENCE, 0], self.dns_names, self.uri);
        for extension in self.extensions {
            extension.write(w);
        }
    }
}

pub(super) fn signature_algorithm(key: KeyAlgorithm) -> Vec<u8> {
    let mut writer = Writer::default();
    write_signature_algorithm(&mut writer, key);
    writer.into_bytes()
}

pub(super) fn svid_usage() -> Vec<u8> {
    let mut writer = Writer::default();
    // digitalSignature, keyEncipherment, keyAgreement
    writer.extension(oid::KEY_USAGE, true, |w| w.bit_string(3, &[0b1010_1000]));
    writer.extension(oid::EXT_KEY_USAGE, false, |w| {
        w.sequence(|w| {
            w.oid(oid::SERVER_AUTH);
            w.oid(oid::CLIENT_AUTH);
        });
    });
    writer.extension(oid::BASIC_CONSTRAINTS, true, |w| w.sequence(|_| ()));
    writer.into_bytes()
}

fn ca_usage() -> Vec<u8> {
    let mut writer = Writer::default();
    // keyCertSign, cRLSign
    writer.extension(oid::KEY_USAGE, true, |w| w.bit_string(1, &[0b0000_0110]));
    writer.extension(oid::BASIC_CONSTRAINTS, true, |w| w.sequence(Writer::boolean_true));
    writer.into_bytes()
}
