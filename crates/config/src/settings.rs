//! Settings that every program of ours shares: logs, telemetry, health checks.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

/// How and where a program writes its log (`log_file`, `log_level`, `log_format`,
/// `log_source_location`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LogSettings {
    /// The file that lines are appended to; standard output when `None`. Reopened on SIGUSR2.
    pub file: Option<PathBuf>,
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Text or JSON lines.
    pub format: LogFormat,
    /// Whether each line names the source file and line that wrote it.
    pub source_location: bool,
}

/// A log level by SPIRE's names, most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LogLevel {
    /// Only what ends the program by a defect.
    Panic,
    /// Only what ends the program.
    Fatal,
    /// Failed operations.
    Error,
    /// What deserves attention.
    Warn,
    /// What happens in normal operation; the default.
    #[default]
    Info,
    /// Detail for finding faults.
    Debug,
    /// Everything.
    Trace,
}

/// A text that names no log level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a log level: {0:?}; expected panic, fatal, error, warn, info, debug or trace")]
pub struct UnknownLogLevel(pub String);

impl LogLevel {
    /// The name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl FromStr for LogLevel {
    type Err = UnknownLogLevel;

    /// Any letter case; `warning` is `warn`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "panic" => Self::Panic,
            "fatal" => Self::Fatal,
            "error" => Self::Error,
            "warn" | "warning" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return Err(UnknownLogLevel(text.to_owned())),
        })
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `key=value` lines; the default.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The `telemetry` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// The Prometheus endpoint; none unless its block is there.
    pub prometheus: Option<PrometheusSettings>,
    /// Where traces go (`OpenTelemetry`); none unless its block is there.
    pub traces: Option<TraceSettings>,
    /// The prefix of metric names in place of the program's own (`MetricPrefix`).
    pub metric_prefix: Option<String>,
    /// Whether metrics carry a `trust_domain` label (`EnableTrustDomainLabel`, default false).
    pub trust_domain_label: bool,
    /// Whether metrics carry a `host` label (`EnableHostnameLabel`, default true).
    pub hostname_label: bool,
    /// Which metrics and labels are left out.
    pub filter: MetricFilter,
}

/// Which metrics and labels are left out. Prefixes begin with that of the program and have dots
/// where SPIRE joins the parts of a key: `spire_server.rpc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricFilter {
    /// `AllowedPrefixes`: shown although a shorter prefix is blocked.
    pub allowed_prefixes: Vec<String>,
    /// `BlockedPrefixes`.
    pub blocked_prefixes: Vec<String>,
    /// `AllowedLabels`: no other label is shown, unless this is empty.
    pub allowed_labels: Vec<String>,
    /// `BlockedLabels`.
    pub blocked_labels: Vec<String>,
}

impl MetricFilter {
    /// Whether the metric with this key, joined by dots, is shown: the longest prefix that fits
    /// decides, and what no prefix fits is shown, as in SPIRE.
    pub fn shows(&self, key: &str) -> bool {
        let longest = |prefixes: &[String]| {
            let fitting = prefixes.iter().filter(|prefix| key.starts_with(prefix.as_str()));
            fitting.map(String::len).max()
        };
        longest(&self.blocked_prefixes) <= longest(&self.allowed_prefixes)
    }

    /// Whether the label of this name is shown.
    pub fn shows_label(&self, name: &str) -> bool {
        let has = |names: &[String]| names.iter().any(|one| one == name);
        !has(&self.blocked_labels) && (self.allowed_labels.is_empty() || has(&self.allowed_labels))
    }
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            prometheus: None,
            traces: None,
            metric_prefix: None,
            trust_domain_label: false,
            hostname_label: true,
            filter: MetricFilter::default(),
        }
    }
}

/// The `telemetry { OpenTelemetry {} }` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// The base URL of a collector that takes OTLP over HTTP (`endpoint`).
    pub endpoint: String,
    /// The roots that its certificate chains to, PEM; those of the machine when `None` (`ca_file`).
    pub ca_file: Option<PathBuf>,
    /// Of how many of 100 traces that begin here spans are sent (`sample_percent`, default 100).
    pub sample_percent: u8,
}

