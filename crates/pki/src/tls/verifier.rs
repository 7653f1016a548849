//! SPIFFE certificate verification for rustls.

use std::{fmt, sync::Arc, time::Duration};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use signet_identity::{SpiffeId, TrustDomain};

use crate::x509::{
    CertError, Certificate, TrustBundle, VerifiedSvid, VerifyError, check_leaf,
    path::{PathError, Role, Unusable},
    verify_leaf,
};

/// Where verification finds the bundle of a trust domain. Read at each handshake.
pub trait BundleSource: Send + Sync + fmt::Debug {
    /// The bundle now, if that trust domain is known.
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustBundle>>;
}

/// How the server's certificate is checked.
#[derive(Clone, Debug)]
pub enum ServerCheck {
    /// A valid SVID of exactly this ID, by the bundle of its trust domain.
    Id {
        /// The ID it must have, `spiffe://<td>/spire/server`.
        id: SpiffeId,
        /// Where its bundle is found.
        bundles: Arc<dyn BundleSource>,
    },
    /// A valid SVID of any member of this trust domain.
    Member {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Where its bundle is found.
        bundles: Arc<dyn BundleSource>,
    },
    /// `insecure_bootstrap`: no chain check, only that the one URI SAN is this ID and that the
    /// peer holds the key.
    InsecureId {
        /// The ID it must claim.
        id: SpiffeId,
    },
}

/// Who may connect with a certificate. Connecting without one is always possible (attestation).
#[derive(Clone, Debug)]
pub struct ClientPolicy {
    /// Every member of it.
    pub trust_domain: TrustDomain,
    /// And these, of any trust domain.
    pub admin_ids: Arc<[SpiffeId]>,
}

/// Bundles that do not change: for tests and for one connection.
#[derive(Debug, Default)]
pub struct StaticBundles(pub Vec<Arc<TrustBundle>>);

impl BundleSource for StaticBundles {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustBundle>> {
        self.0.iter().find(|b| b.trust_domain() == trust_domain).cloned()
    }
}

/// A peer that was authenticated by its handshake.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Whom its leaf names.
    pub id: SpiffeId,
    /// The leaf it presented.
    pub leaf: Certificate,
}

/// The peer of a connection whose handshake was verified by this crate; `None` when it presented
/// no certificate.
///
/// # Errors
/// [`CertError`] cannot happen after our verification, and is passed on instead of a panic.
pub fn peer_of(certs: Option<&[CertificateDer<'_>]>) -> Result<Option<Peer>, CertError> {
    let Some(leaf) = certs.and_then(<[_]>::first) else { return Ok(None) };
    let leaf = Certificate::from_der(leaf)?;
    Ok(Some(Peer { id: leaf.spiffe_id()?, leaf }))
}

/// Whether a handshake failed because the peer's certificate leads to no authority we know, or to
/// one that cannot be used any more: what re-bootstrapping is for. Looks through the chain of
/// causes.
pub fn is_unknown_authority(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An io::Error hides the error it was made of from `source`.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let rustls = error
            .downcast_ref::<rustls::Error>()
            .or_else(|| inner.and_then(|inner| inner.downcast_ref()));
        match rustls {
            Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                return true;
            }
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => {
                return why.downcast_ref().is_some_and(|why: &Refusal| why.is_unknown_authority);
            }
            _ => {}
        }
        next = error.source();
    }
    false
}

