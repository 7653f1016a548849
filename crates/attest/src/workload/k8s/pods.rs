//! What a kubelet says of its pods, as far as selectors need it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;

use super::split::{SplitError, Splitter};

/// A kubelet's `PodList`, indexed by container ID. It is read as it arrives, and fields that no
/// selector needs are skipped, so that a list of a megabyte takes a few kilobytes.
#[derive(Debug, Default)]
pub struct PodIndex {
    pods: Vec<Pod>,
    by_container: HashMap<String, (usize, ContainerRef)>,
}

#[derive(Clone, Copy, Debug)]
struct ContainerRef {
    list: fn(&PodStatus) -> &[ContainerStatus],
    at: usize,
}

/// A pod and, where it was asked for, one of its containers.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container's status.
    pub container: &'a ContainerStatus,
}

/// A pod.
#[derive(Debug, Deserialize)]
pub struct Pod {
    /// Name, namespace, UID, labels, owners.
    pub metadata: Metadata,
    /// Node and service account.
    #[serde(default)]
    pub spec: PodSpec,
    /// What the kubelet observed.
    #[serde(default)]
    pub status: PodStatus,
}

/// A pod's metadata.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// Its UID.
    #[serde(default)]
    pub uid: String,
    /// Its labels.
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    /// Its owners.
    #[serde(default)]
    pub owner_references: Option<Vec<OwnerReference>>,
    /// What the kubelet notes about it.
    #[serde(default)]
    annotations: Option<Annotations>,
}

/// The annotations by which a static pod is known.
#[derive(Debug, Default, Deserialize)]
struct Annotations {
    /// The hash of its manifest, which is also the UID that its cgroups are named after.
    #[serde(default, rename = "kubernetes.io/config.hash")]
    hash: Option<String>,
    /// Where the kubelet has it from; the kubelet sets this itself, whatever the pod says.
    #[serde(default, rename = "kubernetes.io/config.source")]
    source: Option<String>,
}

/// An owner of a pod.
#[derive(Debug, Deserialize)]
pub struct OwnerReference {
    /// For example `ReplicaSet`.
    #[serde(default)]
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its UID.
    #[serde(default)]
    pub uid: String,
}

/// A pod's specification.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node it runs on.
    #[serde(default)]
    pub node_name: String,
    /// Its service account.
    #[serde(default)]
    pub service_account_name: String,
}

/// A pod's status.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    #[serde(default)]
    container_statuses: Option<Vec<ContainerStatus>>,
    #[serde(default)]
    init_container_statuses: Option<Vec<ContainerStatus>>,
    #[serde(default)]
    ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

/// A container's status.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The image as written, or as the runtime resolved it.
    #[serde(default)]
    pub image: String,
    /// The image with its digest.
    #[serde(default, rename = "imageID")]
    pub image_id: String,
    /// `<runtime>://<container ID>`; empty until it is created.
    #[serde(default, rename = "containerID")]
    pub container_id: String,
}

impl PodStatus {
    /// Statuses of the pod's containers.
    pub fn containers(&self) -> &[ContainerStatus] {
        self.container_statuses.as_deref().unwrap_or_default()
    }

    /// Statuses of its init containers.
    pub fn init_containers(&self) -> &[ContainerStatus] {
        self.init_container_statuses.as_deref().unwrap_or_default()
    }

    /// Statuses of its ephemeral containers.
    pub fn ephemeral_containers(&self) -> &[ContainerStatus] {
        self.ephemeral_container_statuses.as_deref().unwrap_or_default()
    }
}

/// Why a kubelet's answer is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodsError {
    /// Two pods claim the same container.
    #[error("two pods found with container ID {0}")]
    Ambiguous(String),
    /// Not a pod list.
    #[error("reading the kubelet's pod list")]
    List(#[from] SplitError),
}

/// Reads a `PodList` as it arrives.
#[derive(Debug, Default)]
pub struct PodReader {
    splitter: Splitter,
    pods: Vec<Pod>,
}

impl PodReader {
    /// Goes on with the next piece, which may end anywhere.
    ///
    /// # Errors
    /// [`PodsError`] when it is no pod list.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), PodsError> {
        let Self { splitter, pods } = self;
        splitter.push(piece, |item| {
            pods.push(serde_json::from_slice(item)?);
            Ok(())
        })?;
        Ok(())
    }

    /// The list has ended.
    ///
    /// # Errors
    /// [`PodsError`] when it ended in the middle, or two pods claim one container.
    pub fn finish(self) -> Result<PodIndex, PodsError> {
        self.splitter.finish()?;
        PodIndex::new(self.pods)
    }
}

