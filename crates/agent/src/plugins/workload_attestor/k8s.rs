//! `WorkloadAttestor "k8s"`.

use std::{sync::Arc, time::Duration};

use signet_attest::workload::k8s::{
    K8sAttestor as K8sAttestorPort, K8sConfig,
    cluster::Cluster,
    kubelet::{Kubelet, KubeletAuth, KubeletConfig},
    namespaces::ApiNamespaces,
    objects::{BrokerPolicy, PodScope},
};
use signet_base::SharedClock;
use signet_config::Block;

use super::{SIGSTORE, WorkloadAttestor};
use crate::config::broker;

const DEFAULT_CA_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
const DEFAULT_KUBELET_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const DEFAULT_SECURE_PORT: u16 = 10250;
const DEFAULT_NODE_NAME_ENV: &str = "MY_NODE_NAME";

/// `WorkloadAttestor "k8s"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sAttestor {
    /// `disable_container_selectors`, default false.
    pub disable_container_selectors: bool,
    /// `max_poll_attempts`, default 60.
    pub max_poll_attempts: u32,
    /// `poll_retry_interval`: unset is sooner at first and 500 ms in the long run.
    pub poll_retry_interval: Option<Duration>,
    /// `enable_namespace_labels`, default false.
    pub enable_namespace_labels: bool,
    /// Where the kubelet is and how it is spoken to; none with `disable_kubelet_client`.
    pub kubelet: Option<KubeletConfig>,
    /// `node_name_env`, default `MY_NODE_NAME`: where the node's name is, unless `node_name` says.
    pub node_name_env: String,
    /// `experimental { broker {} }`: whose references are followed, and how.
    pub brokers: Option<BrokerPolicy>,
}

impl K8sAttestor {
    /// Where the kubelet is, with the node's name from the environment if nothing else says it.
    pub fn kubelet(&self) -> Option<KubeletConfig> {
        let mut kubelet = self.kubelet.clone();
        if let Some(KubeletConfig::Secure { node_name, .. }) = &mut kubelet
            && node_name.is_none()
        {
            *node_name = std::env::var(&self.node_name_env).ok().filter(|name| !name.is_empty());
        }
        kubelet
    }
}

pub(super) fn decode(block: &Block<'_>) -> Option<WorkloadAttestor> {
    refuse_legacy_locator(block);
    block.refuse("sigstore", SIGSTORE);
    let brokers = experimental(block);
    let disabled = block.flag("disable_kubelet_client");
    if disabled {
        check_without_kubelet(block, brokers.as_ref());
    }
    // What the container locator sees is in the debug log anyway.
    block.flag("verbose_container_locator_logs");
    let above_zero = |key| block.integer::<i64>(key).filter(|n| *n > 0);
    let max_poll_attempts = above_zero("max_poll_attempts")
        .and_then(|attempts| u32::try_from(attempts).ok())
        .unwrap_or(60);
    let interval = |key| block.duration(key).filter(|interval| !interval.is_zero());
    let poll_retry_interval = interval("poll_retry_interval");
    let reload_interval = interval("reload_interval").unwrap_or(Duration::from_secs(60));
    let (read_only, secure) =
        (block.port("kubelet_read_only_port"), block.port("kubelet_secure_port"));
    let node_name = block.text("node_name");
    let node_name_env =
        block.text("node_name_env").unwrap_or_else(|| DEFAULT_NODE_NAME_ENV.to_owned());
    let ca_path = block.path("kubelet_ca_path").unwrap_or_else(|| DEFAULT_CA_PATH.into());
    let skip = block.flag("skip_kubelet_verification");
    let auth = kubelet_auth(block)?;
    let kubelet = match (read_only, secure) {
        (Some(_), Some(_)) => {
            block.error("kubelet_read_only_port", "cannot use both the read-only and secure port");
            return None;
        }
        (Some(port), None) => KubeletConfig::ReadOnly { port },
        (None, secure) => KubeletConfig::Secure {
            port: secure.unwrap_or(DEFAULT_SECURE_PORT),
            node_name,
            ca_path: (!skip).then_some(ca_path),
            auth,
            reload_interval,
        },
    };
    Some(WorkloadAttestor::K8s(K8sAttestor {
        disable_container_selectors: block.flag("disable_container_selectors"),
        enable_namespace_labels: block.flag("enable_namespace_labels"),
        max_poll_attempts,
        poll_retry_interval,
        kubelet: (!disabled).then_some(kubelet),
        node_name_env,
        brokers,
    }))
}

