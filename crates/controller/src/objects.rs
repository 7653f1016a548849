//! Kubernetes' own objects, cut down to what entries depend on.

use std::collections::BTreeSet;

use serde::{Deserialize, de::Error as _};

use crate::{
    data::{Names, Root, trim},
    resources::{Labels, RawMeta},
    slices::members,
};

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its unique ID.
    pub uid: Box<str>,
    /// The node it was scheduled to; empty before.
    pub node: Box<str>,
    /// Its labels.
    pub labels: Labels,
    /// Its metadata as JSON, with what templates mention.
    pub meta: Box<str>,
    /// Its specification as JSON, with what templates mention.
    pub spec: Box<str>,
}

/// A node. There are few: all of metadata and specification is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Box<str>,
    /// Its metadata as JSON, without `managedFields`.
    pub meta: Box<str>,
    /// Its specification as JSON.
    pub spec: Box<str>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Box<str>,
    /// Its labels.
    pub labels: Labels,
}

/// An Endpoints object: a service, and the pods behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Its namespace.
    pub namespace: Box<str>,
    /// The service's name.
    pub name: Box<str>,
    /// The unique IDs of the pods.
    pub pods: BTreeSet<Box<str>>,
}

/// A text of an object, empty where there is none.
pub(crate) fn text<'a>(object: &'a serde_json::Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default()
}

/// The texts of an object's metadata and specification.
struct Raw<'a> {
    metadata: &'a str,
    spec: Option<&'a str>,
}

impl<'a> Raw<'a> {
    fn read(json: &'a str) -> Read<Self> {
        let parts = members(json).ok_or_else(|| serde_json::Error::custom("not an object"))?;
        let metadata = parts.get("metadata").copied();
        let metadata = metadata.ok_or_else(|| serde_json::Error::custom("no metadata"))?;
        Ok(Self { metadata, spec: parts.get("spec").copied().filter(|spec| *spec != "null") })
    }
}

#[derive(Deserialize)]
struct Labelled {
    #[serde(flatten)]
    meta: RawMeta,
    #[serde(default)]
    labels: Labels,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
}

#[derive(Deserialize)]
struct RawEndpoints {
    metadata: RawMeta,
    #[serde(default)]
    subsets: Option<Vec<Subset>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subset {
    addresses: Option<Vec<Address>>,
    not_ready_addresses: Option<Vec<Address>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Address {
    target_ref: Option<Target>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Target {
    kind: String,
    uid: String,
}

type Read<T> = Result<T, serde_json::Error>;

impl Pod {
    /// Reads a pod, keeping what is in `names`.
    ///
    /// # Errors
    /// When it is no pod.
    pub fn read(json: &str, names: &Names) -> Read<Self> {
        let raw = Raw::read(json)?;
        let Labelled { meta, labels } = serde_json::from_str(raw.metadata)?;
        let spec: PodSpec = match raw.spec {
            Some(spec) => serde_json::from_str(spec)?,
            None => PodSpec::default(),
        };
        Ok(Self {
            namespace: meta.namespace.into(),
            name: meta.name.into(),
            uid: meta.uid.into(),
            node: spec.node_name.into(),
            labels,
            meta: trim(Root::ObjectMeta, raw.metadata, names),
            spec: raw.spec.map_or_else(|| "{}".into(), |spec| trim(Root::PodSpec, spec, names)),
        })
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Node {
    /// Reads a node.
    ///
    /// # Errors
    /// When it is no node.
    pub fn read(json: &str) -> Read<Self> {
        let raw = Raw::read(json)?;
        let mut meta: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(raw.metadata)?;
        meta.remove("managedFields");
        let name = meta.get("name").and_then(serde_json::Value::as_str).unwrap_or_default();
        Ok(Self {
            name: name.into(),
            meta: serde_json::to_string(&meta)?.into(),
            spec: raw.spec.unwrap_or("{}").into(),
        })
    }

    /// What of it is in `names`: two nodes that agree here make the same entries.
    pub fn visible(&self, names: &Names) -> (Box<str>, Box<str>) {
        (trim(Root::ObjectMeta, &self.meta, names), trim(Root::NodeSpec, &self.spec, names))
    }
}

impl Namespace {
    /// Reads a namespace.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(json: &str) -> Read<Self> {
        let raw = Raw::read(json)?;
        let Labelled { meta, labels } = serde_json::from_str(raw.metadata)?;
        Ok(Self { name: meta.name.into(), labels })
    }
}

impl Endpoints {
    /// Reads an Endpoints object; ready and other addresses alike lead to pods.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(json: &str) -> Read<Self> {
        let raw: RawEndpoints = serde_json::from_str(json)?;
        let subsets = raw.subsets.unwrap_or_default().into_iter();
        let addresses = subsets.flat_map(|subset| {
            [subset.addresses, subset.not_ready_addresses].into_iter().flatten().flatten()
        });
        let pods = addresses
            .filter_map(|address| address.target_ref)
            .filter(|target| target.kind == "Pod")
            .map(|target| target.uid.into())
            .collect();
        Ok(Self { namespace: raw.metadata.namespace.into(), name: raw.metadata.name.into(), pods })
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
