//! Where audit events go.

use std::sync::Arc;

use signet_audit::{Chain, LogSink, Sink, SyslogSink};
use signet_base::SharedClock;

use super::BuildError;
use crate::{audit::SUBSYSTEM, config::Config};

/// As the audit log names this program.
const PROGRAM: &str = "signet-server";

/// The log in a chain of hashes, and every place that events go to.
type Opened = (Option<Chain>, Vec<Arc<dyn Sink>>);

/// The log in a chain of hashes and the other places for audit events, as configured.
pub(super) fn sinks(
    config: &Config,
    clock: &SharedClock,
    host: &str,
) -> Result<Opened, BuildError> {
    let log = config.audit_log_enabled.then(|| Arc::new(LogSink::new(SUBSYSTEM)) as Arc<dyn Sink>);
    let mut sinks: Vec<Arc<dyn Sink>> = log.into_iter().collect();
    let chain =
        config.audit.chain.clone().map(|options| {
            Chain::open(options, Arc::clone(clock), PROGRAM, env!("CARGO_PKG_VERSION"))
        });
    let chain = chain.transpose()?;
    sinks.extend(chain.clone().map(|chain| Arc::new(chain) as Arc<dyn Sink>));
    if let Some(target) = config.audit.syslog.clone() {
        let sink = SyslogSink::open(target, PROGRAM, host, Arc::clone(clock));
        sinks.push(Arc::new(sink.map_err(BuildError::Syslog)?));
    }
    Ok((chain, sinks))
}

/// The user that this process runs as.
pub(super) fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}
