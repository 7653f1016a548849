//! `x509pop` with the X.509-SVID of another SPIFFE endpoint on the node (`spiffe_endpoint_socket`).

use std::{path::PathBuf, time::Duration};

use signet_api::{
    connect, convert,
    pb::workload::{X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
    workload,
};
use signet_attest::node::{
    NodeAttestError,
    x509pop::agent::{KeyPair, KeyPairSource},
};
use signet_pki::PrivateKey;

/// How long the endpoint may take to answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Takes certificate and key from a Workload API.
#[derive(Clone, Debug)]
pub struct WorkloadApiSource {
    path: PathBuf,
}

impl WorkloadApiSource {
    /// A source at `unix:///path` or `unix:/path` (or just `/path`).
    ///
    /// # Errors
    /// [`NodeAttestError`] for any other form of address.
    pub fn new(endpoint: &str) -> Result<Self, NodeAttestError> {
        let path = endpoint
            .strip_prefix("unix://")
            .or_else(|| endpoint.strip_prefix("unix:"))
            .unwrap_or(endpoint);
        if !path.starts_with('/') {
            return Err(NodeAttestError::invalid(format!(
                "spiffe_endpoint_socket {endpoint:?}: expected unix:///path/to/socket"
            )));
        }
        Ok(Self { path: PathBuf::from(path) })
    }

    async fn fetch(&self) -> Result<KeyPair, NodeAttestError> {
        let failed = |error: &dyn std::fmt::Display| {
            NodeAttestError::unavailable(format!("spiffe_endpoint_socket: {error}"))
        };
        let channel = connect::unix(&self.path).await.map_err(|error| failed(&error))?;
        let request = workload::request(X509svidRequest {});
        let mut answers = SpiffeWorkloadApiClient::new(channel)
            .fetch_x509svid(request)
            .await
            .map_err(|status| failed(&status.message()))?
            .into_inner();
        let answer = answers.message().await.map_err(|status| failed(&status.message()))?;
        let svid = answer
            .and_then(|answer| answer.svids.into_iter().next())
            .ok_or_else(|| failed(&"no X509-SVID"))?;
        let certificates = convert::split_der(&svid.x509_svid).map_err(|error| failed(&error))?;
        Ok(KeyPair {
            certificates: certificates.into_iter().map(<[u8]>::to_vec).collect(),
            key: PrivateKey::from_der(&svid.x509_svid_key).map_err(|error| failed(&error))?,
        })
    }
}

#[async_trait::async_trait]
impl KeyPairSource for WorkloadApiSource {
    async fn load(&self) -> Result<KeyPair, NodeAttestError> {
        match tokio::time::timeout(FETCH_TIMEOUT, self.fetch()).await {
            Ok(result) => result,
            Err(_) => Err(NodeAttestError::unavailable(format!(
                "spiffe_endpoint_socket: no answer within {FETCH_TIMEOUT:?}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_named_as_urls_or_paths() {
        for good in ["unix:///run/a.sock", "unix:/run/a.sock", "/run/a.sock"] {
            assert_eq!(WorkloadApiSource::new(good).unwrap().path, PathBuf::from("/run/a.sock"));
        }
        for bad in ["tcp://127.0.0.1:1", "a.sock", "unix://a.sock", ""] {
            assert!(WorkloadApiSource::new(bad).is_err(), "{bad}");
        }
    }
}
