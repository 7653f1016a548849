//! Metrics: a registry that is passed around, filled by parts of the program, read over HTTP.
//!
//! Names and labels follow SPIRE, so that its dashboards go on working: a key of parts
//! (`["rpc", "agent", "v1"]`) becomes `spire_server_rpc_agent_v1`, counters have no `_total`, and a
//! call counter is a counter `X` and a histogram `X_elapsed_time` in milliseconds, both with a
//! `status` label. Label values lose every character outside `[A-Za-z0-9_]`, as there.
//!
//! Every handle is cheap to clone and to use. A metric keeps at most [`MAX_SERIES`] combinations of
//! label values; what comes after is counted under the label value `other`.

mod encode;
mod family;
mod serve;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::registry::Registry;
use tokio::time::Instant;

use self::family::{Family, Kind};
pub use self::{
    family::MAX_SERIES,
    serve::{MetricsServer, SERVED_AS},
};
use signet_config::TelemetrySettings;

/// The metrics of a program. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Inner>>);

struct Inner {
    registry: Registry,
    families: BTreeMap<String, Arc<Family>>,
    before_reading: Vec<Arc<dyn Fn() + Send + Sync>>,
}

/// A number that only grows.
#[derive(Clone, Debug)]
pub struct Counter(Arc<Family>);

/// A number that goes up and down.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<Family>);

/// How values are spread over buckets.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Family>);

/// Calls by status, and how long they took.
#[derive(Clone, Debug)]
pub struct Calls {
    count: Arc<Family>,
    elapsed_ms: Arc<Family>,
}

/// A call that runs since this was made; see [`Calls::start`].
#[derive(Debug)]
pub struct CallTimer {
    calls: Calls,
    start: Instant,
    labels: Vec<String>,
    done: bool,
}

impl Metrics {
    /// An empty registry.
    ///
    /// `prefix` begins all names (`spire_server`, `spire_agent`; the settings may replace it),
    /// `trust_domain` and `host` are the labels of every metric that the settings ask for.
    pub fn new(settings: &TelemetrySettings, prefix: &str, trust_domain: &str, host: &str) -> Self {
        let prefix = settings.metric_prefix.as_deref().unwrap_or(prefix);
        let mut labels = Vec::new();
        if settings.hostname_label && !host.is_empty() {
            labels.push(("host".into(), sanitize(host).into_owned().into()));
        }
        if settings.trust_domain_label {
            labels.push(("trust_domain".into(), sanitize(trust_domain).into_owned().into()));
        }
        let registry =
            Registry::with_prefix_and_labels(sanitize(prefix).into_owned(), labels.into_iter());
        Self(Arc::new(Mutex::new(Inner {
            registry,
            families: BTreeMap::new(),
            before_reading: Vec::new(),
        })))
    }

    /// An empty registry without labels, for tests and for parts that nobody measures.
    pub fn detached() -> Self {
        let settings = TelemetrySettings { hostname_label: false, ..TelemetrySettings::default() };
        Self::new(&settings, "signet", "", "")
    }

