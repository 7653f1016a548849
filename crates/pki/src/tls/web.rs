//! TLS to servers of the web's kind: a kubelet, an API server. Host names count here.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::{NoServerSessionStorage, ParsedCertificate, ResolvesServerCert},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use signet_base::Clock;

use super::{
    SwappableIdentity, TlsError, TlsOptions,
    provider::{ALPN_HTTP1, ClockTime, provider, versions},
    verifier::{path_error, unix_time},
};
use crate::x509::{
    Certificate, MAX_CHAIN, parse_chain,
    path::{PathError, Purpose, verify_path},
};

/// How far a server's certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebCheck {
    /// The chain, not the name: for a server that is reached by an address its certificate does
    /// not have, such as the kubelet at 127.0.0.1.
    Chain,
    /// The chain and the host name.
    ChainAndName,
    /// Nothing but that the server holds the key of what it presents.
    Nothing,
}

/// A client's TLS configuration for HTTP/1.1: roots as DER certificates, and our certificate when
/// there is one and the server asks.
///
/// # Errors
/// [`TlsError`] when a root cannot be used.
pub fn web_client_config(
    check: WebCheck,
    roots: &[Vec<u8>],
    identity: Option<Arc<SwappableIdentity>>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let options = TlsOptions::default();
    let provider = provider(options);
    let roots = match check {
        WebCheck::Nothing => None,
        WebCheck::Chain | WebCheck::ChainAndName => Some(parse_chain(roots)?.into()),
    };
    let verifier = Arc::new(WebVerifier {
        roots,
        checks_name: check == WebCheck::ChainAndName,
        algorithms: provider.signature_verification_algorithms,
    });
    let builder = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(versions(options))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A server's TLS configuration for HTTP/1.1: TLS 1.2 and 1.3, no client certificates, and the
/// identity that is set when a connection comes in.
///
/// # Errors
/// [`TlsError`] when certificate and key cannot be read or do not fit together.
pub fn web_server_config(
    identity: Arc<SwappableIdentity>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, TlsError> {
    web_server_config_with(identity, clock, TlsOptions::default())
}

/// As [`web_server_config`], with options.
///
/// # Errors
/// [`TlsError`] when certificate and key cannot be read or do not fit together.
pub fn web_server_config_with(
    identity: Arc<dyn ResolvesServerCert>,
    clock: Arc<dyn Clock>,
    options: TlsOptions,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config =
        ServerConfig::builder_with_details(provider(options), Arc::new(ClockTime(clock)))
            .with_protocol_versions(versions(options))?
            .with_no_client_auth()
            .with_cert_resolver(identity);
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Checks the chain where roots are set, as a TLS server's, and the name where that is wanted.
#[derive(Debug)]
struct WebVerifier {
    roots: Option<Arc<[Certificate]>>,
    checks_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for WebVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            if intermediates.len() >= MAX_CHAIN {
                return Err(path_error(PathError::TooLong));
            }
            let malformed = |_| rustls::Error::from(CertificateError::BadEncoding);
            let certificate = Certificate::from_der(leaf).map_err(malformed)?;
            let intermediates = parse_chain(intermediates).map_err(malformed)?;
            verify_path(&certificate, &intermediates, roots, Purpose::Server, unix_time(now))
                .map_err(path_error)?;
        }
        if self.checks_name {
            verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
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
