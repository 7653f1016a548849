//! Audit events: what was issued, changed or refused, for whom, and where that is written.
//!
//! Server and agent make the same [`AuditEvent`], so that one field has one name, one meaning and
//! one type wherever it is written. A [`Sink`] takes events: today the log ([`LogSink`]).

pub mod event;
mod sink;

pub use event::{AuditEvent, Caller, Field, Outcome, Value};
pub use sink::{LogSink, Sink, with_fields};
