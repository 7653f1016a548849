//! Objects of any kind, by their metadata: what kind a resource is, one object of it, or the one with
//! a UID; and whether somebody may do something with it.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    api::{ApiServer, Call, METADATA, METADATA_LIST, Write, object_name},
    error::ApiError,
    objects::null_as_default,
    watch::{List, MAX_PAGES, PAGE, query, query_value},
};

/// The longest name of an object, bytes.
const MAX_NAME: usize = 253;

/// A kind of objects, as the API server serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The name in paths and permissions, for example `deployments`.
    pub plural: String,
    /// The kind, for example `Deployment`.
    pub kind: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

/// What any object has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMetadata {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its namespace; empty for an object of the whole cluster.
    #[serde(default)]
    pub namespace: String,
    /// Its UID.
    #[serde(default)]
    pub uid: String,
    /// Its labels.
    #[serde(default, deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
    /// Its owners.
    #[serde(default, deserialize_with = "null_as_default")]
    pub owner_references: Vec<Owner>,
}

/// An owner of an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Group and version, or the version alone.
    #[serde(default)]
    pub api_version: String,
    /// For example `ReplicaSet`.
    #[serde(default)]
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its UID.
    #[serde(default)]
    pub uid: String,
    /// Whether it is the one that manages the object.
    #[serde(default, deserialize_with = "null_as_default")]
    pub controller: bool,
}

/// A question to the cluster's authorizer.
#[derive(Clone, Debug)]
pub struct AccessReview<'a> {
    /// Who wants it, without groups.
    pub user: &'a str,
    /// What they want to do.
    pub verb: &'a str,
    /// With which objects: the API group, empty for the core group.
    pub group: &'a str,
    /// The resource.
    pub plural: &'a str,
    /// The namespace; empty for an object of the whole cluster.
    pub namespace: &'a str,
    /// The object.
    pub name: &'a str,
}

#[derive(Deserialize)]
struct Partial {
    #[serde(default)]
    metadata: ObjectMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    #[serde(default)]
    preferred_version: Version,
    #[serde(default, deserialize_with = "null_as_default")]
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
struct Version {
    #[serde(default)]
    version: String,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default, deserialize_with = "null_as_default")]
    resources: Vec<Served>,
}

#[derive(Deserialize)]
struct Served {
    #[serde(default)]
    name: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    namespaced: bool,
}

#[derive(Deserialize)]
struct Reviewed {
    #[serde(default)]
    status: ReviewStatus,
}

#[derive(Default, Deserialize)]
struct ReviewStatus {
    #[serde(default)]
    allowed: bool,
    #[serde(default)]
    denied: bool,
}

impl Resource {
    /// `pods` of the core group.
    pub fn pods() -> Self {
        Self {
            group: String::new(),
            version: "v1".to_owned(),
            plural: "pods".to_owned(),
            kind: "Pod".to_owned(),
            namespaced: true,
        }
    }

    /// Group and version as objects name them: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    fn root(group: &str, version: &str) -> String {
        match group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        }
    }

    /// The path of all its objects.
    fn all(&self) -> String {
        format!("{}/{}", Self::root(&self.group, &self.version), self.plural)
    }

    /// The path of one of its objects.
    fn one(&self, namespace: &str, name: &str) -> Result<String, ApiError> {
        let root = Self::root(&self.group, &self.version);
        let (plural, name) = (&self.plural, path_segment(name)?);
        Ok(match self.namespaced {
            true => format!("{root}/namespaces/{}/{plural}/{name}", object_name(namespace)?),
            false => format!("{root}/{plural}/{name}"),
        })
    }
}

