//! Reading the settings that every program of ours shares.

use crate::{
    decode::Block,
    settings::{
        EndpointCertificate, EndpointClients, EndpointTls, HealthSettings, LogFormat, LogLevel,
        LogSettings, MetricFilter, PrometheusSettings, TelemetrySettings, TraceSettings,
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

/// Reads `telemetry {}` of the file; `is_id` says whether a text is a SPIFFE ID, or why not.
pub fn telemetry(root: &Block<'_>, is_id: fn(&str) -> Result<(), String>) -> TelemetrySettings {
    let Some(block) = root.block("telemetry") else {
        return TelemetrySettings::default();
    };
    const PULL: &str = "metrics are offered to Prometheus only; use Prometheus { } and let a \
                        collector (OpenTelemetry Collector, Telegraf) read them there and send \
                        them on";
    for sink in ["DogStatsd", "Statsd", "M3"] {
        block.refuse(sink, PULL);
    }
    // SPIRE keeps these unless it is told otherwise, so that many files mention them.
    if block.holds_block("InMem") {
        block.warn("InMem", "metrics are not kept for a signal to print; use Prometheus { }");
        block.block("InMem").inspect(|block| {
            block.boolean("enabled");
        });
    }
    let settings = TelemetrySettings {
        traces: block.block("OpenTelemetry").and_then(traces),
        prometheus: block.block("Prometheus").and_then(|block| prometheus(block, is_id)),
        metric_prefix: block.text("MetricPrefix"),
        trust_domain_label: block.flag("EnableTrustDomainLabel"),
        hostname_label: block.boolean("EnableHostnameLabel").unwrap_or(true),
        filter: MetricFilter {
            allowed_prefixes: block.texts("AllowedPrefixes"),
            blocked_prefixes: block.texts("BlockedPrefixes"),
            allowed_labels: block.texts("AllowedLabels"),
            blocked_labels: block.texts("BlockedLabels"),
        },
    };
    block.finish();
    settings
}

fn traces(block: Block<'_>) -> Option<TraceSettings> {
    let endpoint = block.required_text("endpoint");
    let ca_file = block.path("ca_file");
    let sample_percent = block.integer::<u8>("sample_percent").unwrap_or(100);
    if sample_percent > 100 {
        block.error("sample_percent", "expected a number from 0 to 100");
    }
    if let Some(url) = &endpoint
        && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
    {
        block.error("endpoint", "expected a URL that begins with http:// or https://");
    }
    if !cfg!(feature = "otel") {
        let message = "this program was built without OpenTelemetry: build it with --features otel, \
                       or leave the block out";
        block.error("endpoint", message);
    }
    block.finish();
    Some(TraceSettings { endpoint: endpoint?, ca_file, sample_percent })
}

fn prometheus(
    block: Block<'_>,
    is_id: fn(&str) -> Result<(), String>,
) -> Option<PrometheusSettings> {
    let host = host(&block, "host");
    let port = block.required("port", block.port("port"));
    let tls = block.block("tls").map(|block| endpoint_tls(block, is_id));
    block.finish();
    let tls = match tls {
        Some(tls) => Some(tls?),
        None => None,
    };
    Some(PrometheusSettings { host, port: port?, tls })
}

/// Reads `tls {}` of an endpoint; none after an error.
fn endpoint_tls(block: Block<'_>, is_id: fn(&str) -> Result<(), String>) -> Option<EndpointTls> {
    let (cert, key) = (block.path("cert_file"), block.path("key_file"));
    let certificate = match (block.flag("use_spire_svid"), cert, key) {
        (true, None, None) => Some(EndpointCertificate::Svid),
        (false, Some(cert), Some(key)) => Some(EndpointCertificate::Files { cert, key }),
        (true, _, _) => {
            let message = "expected either this or cert_file and key_file, found both";
            block.error("use_spire_svid", message);
            None
        }
        (false, _, _) => {
            let message = "expected both of cert_file and key_file, or use_spire_svid = true";
            block.error("cert_file", message);
            None
        }
    };
    let ids = block.texts("authorized_spiffe_ids");
    let mut is_good = true;
    for id in &ids {
        if let Err(why) = is_id(id) {
            block.error("authorized_spiffe_ids", format_args!("{id:?}: {why}"));
            is_good = false;
        }
    }
    let clients = match (block.path("client_ca_file"), ids) {
        (None, ids) if ids.is_empty() => Some(EndpointClients::Anyone),
        (None, ids) => Some(EndpointClients::SpiffeIds(ids)),
        (Some(file), ids) if ids.is_empty() => Some(EndpointClients::Ca(file)),
        (Some(_), _) => {
            let message = "only one of client_ca_file and authorized_spiffe_ids can be used";
            block.error("client_ca_file", message);
            None
        }
    };
    block.finish();
    let tls = EndpointTls { certificate: certificate?, clients: clients? };
    is_good.then_some(tls)
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
