//! From specifications to objects. Nothing here asks anybody anything.
//!
//! What containers and pods need for their safety and health (probes, measured resources, security
//! contexts), and what programs may do, is not said again here: it is taken from the manifests of
//! `deploy/kubernetes`, which are part of the program ([`base`]).

mod agent;
pub(super) mod base;
mod controller;
mod csi;
mod federation;
mod oidc;
mod server;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use signet_pki::digest::sha256_hex;

pub use self::{
    agent::agent,
    csi::csi,
    federation::{Declared, declared, relationship},
    oidc::oidc,
    server::{fixed, server},
};
use super::{
    CONFIG_HASH, INSTANCE, MANAGED_BY, MANAGER,
    api::{Common, ManagerSpec},
    kinds::Kind,
    settings::{Platform, Settings},
};
use crate::objects::text;

/// Where a server finds the certificates of its database, as in the other operator.
pub const DATABASE_CERTIFICATES: &str = "/run/spire/db/certs";
/// Where OpenShift's certificate for the service of the server is put.
const SERVICE_CERTIFICATE: &str = "service.beta.openshift.io/serving-cert-secret-name";

/// An object that should be there.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its kind.
    pub kind: Kind,
    /// The condition that says what becomes of it.
    pub part: &'static str,
    /// It.
    pub object: Value,
}

impl Wanted {
    /// Its name.
    pub fn name(&self) -> &str {
        text(&self.object, "/metadata/name")
    }

    fn annotate(&mut self, key: &str, value: &str) {
        if let Some(metadata) = self.object.get_mut("metadata") {
            set(metadata, "annotations", json!({ key: value }));
        }
    }
}

/// A part that is rendered: whose names its objects have.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    settings: &'a Settings,
    manager: &'a ManagerSpec,
    common: &'a Common,
    /// `app.kubernetes.io/name`.
    app: &'static str,
    /// `app.kubernetes.io/component`.
    component: &'static str,
}

impl Part<'_> {
    fn platform(&self) -> Platform {
        self.settings.platform
    }

    /// The labels that select pods: they can never change.
    fn selector(&self) -> Value {
        json!({
            "app.kubernetes.io/name": self.app,
            "app.kubernetes.io/instance": INSTANCE,
            "app.kubernetes.io/component": self.component,
        })
    }

    /// The labels of objects: the user's, and over them our own.
    fn labels(&self) -> Value {
        let mut labels: BTreeMap<&str, &str> =
            self.common.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        labels.extend([
            ("app.kubernetes.io/name", self.app),
            ("app.kubernetes.io/instance", INSTANCE),
            ("app.kubernetes.io/component", self.component),
            ("app.kubernetes.io/part-of", "zero-trust-workload-identity-manager"),
            ("app.kubernetes.io/version", env!("CARGO_PKG_VERSION")),
            (MANAGED_BY, MANAGER),
        ]);
        json!(labels)
    }

    /// An object with name, labels and these members beside its metadata.
    fn object(&self, kind: Kind, part: &'static str, name: &str, members: Value) -> Wanted {
        let mut metadata = json!({ "name": name, "labels": self.labels() });
        if kind.is_namespaced() {
            set(&mut metadata, "namespace", json!(self.settings.namespace));
        }
        let mut object = json!({ "apiVersion": kind.version(), "kind": kind.name() });
        set(&mut object, "metadata", metadata);
        set_all(&mut object, members);
        Wanted { kind, part, object }
    }

    /// A Service of the part's pods.
    fn service(&self, name: &str, ports: &[Value]) -> Wanted {
        let spec = json!({ "type": "ClusterIP", "selector": self.selector(), "ports": ports });
        self.object(Kind::Service, "ServiceAvailable", name, json!({ "spec": spec }))
    }

    /// What runs on every node, by these [`Part::template`] and [`Part::pod`].
    fn daemon_set(&self, name: &str, template: Value, pod: Value) -> Wanted {
        self.object(
            Kind::DaemonSet,
            "DaemonSetAvailable",
            name,
            json!({ "spec": {
                "selector": { "matchLabels": self.selector() },
                "updateStrategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": { "maxUnavailable": 1 },
                },
                "template": { "metadata": template, "spec": pod },
            } }),
        )
    }

    fn service_account(&self, name: &str) -> Wanted {
        let members = json!({ "automountServiceAccountToken": false });
        self.object(Kind::ServiceAccount, "ServiceAccountAvailable", name, members)
    }

    /// A ClusterRole with these rules, and its binding to an account of the same or another name.
    fn cluster_role(&self, name: &str, rules: Value, account: &str) -> [Wanted; 2] {
        let part = "RBACAvailable";
        [
            self.object(Kind::ClusterRole, part, name, json!({ "rules": rules })),
            self.object(
                Kind::ClusterRoleBinding,
                part,
                name,
                self.binding("ClusterRole", name, account),
            ),
        ]
    }

    /// The same in the namespace.
    fn role(&self, name: &str, rules: Value, account: &str) -> [Wanted; 2] {
        let part = "RBACAvailable";
        [
            self.object(Kind::Role, part, name, json!({ "rules": rules })),
            self.object(Kind::RoleBinding, part, name, self.binding("Role", name, account)),
        ]
    }

    fn binding(&self, kind: &str, role: &str, account: &str) -> Value {
        json!({
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role },
            "subjects": [{
                "kind": "ServiceAccount",
                "name": account,
                "namespace": self.settings.namespace,
            }],
        })
    }

    /// Lets OpenShift's router read the certificate that a Route shows.
    fn certificate_reader(&self, name: &str, secret: &str) -> [Wanted; 2] {
        let part = "RBACAvailable";
        let rules = json!([{
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": [secret],
            "verbs": ["get", "list", "watch"],
        }]);
        let mut binding = self.binding("Role", name, "router");
        if let Some(subject) = binding.pointer_mut("/subjects/0") {
            set(subject, "namespace", json!("openshift-ingress"));
        }
        [
            self.object(Kind::Role, part, name, json!({ "rules": rules })),
            self.object(Kind::RoleBinding, part, name, binding),
        ]
    }

    /// What every pod of the part has: where it may run, and what the node shows it.
    fn pod(&self, account: &str, mut security: Value) -> Value {
        // OpenShift gives each namespace users and groups of its own, and refuses others.
        if self.platform().openshift
            && let Some(map) = security.as_object_mut()
        {
            for number in ["runAsUser", "runAsGroup", "fsGroup"] {
                map.remove(number);
            }
        }
        let mut pod = json!({
            "serviceAccountName": account,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 30,
            "securityContext": security,
        });
        let mut nodes = self.common.node_selector.clone();
        nodes.entry("kubernetes.io/os".to_owned()).or_insert_with(|| "linux".to_owned());
        set(&mut pod, "nodeSelector", json!(nodes));
        if !self.common.tolerations.is_empty() {
            set(&mut pod, "tolerations", json!(self.common.tolerations));
        }
        if let Some(affinity) = &self.common.affinity {
            set(&mut pod, "affinity", affinity.clone());
        }
        pod
    }

    /// A container: what `base` says of probes, resources and security, with the user's resources
    /// in their place, and these members over it.
    fn container(&self, base: &Value, members: Value) -> Value {
        let mut container = json!({ "imagePullPolicy": "IfNotPresent" });
        for key in
            ["startupProbe", "livenessProbe", "readinessProbe", "resources", "securityContext"]
        {
            if let Some(value) = base.get(key) {
                set(&mut container, key, value.clone());
            }
        }
        if let Some(resources) = &self.common.resources {
            set(&mut container, "resources", resources.clone());
        }
        set_all(&mut container, members);
        container
    }

    /// The metadata of a pod's template; another digest of its configuration makes new pods.
    fn template(&self, container: &str, configuration: &[&str]) -> Value {
        json!({
            "labels": self.labels(),
            "annotations": {
                "kubectl.kubernetes.io/default-container": container,
                CONFIG_HASH: digest(configuration),
            },
        })
    }
}

