//! OpenTelemetry: the layer that turns spans into those of traces, and the exporter.
//!
//! Spans go to a collector by OTLP over HTTP, in batches from a queue that is bounded: what a slow
//! collector does not take is dropped, and nobody waits for it.

use std::{collections::HashMap, fmt, sync::OnceLock, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::{
    KeyValue,
    propagation::TextMapPropagator as _,
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_http::HttpError;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Tracer},
};
use signet_config::TraceSettings;
use signet_http::{HttpClient, Trust};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::spans::names::TRACEPARENT;

/// How long one batch may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long spans wait for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How many spans wait at most.
const QUEUE: usize = 4_096;
/// The largest answer of a collector that is read, bytes.
const MAX_ANSWER: usize = 64 * 1024;

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Sends spans of `service` as the settings say; has to be called where a runtime runs.
///
/// # Errors
/// What is wrong with the settings, in words.
pub(crate) fn tracer(settings: &TraceSettings, service: &'static str) -> Result<Tracer, String> {
    let mut http = HttpClient::builder().timeout(EXPORT_TIMEOUT).max_body(MAX_ANSWER);
    if let Some(path) = &settings.ca_file {
        http = http.trust(Trust::file(path).map_err(|error| error.to_string())?);
    } else if settings.endpoint.starts_with("http://") {
        // No certificate is looked at, so that the machine need not have roots.
        http = http.trust(Trust::Roots(Vec::new()));
    }
    let http = http.build().map_err(|error| error.to_string())?;
    let client = Client { http, runtime: tokio::runtime::Handle::current() };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", settings.endpoint.trim_end_matches('/')))
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_scheduled_delay(BATCH_DELAY)
        .build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    let ratio = f64::from(settings.sample_percent) / 100.0;
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("host.name", crate::process::hostname()),
        ])
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("signet");
    // There is one log, and so one of these.
    let _ = PROVIDER.set(provider);
    Ok(tracer)
}

pub(crate) fn traceparent() -> Option<String> {
    PROVIDER.get()?;
    let mut context = Span::current().context();
    if !context.span().span_context().is_valid() {
        context = opentelemetry::Context::current();
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove(TRACEPARENT)
}

pub(crate) fn adopt(span: &Span, traceparent: Option<&str>) {
    let (Some(_), Some(traceparent)) = (PROVIDER.get(), traceparent) else { return };
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    if context.span().span_context().is_valid() {
        // A span that is not recorded has no parent either.
        let _ = span.set_parent(context);
    }
}

pub(crate) async fn flush() {
    let Some(provider) = PROVIDER.get() else { return };
    // The exporter needs this thread's runtime meanwhile.
    let flushed = tokio::task::spawn_blocking(|| provider.shutdown());
    let _ = tokio::time::timeout(EXPORT_TIMEOUT, flushed).await;
}

/// The exporter has a thread of its own, and no runtime: requests are sent on the program's.
struct Client {
    http: HttpClient,
    runtime: tokio::runtime::Handle,
}

#[async_trait]
impl opentelemetry_http::HttpClient for Client {
    async fn send_bytes(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move { http.send(request).await });
        Ok(sent.await??)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client(..)")
    }
}
