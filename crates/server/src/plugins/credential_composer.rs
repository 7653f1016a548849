//! `CredentialComposer`: what changes the content of SVIDs.

use std::sync::Arc;

use signet_config::{Block, Configured, Count, Kind};
use signet_pki::{CredentialComposer as CredentialComposerPort, composer};

/// `CredentialComposer`.
pub(super) const KIND: Kind<CredentialComposer> = Kind {
    name: "CredentialComposer",
    noun: "credential composer",
    count: Count::Any,
    plugins: &[("uniqueid", uniqueid)],
    absent: &[],
};

/// What changes the content of SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialComposer {
    /// `uniqueid`: adds an x509UniqueIdentifier to the subject of workload X.509-SVIDs.
    UniqueId,
}

fn uniqueid(_: &Block<'_>) -> Option<CredentialComposer> {
    Some(CredentialComposer::UniqueId)
}

/// The credential composers, in their order.
pub(crate) fn open(
    plugins: &[Configured<CredentialComposer>],
) -> Vec<Arc<dyn CredentialComposerPort>> {
    let open = |plugin: &Configured<CredentialComposer>| match plugin.settings {
        CredentialComposer::UniqueId => Arc::new(composer::UniqueId) as _,
    };
    plugins.iter().map(open).collect()
}