/// Who asks the API server: an account's token, the API server's authority and the namespace.
fn api_token(mode: u32) -> Value {
    json!({
        "name": "api-token",
        "projected": {
            "defaultMode": mode,
            "sources": [
                { "serviceAccountToken": { "path": "token", "expirationSeconds": 3600 } },
                {
                    "configMap": {
                        "name": "kube-root-ca.crt",
                        "items": [{ "key": "ca.crt", "path": "ca.crt" }],
                    },
                },
                {
                    "downwardAPI": {
                        "items": [{
                            "path": "namespace",
                            "fieldRef": { "fieldPath": "metadata.namespace" },
                        }],
                    },
                },
            ],
        },
    })
}

/// Where [`api_token`] is mounted.
fn api_token_mount() -> Value {
    json!({
        "name": "api-token",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
        "readOnly": true,
    })
}

/// A volume of the node's own.
fn directory(name: &str, path: &str, kind: &str) -> Value {
    json!({ "name": name, "hostPath": { "path": path, "type": kind } })
}

fn set(into: &mut Value, key: &str, value: Value) {
    if let Some(map) = into.as_object_mut() {
        map.insert(key.to_owned(), value);
    }
}

fn set_all(into: &mut Value, members: Value) {
    if let (Some(map), Value::Object(members)) = (into.as_object_mut(), members) {
        map.extend(members);
    }
}

/// The digest of a configuration's texts.
fn digest(texts: &[&str]) -> String {
    let mut all = Vec::new();
    for text in texts {
        all.extend_from_slice(&(text.len() as u64).to_be_bytes());
        all.extend_from_slice(text.as_bytes());
    }
    sha256_hex(&all)
}

/// A configuration as people read it: keys in order, a line each.
fn configuration(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

fn log_level(level: &str) -> String {
    super::api::or(level, "info").to_uppercase()
}

/// The members that have a text.
fn with_texts(pairs: &[(&str, &str)]) -> Map<String, Value> {
    let there = pairs.iter().filter(|(_, text)| !text.is_empty());
    there.map(|(key, text)| ((*key).to_owned(), json!(text))).collect()
}
