//! Workloads that somebody else names: the references of the SPIFFE Broker API.

use crate::peer::PinnedPeer;

/// The longest part of a reference, bytes: the longest name of a Kubernetes object.
const MAX_PART: usize = 253;

/// The workload that a broker names.
#[derive(Clone, Copy, Debug)]
pub enum Reference<'a> {
    /// An object of the cluster, of any kind.
    Object(&'a ObjectReference),
    /// A process of this node.
    Process(&'a PinnedPeer),
}

/// An object of a Kubernetes cluster (`KubernetesObjectReference`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectReference {
    plural: String,
    group: String,
    namespace: String,
    name: String,
    uid: String,
}

/// Why a named workload was not attested, by gRPC's codes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// The authorizer, or the configuration, does not let the broker name it.
    #[error("{0}")]
    Denied(String),
    /// The API server did not answer, or not as expected.
    #[error("{0}")]
    Internal(String),
    /// The reference makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The workload is not there.
    #[error("{0}")]
    NotFound(String),
    /// It could be found only by something that is turned off.
    #[error("{0}")]
    Precondition(String),
    /// It could not be examined now.
    #[error("{0}")]
    Unavailable(String),
    /// No attestor knows references of this kind.
    #[error("no workload attestor handled reference")]
    Unsupported,
}

impl ObjectReference {
    /// A reference to an object of the resource `plural` in `group` (`core` for the core group), by
    /// namespace (empty for an object of the whole cluster) and name, by UID (empty for any), or by
    /// both.
    ///
    /// # Errors
    /// [`ReferenceError::Invalid`] when something is missing, in SPIRE's words.
    pub fn new(
        plural: &str,
        group: &str,
        key: Option<(&str, &str)>,
        uid: &str,
    ) -> Result<Self, ReferenceError> {
        let invalid = |why: &str| Err(ReferenceError::Invalid(why.to_owned()));
        let (namespace, name) = key.unwrap_or_default();
        match (plural, group, name) {
            ("", _, _) => return invalid("object reference type is missing plural"),
            (_, "", _) => return invalid("object reference type is missing group"),
            _ if key.is_none() && uid.is_empty() => {
                return invalid("object reference is missing key and UID");
            }
            (_, _, "") if key.is_some() => {
                return invalid("object reference key is missing name");
            }
            _ => {}
        }
        if [plural, group, namespace, name, uid].iter().any(|part| part.len() > MAX_PART) {
            return invalid("object reference has a part that no Kubernetes object has");
        }
        let [plural, group, namespace, name, uid] =
            [plural, group, namespace, name, uid].map(str::to_owned);
        Ok(Self { plural, group, namespace, name, uid })
    }

    /// The resource, for example `pods`.
    pub fn plural(&self) -> &str {
        &self.plural
    }

    /// The API group; `core` for the core group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The namespace; empty when the object is of the whole cluster or named by UID alone.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name; empty when the object is named by UID alone.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The UID; empty when the object is named by name alone.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Whether it is a pod.
    pub fn is_pod(&self) -> bool {
        self.plural == "pods" && self.group == "core"
    }
}

impl ReferenceError {
    /// The same with the name of the attestor that says so.
    #[must_use]
    pub(super) fn of(self, attestor: &str) -> Self {
        let text = |why: String| format!("workload attestor \"{attestor}\" failed: {why}");
        match self {
            Self::Denied(why) => Self::Denied(text(why)),
            Self::Internal(why) => Self::Internal(text(why)),
            Self::Invalid(why) => Self::Invalid(text(why)),
            Self::NotFound(why) => Self::NotFound(text(why)),
            Self::Precondition(why) => Self::Precondition(text(why)),
            Self::Unavailable(why) => Self::Unavailable(text(why)),
            Self::Unsupported => Self::Unsupported,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_says_what_it_lacks() {
        let long = "x".repeat(254);
        for (plural, group, key, uid, why) in [
            ("", "core", Some(("ns", "a")), "", "object reference type is missing plural"),
            ("pods", "", Some(("ns", "a")), "", "object reference type is missing group"),
            ("pods", "core", None, "", "object reference is missing key and UID"),
            ("pods", "core", Some(("ns", "")), "u", "object reference key is missing name"),
            (
                "pods",
                "core",
                None,
                &*long,
                "object reference has a part that no Kubernetes object has",
            ),
        ] {
            let refused = ObjectReference::new(plural, group, key, uid).unwrap_err();
            assert_eq!(refused, ReferenceError::Invalid(why.to_owned()));
        }
        assert!(ObjectReference::new("pods", "core", None, "u").unwrap().is_pod());
        assert!(!ObjectReference::new("pods", "metrics.k8s.io", None, "u").unwrap().is_pod());
    }
}
