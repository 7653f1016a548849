//! Configuration files: the HCL 1 and JSON readers, decoding with positions, shared settings.

mod settings;

pub use settings::{
    BadCidr, Cidr, HealthSettings, LogFormat, LogLevel, LogSettings, PrometheusSettings,
    TelemetrySettings, UnknownLogLevel,
};
