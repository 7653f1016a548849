//! `tenancy`, `tenant_path_template`, `policy_file`.

use signet_config::Block;
use signet_identity::tenant::TenantPath;

use crate::policy::{PolicySettings, Rules};

/// Reads the keys, and the file that they name.
pub(super) fn policy(server: &Block<'_>) -> PolicySettings {
    let required = match server.text("tenancy").as_deref() {
        None | Some("off") => false,
        Some("required") => true,
        Some(other) => {
            server.error("tenancy", format_args!("found {other:?}, expected required or off"));
            false
        }
    };
    let path = server.parsed::<TenantPath>("tenant_path_template");
    if path.is_some() && !required {
        server.warn("tenant_path_template", "it has no effect unless tenancy = \"required\"");
    }
    let file = server.path("policy_file").and_then(|path| match Rules::read(&path) {
        Ok(rules) => Some((path, rules)),
        Err(error) => {
            server.context().absorb(error);
            None
        }
    });
    PolicySettings { required, path, file }
}
