//! What signals ask for: SIGUSR1 configures plugins anew, SIGUSR2 reopens the log.

use std::sync::Arc;

use signet_audit::Kind;
use signet_base::Tasks;
use signet_daemon::signal::{UserSignal, reopen_log_on_usr2};

use super::{BuildError, own_authorities};
use crate::{
    attestors::Attestors,
    bundle_events::BundleEvents,
    context::Context,
    plugins::{
        Plugins, Scope, credential_composer, key_manager::OpenKeyManager, node_attestor,
        upstream_authority,
    },
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
            match reloader.context.policy.reload() {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!("Policy file reloaded");
                    let auditor = &reloader.context.auditor;
                    auditor.happened(Kind::Policy, "Policy file reloaded", Vec::new());
                }
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "Failed to reload the policy file; the rules in force stay"
                ),
            }
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
        let Context { authority, .. } = &self.context;
        let authorities = own_authorities(&self.context.cache);
        let scope = Scope {
            trust_domain: &self.context.trust_domain,
            clock: &self.context.clock,
            authorities: &authorities,
        };
        let attestors = node_attestor::open(&next.node_attestors, &scope)?;
        let upstream = next.upstream_authority.as_ref().filter(|plugin| plugin.is_from_file());
        let upstream =
            upstream.map(|plugin| upstream_authority::open(plugin, &scope)).transpose()?;
        let composers = credential_composer::open(&next.credential_composers);
        let replace_sinks = self.bundle_events.prepare(&next, &scope)?;
        // The one that may still fail comes first.
        if next.key_manager != self.in_force.key_manager {
            let Context { trust_domain, clock, .. } = &self.context;
            self.keys.reconfigure(&next.key_manager, trust_domain, clock).await?;
        }
        if let Some(upstream) = upstream {
            authority.replace_upstream(upstream).await?;
        }
        authority.replace_composers(composers);
        self.attestors.replace(attestors);
        replace_sinks();
        self.in_force.log_reload(&next);
        self.in_force = next;
        Ok(())
    }
}
