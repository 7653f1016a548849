//! Spans of traces that go through several programs, named on the way by W3C's Trace Context.
//!
//! A span is one of `tracing` with the target [`TARGET`], and nothing unless the program was built
//! with the feature `otel` and its configuration names a collector. The log has nothing of it.

pub mod names;

use tracing::Span;

pub use self::names::{TARGET, TRACEPARENT};

/// What [`TRACEPARENT`] of a request says that is made now; `None` when nothing is traced.
pub fn traceparent() -> Option<String> {
    #[cfg(feature = "otel")]
    return crate::otel::traceparent();
    #[cfg(not(feature = "otel"))]
    None
}

/// Makes a span, which nobody has entered yet, part of the trace that a caller names; a name that is
/// none is passed over.
pub fn adopt(span: &Span, traceparent: Option<&str>) {
    #[cfg(feature = "otel")]
    crate::otel::adopt(span, traceparent);
    #[cfg(not(feature = "otel"))]
    let _ = (span, traceparent);
}

/// Sends what was not sent yet, for a program that ends; takes some seconds at most.
pub async fn flush() {
    #[cfg(feature = "otel")]
    crate::otel::flush().await;
}
