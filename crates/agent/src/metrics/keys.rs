//! What calls of the key manager are counted by.

use signet_daemon::metrics::Calls;

/// The calls of the key manager.
#[derive(Clone, Debug)]
pub struct KeyMetrics {
    /// `agent_key_manager_generate_key`.
    pub generate: Calls,
    /// `agent_key_manager_get_keys`.
    pub get: Calls,
}
