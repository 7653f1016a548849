//! TLS of our own HTTP endpoints (metrics): to clients of the web's kind, or to those with an SVID.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};
use signet_base::Clock;
use signet_identity::SpiffeId;

use super::{
    BundleSource, SwappableIdentity, TlsError, TlsOptions,
    provider::{ALPN_HTTP1, ClockTime, provider, versions},
    verifier::{path_error, unexpected, unix_time, verify},
};
use crate::x509::{
    Certificate, MAX_CHAIN, parse_chain,
    path::{PathError, Purpose, verify_path},
};

/// Who may connect to an endpoint.
#[derive(Clone, Debug)]
pub enum EndpointClients {
    /// Everyone; no certificate is asked for.
    Anyone,
    /// Whoever has a certificate for TLS clients under one of these roots (DER).
    Roots(Vec<Vec<u8>>),
    /// Whoever has an X.509-SVID with one of these IDs.
    SpiffeIds {
        /// The bundles that SVIDs are verified with.
        bundles: Arc<dyn BundleSource>,
        /// The IDs.
        ids: Arc<[SpiffeId]>,
    },
}

/// The TLS configuration of an HTTP/1.1 endpoint that presents whatever `identity` is set to when a
/// connection comes in. No session tickets: who may connect is looked at each time.
///
/// # Errors
/// [`TlsError`] when a root cannot be used.
pub fn endpoint_config(
    identity: Arc<SwappableIdentity>,
    clients: EndpointClients,
    clock: Arc<dyn Clock>,
    options: TlsOptions,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider(options);
    let algorithms = provider.signature_verification_algorithms;
    let builder = ServerConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(versions(options))?;
    let required = match clients {
        EndpointClients::Anyone => None,
        EndpointClients::Roots(roots) => Some(Required::Roots(parse_chain(&roots)?)),
        EndpointClients::SpiffeIds { bundles, ids } => Some(Required::SpiffeIds { bundles, ids }),
    };
    let builder = match required {
        None => builder.with_no_client_auth(),
        Some(required) => {
            builder.with_client_cert_verifier(Arc::new(ClientVerifier { required, algorithms }))
        }
    };
    let mut config = builder.with_cert_resolver(identity);
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

#[derive(Debug)]
enum Required {
    Roots(Vec<Certificate>),
    SpiffeIds { bundles: Arc<dyn BundleSource>, ids: Arc<[SpiffeId]> },
}

#[derive(Debug)]
struct ClientVerifier {
    required: Required,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match &self.required {
            Required::Roots(roots) => {
                if intermediates.len() >= MAX_CHAIN {
                    return Err(path_error(PathError::TooLong));
                }
                let malformed = |_| rustls::Error::from(CertificateError::BadEncoding);
                let leaf = Certificate::from_der(leaf).map_err(malformed)?;
                let intermediates = parse_chain(intermediates).map_err(malformed)?;
                verify_path(&leaf, &intermediates, roots, Purpose::Client, unix_time(now))
                    .map_err(path_error)?;
            }
            Required::SpiffeIds { bundles, ids } => {
                let svid = verify(&**bundles, leaf, intermediates, now)?;
                if !ids.contains(&svid.id) {
                    let expected = format_args!("one of those that are authorized");
                    return Err(unexpected(&svid.id, expected));
                }
            }
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
