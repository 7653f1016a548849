//! How RPCs are named in metrics.

/// Services that SPIRE calls by a shorter name in logs and metrics.
const SHORT: &[(&str, &str)] = &[
    ("SpiffeWorkloadAPI", "WorkloadAPI"),
    ("envoy.service.secret.v3.SecretDiscoveryService", "SDS.v3"),
    ("grpc.health.v1.Health", "Health"),
    ("spire.agent.debug.v1.Debug", "Debug"),
    ("spire.api.agent.delegatedidentity.v1.DelegatedIdentity", "DelegatedIdentity"),
    ("spire.api.agent.logger.v1.Logger", "Logger"),
    ("spire.api.server.logger.v1.Logger", "Logger"),
];

/// What the names of the server's services begin with, which SPIRE leaves out.
const SERVER: &str = "spire.api.server.";

/// A service, given with its package, as SPIRE's logs and metrics name it.
pub fn short_service(service: &str) -> &str {
    let short = SHORT.iter().find(|(long, _)| *long == service).map(|(_, short)| *short);
    short.unwrap_or_else(|| service.strip_prefix(SERVER).unwrap_or(service))
}

/// The key of an RPC's call counter, as SPIRE has it: `rpc` and the parts of the short name in
/// snake case. `spire.api.server.svid.v1.SVID` and `BatchNewX509SVID` are
/// `rpc.svid.v1.svid.batch_new_x509svid`.
pub fn rpc_key(service: &str, method: &str) -> Vec<String> {
    let service = short_service(service).split('.').map(snake);
    // The one method whose name SPIRE does not derive.
    let method = match method {
        "SubscribeToX509SVIDs" => "subscribe_to_x509_svids".to_owned(),
        method => snake(method),
    };
    std::iter::once("rpc".to_owned()).chain(service).chain([method]).collect()
}

/// A capital that stands beside a small letter begins a word, unless it comes last.
fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::with_capacity(name.len() + 8);
    let mut before = None;
    for (at, c) in chars.iter().enumerate() {
        let next = chars.get(at + 1);
        let is_small = |c: Option<&char>| c.is_some_and(|c| c.is_lowercase());
        if !c.is_alphanumeric() {
            out.push('_');
        } else {
            let is_inside = before.is_some() && next.is_some();
            let begins = c.is_uppercase() && is_inside && (is_small(next) || is_small(before));
            if begins && !out.ends_with('_') {
                out.push('_');
            }
            out.extend(c.to_lowercase());
        }
        before = Some(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_spire() {
        let server = |service: &str| format!("spire.api.server.{service}");
        for (service, method, key) in [
            (server("svid.v1.SVID"), "BatchNewX509SVID", "svid.v1.svid.batch_new_x509svid"),
            (server("svid.v1.SVID"), "NewJWTSVID", "svid.v1.svid.new_jwtsvid"),
            (server("svid.v1.SVID"), "NewDownstreamX509CA", "svid.v1.svid.new_downstream_x509ca"),
            (server("agent.v1.Agent"), "AttestAgent", "agent.v1.agent.attest_agent"),
            (server("logger.v1.Logger"), "GetLogger", "logger.get_logger"),
            (server("debug.v1.Debug"), "GetInfo", "debug.v1.debug.get_info"),
            (
                server("localauthority.v1.LocalAuthority"),
                "GetJWTAuthorityState",
                "localauthority.v1.local_authority.get_jwt_authority_state",
            ),
            ("grpc.health.v1.Health".into(), "Check", "health.check"),
            ("SpiffeWorkloadAPI".into(), "FetchX509SVID", "workload_api.fetch_x509svid"),
            ("SpiffeWorkloadAPI".into(), "FetchX509Bundles", "workload_api.fetch_x509_bundles"),
            ("SpiffeWorkloadAPI".into(), "FetchJWTSVID", "workload_api.fetch_jwtsvid"),
            (
                "envoy.service.secret.v3.SecretDiscoveryService".into(),
                "StreamSecrets",
                "sds.v3.stream_secrets",
            ),
            (
                "spire.api.agent.delegatedidentity.v1.DelegatedIdentity".into(),
                "SubscribeToX509SVIDs",
                "delegated_identity.subscribe_to_x509_svids",
            ),
        ] {
            assert_eq!(rpc_key(&service, method).join("."), format!("rpc.{key}"));
        }
    }
}
