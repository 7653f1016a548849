//! From settings to attestors: the node's own and those of its workloads.

use std::{sync::Arc, time::Duration};

use signet_attest::{
    node::{
        NodeAttestError, NodeAttestorAgent,
        http_challenge::agent::{HttpChallengeAgent, HttpChallengeAgentConfig},
        join_token::JoinTokenAgent,
        k8s_psat::agent::K8sPsatAgent,
        x509pop::agent::{FileSource, X509PopAgent},
    },
    workload::{
        WorkloadAttestor, WorkloadAttestors,
        docker::DockerAttestor,
        k8s::{
            K8sAttestor, K8sConfig,
            kubelet::{Kubelet, KubeletConfig},
            namespaces::ApiNamespaces,
        },
        systemd::SystemdAttestor,
        unix::{UnixAttestor, UnixConfig},
    },
};
use signet_base::SharedClock;

use crate::config::{self, Config, NodeAttestor, Plugins, X509PopSource};

/// How long the attestors may take for one workload, waiting for a container aside.
const ATTEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The node attestor; a join token takes the place of the configured one. `None` when there is
/// only the token that was not given: enough for an agent that has attested before.
///
/// # Errors
/// [`NodeAttestError`] when what it needs cannot be used.
pub(crate) fn node(
    config: &Config,
    plugins: &Plugins,
) -> Result<Option<Box<dyn NodeAttestorAgent>>, NodeAttestError> {
    if let Some(token) = &config.join_token {
        return Ok(Some(Box::new(JoinTokenAgent::new(token.expose())?)));
    }
    let Some(attestor) = &plugins.node_attestor else { return Ok(None) };
    Ok(match &attestor.settings {
        NodeAttestor::JoinToken => None,
        NodeAttestor::HttpChallenge(settings) => {
            Some(Box::new(HttpChallengeAgent::new(HttpChallengeAgentConfig {
                hostname: settings.hostname.clone().unwrap_or_default(),
                agentname: settings.agentname.clone(),
                port: settings.port,
                advertised_port: settings.advertised_port.unwrap_or_default(),
            })?))
        }
        NodeAttestor::K8sPsat(settings) => {
            Some(Box::new(K8sPsatAgent::new(&settings.cluster, settings.token_path.clone())?))
        }
        NodeAttestor::X509Pop(settings) => match &settings.source {
            X509PopSource::Files { private_key_path, certificate_path, intermediates_path } => {
                let source = FileSource {
                    private_key_path: private_key_path.clone(),
                    certificate_path: certificate_path.clone(),
                    intermediates_path: intermediates_path.clone(),
                };
                Some(Box::new(X509PopAgent::new(Box::new(source))))
            }
            X509PopSource::WorkloadApi { endpoint } => Some(Box::new(X509PopAgent::new(Box::new(
                crate::x509pop_source::WorkloadApiSource::new(endpoint)?,
            )))),
        },
    })
}

/// The workload attestors.
pub(crate) fn workload(plugins: &Plugins, clock: &SharedClock) -> WorkloadAttestors {
    let mut deadline = ATTEST_TIMEOUT;
    let attestors = plugins
        .workload_attestors
        .iter()
        .map(|attestor| match &attestor.settings {
            config::WorkloadAttestor::Docker(settings) => {
                Box::new(DockerAttestor::new(settings.clone())) as Box<dyn WorkloadAttestor>
            }
            config::WorkloadAttestor::K8s(settings) => {
                let (attestor, patience) = k8s(settings, clock);
                deadline = deadline.max(ATTEST_TIMEOUT + patience);
                Box::new(attestor)
            }
            config::WorkloadAttestor::Systemd => Box::new(SystemdAttestor::new()),
            config::WorkloadAttestor::Unix(settings) => Box::new(UnixAttestor::new(UnixConfig {
                discover_workload_path: settings.discover_workload_path,
                workload_size_limit: settings.workload_size_limit,
            })),
        })
        .collect();
    WorkloadAttestors::new(attestors, deadline)
}

/// The attestor, and how long it may wait for a container.
fn k8s(settings: &config::K8sAttestor, clock: &SharedClock) -> (K8sAttestor, Duration) {
    let mut kubelet = settings.kubelet.clone();
    if let KubeletConfig::Secure { node_name, .. } = &mut kubelet
        && node_name.is_none()
    {
        *node_name = std::env::var(&settings.node_name_env).ok().filter(|name| !name.is_empty());
    }
    let config = K8sConfig {
        disable_container_selectors: settings.disable_container_selectors,
        max_poll_attempts: settings.max_poll_attempts,
        poll_retry_interval: settings.poll_retry_interval,
    };
    let patience = config.patience();
    let kubelet = Kubelet::new(kubelet, settings.poll_retry_interval, Arc::clone(clock));
    let mut attestor = K8sAttestor::new(config, Arc::new(kubelet));
    if settings.enable_namespace_labels {
        attestor = attestor.with_namespaces(Arc::new(ApiNamespaces::new(Arc::clone(clock))));
    }
    (attestor, patience)
}
