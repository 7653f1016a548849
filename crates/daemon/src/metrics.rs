//! Metrics: a registry that is passed around, filled by parts of the program, read over HTTP.
//!
//! Names and labels follow SPIRE, so that its dashboards go on working: a key of parts
//! (`["rpc", "agent", "v1"]`) becomes `spire_server_rpc_agent_v1`, counters have no `_total`, and a
//! call counter is a counter `X` and a histogram `X_elapsed_time` in milliseconds, both with a
//! `status` label. Label values lose every character outside `[A-Za-z0-9_]`, as there.
//!
//! Every handle is cheap to clone and to use. A metric keeps at most [`MAX_SERIES`] combinations of
//! label values; what comes after is counted under the label value `other`.

mod family;
mod process;
mod rpc;
mod serve;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{encoding::text, metrics, registry::Registry};
use tokio::time::Instant;

pub use self::{
    family::MAX_SERIES,
    rpc::{rpc_key, short_service},
    serve::{MetricsServer, SERVED_AS},
};
use self::{
    family::{AnyFamily, Bounded, Kind, Plain},
    process::{Memory, Process},
};
use signet_config::{MetricFilter, TelemetrySettings};

/// The metrics of a program. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Inner>>);

struct Inner {
    prefix: String,
    filter: MetricFilter,
    registry: Registry,
    /// What has neither prefix nor labels.
    process: Registry,
    families: BTreeMap<String, AnyFamily>,
    before_reading: Vec<Arc<dyn Fn() + Send + Sync>>,
}

/// A number that only grows.
#[derive(Clone, Debug)]
pub struct Counter(Bounded<Plain>);

/// A number that goes up and down.
#[derive(Clone, Debug)]
pub struct Gauge(Bounded<metrics::gauge::Gauge<f64, AtomicU64>>);

/// How values are spread over buckets.
#[derive(Clone, Debug)]
pub struct Histogram(Bounded<metrics::histogram::Histogram>);

