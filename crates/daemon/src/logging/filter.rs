//! Which events are written.

use std::sync::atomic::{AtomicU8, Ordering};

use tracing::{Level, Metadata, level_filters::LevelFilter};

use super::LogLevel;

/// Libraries whose chatter below `warn` says nothing about identities; at `trace` they may speak
/// up to `debug`. Their `trace` shows the bytes of messages, keys included, and is never written.
const QUIET: &[&str] = &[
    "axum",
    "h2",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "mio",
    "rustls",
    "rustls_native_certs",
    "sqlx",
    "sqlx_core",
    "sqlx_sqlite",
    "tokio",
    "tokio_util",
    "tonic",
    "tower",
    "want",
];

/// The level in force, changed while the program runs.
#[derive(Debug)]
pub(super) struct LevelSwitch(AtomicU8);

impl LevelSwitch {
    pub(super) fn new(level: LogLevel) -> Self {
        Self(AtomicU8::new(to_number(level)))
    }

    pub(super) fn get(&self) -> LogLevel {
        from_number(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, level: LogLevel) {
        self.0.store(to_number(level), Ordering::Relaxed);
    }

    /// The least severe level that any event may have.
    pub(super) fn max(&self) -> LevelFilter {
        filter(self.get())
    }

    pub(super) fn allows(&self, metadata: &Metadata<'_>) -> bool {
        // The log has nothing of what is meant for traces.
        if metadata.target() == crate::spans::TARGET {
            return false;
        }
        let level = self.get();
        let root = metadata.target().split("::").next().unwrap_or_default();
        let most = if !QUIET.contains(&root) {
            filter(level)
        } else if level == LogLevel::Trace {
            LevelFilter::DEBUG
        } else {
            filter(level).min(LevelFilter::WARN)
        };
        metadata.level() <= &most
    }
}

/// Lets a layer have what the level allows, beside others that want something else.
#[cfg(feature = "otel")]
pub(super) struct Allowed(pub(super) std::sync::Arc<LevelSwitch>);

#[cfg(feature = "otel")]
impl<S> tracing_subscriber::layer::Filter<S> for Allowed {
    fn enabled(
        &self,
        metadata: &Metadata<'_>,
        _: &tracing_subscriber::layer::Context<'_, S>,
    ) -> bool {
        self.0.allows(metadata)
    }
}

/// logrus's name of a level.
pub(super) fn level_name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Nothing of ours is logged as `fatal` or `panic`: these two are silence.
fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Panic | LogLevel::Fatal => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn to_number(level: LogLevel) -> u8 {
    match level {
        LogLevel::Panic => 0,
        LogLevel::Fatal => 1,
        LogLevel::Error => 2,
        LogLevel::Warn => 3,
        LogLevel::Info => 4,
        LogLevel::Debug => 5,
        LogLevel::Trace => 6,
    }
}

fn from_number(number: u8) -> LogLevel {
    match number {
        0 => LogLevel::Panic,
        1 => LogLevel::Fatal,
        2 => LogLevel::Error,
        3 => LogLevel::Warn,
        4 => LogLevel::Info,
        5 => LogLevel::Debug,
        _ => LogLevel::Trace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_survives_the_switch() {
        use LogLevel::{Debug, Error, Fatal, Info, Panic, Trace, Warn};
        for level in [Panic, Fatal, Error, Warn, Info, Debug, Trace] {
            let switch = LevelSwitch::new(Info);
            switch.set(level);
            assert_eq!(switch.get(), level);
        }
    }
}
