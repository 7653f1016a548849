//! Objects that brokers name: pods with the selectors that their processes have, anything else with
//! selectors of its metadata (SPIRE 1.15.3's, `doc/plugin_agent_workloadattestor_k8s.md`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use signet_identity::{Selector, SpiffeId};
use signet_k8s::{AccessReview, ApiError, ApiServer, ObjectMetadata, Resource};
use tokio::time::Instant;

use super::{K8sAttestor, Place, cluster::Cluster, pods::Pod};
use crate::workload::{
    WorkloadAttestError,
    reference::{ObjectReference, Reference, ReferenceError},
};

/// What a broker must be allowed to do with an object, in the cluster's roles: SPIRE's verb.
const VERB: &str = "impersonate-via-spire";
/// How long one question to the API server may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long what the API server serves is believed, and of how many resources it is kept.
const RESOURCE_LASTS: Duration = Duration::from_secs(600);
const MAX_RESOURCES: usize = 64;

/// Whose references are followed, and how (`experimental { broker {} }`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerPolicy {
    /// `access_policy = "enforced"`: the cluster's authorizer is asked each time.
    pub enforced: bool,
    /// `brokers`, by SPIFFE ID.
    pub brokers: BTreeMap<SpiffeId, PodScope>,
}

/// Which pods a broker may name (`pod_reference_scope`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodScope {
    /// Those that the kubelet of the agent's node lists.
    #[default]
    AgentNode,
    /// All of the cluster.
    Cluster,
}

/// The policy and what it is carried out with.
#[derive(Debug)]
pub(super) struct Brokers {
    policy: BrokerPolicy,
    cluster: Arc<Cluster>,
    resources: Mutex<HashMap<(String, String), (Instant, Resource)>>,
}

/// What was found, and where the authorizer knows it.
struct Named {
    values: Vec<String>,
    resource: Resource,
    place: Place,
}

impl Brokers {
    pub(super) fn new(policy: BrokerPolicy, cluster: Arc<Cluster>) -> Self {
        Self { policy, cluster, resources: Mutex::default() }
    }

    async fn api(&self) -> Result<Arc<ApiServer>, ReferenceError> {
        self.cluster.api().await.map_err(ReferenceError::Internal)
    }

    /// What a resource is, as it was asked for lately.
    async fn resource(&self, reference: &ObjectReference) -> Result<Resource, ReferenceError> {
        let (group, plural) = (api_group(reference.group()), reference.plural());
        let key = (group.to_owned(), plural.to_owned());
        let known = self.resources().get(&key).cloned();
        if let Some((_, resource)) = known.filter(|(at, _)| at.elapsed() < RESOURCE_LASTS) {
            return Ok(resource);
        }
        let api = self.api().await?;
        let shown = format!("{plural}.{}", reference.group());
        let found = within(api.resource(group, plural)).await;
        let found = found.map_err(|why| {
            ReferenceError::Internal(format!(
                "unable to look for Kubernetes resource {shown}: {why}"
            ))
        })?;
        let found = found.ok_or_else(|| {
            ReferenceError::Invalid(format!("unknown Kubernetes resource {shown}"))
        })?;
        let mut resources = self.resources();
        if resources.len() >= MAX_RESOURCES {
            resources.clear();
        }
        resources.insert(key, (Instant::now(), found.clone()));
        Ok(found)
    }