    /// The counter of this key; made at its first mention. `labels` are the names of its labels.
    pub fn counter(&self, key: &[&str], help: &str, labels: &[&'static str]) -> Counter {
        Counter(self.family(key, help, labels, Kind::Counter))
    }

    /// The gauge of this key; made at its first mention.
    pub fn gauge(&self, key: &[&str], help: &str, labels: &[&'static str]) -> Gauge {
        Gauge(self.family(key, help, labels, Kind::Gauge))
    }

    /// The histogram of this key, in seconds from 100 µs to 30 s; made at its first mention.
    pub fn seconds(&self, key: &[&str], help: &str, labels: &[&'static str]) -> Histogram {
        Histogram(self.family(key, help, labels, Kind::Seconds))
    }

    /// The call counter of this key; made at its first mention. A label `status` is added.
    pub fn calls(&self, key: &[&str], help: &str, labels: &[&'static str]) -> Calls {
        let mut labels = labels.to_vec();
        labels.push("status");
        let mut elapsed = key.to_vec();
        elapsed.push("elapsed_time");
        Calls {
            count: self.family(key, help, &labels, Kind::Counter),
            elapsed_ms: self.family(&elapsed, help, &labels, Kind::Milliseconds),
        }
    }

    /// Has `refresh` called before each reading, to set gauges that nobody else keeps up to date.
    ///
    /// It must not wait, and must not read the metrics itself.
    pub fn before_reading(&self, refresh: impl Fn() + Send + Sync + 'static) {
        self.lock().before_reading.push(Arc::new(refresh));
    }

    /// The names of all metrics without their prefix, sorted; used or not.
    pub fn names(&self) -> Vec<String> {
        self.lock().families.keys().cloned().collect()
    }

    /// All metrics in Prometheus' text format.
    pub fn encode(&self) -> String {
        let refresh = self.lock().before_reading.clone();
        for refresh in refresh {
            refresh();
        }
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.lock().registry);
        text
    }

    fn family(&self, key: &[&str], help: &str, labels: &[&'static str], kind: Kind) -> Arc<Family> {
        let name = key.iter().map(|part| sanitize(part)).collect::<Vec<_>>().join("_");
        let mut inner = self.lock();
        if let Some(have) = inner.families.get(&name) {
            debug_assert!(have.is(kind, labels), "metric {name} has two shapes");
            return Arc::clone(have);
        }
        let family = Arc::new(Family::new(kind, labels));
        inner.registry.register(
            name.as_str(),
            help.trim_end_matches('.'),
            encode::Shared(Arc::clone(&family)),
        );
        inner.families.insert(name, Arc::clone(&family));
        family
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metrics({})", self.lock().families.len())
    }
}

impl Counter {
    /// Adds one under these label values, in the order of the label names.
    pub fn inc(&self, labels: &[&str]) {
        self.add(labels, 1);
    }

    /// Adds `n`.
    pub fn add(&self, labels: &[&str], n: u64) {
        self.0.count(labels, n);
    }
}

impl Gauge {
    /// Sets the value under these label values.
    pub fn set(&self, labels: &[&str], value: f64) {
        self.0.set(labels, value);
    }

    /// Sets a whole number, such as a length.
    pub fn set_len(&self, labels: &[&str], value: usize) {
        self.0.set(labels, value as f64);
    }

    /// Adds `by`, which may be negative.
    pub fn add(&self, labels: &[&str], by: f64) {
        self.0.add(labels, by);
    }

    /// Adds one, and takes it away again when the guard is dropped.
    #[must_use]
    pub fn hold(&self, labels: &[&str]) -> GaugeGuard {
        self.add(labels, 1.0);
        GaugeGuard { gauge: self.clone(), labels: owned(labels) }
    }
}

/// One unit of a gauge, for instance one open connection.
#[derive(Debug)]
pub struct GaugeGuard {
    gauge: Gauge,
    labels: Vec<String>,
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        let labels: Vec<_> = self.labels.iter().map(String::as_str).collect();
        self.gauge.add(&labels, -1.0);
    }
}

impl Histogram {
    /// Counts one duration under these label values.
    pub fn observe(&self, labels: &[&str], duration: Duration) {
        self.0.observe(labels, duration.as_secs_f64());
    }
}

impl Calls {
    /// Starts to measure a call with these values of the labels but `status`.
    ///
    /// A timer that is dropped without [`CallTimer::done`] counts as `Canceled`.
    pub fn start(&self, labels: &[&str]) -> CallTimer {
        CallTimer { calls: self.clone(), start: Instant::now(), labels: owned(labels), done: false }
    }

    /// Counts a call that took `elapsed` and ended with `status`, the name of a gRPC code (`OK`).
    pub fn observe(&self, labels: &[&str], status: &str, elapsed: Duration) {
        let mut all = labels.to_vec();
        all.push(status);
        self.count.count(&all, 1);
        self.elapsed_ms.observe(&all, elapsed.as_secs_f64() * 1e3);
    }
}

impl CallTimer {
    /// Ends the call with `status`, the name of a gRPC code (`OK`, `PermissionDenied`).
    pub fn done(mut self, status: &str) {
        self.end(status);
    }

    fn end(&mut self, status: &str) {
        if !self.done {
            self.done = true;
            let labels: Vec<_> = self.labels.iter().map(String::as_str).collect();
            self.calls.observe(&labels, status, self.start.elapsed());
        }
    }
}

impl Drop for CallTimer {
    fn drop(&mut self) {
        self.end("Canceled");
    }
}

/// The name of a gRPC status code as SPIRE's `status` label has it (`OK`, `PermissionDenied`).
pub fn status_name(code: i32) -> &'static str {
    match code {
        0 => "OK",
        1 => "Canceled",
        2 => "Unknown",
        3 => "InvalidArgument",
        4 => "DeadlineExceeded",
        5 => "NotFound",
        6 => "AlreadyExists",
        7 => "PermissionDenied",
        8 => "ResourceExhausted",
        9 => "FailedPrecondition",
        10 => "Aborted",
        11 => "OutOfRange",
        12 => "Unimplemented",
        13 => "Internal",
        14 => "Unavailable",
        15 => "DataLoss",
        16 => "Unauthenticated",
        _ => "Code",
    }
}

/// Each run of characters outside `[A-Za-z0-9_]`, with an underscore after it, becomes one
/// underscore.
fn sanitize(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    let mut in_run = false;
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || (c == '_' && !in_run) {
            clean.push(c);
            in_run = false;
        } else if !in_run {
            clean.push('_');
            in_run = true;
        } else {
            in_run = c != '_';
        }
    }
    Cow::Owned(clean)
}

fn owned(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|label| (*label).to_owned()).collect()
}

#[cfg(test)]
mod tests;