impl PodIndex {
    /// Reads a whole `PodList`.
    ///
    /// # Errors
    /// [`PodsError`] when it is no pod list, or two pods claim one container.
    pub fn read(list: &[u8]) -> Result<Self, PodsError> {
        let mut reader = PodReader::default();
        reader.push(list)?;
        reader.finish()
    }

    fn new(pods: Vec<Pod>) -> Result<Self, PodsError> {
        let mut by_container = HashMap::new();
        let lists: [fn(&PodStatus) -> &[ContainerStatus]; 3] =
            [PodStatus::containers, PodStatus::init_containers, PodStatus::ephemeral_containers];
        for (pod_at, pod) in pods.iter().enumerate() {
            for list in lists {
                for (at, container) in list(&pod.status).iter().enumerate() {
                    let Some((_, id)) = container.container_id.split_once("://") else { continue };
                    let place = (pod_at, ContainerRef { list, at });
                    if let Some((other, _)) = by_container.insert(id.to_owned(), place)
                        && other != pod_at
                    {
                        return Err(PodsError::Ambiguous(id.to_owned()));
                    }
                }
            }
        }
        Ok(Self { pods, by_container })
    }

    /// The pod and container with a container ID.
    pub fn container(&self, container_id: &str) -> Option<Found<'_>> {
        let (pod_at, place) = self.by_container.get(container_id)?;
        let pod = self.pods.get(*pod_at)?;
        let container = (place.list)(&pod.status).get(place.at)?;
        Some(Found { pod, container })
    }

    /// The pod whose cgroups are named after this UID.
    pub fn pod(&self, uid: &str) -> Option<&Pod> {
        let by_uid = self.pods.iter().find(|pod| pod.metadata.uid == uid);
        by_uid.or_else(|| self.pods.iter().find(|pod| pod.has_cgroups_of(uid)))
    }

    /// The pod of this name.
    pub fn named(&self, namespace: &str, name: &str) -> Option<&Pod> {
        let is_it = |pod: &&Pod| pod.metadata.namespace == namespace && pod.metadata.name == name;
        self.pods.iter().find(is_it)
    }

    /// The pod of this UID.
    pub fn with_uid(&self, uid: &str) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.metadata.uid == uid)
    }

    /// How many pods there are.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}

impl Pod {
    /// Whether the pod's cgroups are named after this UID: its own, or for a static pod the hash
    /// of its manifest. (Kubelets list a static pod under that hash; its mirror in the API server
    /// has another UID.) The hash counts only where the kubelet has the pod from a file or a URL:
    /// anybody can write that annotation on a pod of the API server.
    pub fn has_cgroups_of(&self, uid: &str) -> bool {
        if self.metadata.uid == uid {
            return true;
        }
        let Some(noted) = &self.metadata.annotations else { return false };
        matches!(noted.source.as_deref(), Some("file" | "http"))
            && noted.hash.as_deref() == Some(uid)
    }

    /// The values of the pod's selectors, as SPIRE has them.
    pub fn selector_values(&self) -> Vec<String> {
        let (metadata, status) = (&self.metadata, &self.status);
        let mut values = vec![
            format!("sa:{}", self.spec.service_account_name),
            format!("ns:{}", metadata.namespace),
            format!("node-name:{}", self.spec.node_name),
            format!("pod-uid:{}", metadata.uid),
            format!("pod-name:{}", metadata.name),
            format!("pod-image-count:{}", status.containers().len()),
            format!("pod-init-image-count:{}", status.init_containers().len()),
        ];
        values.extend(images(status.containers()).map(|image| format!("pod-image:{image}")));
        values.extend(
            images(status.init_containers()).map(|image| format!("pod-init-image:{image}")),
        );
        let labels = metadata.labels.iter().flatten();
        values.extend(labels.map(|(key, value)| format!("pod-label:{key}:{value}")));
        for owner in metadata.owner_references.iter().flatten() {
            values.push(format!("pod-owner:{}:{}", owner.kind, owner.name));
            values.push(format!("pod-owner-uid:{}:{}", owner.kind, owner.uid));
        }
        values
    }
}

impl ContainerStatus {
    /// The values of the container's selectors, as SPIRE has them.
    pub fn selector_values(&self) -> Vec<String> {
        let mut values = vec![format!("container-name:{}", self.name)];
        let own = std::slice::from_ref(self);
        values.extend(images(own).map(|image| format!("container-image:{image}")));
        values
    }
}

/// Image and image ID of each, without duplicates and without empty ones.
fn images(statuses: &[ContainerStatus]) -> impl Iterator<Item = &str> {
    let all: BTreeSet<&str> = statuses
        .iter()
        .flat_map(|status| [status.image_id.as_str(), status.image.as_str()])
        .filter(|image| !image.is_empty())
        .collect();
    all.into_iter()
}
