//! Where audit events go.

use std::{sync::Arc, time::Duration};

use signet_audit::{Chain, LogSink, OtlpDelivery, OtlpSink, Sink, SyslogSink};
use signet_base::{SharedClock, chain};
use signet_http::{HttpClient, Trust};

use super::BuildError;
use crate::{
    audit::SUBSYSTEM,
    config::{Config, OtlpTarget},
};

/// As the audit log names this program.
const PROGRAM: &str = "signet-server";

/// The log in a chain of hashes, and every place that events go to.
type Opened = (Option<Chain>, Vec<Arc<dyn Sink>>, Option<OtlpDelivery>);

/// How long a collector may take for one batch.
const OTLP_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer of a collector that is read, bytes.
const OTLP_ANSWER: usize = 64 * 1024;

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
    let mut delivery = None;
    if let Some(target) = &config.audit.otlp {
        let http = collector(target).map_err(BuildError::Otlp)?;
        let (sink, deliver) =
            OtlpSink::new(&target.endpoint, http, PROGRAM, host, Arc::clone(clock));
        sinks.push(Arc::new(sink));
        delivery = Some(deliver);
    }
    Ok((chain, sinks, delivery))
}

/// A client of the collector; what is wrong with its settings, in words.
fn collector(target: &OtlpTarget) -> Result<HttpClient, String> {
    let mut http = HttpClient::builder().timeout(OTLP_TIMEOUT).max_body(OTLP_ANSWER).keep_alive();
    if let Some(path) = &target.ca_file {
        http = http.trust(Trust::file(path).map_err(|error| error.to_string())?);
    }
    http.build().map_err(|error| chain(&error))
}

/// The user that this process runs as.
pub(super) fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}
