//! By which names spans are known, here and on the way.

/// The target of spans that are sent to a collector.
pub const TARGET: &str = "signet_span";
/// The header that names the trace and the span that a request belongs to (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";
