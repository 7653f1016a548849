//! `audit {}`: a log in a chain of hashes, and syslog.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use signet_audit::{ChainOptions, OnFailure, SyslogTarget};
use signet_config::Block;

/// What `audit {}` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditSettings {
    /// The log in a chain of hashes, if there is one.
    pub chain: Option<ChainOptions>,
    /// The syslog daemon, if there is one.
    pub syslog: Option<SyslogTarget>,
    /// The OpenTelemetry collector, if there is one.
    pub otlp: Option<OtlpTarget>,
}

/// A collector that takes OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpTarget {
    /// Its base URL.
    pub endpoint: String,
    /// The roots that its certificate chains to, PEM; those of the machine when `None`.
    pub ca_file: Option<PathBuf>,
}

/// The shortest interval between heads or syncs: less is work for nothing.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn audit(server: &Block<'_>) -> AuditSettings {
    let Some(block) = server.block("audit") else { return AuditSettings::default() };
    let directory = block.path("directory");
    let mut options = ChainOptions::new(directory.clone().unwrap_or_default());
    options.key_file = block.path("key_file");
    options.heads_file = block.path("heads_file");
    if let Some(megabytes) = block.integer::<u32>("max_file_size_mb").filter(|size| *size > 0) {
        options.max_file_bytes = u64::from(megabytes) << 20;
    }
    options.keep_files = block.integer("keep_files").unwrap_or(0);
    if options.keep_files == 1 {
        block.error("keep_files", "at least 2, or 0 for all: the one being written is the last");
    }
    for (key, slot) in [
        ("head_interval", &mut options.head_interval),
        ("sync_interval", &mut options.sync_interval),
    ] {
        match block.duration(key) {
            Some(interval) if interval < MIN_INTERVAL => block.error(key, "at least 100ms"),
            Some(interval) => *slot = interval,
            None => {}
        }
    }
    options.on_failure = match block.text("on_failure").as_deref() {
        None | Some("stop") => OnFailure::Stop,
        Some("continue") => OnFailure::Continue,
        Some(other) => {
            block.error("on_failure", format_args!("found {other:?}, expected stop or continue"));
            OnFailure::Stop
        }
    };
    let syslog = block.text("syslog").and_then(|text| match target(&text) {
        Some(target) => Some(target),
        None => {
            let expected = "expected unix:PATH or udp:ADDRESS:PORT";
            block.error("syslog", format_args!("found {text:?}, {expected}"));
            None
        }
    });
    let otlp = block.text("otlp");
    if let Some(url) = &otlp
        && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
    {
        block.error("otlp", "expected a URL that begins with http:// or https://");
    }
    let ca_file = block.path("otlp_ca_file");
    if ca_file.is_some() && otlp.is_none() {
        block.error("otlp_ca_file", "is for the collector that otlp names");
    }
    if directory.is_none() && syslog.is_none() && otlp.is_none() {
        block.error("directory", "name a directory, a syslog daemon with syslog, or otlp");
    }
    let otlp = otlp.map(|endpoint| OtlpTarget { endpoint, ca_file });
    block.finish();
    AuditSettings { chain: directory.map(|_| options), syslog, otlp }
}

fn target(text: &str) -> Option<SyslogTarget> {
    match text.split_once(':')? {
        ("unix", path) if path.starts_with('/') => Some(SyslogTarget::Unix(path.into())),
        ("udp", address) => address.parse::<SocketAddr>().ok().map(SyslogTarget::Udp),
        _ => None,
    }
}
