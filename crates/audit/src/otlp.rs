//! Audit events for an OpenTelemetry collector: OTLP log records over HTTP, in OTLP's JSON form.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value as Json, json};
use signet_base::{Backoff, CancellationToken, SharedClock, chain};
use signet_http::HttpClient;
use tokio::sync::mpsc;

use crate::{
    chain::body,
    event::{AuditEvent, Outcome},
    sink::Sink,
};

/// How many events wait at most.
const QUEUE: usize = 8_192;
/// How many are sent together.
const BATCH: usize = 512;
/// How long the first of a batch waits for others.
const DELAY: Duration = Duration::from_millis(500);
/// How long a program that ends goes on sending.
const LAST: Duration = Duration::from_secs(3);
/// Severities of OTLP: INFO, and WARN for what was refused.
const INFO: u8 = 9;
const WARN: u8 = 13;

/// Queues events for a collector. What it does not take in time is counted and left out: it is never
/// waited for.
pub struct OtlpSink {
    queue: mpsc::Sender<Json>,
    clock: SharedClock,
    dropped: AtomicU64,
}

/// Takes events out of the queue of an [`OtlpSink`] to the collector.
pub struct OtlpDelivery {
    queue: mpsc::Receiver<Json>,
    http: HttpClient,
    url: String,
    resource: Json,
}

impl OtlpSink {
    /// For the collector at this base URL. Records say that they come from `program` on `host`.
    pub fn new(
        endpoint: &str,
        http: HttpClient,
        program: &'static str,
        host: &str,
        clock: SharedClock,
    ) -> (Self, OtlpDelivery) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let resource = json!({ "attributes": [
            attribute("service.name", &program.into()),
            attribute("host.name", &host.into()),
        ]});
        let url = format!("{}/v1/logs", endpoint.trim_end_matches('/'));
        let delivery = OtlpDelivery { queue, http, url, resource };
        (Self { queue: sender, clock, dropped: AtomicU64::new(0) }, delivery)
    }
}

impl Sink for OtlpSink {
    fn record(&self, event: &AuditEvent) {
        if event.is_mere_look() {
            return;
        }
        let at = self.clock.now();
        let mut body = body(event, at);
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            body.insert("otlp_dropped".to_owned(), dropped.into());
        }
        match self.queue.try_send(record(event, &body, at)) {
            Ok(()) => {
                let _ = self.dropped.fetch_sub(dropped, Ordering::Relaxed);
            }
            Err(_) if self.dropped.fetch_add(1, Ordering::Relaxed) == 0 => {
                tracing::warn!("The OpenTelemetry collector does not take audit events in time");
            }
            Err(_) => {}
        }
    }
}

impl OtlpDelivery {
    /// Sends until the token is cancelled, and what is left then.
    pub async fn run(mut self, token: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(more) = token.run_until_cancelled(self.fill(&mut batch)).await {
            if !more {
                return;
            }
            if !self.deliver(&batch, &token).await {
                break;
            }
            batch.clear();
        }
        let last = async {
            while let Ok(record) = self.queue.try_recv() {
                batch.push(record);
            }
            for some in batch.chunks(BATCH) {
                let _ = self.send(some).await;
            }
        };
        let _ = tokio::time::timeout(LAST, last).await;
    }

    /// Waits for a batch; `false` when nothing can come any more.
    async fn fill(&mut self, batch: &mut Vec<Json>) -> bool {
        if batch.is_empty() {
            match self.queue.recv().await {
                Some(first) => batch.push(first),
                None => return false,
            }
        }
        let rest = async {
            while batch.len() < BATCH
                && let Some(record) = self.queue.recv().await
            {
                batch.push(record);
            }
        };
        let _ = tokio::time::timeout(DELAY, rest).await;
        true
    }

    /// Sends a batch until the collector has it, or says that it does not want it; `false` when the
    /// token is cancelled before. What is on its way then still arrives, once.
    async fn deliver(&self, records: &[Json], token: &CancellationToken) -> bool {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut is_told = false;
        loop {
            match self.send(records).await {
                Ok(()) => return true,
                Err((why, is_final)) => {
                    if is_final || !is_told {
                        tracing::warn!(
                            url = self.url,
                            error = why,
                            is_final,
                            "Audit events cannot be sent to the OpenTelemetry collector"
                        );
                    }
                    if is_final {
                        return true;
                    }
                    is_told = true;
                }
            }
            let pause = tokio::time::sleep(backoff.next_delay());
            if token.run_until_cancelled(pause).await.is_none() {
                return false;
            }
        }
    }

