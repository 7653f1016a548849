//! Workload attestor `k8s`: the pod and container of the calling process, confirmed by the
//! kubelet.
//!
//! The cgroup path says which containers the process may be in ([`super::container`]); the
//! kubelet says which of them is real. The outermost pair that it knows wins: a pair below is a
//! name that the workload itself could have made. A pod that the kubelet knows, with a container
//! it does not know *yet*, is waited for, within a bound: nothing below it is looked at.

pub mod cluster;
pub mod kubelet;
pub mod namespaces;
pub mod objects;
pub mod pods;
mod polling;
pub mod split;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use signet_identity::{Selector, SpiffeId};
use tokio::time::Instant;

use self::{
    cluster::Cluster,
    namespaces::NamespaceSource,
    objects::{BrokerPolicy, Brokers},
    pods::{Found, Pod, PodIndex},
};
use super::{
    WorkloadAttestError, WorkloadAttestor,
    container::{self, Candidate, Viewpoint},
    reference::{Reference, ReferenceError},
};
use crate::peer::PinnedPeer;

/// The attestor's name and the type of its selectors.
pub const NAME: &str = "k8s";

/// How long a kubelet may take to list a container that is in no pod's cgroup.
const OUTSIDE_PODS: Duration = Duration::from_secs(5);

/// Settings of the attestor, with SPIRE's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sConfig {
    /// Whether only the pod's selectors are found; then a container that is not yet reported is
    /// not waited for.
    pub disable_container_selectors: bool,
    /// How many answers of the kubelet are waited for; 60 by default.
    pub max_poll_attempts: u32,
    /// How long is waited between two answers. By default 500 ms are assumed for the time that
    /// is waited in all, and the kubelet is asked sooner ([`kubelet::Kubelet`]).
    pub poll_retry_interval: Option<Duration>,
}

impl Default for K8sConfig {
    fn default() -> Self {
        Self {
            disable_container_selectors: false,
            max_poll_attempts: 60,
            poll_retry_interval: None,
        }
    }
}

impl K8sConfig {
    /// How long a container is waited for in all.
    pub fn patience(&self) -> Duration {
        self.poll_retry_interval.unwrap_or(polling::STEADY) * self.max_poll_attempts
    }

    /// How long one of these is waited for. One that is in no pod's cgroup most likely is in no pod
    /// at all: then the time for a kubelet to notice it is enough, unless it is said otherwise.
    fn patience_for(&self, chain: &container::Chain) -> Duration {
        let in_pod = chain.candidates().iter().any(|candidate| candidate.pod_uid.is_some());
        match self.poll_retry_interval {
            None if !in_pod => self.patience().min(OUTSIDE_PODS),
            _ => self.patience(),
        }
    }
}

/// Where the pods of this node are read.
#[async_trait::async_trait]
pub trait PodSource: Send + Sync + fmt::Debug {
    /// The next answer of the kubelet with a version above `seen`; 0 for somebody who has seen
    /// none, who may then get one that is a tenth of a second old. All who wait share one answer.
    async fn next(&self, seen: u64) -> Answer;
}

/// An answer of the kubelet.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Grows with each answer.
    pub version: u64,
    /// The pods, or why there are none.
    pub pods: Result<Arc<PodIndex>, SourceError>,
}

/// Why there is no list of pods.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    message: String,
    /// Whether it may mend itself while somebody waits.
    passing: bool,
}

impl SourceError {
    /// Something that is not expected to mend itself: wrong files, missing permissions.
    pub fn lasting(message: String) -> Self {
        Self { message, passing: false }
    }

    /// Something that may mend itself: a kubelet that restarts.
    pub fn passing(message: String) -> Self {
        Self { message, passing: true }
    }
}

/// The `k8s` workload attestor.
#[derive(Debug)]
pub struct K8sAttestor {
    config: K8sConfig,
    /// None where the kubelet is not to be asked.
    source: Option<Arc<dyn PodSource>>,
    namespaces: Option<Arc<dyn NamespaceSource>>,
    brokers: Option<Brokers>,
    viewpoint: OnceLock<Viewpoint>,
}

