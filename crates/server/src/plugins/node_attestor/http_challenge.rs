//! `NodeAttestor "http_challenge"`.

use std::sync::Arc;

use signet_attest::node::{
    NodeAttestorServer,
    http_challenge::server::{HttpChallengeServer, HttpChallengeServerConfig, NetworkFetcher},
};
use signet_config::Block;
use signet_http::Proxies;

use super::NodeAttestor;
use crate::plugins::Scope;

/// `NodeAttestor "http_challenge"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpChallenge {
    /// `allowed_dns_patterns`: regular expressions, one of which a host name must match; empty
    /// allows every name.
    pub allowed_dns_patterns: Vec<String>,
    /// `required_port`: the only port that is asked.
    pub required_port: Option<u16>,
    /// `allow_non_root_ports`, default true: whether ports of 1024 and above are asked.
    pub allow_non_root_ports: bool,
    /// `tofu`, default true: whether a host attests once only.
    pub tofu: bool,
}

pub(super) fn decode(block: &Block<'_>) -> Option<NodeAttestor> {
    let required_port = block.integer::<u16>("required_port");
    let allow_non_root_ports = block.boolean("allow_non_root_ports");
    let tofu = block.boolean("tofu").unwrap_or(true);
    let ports_of_anyone = match required_port {
        Some(port) => port >= 1024,
        None => allow_non_root_ports.unwrap_or(true),
    };
    if !tofu && ports_of_anyone {
        block.error(
            "tofu",
            "it cannot be turned off while ports of 1024 and above are asked, which any user of \
             the host can open; set required_port below 1024 or allow_non_root_ports = false",
        );
    }
    Some(NodeAttestor::HttpChallenge(HttpChallenge {
        allowed_dns_patterns: block.texts("allowed_dns_patterns"),
        required_port,
        allow_non_root_ports: allow_non_root_ports.unwrap_or(true),
        tofu,
    }))
}

pub(super) fn open(
    settings: &HttpChallenge,
    scope: &Scope<'_>,
) -> Result<Arc<dyn NodeAttestorServer>, String> {
    let patterns = settings.allowed_dns_patterns.iter().map(|pattern| {
        pattern.parse().map_err(|error| format!("allowed_dns_patterns \"{pattern}\": {error}"))
    });
    let config = HttpChallengeServerConfig {
        allowed_dns_patterns: patterns.collect::<Result<_, _>>()?,
        required_port: settings.required_port,
        allow_non_root_ports: Some(settings.allow_non_root_ports),
        tofu: Some(settings.tofu),
    };
    let proxies = Proxies::from_env().map_err(|why| why.to_string())?;
    let fetcher = NetworkFetcher::new(proxies).map_err(|why| why.to_string())?;
    let server = HttpChallengeServer::new(scope.trust_domain.clone(), config, Box::new(fetcher));
    Ok(Arc::new(server.map_err(|why| why.to_string())?))
}
