//! What the plugins that speak to Google Cloud share.

use signet_base::{SharedClock, chain};
use signet_config::Block;
use signet_gcp::{Credentials, Gcp};
use signet_http::is_confidential;

use super::PluginError;

/// `service_account_file`, else what the environment says.
pub(super) fn credentials(block: &Block<'_>) -> Credentials {
    Credentials::choose(block.path("service_account_file"))
}

/// `endpoint`, our own: another URL of the service.
pub(super) fn endpoint(block: &Block<'_>, default: &str) -> String {
    let endpoint = block.text("endpoint").unwrap_or_else(|| default.to_owned());
    if !is_confidential(&endpoint) {
        block.error("endpoint", "expected an https:// URL");
    }
    endpoint
}

/// A part of a resource's name, such as a project or a pool.
pub(super) fn name(block: &Block<'_>, key: &'static str) -> Option<String> {
    let name = block.text(key)?;
    if !is_name(&name) {
        block.error(key, format!("{name:?} is no name of a resource"));
    }
    Some(name)
}

pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}

/// A client; nothing is read or sent yet.
pub(super) fn open(
    kind: &'static str,
    name: &'static str,
    credentials: &Credentials,
    clock: &SharedClock,
) -> Result<Gcp, PluginError> {
    Gcp::new(credentials.clone(), SharedClock::clone(clock))
        .map_err(|error| PluginError::new(kind, name, chain(&error)))
}

/// Reads what the credentials name.
pub(super) fn check(
    kind: &'static str,
    name: &'static str,
    credentials: &Credentials,
) -> Result<(), PluginError> {
    credentials.check().map_err(|why| PluginError::new(kind, name, why))
}
