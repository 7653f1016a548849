//! `KeyManager "gcp_kms"`: keys in Google Cloud KMS.

use std::{path::PathBuf, sync::Arc};

use signet_base::SharedClock;
use signet_config::Block;
use signet_gcp::{CloudKms, Credentials, KmsSettings, read_policy};
use signet_identity::TrustDomain;
use signet_pki::key_manager::{KeyIdentifier, KeyStore};

use super::{KeyManager, key_identifier};
use crate::plugins::{PluginError, gcp};

const NAME: &str = "gcp_kms";
/// A CryptoKey is `spire-key-<identifier>-JWT-Signer-A`, and 63 characters at most.
const MAX_IDENTIFIER: usize = 40;

/// `KeyManager "gcp_kms"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcpKeys {
    /// `key_ring`, required: `projects/*/locations/*/keyRings/*`.
    pub key_ring: String,
    /// Which keys are this server's.
    pub key_identifier: KeyIdentifier,
    /// `key_policy_file`: the IAM policy of new CryptoKeys.
    pub key_policy_file: Option<PathBuf>,
    /// `service_account_file`, or what the environment says.
    pub credentials: Credentials,
    /// `endpoint` (our own): the service's URL.
    pub endpoint: String,
}

pub(super) fn gcp_kms(block: &Block<'_>) -> Option<KeyManager> {
    let key_ring = block.required_text("key_ring");
    if let Some(key_ring) = key_ring.as_deref().filter(|key_ring| !is_key_ring(key_ring)) {
        let message = format!("{key_ring:?}: expected projects/*/locations/*/keyRings/*");
        block.error("key_ring", message);
    }
    let key_identifier = key_identifier(block);
    if let Some(KeyIdentifier::Value(value)) = &key_identifier {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
        if value.len() > MAX_IDENTIFIER || !value.bytes().all(allowed) {
            let message = format!(
                "{value:?}: expected at most {MAX_IDENTIFIER} lower-case letters, digits, \"_\" and \
                 \"-\""
            );
            block.error("key_identifier_value", message);
        }
    }
    let key_policy_file = block.path("key_policy_file");
    let credentials = gcp::credentials(block);
    let endpoint = gcp::endpoint(block, "https://cloudkms.googleapis.com");
    Some(KeyManager::Gcp(GcpKeys {
        key_ring: key_ring?,
        key_identifier: key_identifier?,
        key_policy_file,
        credentials,
        endpoint,
    }))
}

fn is_key_ring(text: &str) -> bool {
    let parts: Vec<_> = text.split('/').collect();
    let ["projects", project, "locations", location, "keyRings", ring] = parts[..] else {
        return false;
    };
    [project, location, ring].into_iter().all(gcp::is_name)
}

/// The keys of this server; a missing key identifier file is made.
pub(super) fn store(
    settings: &GcpKeys,
    trust_domain: &TrustDomain,
    clock: &SharedClock,
) -> Result<Arc<dyn KeyStore>, PluginError> {
    let gcp = gcp::open("KeyManager", NAME, &settings.credentials, clock)?;
    let policy = settings.key_policy_file.as_deref().map(read_policy).transpose();
    let policy = policy.map_err(failed)?;
    let id = settings.key_identifier.resolve();
    let server_id = id.map_err(|error| failed(signet_base::chain(&error)))?;
    let GcpKeys { key_ring, endpoint, .. } = settings.clone();
    let kms = KmsSettings { endpoint, key_ring, server_id, policy };
    Ok(Arc::new(CloudKms::new(gcp, kms, trust_domain, Arc::clone(clock))))
}

pub(super) fn check(settings: &GcpKeys) -> Result<(), PluginError> {
    gcp::check("KeyManager", NAME, &settings.credentials)?;
    settings.key_policy_file.as_deref().map(read_policy).transpose().map_err(failed)?;
    settings.key_identifier.check().map_err(|error| failed(signet_base::chain(&error)))
}

fn failed(why: String) -> PluginError {
    PluginError::new("KeyManager", NAME, why)
}
