//! `KeyManager "aws_kms"`: keys in the Key Management Service of AWS.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use signet_aws::{Access, Kms, KmsSettings};
use signet_base::{SharedClock, chain};
use signet_config::Block;
use signet_identity::TrustDomain;
use signet_pki::{
    files,
    key_manager::{KeyIdentifier, KeyStore},
};

use super::{KeyManager, key_identifier};
use crate::plugins::{PluginError, aws};

const NAME: &str = "aws_kms";
/// The largest key policy, bytes: KMS takes no larger one.
const MAX_POLICY: u64 = 32 * 1024;
/// How many tags a key has at most, and how long their keys and values are.
const MAX_TAGS: usize = 50;
const MAX_TAG_KEY: usize = 128;
const MAX_TAG_VALUE: usize = 256;
/// The longest `key_identifier_value`.
const MAX_IDENTIFIER: usize = 256;

/// `KeyManager "aws_kms"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsKmsKeys {
    /// `region`, required.
    pub region: String,
    /// `access_key_id`, `secret_access_key`.
    pub access: Access,
    /// Which keys are this server's.
    pub key_identifier: KeyIdentifier,
    /// `key_policy_file`: the policy of new keys, JSON.
    pub key_policy_file: Option<PathBuf>,
    /// `key_tags`: what new keys are tagged with.
    pub key_tags: BTreeMap<String, String>,
    /// `enable_tag_based_key_discovery`, default false.
    pub by_tags: bool,
}

pub(super) fn aws_kms(block: &Block<'_>) -> Option<KeyManager> {
    let region = block.required_text("region");
    let access = aws::access(block);
    let key_identifier = key_identifier(block);
    if let Some(KeyIdentifier::Value(value)) = &key_identifier {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b"/_-".contains(&b);
        if value.starts_with("alias/aws/") || !value.bytes().all(inside) {
            let message = format!(
                "{value:?} cannot be part of an alias: expected letters, digits, \"/\", \"_\" and \
                 \"-\", not beginning with alias/aws/"
            );
            block.error("key_identifier_value", message);
        }
        if value.len() > MAX_IDENTIFIER {
            let message = format!("it is longer than {MAX_IDENTIFIER} characters");
            block.error("key_identifier_value", message);
        }
    }
    let key_policy_file = block.path("key_policy_file");
    let key_tags = tags(block);
    let by_tags = block.flag("enable_tag_based_key_discovery");
    Some(KeyManager::AwsKms(AwsKmsKeys {
        region: region?,
        access,
        key_identifier: key_identifier?,
        key_policy_file,
        key_tags,
        by_tags,
    }))
}

/// Tags as AWS takes them, and none that it or SPIRE keeps for itself.
fn tags(block: &Block<'_>) -> BTreeMap<String, String> {
    let all = block.text_map("key_tags");
    for (key, value) in &all {
        let fit = |text: &str| {
            text.chars().all(|c| c.is_alphanumeric() || c.is_whitespace() || "+-=._:/@".contains(c))
        };
        let lower = key.to_ascii_lowercase();
        let why = if key.is_empty() || key.len() > MAX_TAG_KEY {
            Some(format!("its name must have 1 to {MAX_TAG_KEY} characters"))
        } else if value.len() > MAX_TAG_VALUE {
            Some(format!("its value must have at most {MAX_TAG_VALUE} characters"))
        } else if lower.starts_with("aws:") || lower.starts_with("spire-") {
            Some("aws: and spire- are kept for AWS and SPIRE".to_owned())
        } else if !fit(key) || !fit(value) {
            Some("expected letters, digits, spaces and + - = . _ : / @".to_owned())
        } else {
            None
        };
        if let Some(why) = why {
            block.error("key_tags", format!("tag {key:?}: {why}"));
        }
    }
    if all.len() > MAX_TAGS {
        block.error("key_tags", format!("there are {}, expected at most {MAX_TAGS}", all.len()));
    }
    all
}

/// The keys of this server; a missing key identifier file is made.
pub(super) fn store(
    settings: &AwsKmsKeys,
    trust_domain: &TrustDomain,
    clock: &SharedClock,
) -> Result<Arc<dyn KeyStore>, PluginError> {
    let id = settings.key_identifier.resolve().map_err(|error| failed(&error))?;
    Ok(Arc::new(keys(settings, id, trust_domain, clock)?))
}

pub(super) fn check(
    settings: &AwsKmsKeys,
    trust_domain: &TrustDomain,
    clock: &SharedClock,
) -> Result<(), PluginError> {
    settings.key_identifier.check().map_err(|error| failed(&error))?;
    let id = match &settings.key_identifier {
        KeyIdentifier::Value(value) => value.clone(),
        KeyIdentifier::File(_) => "a-server".to_owned(),
    };
    keys(settings, id, trust_domain, clock).map(drop)
}

fn keys(
    settings: &AwsKmsKeys,
    server_id: String,
    trust_domain: &TrustDomain,
    clock: &SharedClock,
) -> Result<Kms, PluginError> {
    let policy = settings.key_policy_file.as_deref().map(policy).transpose();
    let policy = policy.map_err(|why| PluginError::new("KeyManager", NAME, why))?;
    let credentials = aws::credentials(&settings.region, &settings.access, clock);
    let settings = KmsSettings {
        trust_domain: trust_domain.clone(),
        server_id,
        policy,
        tags: settings.key_tags.clone(),
        by_tags: settings.by_tags,
    };
    Kms::new(&credentials, settings).map_err(|error| failed(&error))
}

fn policy(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let bytes = files::read_bounded(path, MAX_POLICY).map_err(|error| chain(&error))?;
    let bytes = bytes.ok_or_else(|| format!("key_policy_file {shown} does not exist"))?;
    let read = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes);
    read.map_err(|error| format!("key_policy_file {shown} is no JSON object: {error}"))?;
    String::from_utf8(bytes).map_err(|_| format!("key_policy_file {shown} is not UTF-8"))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> PluginError {
    PluginError::new("KeyManager", NAME, chain(error))
}