/// The `telemetry { Prometheus {} }` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrometheusSettings {
    /// The address or host name to listen on (`host`, default `localhost`).
    pub host: String,
    /// The TCP port to listen on (`port`).
    pub port: u16,
    /// How the endpoint speaks TLS (`tls`); plain HTTP when `None`.
    pub tls: Option<EndpointTls>,
}

/// TLS of an HTTP endpoint: what it presents, and who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointTls {
    /// What the endpoint presents.
    pub certificate: EndpointCertificate,
    /// Who may connect.
    pub clients: EndpointClients,
}

/// What an endpoint presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointCertificate {
    /// A chain and its key in PEM files (`cert_file`, `key_file`); read again when they change.
    Files {
        /// The chain, leaf first.
        cert: PathBuf,
        /// The key of the leaf.
        key: PathBuf,
    },
    /// The program's own X.509-SVID (`use_spire_svid`).
    Svid,
}

/// Who may connect to an endpoint with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointClients {
    /// Everyone; no certificate is asked for.
    Anyone,
    /// Whoever has a certificate under one of the roots in this PEM file (`client_ca_file`).
    Ca(PathBuf),
    /// Whoever has an X.509-SVID with one of these SPIFFE IDs (`authorized_spiffe_ids`).
    SpiffeIds(Vec<String>),
}

/// The `health_checks` block, present only with `listener_enabled = true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// The address or host name to listen on, without brackets (`bind_address`, default
    /// `localhost`).
    pub bind_address: String,
    /// The TCP port to listen on (`bind_port`, default 80).
    pub bind_port: u16,
    /// The path of the liveness check (`live_path`, default `/live`).
    pub live_path: String,
    /// The path of the readiness check (`ready_path`, default `/ready`).
    pub ready_path: String,
}

/// A network in CIDR notation, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// A text that is not a network in CIDR notation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a network in CIDR notation such as 10.0.0.0/8: {0:?}")]
pub struct BadCidr(pub String);

impl Cidr {
    /// Whether `address` lies in the network; an IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32u32.saturating_sub(u32::from(self.prefix));
                (u64::from(net.to_bits()) >> shift) == (u64::from(ip.to_bits()) >> shift)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128u32.saturating_sub(u32::from(self.prefix));
                net.to_bits().checked_shr(shift) == ip.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadCidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|_| digits).ok_or_else(bad)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix > most {
            return Err(bad());
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_own_addresses_only() {
        let contains = |net: &str, ip: &str| {
            net.parse::<Cidr>().unwrap().contains(ip.parse::<IpAddr>().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.1.2"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "1.2.3.4"));
        assert!(contains("1.2.3.4/32", "::ffff:1.2.3.4"));
        assert!(!contains("1.2.3.4/32", "1.2.3.5"));
        assert!(contains("::/0", "fe80::1"));
        assert!(contains("2001:db8::/32", "2001:db8:1::1"));
        assert!(!contains("2001:db8::/32", "2001:db9::1"));
        assert!(!contains("::/0", "1.2.3.4"));
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/+8", "a/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_longest_prefix_decides_whether_a_metric_is_shown() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let filter = MetricFilter {
            allowed_prefixes: texts(&["spire_server.rpc.agent"]),
            blocked_prefixes: texts(&["spire_server.rpc", "spire_server.datastore"]),
            allowed_labels: Vec::new(),
            blocked_labels: texts(&["host"]),
        };
        assert!(filter.shows("spire_server.rpc.agent.v1.agent.attest_agent"));
        assert!(!filter.shows("spire_server.rpc.entry.v1.entry.list_entries"));
        assert!(!filter.shows("spire_server.datastore.node.fetch"));
        assert!(filter.shows("spire_server.started"));
        assert!(filter.shows_label("status") && !filter.shows_label("host"));
        let only = MetricFilter { allowed_labels: texts(&["status"]), ..filter };
        assert!(only.shows_label("status") && !only.shows_label("version"));
    }

    #[test]
    fn log_levels_are_read_in_any_case() {
        assert_eq!("WARNING".parse(), Ok(LogLevel::Warn));
        assert_eq!("Debug".parse(), Ok(LogLevel::Debug));
        assert!("loud".parse::<LogLevel>().is_err());
        assert!(LogLevel::Error < LogLevel::Trace);
    }
}