/// Calls by status, and how long they took.
#[derive(Clone, Debug)]
pub struct Calls {
    count: Counter,
    elapsed_ms: Histogram,
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
        let filter = settings.filter.clone();
        let mut labels = Vec::new();
        if settings.hostname_label && !host.is_empty() && filter.shows_label("host") {
            labels.push(("host".into(), sanitize(host).into_owned().into()));
        }
        if settings.trust_domain_label && filter.shows_label("trust_domain") {
            labels.push(("trust_domain".into(), sanitize(trust_domain).into_owned().into()));
        }
        let registry =
            Registry::with_prefix_and_labels(sanitize(prefix).into_owned(), labels.into_iter());
        Self(Arc::new(Mutex::new(Inner {
            prefix: prefix.to_owned(),
            filter,
            registry,
            process: Registry::default(),
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
        match self.family(key, help, labels, Kind::Counter) {
            AnyFamily::Counter(family) => Counter(family),
            other => Counter(Bounded::lost(&other, labels, Plain::default)),
        }
    }

    /// The gauge of this key; made at its first mention.
    pub fn gauge(&self, key: &[&str], help: &str, labels: &[&'static str]) -> Gauge {
        match self.family(key, help, labels, Kind::Gauge) {
            AnyFamily::Gauge(family) => Gauge(family),
            other => Gauge(Bounded::lost(&other, labels, metrics::gauge::Gauge::default)),
        }
    }

    /// The histogram of this key, in seconds from 100 µs to 30 s; made at its first mention.
    pub fn seconds(&self, key: &[&str], help: &str, labels: &[&'static str]) -> Histogram {
        self.histogram(key, help, labels, Kind::Seconds)
    }

    /// The histogram of this key over numbers of things, from 0 to 10,000; made at its first
    /// mention. SPIRE has a summary in its place.
    pub fn numbers(&self, key: &[&str], help: &str, labels: &[&'static str]) -> Histogram {
        self.histogram(key, help, labels, Kind::Numbers)
    }

    /// The call counter of this key; made at its first mention. A label `status` is added.
    pub fn calls(&self, key: &[&str], help: &str, labels: &[&'static str]) -> Calls {
        let mut labels = labels.to_vec();
        labels.push("status");
        let mut elapsed = key.to_vec();
        elapsed.push("elapsed_time");
        Calls {
            count: self.counter(key, help, &labels),
            elapsed_ms: self.histogram(&elapsed, help, &labels, Kind::Milliseconds),
        }
    }

    fn histogram(
        &self,
        key: &[&str],
        help: &str,
        labels: &[&'static str],
        kind: Kind,
    ) -> Histogram {
        match self.family(key, help, labels, kind) {
            AnyFamily::Histogram(_, family) => Histogram(family),
            other => {
                Histogram(Bounded::lost(&other, labels, || metrics::histogram::Histogram::new([])))
            }
        }
    }

    /// Shows what the operating system knows of this process: `process_cpu_seconds_total` and its
    /// like without prefix and labels, and `runtime_alloc_bytes`.
    pub fn show_process(&self) {
        self.lock().process.register_collector(Box::new(Process::new()));
        let alloc = self.gauge(
            &["runtime", "alloc_bytes"],
            "Resident memory that is the process's own",
            &[],
        );
        self.before_reading(move || {
            if let Some(memory) = Memory::read() {
                alloc.set(&[], memory.anonymous);
            }
        });
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
        let inner = self.lock();
        // Writing to a string cannot fail.
        let _ = text::encode_registry(&mut text, &inner.registry)
            .and_then(|()| text::encode_registry(&mut text, &inner.process))
            .and_then(|()| text::encode_eof(&mut text));
        text
    }

    fn family(&self, key: &[&str], help: &str, labels: &[&'static str], kind: Kind) -> AnyFamily {
        let name = key.iter().map(|part| sanitize(part)).collect::<Vec<_>>().join("_");
        let mut inner = self.lock();
        if let Some(have) = inner.families.get(&name) {
            debug_assert!(have.is(kind, labels), "metric {name} has two shapes");
            return have.clone();
        }
        let shown = labels.iter().map(|label| inner.filter.shows_label(label)).collect();
        let family = AnyFamily::new(kind, labels, shown);
        let full = format!("{}.{}", inner.prefix, key.join("."));
        if inner.filter.shows(&full) {
            family.register(&mut inner.registry, &name, help.trim_end_matches('.'));
        }
        inner.families.insert(name, family.clone());
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
        self.0.with(labels, |counter| {
            counter.0.inc_by(n);
        });
    }
}

impl Gauge {
    /// Sets the value under these label values.
    pub fn set(&self, labels: &[&str], value: f64) {
        self.0.with(labels, |gauge| {
            gauge.set(value);
        });
    }

    /// Forgets the value under these label values: there is nothing to tell any more.
    pub fn forget(&self, labels: &[&str]) {
        self.0.forget(labels);
    }

    /// Forgets the values under all labels.
    pub fn forget_all(&self) {
        self.0.forget_all();
    }

    /// Sets a whole number, such as a length.
    pub fn set_len(&self, labels: &[&str], value: usize) {
        self.set(labels, value as f64);
    }

    /// Adds `by`, which may be negative.
    pub fn add(&self, labels: &[&str], by: f64) {
        self.0.with(labels, |gauge| {
            gauge.inc_by(by);
        });
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
        self.0.with(labels, |histogram| histogram.observe(duration.as_secs_f64()));
    }

    /// Counts one number under these label values.
    pub fn observe_len(&self, labels: &[&str], len: usize) {
        self.0.with(labels, |histogram| histogram.observe(len as f64));
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
        self.count.inc(&all);
        self.elapsed_ms.0.with(&all, |ms| ms.observe(elapsed.as_secs_f64() * 1e3));
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
