//! The certificate of the webhook, and the bundle it is checked with.

use std::{fmt, sync::Arc};

use signet_api::{
    convert::bundle_from_pb,
    pb::spire::api::server::{
        bundle::v1::{GetBundleRequest, bundle_client::BundleClient},
        svid::v1::{MintX509svidRequest, svid_client::SvidClient},
    },
};
use signet_identity::SpiffeId;
use signet_pki::{
    KeyType, PrivateKey,
    pem::encode_certificates,
    tls::TlsIdentity,
    x509::{CsrParams, Name, create_csr},
};
use signet_time::UnixTime;

use super::{Server, ServerError};

/// A certificate with its key, ready for TLS.
pub struct Minted {
    /// For TLS.
    pub identity: TlsIdentity,
    /// When it expires, Unix seconds.
    pub expires_at: UnixTime,
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Minted(until {})", self.expires_at.seconds())
    }
}

impl Server {
    /// Makes a key, and has the server sign a certificate for it: `id`, `dns_names`, for `ttl`
    /// seconds at most.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn mint(
        &self,
        id: &SpiffeId,
        dns_names: &[String],
        ttl: i32,
    ) -> Result<Minted, ServerError> {
        const METHOD: &str = "MintX509SVID";
        let unusable = |what: &str, why: &dyn fmt::Display| ServerError::Malformed {
            method: METHOD,
            why: format!("{what}: {why}"),
        };
        let key = PrivateKey::generate(KeyType::EcP256)
            .map_err(|error| unusable("making a key", &error))?;
        let signer = key.signer().map_err(|error| unusable("using the key", &error))?;
        let params = CsrParams {
            subject: Name::spire_svid(),
            uri: Some(id.clone()),
            dns_names: dns_names.to_vec(),
            extensions: Vec::new(),
        };
        let csr = create_csr(&params, signer.as_ref())
            .map_err(|error| unusable("making a request", &error))?;
        let request = MintX509svidRequest { csr: csr.into(), ttl };
        let answer = self
            .call(METHOD, None, request, |channel, limit, request| async move {
                SvidClient::new(channel)
                    .max_decoding_message_size(limit)
                    .mint_x509svid(request)
                    .await
            })
            .await?;
        let svid = answer.svid.ok_or_else(|| unusable("svid", &"it is missing"))?;
        let chain: Vec<Arc<[u8]>> = svid.cert_chain.iter().map(|der| Arc::from(&der[..])).collect();
        let identity =
            TlsIdentity::new(&chain, signer).map_err(|error| unusable("svid", &error))?;
        let expires_at = identity.leaf().not_after();
        Ok(Minted { identity, expires_at })
    }

    /// The X.509 authorities of the server's trust domain, PEM.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn authorities_pem(&self) -> Result<String, ServerError> {
        const METHOD: &str = "GetBundle";
        let answer = self
            .call(METHOD, None, GetBundleRequest::default(), |channel, limit, request| async move {
                BundleClient::new(channel)
                    .max_decoding_message_size(limit)
                    .get_bundle(request)
                    .await
            })
            .await?;
        let bundle = bundle_from_pb(&answer)
            .map_err(|error| ServerError::Malformed { method: METHOD, why: error.to_string() })?;
        let ders = bundle.x509_authorities.iter().map(|authority| &*authority.der);
        let pem = encode_certificates(ders);
        if pem.is_empty() {
            let why = "the bundle has no X.509 authority".to_owned();
            return Err(ServerError::Malformed { method: METHOD, why });
        }
        Ok(pem)
    }
}
