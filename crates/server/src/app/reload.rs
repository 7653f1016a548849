//! What signals ask for: SIGUSR1 configures plugins anew, SIGUSR2 reopens the log.

use signet_base::Tasks;
use signet_daemon::signal::{UserSignal, reopen_log_on_usr2};

use super::BuildError;
use crate::{attestors::Attestors, context::Context, plugins};

/// Listens for both signals until the tasks end.
pub(super) fn spawn(
    tasks: &Tasks,
    context: &Context,
    attestors: &Attestors,
) -> Result<(), BuildError> {
    reopen_log_on_usr2(tasks, context.log.clone()).map_err(BuildError::Signal)?;
    let mut usr1 = UserSignal::usr1().map_err(BuildError::Signal)?;
    let (context, attestors, token) = (context.clone(), attestors.clone(), tasks.token().clone());
    tasks.spawn("plugin_reload", async move {
        while usr1.recv(&token).await {
            reload(&context, &attestors);
        }
    });
    Ok(())
}

/// Reads every `plugin_data_file` again. Either all of them are right, or nothing changes.
///
/// Node attestors take their new settings at once. The other plugins that can have such a file
/// read their own files whenever they need them, or keep what they hold until the next start.
fn reload(context: &Context, attestors: &Attestors) {
    let plugins = match context.config.plugins.reload() {
        Ok(plugins) => plugins,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "Failed to configure plugins anew; the settings in force stay"
            );
            return;
        }
    };
    let settings = plugins.node_attestors.iter().map(|plugin| &plugin.settings);
    match plugins::node_attestors(settings, &context.trust_domain, &context.cache, &context.clock) {
        Ok(all) => {
            attestors.replace(all);
            tracing::info!("Plugins configured anew");
        }
        Err(error) => tracing::error!(
            error = &error as &dyn std::error::Error,
            "Failed to configure node attestors anew; the settings in force stay"
        ),
    }
}
