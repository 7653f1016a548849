//! What the plugins that speak to AWS share.

use std::sync::Arc;

use signet_aws::{Access, AwsError, Credentials, Environment, Keys, Place};
use signet_base::{SharedClock, chain};
use signet_config::Block;

use super::PluginError;

/// `access_key_id` and `secret_access_key`, both or none of them; none are looked for where AWS's
/// SDKs look.
pub(super) fn access(block: &Block<'_>) -> Access {
    let keys = match (block.text("access_key_id"), block.text("secret_access_key")) {
        (Some(id), Some(secret)) => Some(Keys::new(&id, &secret, None)),
        (None, None) => None,
        (Some(_), None) => {
            block.error("access_key_id", "it needs secret_access_key beside it");
            None
        }
        (None, Some(_)) => {
            block.error("secret_access_key", "it needs access_key_id beside it");
            None
        }
    };
    Access { keys, assume_role_arn: None }
}

/// The credentials for a region. Nothing is looked for yet.
pub(super) fn credentials(region: &str, access: &Access, clock: &SharedClock) -> Credentials {
    let place = Place::new(region, Environment::of_process(), Arc::clone(clock));
    Credentials::new(place, access)
}

pub(super) fn failed(kind: &'static str, name: &'static str, error: &AwsError) -> PluginError {
    PluginError::new(kind, name, chain(error))
}
