//! The `uniqueid` credential composer.

use async_trait::async_trait;
use signet_identity::SpiffeId;

use crate::{
    CredentialComposer, PublicKey, digest,
    ports::{PortError, X509SvidAttributes},
    x509::Oid,
};

/// 2.5.4.45
const UNIQUE_IDENTIFIER: &[u8] = &[0x55, 0x04, 45];

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
        mut attrs: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PortError> {
        let value = unique_id(id);
        let extra = &mut attrs.subject.extra;
        match extra.iter_mut().find(|(oid, _)| oid.content() == UNIQUE_IDENTIFIER) {
            Some((_, old)) => *old = value,
            None => extra.push((Oid::from_content(UNIQUE_IDENTIFIER), value)),
        }
        Ok(attrs)
    }
}

/// The first half of SHA-256 over the ID, in hex.
fn unique_id(id: &SpiffeId) -> String {
    let sum = digest::sha256(id.to_string().as_bytes());
    hex::encode(sum.get(..16).unwrap_or(&sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyType, PrivateKey, x509::Name};

    #[tokio::test]
    async fn the_identifier_is_the_one_of_spire_and_added_once() {
        let id = "spiffe://example.org/foo".parse().unwrap();
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let attrs = X509SvidAttributes { subject: Name::spire_svid(), ..Default::default() };
        let once = UniqueId.workload_x509_svid(&id, key.public_key(), attrs).await.unwrap();
        let shown =
            "2.5.4.45=#13206333343036663962313263656234663963393438333138633537396239303562";
        assert_eq!(once.subject.to_string(), format!("{shown},O=SPIRE,C=US"));
        let twice = UniqueId.workload_x509_svid(&id, key.public_key(), once.clone()).await.unwrap();
        assert_eq!(twice, once);
    }
}
