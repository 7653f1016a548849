//! The server's half of `k8s_psat`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use signet_identity::{Selector, SelectorSet, SpiffeId, TrustDomain};
use signet_k8s::{ApiServer, Node, Pod, TokenReviewStatus};

use super::{KIND, MAX_TOKEN, Payload};
use crate::node::{Challenger, MAX_PAYLOAD, NodeAttestError, NodeAttestation, NodeAttestorServer};

/// Where a reviewed token names its pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// The most of an API server's words that is shown.
const MAX_REASON: usize = 300;

/// Settings for one cluster, with SPIRE's names.
#[derive(Debug)]
pub struct Cluster {
    /// Service accounts whose tokens are accepted, `namespace:name`.
    pub service_account_allow_list: BTreeSet<String>,
    /// Audiences of which the token must have one; `["spire-server"]` by default.
    pub audience: Vec<String>,
    /// Labels of nodes that become selectors.
    pub allowed_node_label_keys: BTreeSet<String>,
    /// Labels of agents' pods that become selectors.
    pub allowed_pod_label_keys: BTreeSet<String>,
    /// Whether the agent ID is made of the pod's UID instead of the node's.
    pub use_pod_uid_for_agent_id: bool,
    /// The cluster's API server.
    pub api: Box<dyn ClusterApi>,
}

/// What is asked of a cluster's API server.
#[async_trait::async_trait]
pub trait ClusterApi: Send + Sync + fmt::Debug {
    /// Has a token reviewed.
    ///
    /// # Errors
    /// What went wrong, as text.
    async fn review(&self, token: &str, audiences: &[String]) -> Result<TokenReviewStatus, String>;

    /// Reads a pod.
    ///
    /// # Errors
    /// What went wrong, as text.
    async fn pod(&self, namespace: &str, name: &str) -> Result<Pod, String>;

    /// Reads a node.
    ///
    /// # Errors
    /// What went wrong, as text.
    async fn node(&self, name: &str) -> Result<Node, String>;
}

#[async_trait::async_trait]
impl ClusterApi for ApiServer {
    async fn review(&self, token: &str, audiences: &[String]) -> Result<TokenReviewStatus, String> {
        self.review_token(token, audiences).await.map_err(|e| signet_base::chain(&e))
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Pod, String> {
        self.get_pod(namespace, name).await.map_err(|e| signet_base::chain(&e))
    }

    async fn node(&self, name: &str) -> Result<Node, String> {
        self.get_node(name).await.map_err(|e| signet_base::chain(&e))
    }
}

/// The server's half.
#[derive(Debug)]
pub struct K8sPsatServer {
    trust_domain: TrustDomain,
    clusters: BTreeMap<String, Cluster>,
}

/// Whose token it is.
struct Bearer {
    namespace: String,
    service_account: String,
    pod_name: String,
    pod_uid: String,
}

impl K8sPsatServer {
    /// An attestor for agents of `trust_domain` in the given clusters, by name.
    pub fn new(trust_domain: TrustDomain, clusters: BTreeMap<String, Cluster>) -> Self {
        Self { trust_domain, clusters }
    }