/// Where an object is; the namespace is empty for one of the whole cluster.
#[derive(Debug)]
struct Place {
    namespace: String,
    name: String,
}

impl Place {
    fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        Self { namespace: metadata.namespace.clone(), name: metadata.name.clone() }
    }
}

/// What one answer of the kubelet says of a caller.
enum Verdict<'a> {
    /// The pod is known, its container not yet.
    Starting(&'a Pod),
    /// The caller runs in this container.
    Running(Found<'a>),
    /// The kubelet knows none of the caller's containers.
    Unknown,
}

impl K8sAttestor {
    /// An attestor with the given settings and source.
    pub fn new(config: K8sConfig, source: Arc<dyn PodSource>) -> Self {
        Self { source: Some(source), ..Self::without_kubelet(config) }
    }

    /// An attestor that does not ask the kubelet (`disable_kubelet_client`): it knows no process, and
    /// is for brokers alone.
    pub fn without_kubelet(config: K8sConfig) -> Self {
        Self { config, source: None, namespaces: None, brokers: None, viewpoint: OnceLock::new() }
    }

    /// Also follows the references of brokers, with this cluster's API server.
    #[must_use]
    pub fn with_brokers(mut self, policy: BrokerPolicy, cluster: Arc<Cluster>) -> Self {
        self.brokers = Some(Brokers::new(policy, cluster));
        self
    }

    /// Also finds the labels of the pod's namespace (`enable_namespace_labels`).
    #[must_use]
    pub fn with_namespaces(mut self, namespaces: Arc<dyn NamespaceSource>) -> Self {
        self.namespaces = Some(namespaces);
        self
    }

    /// Looks at cgroups as from this place, instead of the agent's own.
    #[must_use]
    pub fn seen_from(mut self, viewpoint: Viewpoint) -> Self {
        self.viewpoint = OnceLock::from(viewpoint);
        self
    }

    /// The values of what is found, and where it is.
    fn values(&self, verdict: &Verdict<'_>) -> Option<(Vec<String>, Place)> {
        let (pod, container) = match verdict {
            Verdict::Running(found) => (found.pod, Some(found.container)),
            Verdict::Starting(pod) if self.config.disable_container_selectors => (*pod, None),
            Verdict::Starting(_) | Verdict::Unknown => return None,
        };
        let mut values = pod.selector_values();
        if let Some(container) = container.filter(|_| !self.config.disable_container_selectors) {
            values.extend(container.selector_values());
        }
        Some((values, Place::of(pod)))
    }

    async fn selectors(
        &self,
        mut values: Vec<String>,
        namespace: &str,
    ) -> Result<Vec<Selector>, WorkloadAttestError> {
        if let Some(source) = self.namespaces.as_ref().filter(|_| !namespace.is_empty()) {
            let labels = source.labels(namespace).await.map_err(|error| {
                WorkloadAttestError::Failed(format!(
                    "unable to get namespace labels for {namespace:?}: {error}"
                ))
            })?;
            values.extend(labels.iter().map(|(key, value)| format!("ns-label:{key}:{value}")));
        }
        let selector = |value: &String| {
            Selector::new(NAME, value).map_err(|error| {
                WorkloadAttestError::Failed(format!("selector {value:?}: {error}"))
            })
        };
        values.iter().map(selector).collect()
    }

    /// Whether waiting is over after this many answers and at this moment.
    fn is_over(&self, attempts: u32, give_up: Instant) -> bool {
        let all =
            self.config.poll_retry_interval.is_some() && attempts >= self.config.max_poll_attempts;
        all || Instant::now() >= give_up
    }
}

#[async_trait::async_trait]
impl WorkloadAttestor for K8sAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, peer: &PinnedPeer) -> Result<Vec<Selector>, WorkloadAttestError> {
        self.attest_process(peer, true).await
    }

    async fn look(&self, peer: &PinnedPeer) -> Result<Vec<Selector>, WorkloadAttestError> {
        self.attest_process(peer, false).await
    }

    async fn attest_reference(
        &self,
        broker: &SpiffeId,
        reference: Reference<'_>,
    ) -> Result<Vec<Selector>, ReferenceError> {
        self.attest_named(broker, reference).await
    }
}