    /// Why not, and whether it is no use to try again.
    async fn send(&self, records: &[Json]) -> Result<(), (String, bool)> {
        let body = json!({ "resourceLogs": [{
            "resource": self.resource,
            "scopeLogs": [{ "scope": { "name": "signet.audit" }, "logRecords": records }],
        }]});
        let sent = self.http.post(&self.url, "application/json", body.to_string()).await;
        let answer = sent.map_err(|error| (chain(&error), false))?;
        match answer.status().as_u16() {
            200..=299 => Ok(()),
            // As OTLP names those that may be tried again.
            status @ (429 | 502 | 503 | 504) => Err((format!("status {status}"), false)),
            status => Err((format!("status {status}"), true)),
        }
    }
}

impl fmt::Debug for OtlpSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OtlpSink(..)")
    }
}

impl fmt::Debug for OtlpDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OtlpDelivery({})", self.url)
    }
}

fn record(event: &AuditEvent, body: &Map<String, Json>, at: SystemTime) -> Json {
    let nanos = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
    let (number, text) = match event.outcome {
        Outcome::Success => (INFO, "INFO"),
        Outcome::Failure { .. } => (WARN, "WARN"),
    };
    let what = match event.method.is_empty() {
        true => event.message.to_owned(),
        false => format!("{}/{}", event.service, event.method),
    };
    let attributes: Vec<Json> = body
        .iter()
        .filter(|(name, _)| *name != "time")
        .map(|(name, value)| attribute(name, value))
        .collect();
    json!({
        "timeUnixNano": nanos, "observedTimeUnixNano": nanos,
        "severityNumber": number, "severityText": text, "eventName": "signet.audit",
        "body": { "stringValue": what }, "attributes": attributes,
    })
}

/// In OTLP's JSON 64-bit numbers are texts.
fn attribute(name: &str, value: &Json) -> Json {
    let value = match value {
        Json::Bool(value) => json!({ "boolValue": value }),
        Json::Number(value) if value.is_i64() => json!({ "intValue": value.to_string() }),
        Json::String(value) => json!({ "stringValue": value }),
        other => json!({ "stringValue": other.to_string() }),
    };
    json!({ "key": name, "value": value })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use signet_base::SystemClock;
    use signet_http::Trust;
    use signet_testkit::FakeHttp;

    use super::*;
    use crate::Caller;

    #[tokio::test]
    async fn a_collector_gets_what_happened_again_after_it_was_busy_and_at_the_end() {
        let is_busy = AtomicBool::new(true);
        let (told, mut requests) = mpsc::unbounded_channel();
        let collector = FakeHttp::start(move |asked| {
            told.send(asked.clone()).unwrap();
            let status = if is_busy.swap(false, Ordering::Relaxed) { 503 } else { 200 };
            (status, String::new())
        });
        let mut taken = async || -> Json {
            let asked = requests.recv().await.unwrap();
            assert_eq!((&*asked.method, &*asked.target), ("POST", "/v1/logs"));
            serde_json::from_slice(&asked.body).unwrap()
        };
        let endpoint = format!("http://127.0.0.1:{}/", collector.port);
        let http = HttpClient::builder().trust(Trust::Roots(Vec::new())).build().unwrap();
        let (sink, delivery) =
            OtlpSink::new(&endpoint, http, "signet-server", "h", SystemClock::shared());
        let token = CancellationToken::new();
        let running = tokio::spawn(delivery.run(token.clone()));
        let mut event = AuditEvent::new(Caller::default(), "svid.v1.SVID", "MintX509SVID");
        event.kind = crate::Kind::Issuance;
        event.request_id = "r1".into();
        event.caller.uid = Some(7);
        sink.record(&event);
        let busy = taken().await;
        let again = taken().await;
        assert_eq!(busy, again, "the same events");
        let logs = &again["resourceLogs"][0];
        let service = json!({ "key": "service.name", "value": { "stringValue": "signet-server" } });
        assert_eq!(logs["resource"]["attributes"][0], service);
        let record = &logs["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record["body"]["stringValue"], "svid.v1.SVID/MintX509SVID");
        assert_eq!(
            (&record["severityNumber"], &record["severityText"]),
            (&9.into(), &"INFO".into())
        );
        let has = |key: &str, value: Json| {
            let wanted = json!({ "key": key, "value": value });
            record["attributes"].as_array().unwrap().contains(&wanted)
        };
        assert!(has("correlation_id", json!({ "stringValue": "r1" })), "{record}");
        assert!(has("caller_uid", json!({ "intValue": "7" })), "{record}");
        assert!(record["timeUnixNano"].as_str().unwrap().len() == 19, "{record}");

        event.kind = crate::Kind::Read;
        sink.record(&event);
        event.outcome = Outcome::Failure { code: "PermissionDenied", reason: "no".into() };
        sink.record(&event);
        token.cancel();
        let last = taken().await;
        let records = last["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap();
        assert_eq!(records.len(), 1, "what was only read is not told: {last}");
        assert_eq!(records[0]["severityText"], "WARN");
        running.await.unwrap();
    }
}