/// Verifies the certificates of clients.
#[derive(Debug)]
pub(super) struct SpiffeClientVerifier {
    pub(super) bundles: Arc<dyn BundleSource>,
    pub(super) policy: ClientPolicy,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Verifies the certificate of a server, by what is expected of it.
#[derive(Debug)]
pub(super) struct SpiffeServerVerifier {
    pub(super) check: ServerCheck,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Why a peer was refused. rustls shows the `Debug` form of its source, so that is the text too.
#[derive(thiserror::Error)]
#[error("{text}")]
struct Refusal {
    text: String,
    is_unknown_authority: bool,
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl SpiffeClientVerifier {
    fn check(&self, id: &SpiffeId) -> Result<(), rustls::Error> {
        let ClientPolicy { trust_domain, admin_ids } = &self.policy;
        if id.is_member_of(trust_domain) || admin_ids.contains(id) {
            return Ok(());
        }
        Err(unexpected(id, format_args!("a member of {trust_domain} or an admin")))
    }
}

impl ClientCertVerifier for SpiffeClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let svid = verify(&*self.bundles, end_entity, intermediates, now)?;
        self.check(&svid.id)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for SpiffeServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (svid, expected) = match &self.check {
            ServerCheck::Id { id, bundles } => {
                let claimed = check_leaf(end_entity).map_err(certificate_error)?;
                if claimed.id.trust_domain() != id.trust_domain() {
                    // Another trust domain's server was asked: no other bundle would help.
                    return Err(unexpected(&claimed.id, format_args!("{id}")));
                }
                (verify(&**bundles, end_entity, intermediates, now)?, id)
            }
            ServerCheck::InsecureId { id } => {
                (check_leaf(end_entity).map_err(certificate_error)?, id)
            }
            ServerCheck::Member { trust_domain, bundles } => {
                let svid = verify(&**bundles, end_entity, intermediates, now)?;
                if !svid.id.is_member_of(trust_domain) {
                    let expected = format_args!("a member of {trust_domain}");
                    return Err(unexpected(&svid.id, expected));
                }
                return Ok(ServerCertVerified::assertion());
            }
        };
        if svid.id != *expected {
            return Err(unexpected(&svid.id, format_args!("{expected}")));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Verifies against the bundle of the leaf's own trust domain.
pub(super) fn verify(
    bundles: &dyn BundleSource,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<VerifiedSvid, rustls::Error> {
    let claimed = check_leaf(end_entity).map_err(certificate_error)?;
    let trust_domain = claimed.id.trust_domain();
    let bundle = bundles
        .bundle(trust_domain)
        .ok_or_else(|| certificate_error(VerifyError::NoBundle(trust_domain.clone())))?;
    verify_leaf(&claimed, intermediates, &bundle, unix_time(now)).map_err(certificate_error)?;
    Ok(claimed)
}

fn certificate_error(error: VerifyError) -> rustls::Error {
    match error {
        VerifyError::UnknownAuthority(_) | VerifyError::NoBundle(_) => {
            CertificateError::UnknownIssuer.into()
        }
        VerifyError::Cert(CertError::Malformed(_) | CertError::TooLong) => {
            CertificateError::BadEncoding.into()
        }
        VerifyError::Path(error) => path_error(error),
        other => refusal(other.to_string(), false),
    }
}

/// What rustls tells the peer by an alert of its own keeps its own error.
pub(super) fn path_error(error: PathError) -> rustls::Error {
    match error {
        PathError::UnknownAuthority => CertificateError::UnknownIssuer.into(),
        PathError::Unusable {
            role: Role::Leaf, why: Unusable::Expired { not_after, now }, ..
        } => CertificateError::ExpiredContext {
            time: rustls_time(now),
            not_after: rustls_time(not_after),
        }
        .into(),
        PathError::Unusable {
            role: Role::Leaf,
            why: Unusable::NotYetValid { not_before, now },
            ..
        } => CertificateError::NotValidYetContext {
            time: rustls_time(now),
            not_before: rustls_time(not_before),
        }
        .into(),
        other => refusal(other.to_string(), other.is_unknown_authority()),
    }
}

pub(super) fn unix_time(time: UnixTime) -> signet_time::UnixTime {
    signet_time::UnixTime::EPOCH + Duration::from_secs(time.as_secs())
}

fn rustls_time(time: signet_time::UnixTime) -> UnixTime {
    let seconds = time.seconds().try_into().unwrap_or_default();
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

pub(super) fn unexpected(found: &SpiffeId, expected: fmt::Arguments<'_>) -> rustls::Error {
    refusal(format!("unexpected peer ID {found}, expected {expected}"), false)
}

fn refusal(text: String, is_unknown_authority: bool) -> rustls::Error {
    let why = Refusal { text, is_unknown_authority };
    CertificateError::Other(OtherError(Arc::new(why))).into()
}
