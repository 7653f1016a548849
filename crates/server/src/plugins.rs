//! The back ends that the configuration names.
//!
//! One file for each kind of plugin: its settings, how they are read, how it is opened and how it
//! takes other settings while the server runs. [`Plugins`] holds the settings of all of them; each
//! of its functions takes it apart field by field, so that none can forget a kind.

mod aws;
mod azure;
pub mod bundle_publisher;
pub mod credential_composer;
pub mod data_store;
mod gcp;
pub mod key_manager;
mod kubernetes;
pub mod node_attestor;
pub mod notifier;
pub mod upstream_authority;
mod vault;

use std::sync::Arc;

use signet_base::SharedClock;
use signet_config::{Block, ConfigError, Configured, PluginSection};
use signet_identity::TrustDomain;
use signet_pki::x509::Certificate;

use self::{
    bundle_publisher::BundlePublisher, credential_composer::CredentialComposer,
    data_store::DataStore, key_manager::KeyManager, node_attestor::NodeAttestor,
    notifier::Notifier, upstream_authority::UpstreamAuthority,
};

const NOT_AGAIN: &str = "DataStore \"sql\": its plugin_data_file is read at a start only, not on \
                         SIGUSR1";

/// Why a plugin cannot be used; names the plugin and what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{kind} \"{name}\": {why}")]
pub struct PluginError {
    kind: &'static str,
    name: String,
    why: String,
}

impl PluginError {
    fn new(kind: &'static str, name: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self { kind, name: name.into(), why: why.to_string() }
    }
}

/// What plugins are opened with.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The server's trust domain.
    pub trust_domain: &'a TrustDomain,
    /// The wall clock.
    pub clock: &'a SharedClock,
    /// The X.509 authorities of the server's own bundle at the time of the call.
    pub authorities: &'a Arc<dyn Fn() -> Vec<Certificate> + Send + Sync>,
}

impl std::fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope").field("trust_domain", self.trust_domain).finish_non_exhaustive()
    }
}

/// The server's plugins, each kind with as many as it allows.
#[derive(Clone, Debug)]
pub struct Plugins {
    /// `DataStore`: exactly one.
    pub data_store: Configured<DataStore>,
    /// `KeyManager`: exactly one.
    pub key_manager: Configured<KeyManager>,
    /// `NodeAttestor`: any number, no two of one name.
    pub node_attestors: Vec<Configured<NodeAttestor>>,
    /// `UpstreamAuthority`: at most one.
    pub upstream_authority: Option<Configured<UpstreamAuthority>>,
    /// `CredentialComposer`: any number, in the order of the file.
    pub credential_composers: Vec<Configured<CredentialComposer>>,
    /// `Notifier`: any number.
    pub notifiers: Vec<Configured<Notifier>>,
    /// `BundlePublisher`: any number.
    pub bundle_publishers: Vec<Configured<BundlePublisher>>,
}

impl Plugins {
    /// Reads the section; none when it does not have what a server needs, which is reported.
    pub(crate) fn read(root: &Block<'_>) -> Option<Self> {
        let mut section = PluginSection::read(root)?;
        let mut data_stores = section.take(&data_store::KIND);
        let mut key_managers = section.take(&key_manager::KIND);
        let node_attestors = section.take(&node_attestor::KIND);
        let mut upstream_authorities = section.take(&upstream_authority::KIND);
        let credential_composers = section.take(&credential_composer::KIND);
        let notifiers = section.take(&notifier::KIND);
        let bundle_publishers = section.take(&bundle_publisher::KIND);
        section.finish();
        if data_stores.iter().any(Configured::is_from_file) {
            root.warn("plugins", NOT_AGAIN);
        }
        Some(Self {
            data_store: data_stores.pop()?,
            key_manager: key_managers.pop()?,
            node_attestors,
            upstream_authority: upstream_authorities.pop(),
            credential_composers,
            notifiers,
            bundle_publishers,
        })
    }