    fn resources(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<(String, String), (Instant, Resource)>> {
        self.resources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the cluster's authorizer whether `broker` may have the identity of what was found.
    async fn review(&self, broker: &SpiffeId, named: &Named) -> Result<(), ReferenceError> {
        if !self.policy.enforced {
            return Ok(());
        }
        let user = broker.to_string();
        let review = AccessReview {
            user: &user,
            verb: VERB,
            group: &named.resource.group,
            plural: &named.resource.plural,
            namespace: &named.place.namespace,
            name: &named.place.name,
        };
        let allowed = within(self.api().await?.review_access(&review)).await.map_err(|why| {
            ReferenceError::Internal(format!(
                "unable to check Kubernetes authorization for broker: {why}"
            ))
        })?;
        match allowed {
            true => Ok(()),
            false => Err(ReferenceError::Denied(format!(
                "Kubernetes authorizer does not allow the broker to use {VERB} for the referenced \
                 object"
            ))),
        }
    }

    /// Reads a pod from the API server.
    async fn pod(&self, reference: &ObjectReference) -> Result<Pod, ReferenceError> {
        let (api, pods) = (self.api().await?, Resource::pods());
        let found = match reference.name() {
            "" => {
                let uid = reference.uid();
                let found = within(api.find_by_uid(&pods, uid)).await;
                let found = found.map_err(|why| {
                    ReferenceError::Internal(format!("unable to list Pod: {why}"))
                })?;
                found.ok_or_else(|| {
                    ReferenceError::NotFound(format!("Pod with UID {uid} not found"))
                })?
            }
            name => ObjectMetadata {
                name: name.to_owned(),
                namespace: reference.namespace().to_owned(),
                ..ObjectMetadata::default()
            },
        };
        let ObjectMetadata { name, namespace, .. } = &found;
        within(api.object(&pods, namespace, name)).await.map_err(|why| match why {
            Failed::NotFound => {
                ReferenceError::NotFound(format!("pod {namespace}/{name} not found"))
            }
            why => {
                ReferenceError::Internal(format!("unable to get pod from Kubernetes API: {why}"))
            }
        })
    }

    /// Reads the metadata of an object that is no pod.
    async fn object(&self, reference: &ObjectReference) -> Result<Named, ReferenceError> {
        let resource = self.resource(reference).await?;
        let (namespace, name, uid) = (reference.namespace(), reference.name(), reference.uid());
        if resource.namespaced && namespace.is_empty() && !name.is_empty() {
            return Err(namespace_required());
        }
        if !resource.namespaced && !namespace.is_empty() {
            let why = "namespace must be empty for cluster-scoped resource";
            return Err(ReferenceError::Invalid(why.to_owned()));
        }
        let (api, kind) = (self.api().await?, &resource.kind);
        let found = if name.is_empty() {
            let found = within(api.find_by_uid(&resource, uid))
                .await
                .map_err(|why| ReferenceError::Internal(format!("unable to list {kind}: {why}")))?;
            found.ok_or_else(|| {
                ReferenceError::NotFound(format!("{kind} with UID {uid} not found"))
            })?
        } else {
            let found = within(api.object_metadata(&resource, namespace, name)).await;
            found.map_err(|why| match why {
                Failed::NotFound => {
                    // The version may be gone, and not the object.
                    let key = (resource.group.clone(), resource.plural.clone());
                    self.resources().remove(&key);
                    ReferenceError::NotFound(format!("{kind} {namespace}/{name} not found"))
                }
                why => ReferenceError::Internal(format!("unable to get {kind}: {why}")),
            })?
        };
        is_the_one(reference, &found.namespace, &found.name, &found.uid)?;
        Ok(Named {
            values: values(reference, &resource, &found),
            resource,
            place: Place { namespace: found.namespace, name: found.name },
        })
    }
}

impl K8sAttestor {
    /// The selectors of what a broker names, if it may.
    pub(super) async fn attest_named(
        &self,
        broker: &SpiffeId,
        reference: Reference<'_>,
    ) -> Result<Vec<Selector>, ReferenceError> {
        let brokers = self
            .brokers
            .as_ref()
            .ok_or_else(|| ReferenceError::Internal("broker configuration missing".to_owned()))?;
        let scope = brokers.policy.brokers.get(broker).ok_or_else(|| {
            ReferenceError::Denied(format!("broker \"{broker}\" is not configured"))
        })?;
        let unavailable =
            |error: WorkloadAttestError| ReferenceError::Unavailable(error.to_string());
        let named = match reference {
            Reference::Process(peer) => match self.find(peer, true).await.map_err(unavailable)? {
                Some((values, place)) => Named { values, resource: Resource::pods(), place },
                // In no pod: other attestors may know it.
                None => return Ok(Vec::new()),
            },
            Reference::Object(object) if object.is_pod() => {
                self.named_pod(brokers, *scope, object).await?
            }
            Reference::Object(object) => brokers.object(object).await?,
        };
        brokers.review(broker, &named).await?;
        let internal = |error: WorkloadAttestError| ReferenceError::Internal(error.to_string());
        self.selectors(named.values, &named.place.namespace).await.map_err(internal)
    }

    /// A pod as the kubelet lists it or, where the broker may name pods of other nodes, as the API
    /// server has it.
    async fn named_pod(
        &self,
        brokers: &Brokers,
        scope: PodScope,
        reference: &ObjectReference,
    ) -> Result<Named, ReferenceError> {
        if !reference.name().is_empty() && reference.namespace().is_empty() {
            return Err(namespace_required());
        }
        let listed = match (&self.source, scope) {
            (None, PodScope::AgentNode) => {
                let why = "kubelet client is disabled";
                return Err(ReferenceError::Precondition(why.to_owned()));
            }
            (None, PodScope::Cluster) => None,
            (Some(source), scope) => match source.next(0).await.pods {
                Ok(pods) => Some(pods),
                Err(error) if scope == PodScope::AgentNode => {
                    return Err(ReferenceError::Unavailable(error.to_string()));
                }
                Err(error) => {
                    tracing::debug!(%error, "The kubelet lists no pods; asking the API server");
                    None
                }
            },
        };
        let found = listed.as_ref().and_then(|pods| match reference.name() {
            "" => pods.with_uid(reference.uid()),
            name => pods.named(reference.namespace(), name),
        });
        let read;
        let pod = match (found, scope) {
            (Some(pod), _) => pod,
            (None, PodScope::AgentNode) => {
                let which = match reference.name() {
                    "" => format!("with UID {}", reference.uid()),
                    name => format!("{}/{name}", reference.namespace()),
                };
                let why = format!("pod {which} not found on agent node");
                return Err(ReferenceError::NotFound(why));
            }
            (None, PodScope::Cluster) => {
                read = brokers.pod(reference).await?;
                &read
            }
        };
        let metadata = &pod.metadata;
        is_the_one(reference, &metadata.namespace, &metadata.name, &metadata.uid)?;
        let (values, resource) = (pod.selector_values(), Resource::pods());
        Ok(Named { values, resource, place: Place::of(pod) })
    }
}

fn namespace_required() -> ReferenceError {
    let why = "namespace is required when name is set for a namespaced resource";
    ReferenceError::Invalid(why.to_owned())
}

/// Kubernetes' own name of a group: the core group has none.
fn api_group(group: &str) -> &str {
    if group == "core" { "" } else { group }
}

/// Of a name that was given to another object, the UID tells.
fn is_the_one(
    reference: &ObjectReference,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<(), ReferenceError> {
    let wanted = reference.uid();
    if wanted.is_empty() || wanted == uid {
        return Ok(());
    }
    let what = match reference.is_pod() {
        true => "pod".to_owned(),
        false => format!("{}.{}", reference.plural(), reference.group()),
    };
    let why = format!("{what} {namespace}/{name} has UID {uid}, expected {wanted}");
    Err(ReferenceError::NotFound(why))
}

/// The values of the selectors of an object that is no pod.
fn values(
    reference: &ObjectReference,
    resource: &Resource,
    object: &ObjectMetadata,
) -> Vec<String> {
    let (plural, group) = (reference.plural(), reference.group());
    let ObjectMetadata { name, namespace, uid, labels, owner_references } = object;
    let mut values = vec![
        format!("uid:{uid}"),
        format!("resource:{plural}.{group}"),
        format!("plural:{plural}"),
        format!("group:{group}"),
        format!("version:{}", resource.version),
        format!("apiVersion:{}", resource.api_version()),
        format!("kind:{}", resource.kind),
        format!("name:{name}"),
    ];
    if namespace.is_empty() {
        values.push(format!("key:{name}"));
    } else {
        values.extend([format!("namespace:{namespace}"), format!("key:{namespace}/{name}")]);
    }
    values.extend(labels.iter().map(|(key, value)| format!("label:{key}:{value}")));
    for owner in owner_references {
        let group = owner.api_version.rsplit_once('/').map_or("core", |(group, _)| group);
        let kind = format!("{group}/{}", owner.kind);
        let roles: &[&str] = if owner.controller { &["owner", "controller"] } else { &["owner"] };
        for role in roles {
            values.push(format!("{role}-key:{kind}/{}", owner.name));
            values.push(format!("{role}-uid:{kind}/{}", owner.uid));
        }
    }
    values
}

/// Why the API server gave no answer.
enum Failed {
    NotFound,
    Late,
    Other(ApiError),
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound => f.write_str("not found"),
            Self::Late => write!(f, "no answer within {} s", DEADLINE.as_secs()),
            Self::Other(error) => f.write_str(&signet_base::chain(error)),
        }
    }
}

async fn within<T>(asked: impl Future<Output = Result<T, ApiError>>) -> Result<T, Failed> {
    match tokio::time::timeout(DEADLINE, asked).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) if error.is_not_found() => Err(Failed::NotFound),
        Ok(Err(error)) => Err(Failed::Other(error)),
        Err(_) => Err(Failed::Late),
    }
}