impl K8sAttestor {
    async fn attest_process(
        &self,
        peer: &PinnedPeer,
        wait: bool,
    ) -> Result<Vec<Selector>, WorkloadAttestError> {
        match self.find(peer, wait).await? {
            Some((values, place)) => self.selectors(values, &place.namespace).await,
            None => Ok(Vec::new()),
        }
    }

    /// Finds the pod and container of a process; waits for them where `wait`. None for a process that
    /// is in no container.
    async fn find(
        &self,
        peer: &PinnedPeer,
        wait: bool,
    ) -> Result<Option<(Vec<String>, Place)>, WorkloadAttestError> {
        let source = self
            .source
            .as_ref()
            .ok_or_else(|| WorkloadAttestError::Failed("kubelet client is disabled".to_owned()))?;
        let root = peer.proc_root();
        let cgroup = root.read(peer.pid(), "cgroup")?;
        let viewpoint = self.viewpoint.get_or_init(|| Viewpoint::own(root));
        let chain = container::pod_containers(&String::from_utf8_lossy(&cgroup), viewpoint)
            .map_err(|error| WorkloadAttestError::Failed(error.to_string()))?;
        if chain.is_empty() {
            return Ok(None);
        }
        let began = Instant::now();
        let patience = self.config.patience_for(&chain);
        let give_up = began + patience;
        let mut waited_for = "the kubelet lists none of the process's containers".to_owned();
        let (mut seen, mut attempts) = (0, 0);
        loop {
            let answer = if attempts == 0 {
                source.next(seen).await
            } else {
                tokio::select! {
                    answer = source.next(seen) => answer,
                    () = peer.exited() => return Err(WorkloadAttestError::Failed(format!(
                        "the process exited while its container was waited for: {waited_for}"
                    ))),
                    () = tokio::time::sleep_until(give_up) => break,
                }
            };
            attempts += 1;
            seen = answer.version;
            match answer.pods {
                Ok(pods) => {
                    let verdict = judge(chain.candidates(), &pods)?;
                    if let Some(found) = self.values(&verdict) {
                        return Ok(Some(found));
                    }
                    if let Verdict::Starting(pod) = verdict {
                        waited_for = format!(
                            "the kubelet lists the process's pod {}/{}, but not yet its container",
                            pod.metadata.namespace, pod.metadata.name
                        );
                    }
                }
                Err(error) if error.passing => waited_for = error.message,
                Err(error) => return Err(WorkloadAttestError::Failed(error.message)),
            }
            if !wait {
                return Err(WorkloadAttestError::Failed(format!(
                    "{waited_for}; a caller waits for it for up to {} s ({chain})",
                    patience.as_secs()
                )));
            }
            if self.is_over(attempts, give_up) {
                break;
            }
            if attempts == 1 {
                tracing::debug!(pid = peer.pid(), "Container is waited for: {waited_for}");
            }
        }
        Err(WorkloadAttestError::Failed(format!(
            "no selectors found after max poll attempts ({attempts} in {} ms): {waited_for} ({chain})",
            began.elapsed().as_millis()
        )))
    }
}

/// Finds the outermost of `candidates` that the kubelet knows.
fn judge<'a>(
    candidates: &[Candidate],
    pods: &'a PodIndex,
) -> Result<Verdict<'a>, WorkloadAttestError> {
    for candidate in candidates {
        if let Some(found) = pods.container(&candidate.container_id) {
            let uid = &found.pod.metadata.uid;
            if candidate.pod_uid.as_ref().is_some_and(|named| !found.pod.has_cgroups_of(named)) {
                return Err(WorkloadAttestError::Failed(format!(
                    "container {} belongs to pod {uid}, not to the pod its cgroup names",
                    candidate.container_id
                )));
            }
            return Ok(Verdict::Running(found));
        }
        if let Some(pod) = candidate.pod_uid.as_deref().and_then(|uid| pods.pod(uid)) {
            return Ok(Verdict::Starting(pod));
        }
    }
    Ok(Verdict::Unknown)
}

#[cfg(test)]
mod tests;
