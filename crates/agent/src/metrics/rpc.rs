//! `rpc_*`: the calls of the agent's APIs, and how many are open of each.

use std::collections::HashMap;

use signet_api::outcome;
use signet_daemon::metrics::{
    CallTimer, Calls, Counter, Gauge, GaugeGuard, Metrics, rpc_key, short_service, status_name,
};
use tonic::{Code, body::Body};

/// The services whose calls are counted, what their connections are counted as, and their methods.
const SERVICES: &[(&str, Option<&str>, &[&str])] = &[
    (
        "SpiffeWorkloadAPI",
        Some("workload_api"),
        &[
            "FetchX509SVID",
            "FetchX509Bundles",
            "FetchJWTSVID",
            "FetchJWTBundles",
            "ValidateJWTSVID",
            "FetchWITSVID",
            "FetchWITBundles",
        ],
    ),
    (
        "envoy.service.secret.v3.SecretDiscoveryService",
        Some("sds_api"),
        &["StreamSecrets", "DeltaSecrets", "FetchSecrets"],
    ),
    ("grpc.health.v1.Health", None, &["Check", "List", "Watch"]),
    ("spire.agent.debug.v1.Debug", Some("debug_api"), &["GetInfo"]),
    (
        "spire.api.agent.delegatedidentity.v1.DelegatedIdentity",
        Some("delegated_identity_api"),
        &[
            "SubscribeToX509SVIDs",
            "SubscribeToX509Bundles",
            "FetchJWTSVIDs",
            "SubscribeToJWTBundles",
        ],
    ),
    (
        "spire.api.agent.logger.v1.Logger",
        Some("logger_api"),
        &["GetLogger", "SetLogLevel", "ResetLogLevel"],
    ),
    ("signet.api.agent.explain.v1.Explain", None, &["ExplainWorkload"]),
    ("signet.api.agent.secretstreams.v1.SecretStreams", None, &["ListSecretStreams"]),
    ("signet.api.agent.trace.v1.Trace", None, &["ListCalls"]),
];

/// The call counters by request path.
#[derive(Debug)]
pub struct RpcMetrics {
    methods: HashMap<String, Method>,
}

/// A method that is served.
#[derive(Clone, Debug)]
pub struct Method {
    /// The service as logs name it.
    pub service: &'static str,
    /// Its name.
    pub name: &'static str,
    calls: Calls,
    connections: Option<(Counter, Gauge)>,
}

impl RpcMetrics {
    pub(super) fn new(m: &Metrics) -> Self {
        let mut methods = HashMap::new();
        for (service, connections, names) in SERVICES {
            // SPIRE counts each call as a connection.
            let connections = connections.map(|key| {
                let so_far = m.counter(&[key, "connection"], "Calls of this API so far", &[]);
                (so_far, m.gauge(&[key, "connections"], "Open calls of this API", &[]))
            });
            for name in *names {
                let key = rpc_key(service, name);
                let key: Vec<&str> = key.iter().map(String::as_str).collect();
                let method = Method {
                    service: short_service(service),
                    name,
                    calls: m.calls(&key, "Calls of an RPC", &[]),
                    connections: connections.clone(),
                };
                methods.insert(format!("/{service}/{name}"), method);
            }
        }
        Self { methods }
    }

    /// The method of a request path, if it is one that is served.
    pub fn method(&self, path: &str) -> Option<&Method> {
        self.methods.get(path)
    }
}

impl Method {
    /// A call of it begins.
    pub fn begin(&self) -> OpenCall {
        let open = self.connections.as_ref().map(|(so_far, open)| {
            so_far.inc(&[]);
            open.hold(&[])
        });
        OpenCall { timer: self.calls.start(&[]), _open: open }
    }
}

/// A call that is being answered.
#[derive(Debug)]
pub struct OpenCall {
    timer: CallTimer,
    _open: Option<GaugeGuard>,
}

impl OpenCall {
    /// Counts the call when its answer ends. A stream that its client leaves has ended well, as in
    /// SPIRE; nobody sees how else it would end.
    pub fn watch(self, response: http::Response<Body>) -> http::Response<Body> {
        outcome::watch(response, move |code, _| {
            // The whole of it: what holds the call open would else be let go of at once.
            let call = self;
            let status = match code {
                Code::Cancelled => "OK",
                code => status_name(code.into()),
            };
            call.timer.done(status);
        })
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn every_service_of_the_sockets_is_counted() {
        let metrics = Metrics::detached();
        let rpcs = RpcMetrics::new(&metrics);
        let counted: Vec<_> =
            rpcs.methods.keys().filter_map(|path| path.split('/').nth(1)).collect();
        let public = ["SpiffeWorkloadAPI", crate::serve::sds::SERVICE, "grpc.health.v1.Health"];
        for service in crate::serve::admin::SERVICES.iter().chain(&public) {
            assert!(counted.contains(service), "{service}");
        }
    }

    #[test]
    fn calls_are_counted_with_the_status_that_the_caller_got() {
        let metrics = Metrics::detached();
        let rpcs = RpcMetrics::new(&metrics);
        let method = rpcs.method("/SpiffeWorkloadAPI/FetchX509SVID").unwrap();
        let refusal = Status::permission_denied("no identity issued").into_http();
        drop(method.begin().watch(refusal));
        // A stream whose client has had enough.
        let stream = method.begin().watch(http::Response::new(Body::new("message".to_owned())));
        assert!(metrics.encode().contains("signet_workload_api_connections 1.0\n"));
        drop(stream);
        let text = metrics.encode();
        for line in [
            "signet_rpc_workload_api_fetch_x509svid{status=\"PermissionDenied\"} 1",
            "signet_rpc_workload_api_fetch_x509svid{status=\"OK\"} 1",
            "signet_workload_api_connection 2",
            "signet_workload_api_connections 0.0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
        assert!(rpcs.method("/SpiffeWorkloadAPI/NoSuch").is_none());
    }
}
