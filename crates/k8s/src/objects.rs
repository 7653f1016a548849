//! What is read of Kubernetes objects: the fields that somebody here needs, and no others.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// An object of a collection.
pub trait Object {
    /// Its name, version and labels.
    fn metadata(&self) -> &Metadata;
}

/// Metadata of an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The UID.
    #[serde(default)]
    pub uid: String,
    /// Names this state of the object: a write that carries it fails if there is a newer one.
    #[serde(default)]
    pub resource_version: String,
    /// The labels.
    #[serde(default, deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
}

/// A pod.
#[derive(Debug, Default, Deserialize)]
pub struct Pod {
    /// UID and labels.
    pub metadata: Metadata,
    /// The node.
    #[serde(default)]
    pub spec: PodSpec,
    /// Its address.
    #[serde(default)]
    pub status: PodStatus,
}

/// A node.
#[derive(Debug, Default, Deserialize)]
pub struct Node {
    /// UID and labels.
    pub metadata: Metadata,
}

/// A namespace.
#[derive(Debug, Default, Deserialize)]
pub struct Namespace {
    /// Name and labels.
    pub metadata: Metadata,
}

/// Where a pod runs.
#[derive(Debug, Default, Deserialize)]
pub struct PodSpec {
    /// The node's name.
    #[serde(default, rename = "nodeName")]
    pub node_name: String,
}

/// What is known of a pod.
#[derive(Debug, Default, Deserialize)]
pub struct PodStatus {
    /// The node's address.
    #[serde(default, rename = "hostIP")]
    pub host_ip: String,
}

/// The answer to a token review.
#[derive(Debug, Default, Deserialize)]
pub struct TokenReviewStatus {
    /// Whether the token is valid for one of the audiences asked for.
    #[serde(default)]
    pub authenticated: bool,
    /// Which of them.
    #[serde(default, deserialize_with = "null_as_default")]
    pub audiences: Vec<String>,
    /// Whose it is.
    #[serde(default)]
    pub user: UserInfo,
    /// Why it could not be checked or is not valid.
    #[serde(default)]
    pub error: String,
}

/// Whose a token is.
#[derive(Debug, Default, Deserialize)]
pub struct UserInfo {
    /// For a service account `system:serviceaccount:<namespace>:<name>`.
    #[serde(default)]
    pub username: String,
    /// What else the token says.
    #[serde(default, deserialize_with = "null_as_default")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// A failure as API servers put it (`Status`).
#[derive(Debug, Default, Deserialize)]
pub(super) struct Failure {
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub code: u16,
}

impl Object for Namespace {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

pub(super) fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}
