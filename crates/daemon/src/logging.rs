//! Structured logs in the two shapes that SPIRE writes: logrus-like text and JSON lines.
//!
//! ```text
//! time="2026-11-21T06:49:11.207441227Z" level=info msg="Opening database" subsystem_name=store
//! {"level":"info","msg":"Opening database","subsystem_name":"store","time":"2026-…Z"}
//! ```
//!
//! `time`, `level` and `msg` are always there. Other fields are those of the event, then those of
//! the spans around it, sorted by name. `subsystem_name` is the event's own, or else the module
//! that logged (`signet_server::ca` is `server.ca`). With source locations, `file` and `func` too.
//! The level and the file can be changed while the program runs, through a [`LogHandle`].
//! The stream is standard output unless a file is named.

mod filter;
mod format;
mod layer;
mod output;

use std::{fmt, io, path::PathBuf, sync::Arc};

use signet_base::SharedClock;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;

use self::{filter::LevelSwitch, layer::LineLayer, output::Output};
pub use signet_config::{LogFormat, LogLevel, LogSettings};

/// Changes the log of a running program. Clones act on the same log.
#[derive(Clone)]
pub struct LogHandle {
    level: Arc<LevelSwitch>,
    output: Arc<Output>,
    launch_level: LogLevel,
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another part of the process has set up logging before.
    #[error("logging is set up already")]
    AlreadySet,
    /// The log file cannot be opened; when it is reopened, the old one stays in use.
    #[error("opening log file {}", .path.display())]
    Open {
        /// The file's path.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// Traces cannot be sent as they are to be (`telemetry { OpenTelemetry {} }`).
    #[error("setting up OpenTelemetry: {0}")]
    Traces(String),
}

/// Sets up logging for the whole process.
///
/// # Errors
/// [`LogError`] when the file cannot be opened or logging is set up already.
pub fn init(settings: &LogSettings, clock: SharedClock) -> Result<LogHandle, LogError> {
    let output = Arc::new(Output::open(settings.file.as_deref())?);
    let (subscriber, handle) = build(settings, clock, output);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)?;
    Ok(handle)
}

/// As [`init`]; the spans of `service` are sent to a collector as well, where the settings name one.
/// Has to be called where a runtime runs.
///
/// # Errors
/// As [`init`]; [`LogError::Traces`] when the collector's settings cannot be used.
pub fn init_traced(
    settings: &LogSettings,
    traces: Option<&signet_config::TraceSettings>,
    service: &'static str,
    clock: SharedClock,
) -> Result<LogHandle, LogError> {
    #[cfg(feature = "otel")]
    if let Some(traces) = traces {
        use tracing_subscriber::{Layer as _, filter::filter_fn};

        let tracer = crate::otel::tracer(traces, service).map_err(LogError::Traces)?;
        let output = Arc::new(Output::open(settings.file.as_deref())?);
        let (line, handle) = line(settings, clock, output);
        let spans = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| metadata.target() == crate::spans::TARGET));
        let allowed = filter::Allowed(Arc::clone(&handle.level));
        let subscriber = tracing_subscriber::registry().with(line.with_filter(allowed)).with(spans);
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)?;
        return Ok(handle);
    }
    #[cfg(not(feature = "otel"))]
    let _ = (traces, service);
    init(settings, clock)
}

/// A subscriber that hands each line to `write`, and its handle; for tests and tools.
pub fn with_writer(
    settings: &LogSettings,
    clock: SharedClock,
    write: impl io::Write + Send + 'static,
) -> (impl Subscriber + Send + Sync, LogHandle) {
    build(settings, clock, Arc::new(Output::writer(Box::new(write))))
}

fn build(
    settings: &LogSettings,
    clock: SharedClock,
    output: Arc<Output>,
) -> (impl Subscriber + Send + Sync + use<>, LogHandle) {
    let (layer, handle) = line(settings, clock, output);
    (tracing_subscriber::registry().with(layer), handle)
}

fn line(settings: &LogSettings, clock: SharedClock, output: Arc<Output>) -> (LineLayer, LogHandle) {
    let level = Arc::new(LevelSwitch::new(settings.level));
    let layer = LineLayer {
        clock,
        format: settings.format,
        source_location: settings.source_location,
        level: Arc::clone(&level),
        output: Arc::clone(&output),
    };
    let handle = LogHandle { level, output, launch_level: settings.level };
    (layer, handle)
}

impl LogHandle {
    /// The level in force.
    pub fn level(&self) -> LogLevel {
        self.level.get()
    }

    /// The level that the program was started with.
    pub fn launch_level(&self) -> LogLevel {
        self.launch_level
    }

    /// Changes the level at once, for all threads.
    pub fn set_level(&self, level: LogLevel) {
        self.level.set(level);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Goes back to the level that the program was started with.
    pub fn reset_level(&self) {
        self.set_level(self.launch_level);
    }

    /// Opens the log file anew by its name, after a log rotation. Without a file, does nothing.
    ///
    /// # Errors
    /// [`LogError::Open`]; the file that was open stays in use.
    pub fn reopen(&self) -> Result<(), LogError> {
        self.output.reopen()
    }

    /// How many lines could not be written, for instance because the disk is full.
    pub fn lost_lines(&self) -> u64 {
        self.output.lost_lines()
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogHandle({})", self.level())
    }
}

#[cfg(test)]
mod tests;
