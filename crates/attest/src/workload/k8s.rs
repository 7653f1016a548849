//! Workload attestor `k8s`: the pod and container of the calling process, confirmed by the
//! kubelet.
//!
//! The cgroup path says which containers the process may be in ([`super::container`]); the
//! kubelet says which of them is real. The outermost pair that it knows wins: a pair below is a
//! name that the workload itself could have made. A pod that the kubelet knows, with a container
//! it does not know *yet*, is waited for, within a bound: nothing below it is looked at.

pub mod kubelet;
pub mod pods;

use std::{fmt, sync::Arc, time::Duration};

use signet_identity::Selector;

use self::pods::{Found, Pod, PodIndex};
use super::{
    WorkloadAttestError, WorkloadAttestor,
    container::{self, Candidate},
};
use crate::peer::PinnedPeer;

/// The attestor's name and the type of its selectors.
pub const NAME: &str = "k8s";

/// Settings of the attestor, with SPIRE's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sConfig {
    /// Whether only the pod's selectors are found; then a container that is not yet reported is
    /// not waited for.
    pub disable_container_selectors: bool,
    /// How often the kubelet is asked; 60 by default.
    pub max_poll_attempts: u32,
    /// How long is waited between two answers; 500 ms by default.
    pub poll_retry_interval: Duration,
}

impl Default for K8sConfig {
    fn default() -> Self {
        Self {
            disable_container_selectors: false,
            max_poll_attempts: 60,
            poll_retry_interval: Duration::from_millis(500),
        }
    }
}

/// Where the pods of this node are read.
#[async_trait::async_trait]
pub trait PodSource: Send + Sync + fmt::Debug {
    /// The pods as the kubelet reports them at a moment after this call began. Concurrent calls
    /// may share one answer.
    ///
    /// # Errors
    /// What went wrong, as text.
    async fn pods(&self) -> Result<Arc<PodIndex>, String>;
}

/// The `k8s` workload attestor.
#[derive(Debug)]
pub struct K8sAttestor {
    config: K8sConfig,
    source: Arc<dyn PodSource>,
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
        Self { config, source }
    }

    fn values(&self, verdict: &Verdict<'_>) -> Option<Vec<String>> {
        match verdict {
            Verdict::Running(found) => {
                let mut values = found.pod.selector_values();
                if !self.config.disable_container_selectors {
                    values.extend(found.container.selector_values());
                }
                Some(values)
            }
            Verdict::Starting(pod) if self.config.disable_container_selectors => {
                Some(pod.selector_values())
            }
            Verdict::Starting(_) | Verdict::Unknown => None,
        }
    }
}

#[async_trait::async_trait]
impl WorkloadAttestor for K8sAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, peer: &PinnedPeer) -> Result<Vec<Selector>, WorkloadAttestError> {
        let cgroup = peer.proc_root().read(peer.pid(), "cgroup")?;
        let cgroup = String::from_utf8_lossy(&cgroup);
        let (chain, _) = container::containers(&cgroup)
            .map_err(|error| WorkloadAttestError::Failed(error.to_string()))?;
        if chain.is_empty() {
            return Ok(Vec::new());
        }
        let mut waited_for = "the kubelet lists none of the process's containers";
        for attempt in 1..=self.config.max_poll_attempts {
            let pods = self.source.pods().await.map_err(WorkloadAttestError::Failed)?;
            let verdict = judge(chain.candidates(), &pods)?;
            if let Some(values) = self.values(&verdict) {
                return values
                    .iter()
                    .map(|value| {
                        Selector::new(NAME, value).map_err(|error| {
                            WorkloadAttestError::Failed(format!("selector {value:?}: {error}"))
                        })
                    })
                    .collect();
            }
            if let Verdict::Starting(_) = verdict {
                waited_for = "the kubelet lists the process's pod, but not yet its container";
            }
            if !peer.is_alive() {
                return Err(WorkloadAttestError::Failed(
                    "the process exited while its container was waited for".to_owned(),
                ));
            }
            tracing::debug!(pid = peer.pid(), attempt, "Container not found: {waited_for}");
            if attempt < self.config.max_poll_attempts {
                tokio::time::sleep(self.config.poll_retry_interval).await;
            }
        }
        Err(WorkloadAttestError::Failed(format!(
            "no selectors found after max poll attempts ({}): {waited_for} ({chain})",
            self.config.max_poll_attempts
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
            if candidate.pod_uid.as_ref().is_some_and(|named| named != uid) {
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