/// The attestor, and how long it may wait for a container.
pub(super) fn open(settings: &K8sAttestor, clock: &SharedClock) -> (K8sAttestorPort, Duration) {
    let config = K8sConfig {
        disable_container_selectors: settings.disable_container_selectors,
        max_poll_attempts: settings.max_poll_attempts,
        poll_retry_interval: settings.poll_retry_interval,
    };
    let patience = config.patience();
    let mut attestor = match settings.kubelet() {
        Some(kubelet) => {
            let interval = settings.poll_retry_interval;
            let kubelet = Kubelet::new(kubelet, interval, Arc::clone(clock));
            K8sAttestorPort::new(config, Arc::new(kubelet))
        }
        None => K8sAttestorPort::without_kubelet(config),
    };
    let cluster = Arc::new(Cluster::new(Arc::clone(clock)));
    if settings.enable_namespace_labels {
        let namespaces = ApiNamespaces::new(Arc::clone(&cluster));
        attestor = attestor.with_namespaces(Arc::new(namespaces));
    }
    if let Some(policy) = &settings.brokers {
        attestor = attestor.with_brokers(policy.clone(), cluster);
    }
    (attestor, patience)
}

fn kubelet_auth(block: &Block<'_>) -> Option<KubeletAuth> {
    let token_path = block.path("token_path");
    let certificate_path = block.path("certificate_path");
    let private_key_path = block.path("private_key_path");
    if block.flag("use_anonymous_authentication") {
        if token_path.is_some() || certificate_path.is_some() || private_key_path.is_some() {
            let message = "it takes the place of token_path, certificate_path and \
                           private_key_path; use one or the other";
            block.error("use_anonymous_authentication", message);
        }
        return Some(KubeletAuth::Anonymous);
    }
    match (certificate_path, private_key_path) {
        (Some(certificate_path), Some(private_key_path)) => {
            Some(KubeletAuth::Certificate { certificate_path, private_key_path })
        }
        (None, None) => {
            Some(KubeletAuth::Token(token_path.unwrap_or_else(|| DEFAULT_KUBELET_TOKEN.into())))
        }
        (Some(_), None) => {
            block.error(
                "certificate_path",
                "the private key path is required with the certificate path",
            );
            None
        }
        (None, Some(_)) => {
            block.error(
                "private_key_path",
                "the certificate path is required with the private key path",
            );
            None
        }
    }
}

/// Reads `experimental`: the policy for brokers.
fn experimental(block: &Block<'_>) -> Option<BrokerPolicy> {
    let experimental = block.block("experimental")?;
    if let Some(api) = experimental.block("api_server") {
        if let Some(cache) = api.block("cache") {
            if cache.flag("enabled") {
                cache.warn("enabled", "it has no effect: objects are read when they are needed");
            }
            cache.finish();
        }
        api.finish();
    }
    let brokers = experimental.block("broker").and_then(broker_policy);
    experimental.finish();
    brokers
}

fn broker_policy(block: Block<'_>) -> Option<BrokerPolicy> {
    let enforced = match block.required_text("access_policy").as_deref() {
        Some("enforced") => Some(true),
        Some("permissive") => Some(false),
        Some(other) => {
            let message = format_args!("found {other:?}, expected enforced or permissive");
            block.error("access_policy", message);
            None
        }
        None => None,
    };
    let brokers = broker::brokers(&block, pod_scope);
    block.finish();
    Some(BrokerPolicy { enforced: enforced?, brokers })
}

fn pod_scope(broker: &Block<'_>) -> PodScope {
    match broker.text("pod_reference_scope").as_deref() {
        None | Some("" | "agent_node") => PodScope::AgentNode,
        Some("cluster") => PodScope::Cluster,
        Some(other) => {
            let message = format_args!("found {other:?}, expected agent_node or cluster");
            broker.error("pod_reference_scope", message);
            PodScope::AgentNode
        }
    }
}

/// What says how the kubelet is reached makes no sense when it is not asked.
fn check_without_kubelet(block: &Block<'_>, brokers: Option<&BrokerPolicy>) {
    for key in [
        "kubelet_read_only_port",
        "kubelet_secure_port",
        "kubelet_ca_path",
        "skip_kubelet_verification",
        "token_path",
        "certificate_path",
        "private_key_path",
        "use_anonymous_authentication",
        "node_name_env",
        "node_name",
        "reload_interval",
    ] {
        block.refuse(key, "it cannot be used with disable_kubelet_client");
    }
    for (id, scope) in brokers.iter().flat_map(|policy| &policy.brokers) {
        if *scope == PodScope::AgentNode {
            let message = format_args!(
                "the pod_reference_scope of broker {id} must be \"cluster\" then: only the kubelet \
                 knows which pods are on this node"
            );
            block.error("disable_kubelet_client", message);
        }
    }
}

/// Refuses what chooses SPIRE's older way from a cgroup path to a container; for both attestors
/// that have it.
pub(super) fn refuse_legacy_locator(block: &Block<'_>) {
    if block.boolean("use_new_container_locator") == Some(false) {
        block.error(
            "use_new_container_locator",
            "the legacy container locator is not in Signet; remove the key: both versions of \
             cgroups and all runtimes are covered",
        );
    }
}
