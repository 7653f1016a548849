//! Audit events: what was issued, changed or refused, for whom, and where that is written.
//!
//! Server and agent make the same [`AuditEvent`], so that one field has one name, one meaning and
//! one type wherever it is written. A [`Sink`] takes events: the program's log ([`LogSink`]), syslog
//! ([`SyslogSink`]), and a log that shows when somebody has changed it ([`Chain`]).

pub mod chain;
pub mod event;
pub mod ocsf;
mod otlp;
mod sink;
mod syslog;

pub use chain::{Chain, ChainError, ChainOptions, OnFailure};
pub use event::{AuditEvent, Caller, Digested, Field, Kind, Outcome, Value};
pub use otlp::{OtlpDelivery, OtlpSink};
pub use sink::{LogSink, Sink, with_fields};
pub use syslog::{SyslogSink, SyslogTarget};