    async fn bearer(
        &self,
        name: &str,
        cluster: &Cluster,
        token: &str,
    ) -> Result<Bearer, NodeAttestError> {
        let internal =
            |why: String| NodeAttestError::internal(format!("{why} for cluster {name:?}"));
        let unable = |why: String| {
            NodeAttestError::internal(format!(
                "unable to validate token with TokenReview API for cluster {name:?}: {why}"
            ))
        };
        let status = cluster.api.review(token, &cluster.audience).await.map_err(unable)?;
        // It says which of expired, for another audience or unknown; and an agent that is told
        // "internal" tries again, with the token that Kubernetes puts in place of this one.
        if !status.error.is_empty() {
            let why: String =
                status.error.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
            return Err(unable(format!("token review API response contains an error: {why}")));
        }
        // An API server that does not know audiences answers with none: not a yes.
        let meant_for_us = cluster.audience.is_empty()
            || status.audiences.iter().any(|audience| cluster.audience.contains(audience));
        if !status.authenticated || !meant_for_us {
            let why: String =
                status.error.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
            let separator = if why.is_empty() { "" } else { ": " };
            return Err(NodeAttestError::denied(format!(
                "token not authenticated according to TokenReview API for cluster \
                 {name:?}{separator}{why}"
            )));
        }
        let (namespace, service_account) = status
            .user
            .username
            .strip_prefix("system:serviceaccount:")
            .and_then(|rest| rest.split_once(':'))
            .filter(|(ns, sa)| !ns.is_empty() && !sa.is_empty() && !sa.contains(':'))
            .ok_or_else(|| {
                internal("fail to parse username from token review status".to_owned())
            })?;
        let full = format!("{namespace}:{service_account}");
        if !cluster.service_account_allow_list.contains(&full) {
            return Err(NodeAttestError::denied(format!(
                "{full:?} is not an allowed service account for cluster {name:?}"
            )));
        }
        let extra = |key: &str, what: &str| match status.user.extra.get(key).map(Vec::as_slice) {
            Some([one]) if !one.is_empty() => Ok(one.clone()),
            _ => Err(internal(format!("fail to get {what} from token review status"))),
        };
        Ok(Bearer {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            pod_name: extra(POD_NAME, "pod name")?,
            pod_uid: extra(POD_UID, "pod UID")?,
        })
    }
}

#[async_trait::async_trait]
impl NodeAttestorServer for K8sPsatServer {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn attest(
        &self,
        payload: &[u8],
        _peer: Option<IpAddr>,
        _challenger: &mut dyn Challenger,
    ) -> Result<NodeAttestation, NodeAttestError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(NodeAttestError::invalid("attestation payload is too long"));
        }
        let payload: Payload = serde_json::from_slice(payload).map_err(|e| {
            NodeAttestError::invalid(format!("failed to unmarshal data payload: {e}"))
        })?;
        let (name, token) = (payload.cluster, zeroize::Zeroizing::new(payload.token));
        if name.is_empty() {
            return Err(NodeAttestError::invalid("missing cluster in attestation data"));
        }
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(NodeAttestError::invalid("missing token in attestation data"));
        }
        let cluster = self.clusters.get(&name).ok_or_else(|| {
            NodeAttestError::invalid(format!("not configured for cluster {name:?}"))
        })?;
        let bearer = self.bearer(&name, cluster, &token).await?;

        let from_api = |what: &str, e: String| {
            NodeAttestError::internal(format!(
                "fail to get {what} from k8s API server for cluster {name:?}: {e}"
            ))
        };
        let pod = cluster
            .api
            .pod(&bearer.namespace, &bearer.pod_name)
            .await
            .map_err(|e| from_api("pod", e))?;
        // The token is bound to a pod by UID: one of the same name is another pod.
        if pod.metadata.uid != bearer.pod_uid {
            return Err(NodeAttestError::denied(format!(
                "the token's pod no longer exists in cluster {name:?}"
            )));
        }
        let node_name = &pod.spec.node_name;
        let node = cluster.api.node(node_name).await.map_err(|e| from_api("node", e))?;
        let node_uid = &node.metadata.uid;
        if node_uid.is_empty() {
            return Err(NodeAttestError::internal(format!(
                "node UID is empty for cluster {name:?}"
            )));
        }

        let suffix = if cluster.use_pod_uid_for_agent_id {
            format!("pod/{}", bearer.pod_uid)
        } else {
            node_uid.clone()
        };
        let path = format!("/spire/agent/{KIND}/{name}/{suffix}");
        let agent_id = SpiffeId::new(self.trust_domain.clone(), &path)
            .map_err(|e| NodeAttestError::internal(format!("failed to make spiffe id: {e}")))?;

        let mut values = vec![
            format!("cluster:{name}"),
            format!("agent_ns:{}", bearer.namespace),
            format!("agent_sa:{}", bearer.service_account),
            format!("agent_pod_name:{}", bearer.pod_name),
            format!("agent_pod_uid:{}", bearer.pod_uid),
            format!("agent_node_ip:{}", pod.status.host_ip),
            format!("agent_node_name:{node_name}"),
            format!("agent_node_uid:{node_uid}"),
        ];
        let mut labels =
            |kind: &str, all: &BTreeMap<String, String>, allowed: &BTreeSet<String>| {
                let kept = all.iter().filter(|(key, _)| allowed.contains(*key));
                values.extend(kept.map(|(key, value)| format!("{kind}:{key}:{value}")));
            };
        labels("agent_node_label", &node.metadata.labels, &cluster.allowed_node_label_keys);
        labels("agent_pod_label", &pod.metadata.labels, &cluster.allowed_pod_label_keys);
        let selectors: SelectorSet = values
            .iter()
            .map(|value| Selector::new(KIND, value))
            .collect::<Result<_, _>>()
            .map_err(|e| NodeAttestError::internal(format!("making a selector: {e}")))?;
        Ok(NodeAttestation { agent_id, selectors, can_reattest: true })
    }
}