impl ApiServer {
    /// The resource `plural` of an API group (empty for the core group), in the version that the
    /// server prefers among those that have it; none when there is no such resource.
    ///
    /// # Errors
    /// [`ApiError`] when the API server cannot be reached or refuses, or its answer cannot be read.
    pub async fn resource(&self, group: &str, plural: &str) -> Result<Option<Resource>, ApiError> {
        let (group, plural) = match (group, object_name(plural)) {
            ("", Ok(plural)) => ("", plural),
            (group, Ok(plural)) if object_name(group).is_ok() => (group, plural),
            _ => return Ok(None),
        };
        let versions = match group {
            "" => vec!["v1".to_owned()],
            _ => match self.get_object::<Group>(&format!("/apis/{group}")).await {
                Ok(found) => {
                    let preferred = found.preferred_version.version;
                    let mut versions = vec![preferred.clone()];
                    let others = found.versions.into_iter().map(|version| version.version);
                    versions.extend(others.filter(|version| *version != preferred));
                    versions
                }
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        for version in versions {
            let Ok(name) = object_name(&version) else { continue };
            let found = match self.get_object::<Resources>(&Resource::root(group, name)).await {
                Ok(found) => found,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            if let Some(served) = found.resources.into_iter().find(|it| it.name == plural) {
                return Ok(Some(Resource {
                    group: group.to_owned(),
                    version,
                    plural: plural.to_owned(),
                    kind: served.kind,
                    namespaced: served.namespaced,
                }));
            }
        }
        Ok(None)
    }

    /// Reads an object; the namespace counts only where the resource has one.
    ///
    /// # Errors
    /// [`ApiError`] when the API server cannot be reached or refuses, or its answer cannot be read.
    pub async fn object<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<T, ApiError> {
        self.get_object(&resource.one(namespace, name)?).await
    }

    /// Reads an object's metadata, and nothing else of it.
    ///
    /// # Errors
    /// [`ApiError`] when the API server cannot be reached or refuses, or its answer cannot be read.
    pub async fn object_metadata(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<ObjectMetadata, ApiError> {
        let call = Call::read(resource.one(namespace, name)?, "get").answered_as(METADATA);
        let found: Partial = self.ask(&call).await?;
        Ok(found.metadata)
    }

    /// The metadata of the object with a UID. API servers do not look for those: all objects of the
    /// resource are listed.
    ///
    /// # Errors
    /// [`ApiError`] when the API server cannot be reached or refuses, or its answer cannot be read.
    pub async fn find_by_uid(
        &self,
        resource: &Resource,
        uid: &str,
    ) -> Result<Option<ObjectMetadata>, ApiError> {
        let mut token = String::new();
        for _ in 0..MAX_PAGES {
            let mut path = format!("{}?limit={PAGE}", resource.all());
            query(&mut path, "continue", &token);
            let asked = self.ask(&Call::page(path).answered_as(METADATA_LIST)).await;
            let page: List<Partial> = match asked {
                Ok(page) => page,
                // The list has changed too much since its first page.
                Err(error) if error.status() == Some(410) && !token.is_empty() => {
                    token.clear();
                    continue;
                }
                Err(error) => return Err(error),
            };
            let found = page.items.into_iter().flatten().find(|item| item.metadata.uid == uid);
            if let Some(found) = found {
                return Ok(Some(found.metadata));
            }
            token = page.metadata.token;
            if token.is_empty() {
                return Ok(None);
            }
        }
        let why = format!("there are more than {} objects", PAGE as usize * MAX_PAGES);
        Err(ApiError::Answer { url: resource.all(), why })
    }

    /// Whether the cluster's authorizer lets somebody do something (`SubjectAccessReview`).
    ///
    /// # Errors
    /// [`ApiError`]; a no is an answer, not an error.
    pub async fn review_access(&self, review: &AccessReview<'_>) -> Result<bool, ApiError> {
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": review.user,
                "resourceAttributes": {
                    "group": review.group,
                    "resource": review.plural,
                    "namespace": review.namespace,
                    "name": review.name,
                    "verb": review.verb,
                },
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let reviewed: Reviewed = self.written(Write::Create, path, &body).await?;
        Ok(reviewed.status.allowed && !reviewed.status.denied)
    }
}

/// A name as one segment of a path. Some resources have names with colons (`system:node`).
fn path_segment(name: &str) -> Result<String, ApiError> {
    let good = !name.is_empty()
        && name.len() <= MAX_NAME
        && !matches!(name, "." | "..")
        && !name.contains(['/', '%'])
        && !name.chars().any(char::is_control);
    if good { Ok(query_value(name)) } else { Err(ApiError::Name(name.chars().take(64).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_hold_one_object_and_no_more() {
        let pods = Resource::pods();
        assert_eq!(pods.one("a", "web-0").unwrap(), "/api/v1/namespaces/a/pods/web-0");
        let roles = Resource {
            group: "rbac.authorization.k8s.io".into(),
            plural: "clusterroles".into(),
            namespaced: false,
            ..Resource::pods()
        };
        let path = roles.one("", "system:node").unwrap();
        assert_eq!(path, "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode");
        assert_eq!(roles.api_version(), "rbac.authorization.k8s.io/v1");
        for name in ["", "..", "a/b", "a%2fb", "a\nb"] {
            assert!(pods.one("a", name).is_err(), "{name:?}");
        }
        assert!(pods.one("a/../b", "web-0").is_err());
        assert!(pods.one("", "web-0").is_err());
        assert_eq!(pods.one("a", "w?x#y").unwrap(), "/api/v1/namespaces/a/pods/w%3Fx%23y");
    }
}
