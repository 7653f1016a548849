//! Where a server sends its audit records: an OpenTelemetry collector.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use e2e::{AgentOptions, Node, ServerOptions, eventually};
use serde_json::Value;
use signet_testkit::FakeHttp;

/// A collector of log records, that may be busy.
struct Collector {
    http: FakeHttp,
    is_busy: Arc<AtomicBool>,
}

impl Collector {
    fn start() -> Self {
        let is_busy = Arc::<AtomicBool>::default();
        let busy = Arc::clone(&is_busy);
        let http = FakeHttp::start(move |_| match busy.load(Ordering::SeqCst) {
            true => (503, String::new()),
            false => (200, "{}".to_owned()),
        });
        Self { http, is_busy }
    }

    /// The records that it took, each with what it says by name.
    fn records(&self, taken: usize) -> Vec<Record> {
        self.http
            .asked()
            .iter()
            .skip(taken)
            .flat_map(|asked| {
                assert_eq!((&*asked.method, &*asked.target), ("POST", "/v1/logs"));
                let body: Value = serde_json::from_slice(&asked.body).expect("JSON");
                let resource = &body["resourceLogs"][0];
                assert!(resource["resource"].to_string().contains("signet-server"), "{resource}");
                let records = resource["scopeLogs"][0]["logRecords"].as_array().expect("records");
                records.iter().cloned().map(Record).collect::<Vec<_>>()
            })
            .collect()
    }
}

struct Record(Value);

impl Record {
    fn says(&self, name: &str) -> &str {
        let all = self.0["attributes"].as_array().expect("attributes");
        let found = all.iter().find(|one| one["key"] == name);
        found.and_then(|one| one["value"]["stringValue"].as_str()).unwrap_or_default()
    }
}

#[test]
fn a_collector_gets_what_was_issued_changed_and_refused_also_after_it_was_busy() {
    let collector = Collector::start();
    let audit = format!("audit {{ otlp = \"http://127.0.0.1:{}\" }}", collector.http.port);
    let node = Node::with(ServerOptions::with(&audit), AgentOptions::default());
    let entry = node.register_caller("/w", "");
    let cli = node.agent.cli();
    eventually("an SVID is served", || (cli.line("api fetch x509").code == 0).then_some(()));
    cli.line("api fetch jwt -audience a").ok();
    node.server.cli().line("jwt mint -spiffeID spiffe://other.org/w -audience a").exits(1);
    let found = |method: &str, decision: &str| {
        eventually(&format!("{method} is told of"), || {
            let mut all = collector.records(0).into_iter();
            all.find(|one| one.says("method") == method && one.says("decision") == decision)
        })
    };
    let created = found("BatchCreateEntry", "allow");
    assert_eq!(created.says("spiffe_id"), node.id("/w"));
    let attested = found("AttestAgent", "allow");
    assert_eq!(attested.says("kind"), "attestation");
    let issued = found("NewJWTSVID", "allow");
    assert_eq!((issued.says("spiffe_id"), issued.says("audience")), (&*node.id("/w"), "a"));
    assert_eq!(issued.0["severityText"], "INFO");
    assert!(!issued.says("correlation_id").is_empty(), "{}", issued.0);
    let refused = found("MintJWTSVID", "deny");
    assert_eq!(refused.0["severityText"], "WARN");
    // What is secret is in no record.
    let sent = collector.http.asked();
    let text: Vec<_> = sent.iter().map(|asked| String::from_utf8_lossy(&asked.body)).collect();
    assert!(!text.iter().any(|body| body.contains("eyJ")), "no token");

    // Busy: nobody waits for it, and it gets everything later.
    collector.is_busy.store(true, Ordering::SeqCst);
    let taken = collector.http.asked().len();
    node.server.delete(&entry);
    eventually("it was tried", || (collector.http.asked().len() > taken).then_some(()));
    node.server.cli().line("entry show").ok();
    collector.is_busy.store(false, Ordering::SeqCst);
    let tried = collector.http.asked().len();
    eventually("the deletion is told of", || {
        let mut all = collector.records(tried).into_iter();
        all.find(|one| one.says("method") == "BatchDeleteEntry")
    });
}