    /// Reads every `plugin_data_file` again and gives the plugins with the new settings.
    ///
    /// The data store is left as it is: it takes new settings at a start only.
    ///
    /// # Errors
    /// [`ConfigError`] when a file cannot be read or is wrong; nothing is changed then.
    pub fn reload(&self) -> Result<Self, ConfigError> {
        let Self {
            data_store,
            key_manager,
            node_attestors,
            upstream_authority,
            credential_composers,
            notifiers,
            bundle_publishers,
        } = self;
        let mut key_managers = key_manager::KIND.reload([key_manager])?;
        Ok(Self {
            data_store: data_store.clone(),
            key_manager: key_managers.pop().unwrap_or_else(|| key_manager.clone()),
            node_attestors: node_attestor::KIND.reload(node_attestors)?,
            upstream_authority: upstream_authority::KIND.reload(upstream_authority)?.pop(),
            credential_composers: credential_composer::KIND.reload(credential_composers)?,
            notifiers: notifier::KIND.reload(notifiers)?,
            bundle_publishers: bundle_publisher::KIND.reload(bundle_publishers)?,
        })
    }

    /// Looks at what the settings name (certificates, keys, kubeconfigs), as a start would, but
    /// without making, binding or asking anything; what is wrong, plugin by plugin.
    pub fn check(&self, trust_domain: &TrustDomain, clock: &SharedClock) -> Vec<PluginError> {
        let Self {
            data_store: _,
            key_manager,
            node_attestors,
            upstream_authority,
            credential_composers: _,
            notifiers,
            bundle_publishers,
        } = self;
        let nobody: Arc<dyn Fn() -> Vec<Certificate> + Send + Sync> = Arc::new(Vec::new);
        let scope = Scope { trust_domain, clock, authorities: &nobody };
        let mut problems = Vec::new();
        problems.extend(key_manager::check(key_manager, trust_domain, clock).err());
        for plugin in node_attestors {
            problems.extend(node_attestor::check(plugin, &scope).err());
        }
        if let Some(plugin) = upstream_authority {
            problems.extend(upstream_authority::check(plugin, &scope).err());
        }
        for plugin in notifiers {
            problems.extend(notifier::check(plugin, &scope).err());
        }
        for plugin in bundle_publishers {
            problems.extend(bundle_publisher::check(plugin, &scope).err());
        }
        problems
    }

    /// Logs of each plugin with a file of its own what became of it when `next` took the place of
    /// these settings.
    pub(crate) fn log_reload(&self, next: &Self) {
        let Self {
            data_store: _,
            key_manager,
            node_attestors,
            upstream_authority,
            credential_composers,
            notifiers,
            bundle_publishers,
        } = next;
        log_kind(key_manager::KIND.name, [&self.key_manager], [key_manager]);
        log_kind(node_attestor::KIND.name, &self.node_attestors, node_attestors);
        log_kind(upstream_authority::KIND.name, &self.upstream_authority, upstream_authority);
        log_kind(credential_composer::KIND.name, &self.credential_composers, credential_composers);
        log_kind(notifier::KIND.name, &self.notifiers, notifiers);
        log_kind(bundle_publisher::KIND.name, &self.bundle_publishers, bundle_publishers);
    }
}

fn log_kind<'p, T: PartialEq + 'p>(
    plugin_type: &'static str,
    before: impl IntoIterator<Item = &'p Configured<T>>,
    now: impl IntoIterator<Item = &'p Configured<T>>,
) {
    for (before, now) in before.into_iter().zip(now) {
        let plugin_name = now.name;
        match (now.is_from_file(), before == now) {
            (false, _) => {}
            (true, true) => tracing::info!(
                plugin_type,
                plugin_name,
                "Plugin read again; its settings are unchanged"
            ),
            (true, false) => tracing::info!(plugin_type, plugin_name, "Plugin reconfigured"),
        }
    }
}
