//! What runs: the pod templates of all kinds of workloads.

use serde_json::Value;

use super::Document;
use crate::objects::text;

/// A pod template in an object.
pub(super) struct Workload<'a> {
    pub(super) document: &'a Document,
    /// The path to the pod's spec in the object.
    pub(super) path: &'static str,
    /// The pod's spec.
    pub(super) spec: &'a Value,
}

/// A container of a pod.
pub(super) struct Container<'a> {
    pub(super) name: &'a str,
    pub(super) spec: &'a Value,
}

impl<'a> Workload<'a> {
    pub(super) fn of(document: &'a Document) -> Option<Self> {
        let (pointer, path) = match text(&document.object, "/kind") {
            "Pod" => ("/spec", "spec"),
            "CronJob" => {
                ("/spec/jobTemplate/spec/template/spec", "spec.jobTemplate.spec.template.spec")
            }
            "DaemonSet"
            | "Deployment"
            | "Job"
            | "ReplicaSet"
            | "ReplicationController"
            | "StatefulSet" => ("/spec/template/spec", "spec.template.spec"),
            _ => return None,
        };
        Some(Self { document, path, spec: document.object.pointer(pointer)? })
    }

    pub(super) fn account(&self) -> &'a str {
        let named = text(self.spec, "/serviceAccountName");
        let old = text(self.spec, "/serviceAccount");
        match (named, old) {
            ("", "") => "default",
            ("", old) => old,
            (named, _) => named,
        }
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = Container<'a>> {
        let spec = self.spec;
        ["/containers", "/initContainers", "/ephemeralContainers"]
            .into_iter()
            .filter_map(move |pointer| spec.pointer(pointer)?.as_array())
            .flatten()
            .map(|spec| Container { name: text(spec, "/name"), spec })
    }
}

/// The namespace of an object; `default` where it names none.
pub(super) fn namespace(document: &Document) -> &str {
    match text(&document.object, "/metadata/namespace") {
        "" => "default",
        namespace => namespace,
    }
}
