//! Reading the settings that every program of ours shares.

use crate::{
    decode::Block,
    settings::{
        HealthSettings, LogFormat, LogLevel, LogSettings, PrometheusSettings, TelemetrySettings,
    },
};

/// The log flags of a command line; what is set wins over the file.
#[derive(Clone, Debug, Default)]
pub struct LogFlags {
    /// `-logFile`.
    pub file: Option<String>,
    /// `-logFormat`.
    pub format: Option<LogFormat>,
    /// `-logLevel`.
    pub level: Option<LogLevel>,
    /// `-logSourceLocation`.
    pub source_location: bool,
}

/// Reads the `log_*` keys of `server {}` or `agent {}`.
pub fn log_settings(block: &Block<'_>, flags: &LogFlags) -> LogSettings {
    let file = block.path("log_file");
    let level = block.parsed::<LogLevel>("log_level");
    let format = block.text("log_format").and_then(|text| {
        let format = log_format(&text);
        if format.is_none() {
            block.error("log_format", format_args!("found {text:?}, expected text or json"));
        }
        format
    });
    let source_location = block.flag("log_source_location");
    LogSettings {
        file: flags.file.as_ref().filter(|file| !file.is_empty()).map(Into::into).or(file),
        level: flags.level.or(level).unwrap_or_default(),
        format: flags.format.or(format).unwrap_or_default(),
        source_location: flags.source_location || source_location,
    }
}

/// Reads `text` or `json`, in any letter case.
pub fn log_format(text: &str) -> Option<LogFormat> {
    match text.to_ascii_lowercase().as_str() {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

/// Reads `telemetry {}` of the file.
pub fn telemetry(root: &Block<'_>) -> TelemetrySettings {
    let Some(block) = root.block("telemetry") else {
        return TelemetrySettings::default();
    };
    const PULL: &str = "this build offers metrics to Prometheus only; use Prometheus { } and let a \
                        collector forward them";
    for sink in ["DogStatsd", "Statsd", "M3"] {
        block.refuse(sink, PULL);
    }
    block.refuse("InMem", "metrics are not kept for a signal to print; use Prometheus { }");
    const RELABEL: &str =
        "metrics are not filtered here; drop what you do not want in Prometheus's own relabelling";
    for filter in ["AllowedPrefixes", "BlockedPrefixes", "AllowedLabels", "BlockedLabels"] {
        block.refuse(filter, RELABEL);
    }
    let settings = TelemetrySettings {
        prometheus: block.block("Prometheus").and_then(prometheus),
        metric_prefix: block.text("MetricPrefix"),
        trust_domain_label: block.flag("EnableTrustDomainLabel"),
        hostname_label: block.boolean("EnableHostnameLabel").unwrap_or(true),
    };
    block.finish();
    settings
}

fn prometheus(block: Block<'_>) -> Option<PrometheusSettings> {
    block.refuse(
        "tls",
        "the metrics endpoint of this build speaks plain HTTP; keep it on localhost or put a proxy \
         before it",
    );
    let host = host(&block, "host");
    let port = block.required("port", block.port("port"));
    block.finish();
    Some(PrometheusSettings { host, port: port? })
}

/// Reads `health_checks {}` of the file; none unless its listener is enabled.
pub fn health_checks(root: &Block<'_>) -> Option<HealthSettings> {
    let block = root.block("health_checks")?;
    let enabled = block.flag("listener_enabled");
    let settings = HealthSettings {
        bind_address: host(&block, "bind_address"),
        bind_port: block.port("bind_port").unwrap_or(80),
        live_path: http_path(&block, "live_path", "/live"),
        ready_path: http_path(&block, "ready_path", "/ready"),
    };
    block.finish();
    enabled.then_some(settings)
}

fn host(block: &Block<'_>, key: &'static str) -> String {
    match block.text(key) {
        Some(text) => text.trim_matches(['[', ']']).to_owned(),
        None => "localhost".to_owned(),
    }
}

fn http_path(block: &Block<'_>, key: &'static str, default: &str) -> String {
    let path = block.text(key).unwrap_or_else(|| default.to_owned());
    if !path.starts_with('/') {
        block.error(key, format_args!("found {path:?}, expected a path that starts with /"));
    }
    path
}
