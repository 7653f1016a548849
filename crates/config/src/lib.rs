//! Configuration files: the HCL 1 and JSON readers, decoding with positions, shared settings.
//!
//! [`read`] gives a [`Document`]; [`Block::root`] is where a program starts asking it for keys.

mod ast;
mod cursor;
mod decode;
mod duration;
mod error;
mod expand;
mod hcl;
mod json;
mod kind;
mod lexer;
mod overlay;
mod paths;
mod plugins;
mod settings;
mod settings_decode;
mod text;

use std::path::Path;

use signet_base::files::read_regular;

pub use ast::{Document, Item, Node, Pos, SyntaxError, Value};
pub use decode::{Block, Context};
pub use duration::{DurationError, format_duration, parse_duration};
pub use error::{ConfigError, Problem};
pub use expand::expand_env;
pub use kind::{Count, Decode, Kind, PluginSection};
pub use overlay::{decode_document, path_over, text_over};
pub use paths::{absolute_path, socket_path};
pub use plugins::{Configured, PluginSource};
pub use settings::{
    BadCidr, Cidr, EndpointCertificate, EndpointClients, EndpointTls, HealthSettings, LogFormat,
    LogLevel, LogSettings, MetricFilter, PrometheusSettings, TelemetrySettings, TraceSettings,
    UnknownLogLevel,
};
pub use settings_decode::{LogFlags, health_checks, log_format, log_settings, telemetry};

/// The most bytes that a configuration file may have.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// Reads a configuration file, HCL 1 or JSON.
///
/// With `env`, variables in its text are replaced before it is parsed ([`expand_env`]).
///
/// # Errors
/// [`ConfigError`] when the file cannot be read, is too large, or breaks the syntax.
#[expect(clippy::type_complexity, reason = "a plain function, borrowed, if there is one")]
pub fn read(
    path: &Path,
    env: Option<&dyn Fn(&str) -> Option<String>>,
) -> Result<Document, ConfigError> {
    let text = read_text(path)?;
    let text = match env {
        Some(lookup) => expand_env(&text, lookup),
        None => text,
    };
    let file = path.display().to_string();
    parse(&file, &text).map_err(|error| {
        let SyntaxError { pos, message } = error;
        ConfigError::new(vec![Problem::At { file, pos, message }])
    })
}

/// Parses the text of a configuration file: JSON if its first character is a brace, else HCL 1.
///
/// # Errors
/// [`SyntaxError`] at the first thing that is neither.
pub fn parse(file: &str, text: &str) -> Result<Document, SyntaxError> {
    let text = text.replace("\r\n", "\n");
    if let Some(before) = text.split_once('\0').map(|(before, _)| before) {
        let line = before.matches('\n').count().saturating_add(1);
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        let pos = Pos {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column.saturating_add(1)).unwrap_or(u32::MAX),
        };
        return Err(SyntaxError { pos, message: "a zero byte".to_owned() });
    }
    let items =
        if text.trim_start().starts_with('{') { json::parse(&text)? } else { hcl::parse(&text)? };
    Ok(Document { file: file.into(), items })
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let bytes = read_regular(path, MAX_FILE_BYTES).map_err(|error| match error.kind() {
        std::io::ErrorKind::FileTooLarge => {
            let path = path.display();
            ConfigError::general(format!("{path}: more than {MAX_FILE_BYTES} bytes"))
        }
        _ => ConfigError::read(path, error),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let lines = error.as_bytes().get(..at).unwrap_or_default();
        let line = lines.iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError::general(format!("{}:{line}: the file is not UTF-8", path.display()))
    })
}
