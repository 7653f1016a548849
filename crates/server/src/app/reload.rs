//! What signals ask for: SIGUSR1 configures plugins anew, SIGUSR2 reopens the log.

use std::sync::Arc;

use signet_attest::node::NodeAttestorServer;
use signet_base::Tasks;
use signet_daemon::signal::{UserSignal, reopen_log_on_usr2};
use signet_pki::UpstreamAuthority;

use super::BuildError;
use crate::{
    attestors::Attestors,
    bundle_events::BundleEvents,
    config::{Configured, PluginSource, Plugins},
    context::Context,
    plugins::{self, OpenKeyManager},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Listens for both signals until the tasks end.
pub(super) fn spawn(
    tasks: &Tasks,
    context: &Context,
    attestors: &Attestors,
    bundle_events: Arc<BundleEvents>,
    keys: OpenKeyManager,
) -> Result<(), BuildError> {
    reopen_log_on_usr2(tasks, context.log.clone()).map_err(BuildError::Signal)?;
    let mut usr1 = UserSignal::usr1().map_err(BuildError::Signal)?;
    let token = tasks.token().clone();
    let mut reloader = Reloader {
        in_force: context.config.plugins.clone(),
        context: context.clone(),
        attestors: attestors.clone(),
        bundle_events,
        keys,
    };
    tasks.spawn("plugin_reload", async move {
        while usr1.recv(&token).await {
            tracing::info!("Reconfigure signal received");
            if let Err(error) = reloader.reload().await {
                tracing::error!(
                    error = &*error as &dyn std::error::Error,
                    "Failed to reconfigure plugins; the settings in force stay"
                );
            }
        }
    });
    Ok(())
}

/// Configures the running plugins anew.
struct Reloader {
    in_force: Plugins,
    context: Context,
    attestors: Attestors,
    bundle_events: Arc<BundleEvents>,
    keys: OpenKeyManager,
}

impl Reloader {
    /// Reads every `plugin_data_file` again. Either all of them are right, or nothing changes.
    ///
    /// All but the data store take their new settings at once. What is named by a setting (a CA
    /// bundle, a kubeconfig) is read again as well. The key manager keeps the keys in use and puts
    /// them where its settings say.
    async fn reload(&mut self) -> Result<(), Failure> {
        let next = self.in_force.reload()?;
        let Context { trust_domain, cache, clock, authority, .. } = &self.context;
        let settings = next.node_attestors.iter().map(|plugin| &plugin.settings);
        let attestors: Vec<Arc<dyn NodeAttestorServer>> =
            plugins::node_attestors(settings, trust_domain, cache, clock)?;
        let upstream: Option<Arc<dyn UpstreamAuthority>> = next
            .upstream_authority
            .as_ref()
            .filter(|plugin| from_file(plugin))
            .map(|plugin| plugins::upstream(Some(&plugin.settings), trust_domain, clock))
            .transpose()?
            .flatten();
        let composers = next.credential_composers.iter().map(|plugin| plugin.settings.clone());
        let composers = plugins::composers(composers);
        let replace_sinks = self.bundle_events.prepare(&next, clock)?;
        // The one that may still fail comes first.
        if next.key_manager != self.in_force.key_manager {
            self.keys.reconfigure(&next.key_manager.settings).await?;
        }
        if let Some(upstream) = upstream {
            authority.replace_upstream(upstream).await?;
        }
        authority.replace_composers(composers);
        self.attestors.replace(attestors);
        replace_sinks();
        self.tell(&next);
        self.in_force = next;
        Ok(())
    }

    /// Says of each plugin with a file of its own what became of it.
    fn tell(&self, next: &Plugins) {
        let (before, name) =
            (&self.in_force, |key_manager: &crate::config::KeyManager| match key_manager {
                crate::config::KeyManager::Disk(_) => "disk",
                crate::config::KeyManager::Memory => "memory",
            });
        tell_one("KeyManager", name(&next.key_manager), &before.key_manager, &next.key_manager);
        for (old, new) in before.node_attestors.iter().zip(&next.node_attestors) {
            tell_one("NodeAttestor", new.name(), old, new);
        }
        for (old, new) in before.upstream_authority.iter().zip(&next.upstream_authority) {
            tell_one("UpstreamAuthority", "disk", old, new);
        }
        for (old, new) in before.notifiers.iter().zip(&next.notifiers) {
            tell_one("Notifier", "k8sbundle", old, new);
        }
        for (old, new) in before.bundle_publishers.iter().zip(&next.bundle_publishers) {
            tell_one("BundlePublisher", "k8s_configmap", old, new);
        }
        for (old, new) in before.credential_composers.iter().zip(&next.credential_composers) {
            tell_one("CredentialComposer", "uniqueid", old, new);
        }
    }
}

fn tell_one<T: PartialEq>(
    plugin_type: &'static str,
    plugin_name: &'static str,
    before: &Configured<T>,
    now: &Configured<T>,
) {
    match (from_file(now), before == now) {
        (false, _) => {}
        (true, true) => tracing::info!(
            plugin_type,
            plugin_name,
            "Plugin read again; its settings are unchanged"
        ),
        (true, false) => tracing::info!(plugin_type, plugin_name, "Plugin reconfigured"),
    }
}

fn from_file<T>(plugin: &Configured<T>) -> bool {
    matches!(plugin.source, PluginSource::File(_))
}
