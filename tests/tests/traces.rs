//! Traces that go through agent, server, broker and OpenBao, as a collector receives them.

use std::sync::Arc;

use e2e::{
    Agent, AgentOptions, Server, ServerOptions, TestDir, bins, eventually, secrets::Secrets, skip,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use serde_json::Value;
use signet_testkit::{Asked, FakeHttp};

/// A span as far as it matters here.
#[derive(Debug)]
struct Span {
    service: String,
    name: String,
    trace: String,
    id: String,
    parent: String,
}

/// A collector that takes OTLP over HTTP and keeps what it gets.
struct Collector(FakeHttp);

impl Collector {
    fn start() -> Self {
        Self(FakeHttp::start(|_| (200, String::new())))
    }

    fn settings(&self) -> String {
        let port = self.0.port;
        format!("telemetry {{ OpenTelemetry {{ endpoint = \"http://127.0.0.1:{port}\" }} }}")
    }

    /// All spans so far.
    fn spans(&self) -> Vec<Span> {
        self.0.asked().iter().flat_map(spans).collect()
    }

    /// The spans of a trace.
    fn of(&self, trace: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.trace == trace).collect()
    }
}

/// The spans that a request told of.
fn spans(asked: &Asked) -> Vec<Span> {
    assert_eq!((&*asked.method, &*asked.target), ("POST", "/v1/traces"));
    let request = ExportTraceServiceRequest::decode(&*asked.body).expect("OTLP");
    let mut found = Vec::new();
    for resource in request.resource_spans {
        let attributes = resource.resource.unwrap_or_default().attributes;
        let service = attributes.iter().find(|it| it.key == "service.name");
        let service = format!("{:?}", service.and_then(|it| it.value.as_ref()));
        let names = ["signet-agent", "signet-server", "signet-broker"];
        let service = names.iter().find(|name| service.contains(**name)).expect("a service");
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        found.extend(spans.map(|span| Span {
            service: (*service).to_owned(),
            name: span.name,
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
        }));
    }
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the programs are that were built with the feature `otel`.
fn built_with_traces() -> Option<std::path::PathBuf> {
    let programs = bins::server().with_file_name("otel");
    let is_there = |name: &&str| programs.join(name).is_file();
    let all = ["signet-server", "signet-agent", "signet-broker"].iter().all(is_there);
    all.then_some(programs)
}

/// Waits for a span of this service and name in a trace.
fn span(collector: &Collector, trace: &str, service: &str, name: &str) -> Span {
    eventually(&format!("{name} of {service} is in the trace"), || {
        let found = collector.of(trace);
        found.into_iter().find(|span| span.service == service && span.name == name)
    })
}

#[test]
fn one_trace_leads_from_a_workloads_call_to_the_signature_of_the_server() {
    let Some(programs) = built_with_traces() else {
        skip!("no programs with the feature otel in target/debug/otel");
    };
    let collector = Collector::start();
    let dir = Arc::new(TestDir::new());
    let server = Server::start_in(
        &dir,
        "server",
        ServerOptions {
            top: collector.settings(),
            program: Some(programs.join("signet-server")),
            ..ServerOptions::default()
        },
    );
    let options = AgentOptions {
        port: server.port(),
        bundle: Some(server.bundle_file()),
        token: Some(server.token("/node")),
        top: collector.settings(),
        program: Some(programs.join("signet-agent")),
        ..AgentOptions::default()
    };
    let agent = Agent::start_in(&dir, "agent", options);
    server.register("/node", "/w", &[&e2e::node::caller()], "");
    let cli = agent.cli();
    eventually("an SVID is served", || (cli.line("api fetch x509").code == 0).then_some(()));
    cli.line("api fetch jwt -audience traced").ok();
    // Nobody named a trace: the agent began one, and the server went on with it.
    let asked = eventually("the agent's call is told", || {
        let mut spans = collector.spans().into_iter();
        spans.find(|it| it.service == "signet-agent" && it.name == "FetchJWTSVID")
    });
    let trace = asked.trace.as_str();
    let sent = span(&collector, trace, "signet-agent", "NewJWTSVID");
    let taken = span(&collector, trace, "signet-server", "svid.v1.SVID/NewJWTSVID");
    let signed = span(&collector, trace, "signet-server", "sign JWT-SVID");
    assert_eq!(sent.parent, asked.id);
    assert_eq!(taken.parent, sent.id, "by the header");
    assert_eq!(signed.parent, taken.id);
    // The log has no word of it.
    assert!(!server.log().contains("otel."), "{}", server.log());
}

#[test]
fn a_trace_that_a_workload_names_goes_on_through_broker_agent_and_openbao() {
    let Some(programs) = built_with_traces() else {
        skip!("no programs with the feature otel in target/debug/otel");
    };
    let collector = Collector::start();
    let secrets = match Secrets::start_from(&programs, &collector.settings()) {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let path = "/tenants/blue/orders";
    secrets.workload(path, "");
    let (trace, workload) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let traceparent = format!("00-{trace}-{workload}-01");
    let id = secrets.node.id(path);
    let headers = [("x-spiffe-id", id.as_str()), ("traceparent", traceparent.as_str())];
    let place = "/v1/credentials/api-key";
    eventually("the agent and the broker know the workload", || {
        let answer = secrets.ask_once(&headers, "POST", place, &Value::Null);
        (answer.0 == 200).then_some(())
    });
    let asked = span(&collector, trace, "signet-broker", &format!("POST {place}"));
    assert_eq!(asked.parent, workload, "the workload's own span");
    let drawn = eventually("the call of OpenBao is told", || {
        let found = collector.of(trace);
        found
            .into_iter()
            .find(|it| it.service == "signet-broker" && it.name.contains("secret/data"))
    });
    assert_ne!(drawn.parent, "");
    // The agent said who asks, within the same trace.
    eventually("the agent's part is told", || {
        collector.of(trace).into_iter().find(|span| span.service == "signet-agent")
    });
}
