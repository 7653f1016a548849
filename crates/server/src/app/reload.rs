//! What signals ask for: SIGUSR1 configures plugins anew, SIGUSR2 reopens the log.

use std::sync::Arc;

use signet_attest::node::NodeAttestorServer;
use signet_base::Tasks;
use signet_daemon::signal::{UserSignal, reopen_log_on_usr2};
use signet_pki::UpstreamAuthority;

use super::BuildError;
use crate::{
    attestors::Attestors, config::PluginSource, context::Context, outlets::Outlets, plugins,
};

/// Listens for both signals until the tasks end.
pub(super) fn spawn(
    tasks: &Tasks,
    context: &Context,
    attestors: &Attestors,
    outlets: Arc<Outlets>,
) -> Result<(), BuildError> {
    reopen_log_on_usr2(tasks, context.log.clone()).map_err(BuildError::Signal)?;
    let mut usr1 = UserSignal::usr1().map_err(BuildError::Signal)?;
    let (context, attestors, token) = (context.clone(), attestors.clone(), tasks.token().clone());
    tasks.spawn("plugin_reload", async move {
        while usr1.recv(&token).await {
            reload(&context, &attestors, &outlets).await;
        }
    });
    Ok(())
}

/// Reads every `plugin_data_file` again. Either all of them are right, or nothing changes.
///
/// Node attestors, notifiers, bundle publishers and the upstream authority take their new settings
/// at once. A key manager keeps what it holds: its keys are in use.
async fn reload(context: &Context, attestors: &Attestors, outlets: &Outlets) {
    match configured_anew(context, outlets) {
        Ok((all, upstream)) => {
            attestors.replace(all);
            if let Some(upstream) = upstream
                && let Err(error) = context.authority.replace_upstream(upstream).await
            {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "Failed to exchange the upstream authority"
                );
                return;
            }
            tracing::info!("Plugins configured anew");
        }
        Err(error) => tracing::error!(
            error = &*error as &dyn std::error::Error,
            "Failed to configure plugins anew; the settings in force stay"
        ),
    }
}

type Made = (Vec<Arc<dyn NodeAttestorServer>>, Option<Arc<dyn UpstreamAuthority>>);

fn configured_anew(
    context: &Context,
    outlets: &Outlets,
) -> Result<Made, Box<dyn std::error::Error + Send + Sync>> {
    let plugins = context.config.plugins.reload()?;
    let Context { trust_domain, cache, clock, .. } = context;
    let settings = plugins.node_attestors.iter().map(|plugin| &plugin.settings);
    let all = plugins::node_attestors(settings, trust_domain, cache, clock)?;
    let upstream = plugins
        .upstream_authority
        .as_ref()
        .filter(|plugin| matches!(plugin.source, PluginSource::File(_)))
        .map(|plugin| plugins::upstream(Some(&plugin.settings), trust_domain, clock))
        .transpose()?
        .flatten();
    outlets.replace(&plugins, clock)?;
    Ok((all, upstream))
}
